"""When a part of the world is down: what clients are told, and that work resumes by itself."""

import hashlib
import http.client
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from asu_builder.core.housekeeping import GRACE
from asu_sample.container import import_image
from asu_sample.distribution import Distribution, snapshot_builder
from asu_sample.server import DownloadServer
from e2e.conftest import Make
from e2e.service import READ_TOKENS, Answer, Client, Service, run
from factories import eventually
from podman_service import APK_VERSION, OPKG_VERSION, SAMPLE_TARGET

pytestmark = pytest.mark.long


def a_body(**changes: object) -> dict[str, object]:
    """What a client posts."""
    return {"version": APK_VERSION, "target": "pico/nine", "profile": "acme_small", **changes}


def health(client: Client) -> Any:
    """The health document, for a service that everybody may ask."""
    return client.get("/health").json


def test_without_an_engine_jobs_wait_and_are_built_when_it_comes(
    make_podman: Make, podman_socket: Path, tmp_path: Path
) -> None:
    place = tmp_path / "s"
    service = make_podman(container_socket_path=place, api_tokens=READ_TOKENS).start()
    with service.client() as client:
        request_hash = client.post_patiently(a_body(packages=["vim"])).json["request_hash"]
        assert eventually(lambda: health(client)["parts"]["engine"]["status"] == "down")

        assert "socket" not in health(client)["parts"]["engine"]["sentence"]
        told = client.health()
        assert (told["status"], told["polls_answered"], told["can_build"]) == ("degraded", True, False)
        assert "socket was not found" in told["parts"]["engine"]["sentence"]
        assert (client.get("/health").status, client.get("/health?for=build").status) == (200, 503)
        client.wait_until(request_hash, lambda answer: answer.json["detail"] == "queued")
        assert client.post(a_body(packages=["tmux"])).status == 202, "new jobs are taken all the same"

        place.symlink_to(podman_socket)
        assert client.wait(request_hash).status == 200
        assert eventually(lambda: health(client)["can_build"])
    assert "Traceback" not in service.stderr()
    assert service.rows("SELECT max(attempts), max(retries) FROM build_jobs") == [(0, 0)]


def test_an_engine_that_goes_away_during_a_build_costs_the_request_nothing(
    make_podman: Make, podman_socket: Path, tmp_path: Path
) -> None:
    place = tmp_path / "s"
    place.symlink_to(podman_socket)
    service = make_podman(container_socket_path=place).start()
    with service.client() as client:
        request_hash = client.started(a_body(packages=["sample-slow-1"]))
        place.unlink()
        client.wait_until(request_hash, lambda answer: answer.json["detail"] == "queued")
        place.symlink_to(podman_socket)

        assert client.wait(request_hash).status == 200
    assert "Traceback" not in service.stderr()
    assert service.rows("SELECT attempts, retries FROM build_jobs") == [(0, 0)]


def test_an_image_that_nobody_has_is_the_worlds_fault_and_is_looked_for_again(
    make_podman: Make, podman_socket: Path, sample_world: Distribution
) -> None:
    service = make_podman(imagebuilder_registry="localhost/later").start()
    with service.client() as client:
        failed = client.build(a_body()).json
        assert (failed["status"], failed["fault"], failed["reason"]) == (500, "world", "imagebuilder_missing")
        reference = f"localhost/later:pico-nine-v{APK_VERSION}"
        assert failed["detail"].startswith(f"Error: Image not found: later:pico-nine-v{APK_VERSION}. ")
        assert client.post(a_body()).status == 500, "not tried again within the cool-down"

        builder = sample_world.imagebuilder(APK_VERSION, SAMPLE_TARGET)
        import_image(f"unix://{podman_socket}", reference, builder)
        service.pass_time(timedelta(minutes=2))
        assert eventually(lambda: client.post(a_body()).status == 202)
        assert client.wait(failed["request_hash"]).status == 200
    assert "Traceback" not in service.stderr()


def test_a_registry_that_does_not_answer_is_asked_again(make_podman: Make) -> None:
    service = make_podman(imagebuilder_registry="127.0.0.1:9/nobody").start()
    with service.client() as client:
        request_hash = client.post(a_body()).json["request_hash"]
        assert eventually(lambda: client.get("/health").json["parts"]["registry"]["status"] == "degraded")
        query = "SELECT state, retries, attempts FROM build_jobs"
        assert eventually(lambda: service.rows(query) == [("pending", 0, 0)])
        client.wait_until(request_hash, lambda answer: answer.json["detail"] == "queued")
    assert "Traceback" not in service.stderr()


def test_without_upstream_nothing_is_known_and_with_its_memory_everything_is(
    make_local: Make, sample_world: Distribution
) -> None:
    with DownloadServer(sample_world.downloads) as server:
        server.broken = True
        service = make_local(upstream_url=server.url).start()
        with service.client() as client:
            refused = client.post(a_body())
            server.broken = False
            assert client.build(a_body()).status == 200
            server.broken = True
            assert client.build(a_body(packages=["vim"])).status == 200, "from what was seen before"

    assert refused.status == 503 and int(refused.headers["retry-after"]) > 0
    assert refused.json.keys() == {"status", "title", "detail", "code", "side"}
    assert refused.json["detail"].startswith("The download server ")
    service.stop()
    with service.start().client() as client:
        assert client.build(a_body(packages=["tmux"])).status == 200, "remembered over a restart"
    assert "Traceback" not in service.stderr()


def test_a_download_server_that_refuses_connections_is_named(make_local: Make) -> None:
    service = make_local(upstream_url="http://127.0.0.1:9", api_tokens=READ_TOKENS).start()
    with service.client() as client:
        answer = client.post(a_body())
        assert eventually(lambda: "http://127.0.0.1:9" in client.health()["parts"]["upstream"]["sentence"])
    assert answer.status == 503
    assert answer.json["detail"] == "The download server of OpenWrt does not answer now. Try again later."
    assert "The download server http://127.0.0.1:9 does not answer" in service.stderr()


def test_a_store_that_cannot_be_written_stops_building_until_it_can(make_local: Make) -> None:
    service = make_local().start()
    with service.client() as client:
        # Before the first look at the parts, which comes half a second after the start.
        shutil.rmtree(service.store)
        service.store.write_text("a file where a directory belongs")
        assert eventually(lambda: health(client)["parts"]["store"]["status"] == "down")
        assert client.get("/health?for=build").status == 503
        request_hash = client.post_patiently(a_body(packages=["vim"])).json["request_hash"]
        assert client.look(request_hash).json["detail"] == "queued"
        assert client.get(f"/store/{request_hash}/profiles.json").status == 404

        service.store.unlink()
        service.store.mkdir()
        assert client.wait(request_hash).status == 200
    assert "Traceback" not in service.stderr()


def test_published_images_that_are_gone_are_built_again(make_local: Make) -> None:
    service = make_local().start()
    with service.client() as client:
        done = client.build(a_body()).json
        shutil.rmtree(service.store / done["bin_dir"])
        # Answers from memory are at most seconds old.
        body = a_body()
        assert eventually(lambda: client.post(body).status == 202)
        assert client.wait(done["request_hash"]).status == 200
        assert client.get(f"/store/{done['bin_dir']}/{done['images'][0]['name']}").status == 200
    assert service.rows("SELECT count(*) FROM build_jobs WHERE state = 'completed'") == [(2,)]


def test_a_snapshot_is_downloaded_verified_and_built(
    make_local: Make, sample_world: Distribution, tmp_path: Path
) -> None:
    snapshot_builder(tmp_path / "start/SNAPSHOT/pico/nine")
    template = f"{tmp_path}/start/{{version}}/{{target}}/{{subtarget}}"
    service = make_local(imagebuilder_path=template, build_network="asu-build").start()
    with service.client() as client:
        answer = client.build(a_body(version="SNAPSHOT", packages=["vim"], filesystem="squashfs"))
    assert answer.status == 200, answer.json
    assert answer.json["version_number"] == "SNAPSHOT"
    assert "ROOTFS_FILESYSTEM=squashfs" in answer.json["build_cmd"]


def test_a_snapshot_with_a_false_checksum_is_never_built(
    make_local: Make, sample_world: Distribution, tmp_path: Path
) -> None:
    shutil.copytree(sample_world.downloads, tmp_path / "downloads")
    (archive,) = (tmp_path / "downloads/snapshots/targets/pico/nine").glob("*imagebuilder*")
    archive.write_bytes(b"evil" + archive.read_bytes())
    snapshot_builder(tmp_path / "start/SNAPSHOT/pico/nine")
    template = f"{tmp_path}/start/{{version}}/{{target}}/{{subtarget}}"
    with DownloadServer(tmp_path / "downloads") as server:
        service = make_local(
            imagebuilder_path=template, build_network="asu-build", upstream_url=server.url
        ).start()
        with service.client() as client:
            request_hash = client.post(a_body(version="SNAPSHOT")).json["request_hash"]
            query = "SELECT state, retries FROM build_jobs"
            assert eventually(lambda: service.rows(query) == [("pending", 1)])
            assert client.look(request_hash).status == 202
    assert service.published() == []
    assert "Could not set up ImageBuilder (returncode=1)" in service.stderr()


@pytest.mark.parametrize(
    "spoil",
    ["store_is_a_file", "database_is_a_folder", "database_is_garbage", "data_is_a_file", "port_is_taken"],
)
def test_a_start_that_must_fail_says_why_in_a_sentence(
    make_local: Make, local_service: Service, spoil: str
) -> None:
    service = make_local()
    service.directory.mkdir()
    _SPOIL[spoil](service, local_service)
    service.launch()
    status = service.wait()

    assert status in (1, 2, 3, 4)
    assert "Traceback" not in service.stderr()
    assert service.stderr().strip()


def _store_is_a_file(service: Service, _: Service) -> None:
    service.store.parent.mkdir()
    service.store.write_text("no directory")


def _database_is_a_folder(service: Service, _: Service) -> None:
    service.database.mkdir(parents=True)


def _database_is_garbage(service: Service, _: Service) -> None:
    service.database.parent.mkdir()
    service.database.write_bytes(b"this is no database, and it is longer than a header of SQLite" * 99)


def _data_is_a_file(service: Service, _: Service) -> None:
    service.database.parent.write_text("no directory")


def _port_is_taken(service: Service, other: Service) -> None:
    service.change(server_port=other.port)


_SPOIL = {
    "store_is_a_file": _store_is_a_file,
    "database_is_a_folder": _database_is_a_folder,
    "database_is_garbage": _database_is_garbage,
    "data_is_a_file": _data_is_a_file,
    "port_is_taken": _port_is_taken,
}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("server_prot", "80"),
        ("server_port", "eighty"),
        ("job_timeout", "soon"),
        ("container_runtime", "docker"),
        ("imagebuilder_path", "{nonsense}"),
        ("worker_concurrent", "-1"),
    ],
)
def test_a_setting_that_cannot_be_meant_stops_the_start(make_local: Make, name: str, value: str) -> None:
    service = make_local(**{name: value})
    service.launch()
    assert service.wait() == 2
    assert name in service.stderr() and "Traceback" not in service.stderr()


def test_the_local_runtime_without_a_path_stops_the_start(make_local: Make) -> None:
    service = make_local(imagebuilder_path="")
    service.launch()
    assert service.wait() == 2
    assert "imagebuilder_path" in service.stderr()


def test_nothing_of_a_failed_start_is_left_running(make_local: Make) -> None:
    service = make_local(server_port=-1)
    service.launch()
    pid = service.pid
    assert service.wait() == 2
    assert subprocess.run(["ps", "--ppid", str(pid)], check=False, capture_output=True).returncode == 1


@pytest.mark.parametrize("version", [APK_VERSION, OPKG_VERSION])
def test_a_repository_that_does_not_answer_is_no_missing_package(make_local: Make, version: str) -> None:
    address = "http://127.0.0.1:9/extra"
    service = make_local(repository_allow_list=address, build_network="asu-build").start()
    with service.client() as client:
        repositories = {"extra": f"{address}/packages.adb" if version == APK_VERSION else address}
        body = a_body(version=version, packages=["only-there"], repositories=repositories)
        client.post(body | {"repositories_mode": "append"})
        query = "SELECT state, retries, attempts FROM build_jobs"
        assert eventually(lambda: service.rows(query) == [("pending", 1, 0)]), service.stderr()
    assert "http://127.0.0.1:9/extra" in service.stderr() and "could not be reached" in service.stderr()
    assert "Traceback" not in service.stderr()


def test_expired_results_and_their_images_are_forgotten_and_built_anew(make_local: Make) -> None:
    service = make_local(build_ttl_unversioned="2s").start()
    with service.client() as client:
        done = client.build(a_body()).json
        address = f"/store/{done['bin_dir']}/{done['images'][0]['name']}"
        assert client.get(address).status == 200

        def has_expired() -> bool:
            # Asking would prolong it.
            ((expires_at,),) = service.rows("SELECT expires_at FROM build_jobs")
            return bool(expires_at < time.time() * 1e6) and client.look(done["request_hash"]).status == 404

        assert eventually(has_expired)
        assert client.get(address).status == 200, "somebody may just begin to download"
    service.stop()
    with closing(sqlite3.connect(service.database, isolation_level=None)) as connection:
        connection.execute(
            "UPDATE build_jobs SET expires_at = expires_at - ?", (GRACE // timedelta(microseconds=1),)
        )
    with service.start().client() as client:
        # The first round of housekeeping comes half a second after the start.
        assert eventually(lambda: service.published() == [])
        assert client.get(address).status == 404
        # Images go first, within the same transaction.
        assert eventually(lambda: service.rows("SELECT count(*) FROM build_jobs") == [(0,)])
        assert client.build(a_body()).status == 200


def test_a_flood_of_output_is_cut_in_the_answer(local: Client) -> None:
    answer = local.build(a_body(packages=["sample-chatty"]))
    assert answer.status == 200
    assert answer.json["stdout"].startswith("[… the first ")
    assert len(answer.body) < 200_000


def test_a_download_is_finished_before_the_service_ends(make_local: Make) -> None:
    service = make_local().start()
    with service.client() as client:
        done = client.build(a_body()).json
    content = bytes(range(256)) * (1 << 17)
    (service.store / done["bin_dir"] / "large.bin").write_bytes(content)
    with closing(http.client.HTTPConnection("127.0.0.1", service.port, timeout=60)) as connection:
        connection.request("GET", f"/store/{done['bin_dir']}/large.bin")
        with connection.getresponse() as answer:
            beginning = answer.read(1000)
            os.kill(service.pid, signal.SIGTERM)
            assert eventually(lambda: "Shutting down" in service.stderr())
            assert beginning + answer.read() == content
    assert service.wait() == 0


def test_a_request_that_is_never_finished_does_not_hold_up_the_end(make_local: Make) -> None:
    service = make_local().start()
    with socket.create_connection(("127.0.0.1", service.port), timeout=60) as half:
        half.sendall(b"POST /api/v1/build HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        with service.client() as client:
            assert client.get("/health").status == 200
        assert service.stop() == 0
    assert "Traceback" not in service.stderr()


Away = Callable[[Service, Path], None]


def _an_empty_directory(service: Service, real: Path) -> None:
    service.store.rename(real)
    service.store.mkdir()


def _no_directory(service: Service, real: Path) -> None:
    service.store.rename(real)


def _a_file(service: Service, real: Path) -> None:
    service.store.rename(real)
    service.store.write_text("no directory")


def _bring_back(service: Service, real: Path) -> None:
    if service.store.is_dir():
        assert not [path for path in service.store.iterdir() if path.name != ".lock"], (
            "nothing was built here"
        )
        shutil.rmtree(service.store)
    service.store.unlink(missing_ok=True)
    real.rename(service.store)


def _require_missing(client: Client, done: Sequence[Any]) -> None:
    """What is told while the disk is not there."""
    assert eventually(lambda: health(client)["parts"]["store"]["status"] == "down")
    assert "is its disk mounted?" in client.health()["parts"]["store"]["sentence"]
    assert client.get("/health?for=build").status == 503
    image = f"/store/{done[0]['bin_dir']}/{done[0]['images'][0]['name']}"
    # Answers from memory are at most seconds old.
    asks: list[Callable[[], Answer]] = [
        lambda: client.look(done[0]["request_hash"]),
        lambda: client.post(a_body(packages=["vim"])),
        lambda: client.post(a_body(packages=["sample-chatty"])),
        lambda: client.get(image),
    ]
    for ask in asks:
        assert eventually(partial(_is_refused, ask))
        told = ask()
        assert told.json["detail"] == "The store of this server takes no images now. Try again later."
        assert int(told.headers["retry-after"]) > 0


def _is_refused(ask: Callable[[], Answer]) -> bool:
    return ask().status == 503


def _require_whole(service: Service, client: Client, done: Sequence[Any]) -> None:
    """Everything as it was, and nothing built again."""
    assert eventually(lambda: health(client)["parts"]["store"]["status"] == "ok")
    for document in done:
        assert client.look(document["request_hash"]).status == 200
        for image in document["images"]:
            body = client.get(f"/store/{document['bin_dir']}/{image['name']}").body
            assert hashlib.sha256(body).hexdigest() == image["sha256"]
    assert client.post(a_body(packages=["vim"])).status == 200
    assert service.rows("SELECT state FROM build_jobs") == [("completed",)] * len(done)
    assert service.published() == sorted(document["request_hash"] for document in done)
    assert "had lost their files" not in service.stderr() and "Traceback" not in service.stderr()


def _built(client: Client) -> list[Any]:
    return [client.build(a_body(packages=[name])).json for name in ("vim", "tmux")]


def test_a_disk_that_is_not_mounted_at_the_start_costs_no_result(make_local: Make, tmp_path: Path) -> None:
    service = make_local(api_tokens=READ_TOKENS).start()
    with service.client() as client:
        done = _built(client)
    service.stop()
    _an_empty_directory(service, tmp_path / "disk")
    with service.start().client() as client:
        _require_missing(client, done)
        # Mounted under the running service.
        _bring_back(service, tmp_path / "disk")
        _require_whole(service, client, done)
    service.stop()
    with service.start().client() as client:
        _require_whole(service, client, done)


@pytest.mark.parametrize("take_away", [_an_empty_directory, _no_directory, _a_file])
def test_a_disk_that_goes_while_the_service_runs_costs_no_result(
    make_local: Make, tmp_path: Path, take_away: Away
) -> None:
    service = make_local(api_tokens=READ_TOKENS).start()
    with service.client() as client:
        done = _built(client)
        take_away(service, tmp_path / "disk")
        _require_missing(client, done)
        _bring_back(service, tmp_path / "disk")
        _require_whole(service, client, done)


def test_a_store_that_is_really_lost_is_begun_anew_when_the_operator_says_so(
    make_local: Make, tmp_path: Path
) -> None:
    service = make_local(api_tokens=READ_TOKENS).start()
    with service.client() as client:
        done = _built(client)
        _an_empty_directory(service, tmp_path / "disk")
        refused = run(service, "gc")
        assert refused.returncode != 0
        assert "--adopt-store" in refused.stderr
        assert run(service, "gc", "--dry-run", "--adopt-store").returncode == 2
        assert service.rows("SELECT count(*) FROM build_jobs") == [(2,)]

        adopted = run(service, "gc", "--adopt-store")
        assert "2 results without their files gone" in adopted.stdout, adopted.stderr
        assert eventually(lambda: client.look(done[0]["request_hash"]).status == 404)
        assert eventually(lambda: health(client)["can_build"])
        assert client.build(a_body(packages=["vim"])).status == 200


def test_a_store_that_was_made_before_stores_were_marked_is_known_by_what_lies_in_it(
    make_local: Make,
) -> None:
    service = make_local(api_tokens=READ_TOKENS).start()
    with service.client() as client:
        done = _built(client)
    service.stop()
    (mark,) = service.store.glob(".store-of-*")
    mark.unlink()
    with service.start().client() as client:
        assert eventually(mark.exists)
        _require_whole(service, client, done)
