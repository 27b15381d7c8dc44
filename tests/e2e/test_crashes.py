"""The service is killed, stopped and started twice: no job is lost, none is built twice for nothing."""

import hashlib
import json
import os
import signal
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from asu_builder.domain.errors import Unavailable
from asu_builder.store.local import LocalStore
from e2e.conftest import Make
from e2e.service import Client, Service
from factories import eventually
from podman_service import APK_VERSION

# Its containers share two cores with three other workers' tests.
pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]


def a_body(*packages: str) -> dict[str, object]:
    """What a client posts."""
    return {
        "version": APK_VERSION,
        "target": "pico/nine",
        "profile": "acme_small",
        "packages": list(packages),
    }


def begin(service: Service, client: Client, body: object) -> str:
    """Asks for a build and returns its hash at the very moment when `make image` begins."""
    request_hash = str(client.post(body).json["request_hash"])
    stage = f"SELECT stage FROM build_jobs WHERE request_hash = '{request_hash}'"
    assert eventually(lambda: service.rows(stage) == [("building_image",)])
    return request_hash


class StoreWatch:
    """Looks at a store again and again: a published directory must be whole from its first moment on."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.looks = 0
        self.seen: set[str] = set()
        self.broken: list[str] = []

    def __enter__(self) -> "StoreWatch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.002):
            self.looks += 1
            for directory in self._root.glob("[0-9a-f]*"):
                if directory.name not in self.seen:
                    self.seen.add(directory.name)
                    self.broken += what_is_missing(directory)


def what_is_missing(directory: Path) -> list[str]:
    """Whatever `profiles.json` lists that is not there or differs."""
    try:
        described = json.loads((directory / "profiles.json").read_text())
    except (OSError, ValueError) as error:
        return [f"{directory.name}/profiles.json: {error}"]
    wrong = []
    for profile in described["profiles"].values():
        for image in profile["images"]:
            path = directory / image["name"]
            if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != image["sha256"]:
                wrong.append(str(path))
    return wrong


def containers_of(socket: Path, service: Service) -> list[str]:
    """Ids of the containers of this installation, running or not."""
    from podman import PodmanClient

    ((installation,),) = service.rows("SELECT id FROM installation")
    with PodmanClient(base_url=f"unix://{socket}", timeout=120) as client:
        answer = client.api.get(
            "/containers/json",
            params={"all": True, "filters": json.dumps({"label": [f"asu.installation={installation}"]})},
        )
        answer.raise_for_status()
        return [str(entry["Id"]) for entry in answer.json()]


def builder_processes(service: Service) -> list[int]:
    """Processes whose command line or directory is in the service's copies of ImageBuilders."""
    place = str(service.database.parent / "builds")
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            texts = [
                (entry / "cmdline").read_bytes().decode(errors="replace"),
                str((entry / "cwd").readlink()),
            ]
        except OSError:
            continue
        if any(place in text for text in texts):
            found.append(int(entry.name))
    return found


@contextmanager
def watched(service: Service) -> Iterator[StoreWatch]:
    """A watch that must have found nothing wrong."""
    with StoreWatch(service.store) as watch:
        yield watch
    assert watch.looks > 10
    assert watch.broken == []


def test_after_a_crash_during_a_build_everything_is_built_once(
    make_podman: Make, podman_socket: Path
) -> None:
    service = make_podman(worker_concurrent=1).start()
    with watched(service) as watch:
        with service.client() as client:
            done = client.build(a_body("vim")).json["request_hash"]
            slow = begin(service, client, a_body("sample-slow-5"))
            waiting = [client.post(a_body(name)).json["request_hash"] for name in ("tmux", "htop")]
        orphans = containers_of(podman_socket, service)
        assert len(orphans) == 1
        service.kill()
        assert service.published() == [done]

        with service.start().client() as client:
            assert client.look(done).status == 200
            answers = [client.wait(request_hash) for request_hash in (slow, *waiting)]
            assert [answer.status for answer in answers] == [200] * 3
    assert watch.seen == {done, slow, *waiting}
    assert not set(orphans) & set(containers_of(podman_socket, service))
    assert eventually(lambda: containers_of(podman_socket, service) == [])
    _require_one_row_each(service, {done: 0, slow: 1} | dict.fromkeys(waiting, 0))
    assert eventually(lambda: service.leftovers() == [])
    assert "Traceback" not in service.stderr()


def _require_one_row_each(service: Service, attempts: dict[str, int]) -> None:
    rows = service.rows("SELECT request_hash, state, attempts FROM build_jobs ORDER BY id")
    assert rows == [(request_hash, "completed", count) for request_hash, count in attempts.items()]


def test_after_a_crash_no_process_and_no_copy_of_the_local_runtime_is_left(make_local: Make) -> None:
    service = make_local().start()
    with service.client() as client:
        slow = begin(service, client, a_body("sample-slow-5"))
    # The stage is written down a moment before its process starts.
    assert eventually(lambda: bool(builder_processes(service) and service.leftovers()))
    service.kill()

    with service.start().client() as client:
        assert eventually(lambda: len(service.leftovers()) <= 2), "one scratch, one copy at most"
        assert client.wait(slow).status == 200
    assert eventually(lambda: builder_processes(service) == [])
    assert eventually(lambda: service.leftovers() == [])
    _require_one_row_each(service, {slow: 1})


def test_a_build_that_crashes_the_service_three_times_is_given_up(make_local: Make) -> None:
    service = make_local().start()
    for _ in range(3):
        with service.client() as client:
            slow = begin(service, client, a_body("sample-slow-60"))
        service.kill()
        service.start()
    with service.client() as client:
        answer = client.wait(slow)
    assert (answer.status, answer.json["fault"], answer.json["reason"]) == (500, "ours", "gave_up")
    assert answer.json["detail"].startswith("Error: Gave up: the build was cut off 3 times")


@pytest.mark.parametrize("kind", ["local", "podman"])
def test_asked_to_stop_it_gives_its_builds_back_and_ends_well(
    request: pytest.FixtureRequest, kind: str
) -> None:
    service: Service = request.getfixturevalue(f"make_{kind}")().start()
    with watched(service):
        with service.client() as client:
            slow = begin(service, client, a_body("sample-slow-5"))
            waiting = client.post(a_body("tmux")).json["request_hash"]
        status = service.stop(seconds=5)
        stages = service.rows("SELECT state, attempts, retries FROM build_jobs WHERE state != 'completed'")
        assert set(stages) <= {("pending", 0, 0)} and stages
        assert service.leftovers() == []

        with service.start().client() as client:
            assert client.wait(slow).status == client.wait(waiting).status == 200
    _require_one_row_each(service, {slow: 0, waiting: 0})
    if kind == "podman":
        socket = request.getfixturevalue("podman_socket")
        assert eventually(lambda: containers_of(socket, service) == [])
    assert "Traceback" not in service.stderr()
    assert status == 0


def test_statistics_survive_a_clean_stop(make_local: Make) -> None:
    service = make_local().start()
    with service.client() as client:
        client.build(a_body("vim"))
        for _ in range(20):
            assert client.post(a_body("vim")).status == 200
    service.stop()
    query = "SELECT kind, count(*) FROM build_stats GROUP BY kind ORDER BY kind"
    assert service.rows(query) == [("cache_hit", 20), ("completed", 1), ("request", 1)]


def test_a_second_process_on_the_same_database_leaves_a_live_build_alone(
    make_podman: Make, podman_socket: Path
) -> None:
    first = make_podman(worker_concurrent=1).start()
    second = _beside(make_podman, first)
    with watched(first), first.client() as client:
        slow = begin(first, client, a_body("sample-slow-5"))
        second.start()
        with second.client() as other:
            shared = other.post(a_body("sample-slow-5"))
            assert shared.json["request_hash"] == slow
            # Its sweep of containers and scratch directories comes half a second after its start.
            assert other.build(a_body("vim")).status == 200
            assert other.wait(slow).status == 200
        assert client.wait(slow).status == 200
    _require_lease(first, slow, tokens=1)
    assert eventually(lambda: containers_of(podman_socket, first) == [])


def _beside(make: Make, first: Service) -> Service:
    """Another process with the same database, store and name."""
    second = make("second", **first.settings())
    second.change(server_port=second.port)
    second.store, second.database = first.store, first.database
    return second


def _require_lease(service: Service, request_hash: str, *, tokens: int) -> None:
    query = (
        f"SELECT state, attempts, retries, lease_token FROM build_jobs WHERE request_hash = '{request_hash}'"
    )
    assert service.rows(query) == [("completed", 0, 0, tokens)]


def test_a_second_process_outlives_the_first_and_takes_over(make_local: Make) -> None:
    first = make_local(worker_concurrent=1).start()
    second = _beside(make_local, first).start()
    with first.client() as client, second.client() as other:
        hashes = [
            (client if number % 2 else other).post(a_body(name)).json["request_hash"]
            for number, name in enumerate(("vim", "tmux", "htop", "nano", "sample-slow-1", "curl"))
        ]
        assert first.stop() is not None
        assert [other.wait(request_hash).status for request_hash in hashes] == [200] * 6
    assert second.rows("SELECT count(*), max(attempts), max(retries) FROM build_jobs") == [(6, 0, 0)]
    assert second.published() == sorted(hashes)


def test_who_was_frozen_beyond_its_lease_cannot_spoil_the_next_ones_work(make_local: Make) -> None:
    first = make_local(worker_concurrent=1).start()
    with watched(first) as watch:
        with first.client() as client:
            slow = begin(first, client, a_body("sample-slow-1"))
        with closing(sqlite3.connect(first.database, timeout=60, isolation_level=None)) as connection:
            # Frozen while we write, it holds no lock that would stay.
            connection.execute("BEGIN IMMEDIATE")
            os.kill(first.pid, signal.SIGSTOP)
            connection.execute("UPDATE build_jobs SET lease_until = 1")
            connection.execute("COMMIT")
        second = _beside(make_local, first).start()
        with second.client() as other:
            query = "SELECT worker FROM build_jobs WHERE state = 'building'"
            assert eventually(lambda: second.rows(query) == [("e2e-2/1",)])
            os.kill(first.pid, signal.SIGCONT)
            assert other.wait(slow).status == 200
    assert watch.seen == {slow}
    assert second.rows("SELECT state, attempts, lease_token FROM build_jobs") == [("completed", 1, 2)]
    assert eventually(lambda: "its outcome is dropped" in first.stderr())
    assert "Traceback" not in first.stderr() + second.stderr()


@pytest.mark.parametrize("moment", [0.05, 0.15, 0.3, 0.5])
def test_killed_at_any_moment_the_queue_goes_on(make_local: Make, moment: float) -> None:
    service = make_local(worker_concurrent=2).start()
    names = ("vim", "tmux", "htop", "nano")
    with watched(service):
        with service.client() as client:
            hashes = [client.post(a_body(name)).json["request_hash"] for name in names]
        threading.Event().wait(moment)  # the moment itself is what is varied
        service.kill()
        with service.start().client() as client:
            assert [client.wait(request_hash).status for request_hash in hashes] == [200] * 4
            _require_downloads(client, hashes)
    assert service.rows("SELECT count(*) FROM build_jobs") == [(4,)]
    assert eventually(lambda: service.leftovers() == []), f"{service.leftovers()} {service.stderr()[-2500:]}"


def _require_downloads(client: Client, hashes: list[str]) -> None:
    for request_hash in hashes:
        for image in client.look(request_hash).json["images"]:
            body = client.get(f"/store/{request_hash}/{image['name']}").body
            assert hashlib.sha256(body).hexdigest() == image["sha256"]


def test_sweeping_never_takes_a_scratch_directory_that_is_in_use(tmp_path: Path) -> None:
    """Two processes share a store: one sweeps while the other begins builds."""
    store, other = LocalStore(tmp_path, installation="test"), LocalStore(tmp_path, installation="test")
    lost: list[str] = []
    stop = threading.Event()

    def begin() -> None:
        for _ in range(1000):
            try:
                with store.scratch() as scratch:
                    (scratch / "images").mkdir()
            except (OSError, Unavailable) as error:
                lost.append(repr(error))
        stop.set()

    _together(begin, lambda: _until(stop, other.sweep), lambda: _until(stop, other.sweep))
    assert lost == []


def _until(stop: threading.Event, work: Callable[[], object]) -> None:
    while not stop.is_set():
        work()


def _together(*works: Callable[[], None]) -> None:
    threads = [threading.Thread(target=work) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
