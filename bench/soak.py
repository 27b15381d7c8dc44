"""Does the service grow? LruByteCache after many builds beside memory after a tenth of them."""

import contextlib
import http.client
import json
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path

from bench.figures import Figure
from bench.process import resident_bytes
from bench.worlds import PROFILES, TARGET, VERSION, WORKERS, World, faked, in_podman

FAKED, REAL = 10_000, 200
"""Builds, unless asked for otherwise."""
_GROWTH = 1.1
_WHILE_BUILDING_MB = 150
_CONNECTIONS = 8
_WINDOW = 16
"""Builds that one connection has asked for and not yet seen the end of."""
_LOOK_SECONDS = 0.25
_SAMPLE_SECONDS = 0.05
_QUIET_SECONDS = 7.0
"""Longer than an answer is remembered as fresh."""
_BUILD_SECONDS = 1200.0
"""For the longest wait of a busy machine: many stand in line before the one that is waited for."""


def soaking(*, builds: int = FAKED) -> list[Figure]:
    """Builds of the fake runtime, from request to the poll that says completed."""
    return _soak(faked, builds, what="builds")


def soaking_in_podman(*, builds: int = REAL) -> list[Figure]:
    """Real builds of the sample distribution in containers."""
    return _soak(in_podman, builds, what="builds in Podman")


def _soak(world: Callable[[Path], AbstractContextManager[World]], builds: int, *, what: str) -> list[Figure]:
    tenth = builds // 10
    with tempfile.TemporaryDirectory(prefix="asu-bench-") as name, world(Path(name)) as running:
        pid = running.server.pid
        at_start = resident_bytes(pid) / 1e6
        with _watched(pid) as samples:
            began = time.perf_counter()
            build_all(running.server.port, range(tenth))
            early = _at_rest(pid)
            build_all(running.server.port, range(tenth, builds))
            seconds = time.perf_counter() - began - _QUIET_SECONDS
        late = _at_rest(pid)
    return [
        Figure(f"memory at start, {WORKERS} idle workers", "MB", [at_start]),
        Figure(f"memory after {tenth} {what}", "MB", [early]),
        Figure(f"memory after {builds} {what}", "MB", [late]),
        Figure(f"memory, {builds} beside {tenth} {what}", "×", [late / early], _GROWTH),
        Figure(f"memory while {WORKERS} build at once, at most", "MB", [max(samples)], _WHILE_BUILDING_MB),
        Figure(f"{what}, each, with {WORKERS} workers", "ms", [seconds / builds * 1e3]),
    ]


def _at_rest(pid: int) -> float:
    time.sleep(_QUIET_SECONDS)
    return resident_bytes(pid) / 1e6


@contextlib.contextmanager
def _watched(pid: int) -> Iterator[list[float]]:
    """Resident memory in MB, seen many times while the block lasts."""
    samples = [resident_bytes(pid) / 1e6]
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(_SAMPLE_SECONDS):
            samples.append(resident_bytes(pid) / 1e6)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield samples
    finally:
        ended.set()
        thread.join()


def build_all(port: int, numbers: Sequence[int], *, connections: int = _CONNECTIONS) -> None:
    """Asks for one build per number and sees each of them completed."""
    with ThreadPoolExecutor(connections) as threads:
        parts = [numbers[start::connections] for start in range(connections)]
        for _ in threads.map(lambda part: _build_some(port, part), parts):
            pass


def _build_some(port: int, numbers: Sequence[int]) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    with contextlib.closing(connection):
        for start in range(0, len(numbers), _WINDOW):
            hashes = [_ask(connection, number) for number in numbers[start : start + _WINDOW]]
            for request_hash in hashes:
                _wait(connection, request_hash)


def _ask(connection: http.client.HTTPConnection, number: int) -> str:
    deadline = time.monotonic() + _BUILD_SECONDS
    status, document = _call(connection, "POST", "/api/v1/build", json.dumps(a_request(number)))
    while status == 503 and time.monotonic() < deadline:  # upstream is being asked for the first time
        time.sleep(_LOOK_SECONDS)
        status, document = _call(connection, "POST", "/api/v1/build", json.dumps(a_request(number)))
    if status != 202:
        raise SystemExit(f"not accepted: {status} {document}")
    return str(document["request_hash"])


def a_request(number: int) -> dict[str, object]:
    """A small request; each number is another one."""
    return {
        "version": VERSION,
        "target": TARGET,
        "profile": PROFILES[number % len(PROFILES)],
        "packages": ["vim", "tmux", f"-nothing-{number}"],
        "client": "bench/1",
    }


def _wait(connection: http.client.HTTPConnection, request_hash: str) -> None:
    deadline = time.monotonic() + _BUILD_SECONDS
    status, document = _call(connection, "GET", f"/api/v1/build/{request_hash}")
    while status == 202 and time.monotonic() < deadline:
        time.sleep(_LOOK_SECONDS)
        status, document = _call(connection, "GET", f"/api/v1/build/{request_hash}")
    if status != 200:
        raise SystemExit(f"a build did not complete: {status} {document}")


def _call(
    connection: http.client.HTTPConnection, method: str, path: str, body: str | None = None
) -> tuple[int, dict[str, object]]:
    connection.request(method, path, body)
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read())
