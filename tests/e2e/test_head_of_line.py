"""Documents that never come hold up nobody but whoever asked for them."""

import contextlib
import http.client
import itertools
import json
import os
import shutil
import statistics
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from asu_sample.distribution import Distribution
from e2e.conftest import local_settings
from e2e.service import Service
from factories import eventually
from hanging_server import HangingServer
from podman_service import APK_VERSION

HANGING = 60
GREEDY = "127.0.0.2"


@pytest.fixture
def upstream(sample_world: Distribution, tmp_path: Path) -> Iterator[HangingServer]:
    """A download server that lists sixty more targets, none of whose documents ever comes."""
    downloads = tmp_path / "downloads"
    shutil.copytree(sample_world.downloads, downloads, copy_function=os.link)
    listed = downloads / f"releases/{APK_VERSION}/.targets.json"
    targets = json.loads(listed.read_text()) | {f"hang/t{number}": "pico_9kc" for number in range(HANGING)}
    listed.unlink()
    listed.write_text(json.dumps(targets))
    with HangingServer(downloads) as server:
        server.hang(f"/releases/{APK_VERSION}/targets/hang/")
        yield server


def asked_by_the_greedy(port: int, number: int) -> int:
    """What becomes of one of its questions: every other one is a request for a build."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60, source_address=(GREEDY, 0))
    with contextlib.closing(connection):
        if number % 2:
            wanted = {"version": APK_VERSION, "target": f"hang/t{number}", "profile": "acme_small"}
            connection.request("POST", "/api/v1/build", json.dumps(wanted))
        else:
            connection.request("GET", f"/json/v1/releases/{APK_VERSION}/targets/hang/t{number}/index.json")
        return connection.getresponse().status


def test_sixty_hanging_targets_of_one_address_delay_no_other(
    sample_world: Distribution, upstream: HangingServer, tmp_path: Path
) -> None:
    settings = local_settings(sample_world, upstream.url) | {"worker_concurrent": 0}
    service = Service(tmp_path / "service", settings)
    try:
        with service.start().client(timeout=9) as client, ThreadPoolExecutor(HANGING) as pool:
            known = {"version": APK_VERSION, "target": "pico/nine", "profile": "acme_small"}
            request_hash = client.post(known).json["request_hash"]

            greedy = [pool.submit(asked_by_the_greedy, service.port, number) for number in range(HANGING)]
            assert eventually(lambda: _hanging(upstream) >= 40), "as many as one address may have"
            for number in range(20):
                assert client.look(request_hash).status == 202
                assert client.post({**known, "packages": ["vim", f"x{number}"]}).status == 202
            new = client.post({"version": APK_VERSION, "target": "x86/64", "profile": "generic"})
            assert new.status == 202, "a target that nobody has asked for"
            assert client.get(f"/json/v1/releases/{APK_VERSION}/packages/x86_64-index.json").status == 200

            upstream.release()
            statuses = [answer.result(timeout=60) for answer in greedy]
        assert set(statuses) <= {200, 202, 400, 503}
        assert "Traceback" not in service.stderr()
    finally:
        upstream.release()
        service.end()


@pytest.mark.timed
def test_polls_and_requests_for_known_targets_are_as_quick_as_alone(
    sample_world: Distribution, upstream: HangingServer, tmp_path: Path
) -> None:
    settings = local_settings(sample_world, upstream.url) | {
        "worker_concurrent": 0,
        "look_ups_limit": "",
        "max_pending_jobs": 1000,
    }
    service = Service(tmp_path / "service", settings)
    stop = threading.Event()

    def ask_on(number: int) -> None:
        # At once again, but for what is refused at once: a hundred a second in all.
        while not stop.wait(HANGING / 100):
            asked_by_the_greedy(service.port, number)

    try:
        service.start()
        with contextlib.closing(Neighbour(service.port)) as neighbour, ThreadPoolExecutor(HANGING) as pool:
            neighbour.ask()  # a first time, so that everything is loaded
            before = [neighbour.ask() for _ in range(3)]
            try:
                for number in range(HANGING):
                    pool.submit(ask_on, number)
                assert eventually(lambda: _hanging(upstream) >= 40)
                # The best of some rounds: other processes disturb one or the other.
                rounds = [neighbour.ask() for _ in range(5)]
            finally:
                stop.set()
                upstream.release()
        for kind in ("polls", "posts"):
            median = min(statistics.median(found[kind]) for found in rounds)
            alone = statistics.median(statistics.median(found[kind]) for found in before)
            assert median <= 1.5 * alone, kind
            assert min(sorted(found[kind])[-1 - len(found[kind]) // 100] for found in rounds) <= 0.1, kind
    finally:
        service.end()


class Neighbour:
    """Polls a waiting build and asks for others of the same device, on one connection."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self._numbers = itertools.count()
        self._known = json.loads(self._post()[1])["request_hash"]

    def close(self) -> None:
        """Ends the connection."""
        self._connection.close()

    def ask(self) -> dict[str, list[float]]:
        """How many seconds each of some polls and POSTs took."""
        found: dict[str, list[float]] = {"polls": [], "posts": []}
        for _ in range(100):
            began = time.perf_counter()
            self._connection.request("GET", f"/api/v1/build/{self._known}")
            answer = self._connection.getresponse()
            answer.read()
            found["polls"].append(time.perf_counter() - began)
            assert answer.status == 202
        for _ in range(30):
            began = time.perf_counter()
            status, _ = self._post()
            found["posts"].append(time.perf_counter() - began)
            assert status == 202
        return found

    def _post(self) -> tuple[int, bytes]:
        wanted: dict[str, object] = {
            "version": APK_VERSION,
            "target": "pico/nine",
            "profile": "acme_small",
            "packages": [f"p{next(self._numbers)}"],
        }
        self._connection.request("POST", "/api/v1/build", json.dumps(wanted))
        answer = self._connection.getresponse()
        return answer.status, answer.read()


def _hanging(upstream: HangingServer) -> int:
    return sum(1 for path in upstream.requests if "/targets/hang/" in path)
