"""A service whose images lie in object storage, behind a proxy that spoils what the bucket answers."""

import hashlib
import json
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from asu_builder.settings import Settings
from asu_builder.store.bucket import Bucket
from e2e.conftest import Make
from e2e.service import READ_TOKENS, Answer, Client, Service
from e2e.test_builds import a_body
from factories import eventually
from faulty_proxy import FaultyProxy, faulty_proxy
from object_storage import BUCKET, s3_server


@pytest.fixture
def proxy() -> Iterator[FaultyProxy]:
    with faulty_proxy(s3_server().port) as running:
        yield running


@pytest.fixture
def service(make_local: Make, proxy: FaultyProxy, tmp_path: Path) -> Service:
    """Not yet started."""
    return make_local(
        store_url=s3_server().place(tmp_path.name),
        store_options=json.dumps(s3_server().options(endpoint=proxy.endpoint)),
        api_tokens=READ_TOKENS,
        database_path=tmp_path / "data" / "asu.db",
    )


def part_of(client: Client, name: str = "store") -> str:
    return str(client.health()["parts"][name]["status"])


def files_of(client: Client, built: Answer) -> dict[str, bytes]:
    """Every file of a result, as its own `sha256sums` lists them; each is what it says."""
    folder = f"/store/{built.json['request_hash']}"
    sums = client.get(f"{folder}/sha256sums")
    assert sums.status == 200, client.situation(str(sums))
    listed = {line.split(" *")[1]: line[:64] for line in sums.body.decode().splitlines()}
    found = {name: client.get(f"{folder}/{name}").body for name in listed}
    assert {name: hashlib.sha256(content).hexdigest() for name, content in found.items()} == listed
    return found


def test_images_are_built_into_the_bucket_and_downloaded_from_it(
    service: Service, proxy: FaultyProxy
) -> None:
    with service.start().client() as client:
        built = client.build(a_body())
        assert built.status == 200, client.situation(str(built.body))
        files = files_of(client, built)
        assert {image["name"] for image in built.json["images"]} < files.keys()
        assert {built.json["sbom"]["cyclonedx"], "profiles.json"} < files.keys()
        assert service.published() == []
        image = built.json["images"][0]["name"]
        address = f"/store/{built.json['request_hash']}/{image}"
        content = files[image]
        whole = client.get(address)
        proxy.paths.clear()
        head = client.head(address)
        assert not any(image in path for path in proxy.paths), "told by the row"
        for name in ("content-length", "content-type", "etag", "last-modified", "content-disposition"):
            assert head.headers[name] == whole.headers[name]
        assert (head.status, int(head.headers["content-length"])) == (200, len(content))
        etag = whole.headers["etag"]
        part = client.ask("GET", address, headers={"Range": "bytes=100-299", "If-Range": etag})
        assert (part.status, part.body) == (206, content[100:300])
        assert part.headers["content-range"] == f"bytes 100-299/{len(content)}"
        other = client.ask("GET", address, headers={"Range": "bytes=100-299", "If-Range": '"another"'})
        assert (other.status, other.body) == (200, content)
        assert client.ask("GET", address, headers={"Range": f"bytes={len(content)}-"}).status == 416
        assert client.ask("GET", address, headers={"If-None-Match": etag}).status == 304
        assert client.get(f"/store/{built.json['request_hash']}/nothing.bin").status == 404
        assert part_of(client) == "ok"
    service.stop()
    # What is asked of the bucket by a redirect is asked by the client.
    service.change(store_redirect="true")
    with service.start().client() as client:
        away = client.get(address)
        assert (away.status, away.body) == (302, b"")
        assert away.headers["cache-control"] == "no-store"
        asked = urllib.request.Request(away.headers["location"], headers={"Range": "bytes=100-299"})
        with urllib.request.urlopen(asked, timeout=60) as answer:
            assert (answer.status, answer.read()) == (206, content[100:300])
            assert answer.headers["content-disposition"] == f'attachment; filename="{image}"'
        again = client.head(address)
        assert (again.status, again.headers["content-length"]) == (200, str(len(content)))
        assert client.ask("GET", address, headers={"If-None-Match": etag}).status == 304


@pytest.mark.long
def test_a_result_whose_objects_are_gone_is_built_again(service: Service, tmp_path: Path) -> None:
    url = s3_server().place(tmp_path.name)
    bucket = Bucket(Settings(store_url=url, store_options=s3_server().options()))
    with service.start().client() as client:
        built = client.build(a_body())
        address = f"/store/{built.json['request_hash']}/{built.json['images'][0]['name']}"
        assert client.get(address).status == 200
        bucket.delete([entry.key for entry in bucket.list(built.json["request_hash"])])
        gone = client.get(address)
        assert gone.status == 404
        assert "request the build again" in gone.json["detail"]
        again = client.post(a_body())
        assert again.status == 202, "not told as done"
        assert client.wait(built.json["request_hash"]).status == 200
        assert files_of(client, built)


@pytest.mark.long
def test_while_the_bucket_fails_builds_wait_and_polls_are_answered(
    service: Service, proxy: FaultyProxy
) -> None:
    with service.start().client() as client, service.client() as other:
        built = client.build(a_body())
        address = f"/store/{built.json['request_hash']}/{built.json['images'][0]['name']}"
        proxy.spoil("busy")
        assert eventually(lambda: part_of(client) == "down")
        assert "answers 503" in client.health()["parts"]["store"]["sentence"]
        download = client.get(address)
        assert download.status == 503
        assert "retry-after" in download.headers
        assert client.look(built.json["request_hash"]).status == 200
        waits = client.post(a_body(packages=["tmux"]))
        assert waits.status == 202
        assert waits.json["waiting_for"] == "store", waits.json
        # Silence holds a download, and nothing beside it.
        proxy.spoil("silent", only=built.json["request_hash"])
        late: list[Answer] = []
        thread = threading.Thread(target=lambda: late.append(other.ask("GET", address)))
        thread.start()
        assert eventually(lambda: any("GET" in it and "x-id" not in it for it in proxy.paths))
        for _ in range(20):
            assert client.look(built.json["request_hash"]).status == 200
        proxy.spoil("")
        proxy.released.set()
        thread.join()
        assert [answer.status for answer in late] == [200]
        done = client.wait(waits.json["request_hash"])
        assert done.status == 200, client.situation(str(done.body))
        assert files_of(client, done)
        # Half of an answer is no image.
        proxy.spoil(
            "cut",
            only=f"GET /{BUCKET}/{service.store.parent.parent.parent.name}/{built.json['request_hash']}",
        )
        assert client.get(address).status == 503
    assert "Traceback" not in service.stderr()


def test_a_mistyped_bucket_is_told_at_once_and_not_made(service: Service) -> None:
    service.change(store_url="s3://mistyped/asu")
    with service.start().client() as client:
        assert eventually(lambda: part_of(client) == "down")
        sentence = client.health()["parts"]["store"]["sentence"]
        assert sentence.startswith("There is no bucket s3://mistyped/asu.")
        refused = client.post_once(a_body())
        assert (refused.status, "retry-after" in refused.headers) == (503, True)
        assert "mistyped" not in refused.body.decode()
    assert "There is no bucket" in service.stderr()
    bucket = Bucket(Settings(store_url="s3://mistyped", store_options=s3_server().options()))
    with pytest.raises(Exception, match="no bucket"):
        bucket.require()
