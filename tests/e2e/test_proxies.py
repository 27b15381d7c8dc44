"""The service behind nginx and Caddy, with the files of deploy/ as they are offered."""

import gzip
import hashlib
import http.client
import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosedOK
from websockets.sync.client import connect

from asu_sample.distribution import Distribution
from e2e.clients.scene import a_body
from e2e.conftest import Make
from e2e.proxies import PROXIES, Proxy
from e2e.service import Answer, Client, Service
from e2e.slow_imagebuilder import write_slow_imagebuilder
from factories import eventually
from podman_service import APK_VERSION, SAMPLE_TARGET

pytestmark = pytest.mark.long

SECRET = "the operator's secret"
TOKENS = json.dumps(
    [{"name": "alice", "digest": hashlib.sha256(SECRET.encode()).hexdigest(), "rights": ["operate"]}]
)
MIB = 1 << 20
BIG = 100
"""In MiB."""

Front = Callable[..., Proxy]


@pytest.fixture(params=PROXIES)
def front(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Front]:
    """Puts a proxy in front of a service, which finds the images in its store if in no other."""
    made: list[Proxy] = []

    def make(service: Service, store: Path | None = None) -> Proxy:
        made.append(Proxy(request.param, tmp_path / "proxy", service.port, store or service.store).start())
        return made[-1]

    yield make
    for proxy in made:
        proxy.end()


def serve(make_local: Make, **settings: object) -> Service:
    """A service that believes the proxy, and only it."""
    chosen = {"trusted_proxies": "127.0.0.1", "api_tokens": TOKENS, "worker_concurrent": 0, **settings}
    return make_local(**chosen).start()


def ask_from(address: str, port: int, method: str, path: str, body: bytes = b"", **headers: str) -> Answer:
    """One request of a client at an address of this machine, 127.0.0.11 for example."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120, source_address=(address, 0))
    try:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body=body or None, headers=named)
        answer = connection.getresponse()
        lowered = {name.lower(): value for name, value in answer.getheaders()}
        return Answer(answer.status, lowered, answer.read())
    finally:
        connection.close()


def post_from(address: str, port: int, body: object, **headers: str) -> Answer:
    return ask_from(
        address,
        port,
        "POST",
        "/api/v1/build",
        json.dumps(body).encode(),
        content_type="application/json",
        **headers,
    )


def test_limits_and_turns_go_by_the_real_address_and_nobody_chooses_theirs(
    make_local: Make, front: Front
) -> None:
    service = serve(make_local, new_builds_limit="2/hour")
    port = front(service).port
    with Client(port) as client:
        client.post_patiently(a_body(profile="nosuch"))  # upstream is known from now on
    spoofed = [f"192.0.2.{number}, 198.51.100.{number}" for number in range(3)]
    answers = [
        post_from("127.0.0.11", port, a_body(packages=[name]), x_forwarded_for=lie, x_real_ip="192.0.2.9")
        for name, lie in zip(("vim", "tmux", "nano"), spoofed, strict=True)
    ]
    assert [answer.status for answer in answers] == [202, 202, 429]
    assert int(answers[-1].headers["retry-after"]) > 0
    other = post_from("127.0.0.12", port, a_body(packages=["curl"]))
    assert other.status == 202
    # The second build of the first address waits for the first of the second.
    assert other.json["queue_position"] == 1
    jobs = ask_from("127.0.0.13", port, "GET", "/api/v1/jobs", authorization=f"Bearer {SECRET}").json["jobs"]
    assert sorted(job["caller"] for job in jobs) == ["127.0.0.11", "127.0.0.11", "127.0.0.12"]


def test_a_request_has_one_id_in_both_logs_and_its_hash_in_none(make_local: Make, front: Front) -> None:
    service = serve(make_local)
    proxy = front(service)
    with Client(proxy.port) as client:
        request_hash = client.post_patiently(a_body()).json["request_hash"]
        path = f"/api/v1/build/{request_hash}"
        assert client.ask("GET", path, headers={"X-Request-ID": "my-own.id"}).headers["x-request-id"] == (
            "my-own.id"
        )
        made = client.ask("GET", path).headers["x-request-id"]
        assert len(made) >= 32
        ours = client.ask("GET", path, headers={"X-Request-ID": "not one of ours"}).headers["x-request-id"]
        assert ours and ours != "not one of ours"
    assert eventually(lambda: proxy.log.exists() and made in proxy.log.read_text())
    log = proxy.log.read_text()
    assert "my-own.id" in log
    assert f"/api/v1/build/{request_hash[:12]}" in log
    assert request_hash not in log and request_hash[12:] not in log


@pytest.fixture
def make_slow(make_local: Make, sample_world: Distribution, tmp_path: Path) -> Callable[[], Service]:
    """Makes a service whose builds say something at once and then stay in each stage for a while."""

    def make() -> Service:
        folder = tmp_path / "builders"
        template = write_slow_imagebuilder(
            sample_world, folder, version=APK_VERSION, target=SAMPLE_TARGET, seconds=1.5
        )
        script = folder / APK_VERSION / SAMPLE_TARGET / "setup.sh"
        script.write_text(f"echo setting up; {script.read_text()}")
        return serve(make_local, imagebuilder_path=template, worker_concurrent=1)

    return make


@pytest.mark.parametrize("stream", ["events", "log?follow=1"])
def test_what_a_build_prints_is_passed_on_at_once(
    make_slow: Callable[[], Service], front: Front, stream: str
) -> None:
    service = make_slow()
    connection = http.client.HTTPConnection("127.0.0.1", front(service).port, timeout=60)
    with closing(connection), service.client() as client:
        request_hash = client.post_patiently(a_body()).json["request_hash"]
        connection.request("GET", f"/api/v1/build/{request_hash}/{stream}")
        answer = connection.getresponse()
        seen = b""
        while b"setting up" not in seen:
            line = answer.readline()
            assert line, seen
            seen += line
        assert client.look(request_hash).status == 202
        seen += answer.read()
    assert b"completed" in seen


def test_a_build_is_watched_by_websocket(make_slow: Callable[[], Service], front: Front) -> None:
    service = make_slow()
    port = front(service).port
    messages: list[Any] = []
    with service.client() as client:
        request_hash = client.post_patiently(a_body()).json["request_hash"]
        with connect(
            f"ws://127.0.0.1:{port}/api/v1/build/{request_hash}/events", compression=None, open_timeout=60
        ) as watching:
            with pytest.raises(ConnectionClosedOK):
                while True:
                    messages.append(json.loads(watching.recv(timeout=60)))
        assert messages[0]["type"] == "state" and messages[0]["state"] in ("pending", "building")
        assert messages[-1] == {"type": "final", "status": 200, "document": client.look(request_hash).json}


def put_big_file(service: Service) -> tuple[str, bytes]:
    """A published file of 100 MiB: its address and its digest."""
    folder = service.store / ("ab" * 32)
    folder.mkdir(parents=True)
    digest = hashlib.sha256()
    with (folder / "big.bin").open("wb") as file:
        for number in range(BIG):
            block = hashlib.sha256(bytes([number])).digest() * (MIB // 32)
            digest.update(block)
            file.write(block)
    return f"/store/{folder.name}/big.bin", digest.digest()


def test_a_big_download_is_whole_and_goes_through_no_file(make_local: Make, front: Front) -> None:
    service = serve(make_local)
    proxy = front(service)
    path, expected = put_big_file(service)
    connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=60)
    connection.request("GET", path)
    answer = connection.getresponse()
    assert (answer.status, answer.headers["Content-Length"]) == (200, str(BIG * MIB))
    digest = hashlib.sha256(answer.read(MIB))
    # Whoever reads slowly is what makes proxies put things aside.
    time.sleep(1)
    while chunk := answer.read(MIB):
        digest.update(chunk)
    connection.close()
    assert digest.digest() == expected
    assert proxy.spooled() == []


def test_a_download_can_be_resumed_and_asked_about(make_local: Make, front: Front) -> None:
    service = serve(make_local)
    path, _ = put_big_file(service)
    with Client(front(service).port) as client:
        head = client.head(path)
        assert (head.status, head.headers["content-length"], head.body) == (200, str(BIG * MIB), b"")
        etag = head.headers["etag"]
        start = (BIG - 1) * MIB - 3
        part = client.ask("GET", path, headers={"Range": f"bytes={start}-", "If-Range": etag})
        assert (part.status, part.headers["content-range"]) == (
            206,
            f"bytes {start}-{BIG * MIB - 1}/{BIG * MIB}",
        )
        assert part.body == (service.directory / "public" / path[1:]).read_bytes()[start:]
        assert client.ask("GET", path, headers={"If-None-Match": etag}).status == 304
        missing = client.head(f"/store/{'cd' * 32}/big.bin")
        assert (missing.status, missing.headers["content-type"]) == (404, "application/json")


def test_an_image_is_sent_by_the_proxy_where_that_is_set(make_local: Make, front: Front) -> None:
    service = serve(make_local, store_accel_redirect="/asu-store/")
    path, expected = put_big_file(service)
    (service.store / path.split("/")[2] / "a+b.bin").write_bytes(b"plus")
    with service.client() as client:
        ours = client.get(path)
        assert (ours.status, ours.body, ours.headers["content-length"]) == (200, b"", "0")
        assert ours.headers["x-accel-redirect"] == path.replace("/store/", "/asu-store/")
        assert client.get(path.replace("big", "no")).status == 404
    whole = ask_from("127.0.0.12", service.port, "GET", path)
    assert hashlib.sha256(whole.body).digest() == expected, "who is no proxy gets the image"
    with Client(front(service).port) as client:
        whole = client.get(path)
        assert (whole.status, hashlib.sha256(whole.body).digest()) == (200, expected)
        assert whole.headers["content-type"] == "application/octet-stream"
        assert whole.headers["content-disposition"] == 'attachment; filename="big.bin"'
        assert whole.headers["cache-control"] == "no-cache"
        assert whole.headers["x-content-type-options"] == "nosniff"
        assert whole.headers["access-control-allow-origin"] == "*"
        assert whole.headers["accept-ranges"] == "bytes"
        assert whole.headers["x-request-id"]
        assert "x-accel-redirect" not in whole.headers
        etag = whole.headers["etag"]
        start = (BIG - 1) * MIB - 3
        part = client.ask("GET", path, headers={"Range": f"bytes={start}-", "If-Range": etag})
        assert (part.status, part.body) == (
            206,
            (service.directory / "public" / path[1:]).read_bytes()[start:],
        )
        other = client.ask("GET", path, headers={"Range": "bytes=0-9", "If-Range": '"another"'})
        assert (other.status, len(other.body)) == (200, BIG * MIB)
        assert client.ask("GET", path, headers={"If-None-Match": etag}).status == 304
        head = client.head(path)
        assert (head.status, head.headers["content-length"], head.body) == (200, str(BIG * MIB), b"")
        assert client.get(path.replace("big.bin", "a+b.bin")).body == b"plus"
        assert client.get(path.replace("big.bin", "a%2bb.bin")).body == b"plus"
        missing = client.get(path.replace("big", "no"))
        assert (missing.status, missing.json["status"]) == (404, 404)
        hidden = client.get(path.replace("/store/", "/asu-store/"))
        assert (hidden.status, hidden.json["status"]) == (404, 404)


def test_an_image_that_is_gone_when_the_proxy_comes_for_it_is_404_in_json(
    make_local: Make, front: Front, tmp_path: Path
) -> None:
    service = serve(make_local, store_accel_redirect="/asu-store/")
    path, _ = put_big_file(service)
    (tmp_path / "empty").mkdir()
    with Client(front(service, tmp_path / "empty").port) as client:
        answer = client.get(path)
    assert (answer.status, answer.json["title"]) == (404, "Not Found")
    assert answer.headers["access-control-allow-origin"] == "*"


def test_old_clients_paths_reach_the_service_as_they_were_written(make_local: Make, front: Front) -> None:
    service = serve(make_local)
    with Client(front(service).port) as client:
        request_hash = client.post_patiently(a_body()).json["request_hash"]
        for path in (f"//api/v1/build/{request_hash}", f"/api/v1/build/{request_hash}/?x=1"):
            assert client.get(path).status == 202
            assert client.head(path).status == 202
        preflight = client.ask("OPTIONS", "/api/v1/build", headers={"Origin": "https://example.org"})
        assert preflight.status == 204
        answer = client.get("/api/v1/overview")
        assert answer.headers["access-control-allow-origin"] == "*"


def send_body(port: int, size: int) -> tuple[int, dict[str, str], Any]:
    """A POST of so many bytes by somebody who does not mind being answered before the end."""
    with socket.create_connection(("127.0.0.1", port), timeout=120) as connection:
        connection.sendall(
            f"POST /api/v1/build HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            f"Content-Length: {size}\r\n\r\n".encode()
        )
        with suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(b" " * size)
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        headers = {name.lower(): value for name, value in answer.getheaders()}
        return answer.status, headers, json.loads(answer.read())


@pytest.mark.parametrize("size", [MIB + MIB // 2, 30 * MIB], ids=["for the service", "for the proxy"])
def test_a_body_that_is_too_large_is_refused_in_json(make_local: Make, front: Front, size: int) -> None:
    service = serve(make_local)
    status, headers, problem = send_body(front(service).port, size)
    assert (status, problem["status"], problem["title"]) == (413, 413, "Too large")
    assert "1048576 bytes" in problem["detail"]
    assert headers["content-type"] == "application/json"
    assert headers["access-control-allow-origin"] == "*"


def test_while_the_service_is_away_clients_are_told_to_come_back(make_local: Make, front: Front) -> None:
    service = serve(make_local)
    with Client(front(service).port) as client:
        assert client.get("/api/v1/stats").status == 200
        service.stop()
        answer = client.get("/api/v1/stats")
        assert (answer.status, answer.json["status"], answer.headers["retry-after"]) == (503, 503, "5")
        assert answer.headers["access-control-allow-origin"] == "*"
        service.start()
        assert client.get("/api/v1/stats").status == 200


def test_the_numbers_for_prometheus_stay_inside(make_local: Make, front: Front) -> None:
    service = serve(make_local)
    with Client(front(service).port) as client:
        for path in ("/metrics", "/metrics/", "//metrics"):
            answer = client.get(path)
            assert answer.status == 404
            assert b"asu_builder" not in answer.body


def test_documents_come_through_compressed_with_their_validators(make_local: Make, front: Front) -> None:
    service = serve(make_local)
    with Client(front(service).port) as client, service.client() as direct:
        assert client.get("/json/v1/overview.json").status == 200  # upstream is known from now on
        for path in ("/openapi.json", "/docs", "/json/v1/overview.json"):
            plain = client.ask("GET", path)
            assert plain.headers.get("content-encoding") is None and len(plain.body) > 1024
            asking = {"Accept-Encoding": "gzip, deflate, br"}
            gzipped = client.ask("GET", path, headers=asking)
            assert gzipped.headers["content-encoding"] == "gzip"
            assert gzip.decompress(gzipped.body) == plain.body
            assert "accept-encoding" in gzipped.headers["vary"].lower()
            assert "accept-encoding" in plain.headers["vary"].lower()
            etag = gzipped.headers["etag"]
            assert etag != plain.headers["etag"]
            assert etag == direct.ask("GET", path, headers=asking).headers["etag"]
            for method in ("GET", "HEAD"):
                again = client.ask(method, path, headers={**asking, "If-None-Match": etag})
                assert (again.status, again.body, again.headers["etag"]) == (304, b"", etag)
                assert again.headers["cache-control"] == gzipped.headers["cache-control"]
                assert again.headers["access-control-allow-origin"] == "*"
            assert client.ask("GET", path, headers={"If-None-Match": etag}).status == 200


def test_no_proxy_compresses_what_the_service_sends_as_it_is(make_local: Make, front: Front) -> None:
    service = serve(make_local)
    path, _ = put_big_file(service)
    with Client(front(service).port) as client:
        request_hash = client.post_patiently(a_body()).json["request_hash"]
        for target in (
            path,
            f"/api/v1/build/{request_hash}",
            f"/build/{request_hash}",
            "/metrics/",
            "/nowhere",
        ):
            answer = client.ask("GET", target, headers={"Accept-Encoding": "gzip, deflate, br, zstd"})
            assert answer.headers.get("content-encoding") is None
            assert answer.headers.get("transfer-encoding") is None or not target.startswith("/store/")
