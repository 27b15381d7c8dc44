"""What the clients of a busy server ask for, one request after the other."""

import json
import random
import time
from collections import Counter
from collections.abc import Iterator

from bench import load
from bench.soak import a_request
from bench.worlds import TARGET, VERSION

_LIVE = 100
"""New requests stop while so many builds are not known to be finished."""
_WARMING_SECONDS = 20.0
_LOOK_SECONDS = 0.1
_FAILING_EVERY = 20
"""One new request in so many asks for a package that does not exist."""
_DOCUMENTS = (
    *("/json/v1/overview.json", "/json/v1/latest.json", "/json/v1/branches.json", "/api/v1/stats"),
    *("/api/v1/stats/summary", "/api/v1/builds-per-day", "/api/v1/builds-by-version", "/api/v1/top-packages"),
    *("/api/v1/build-errors", "/api/v1/failures-by-target", "/api/v1/cache-hits-by-profile"),
    f"/json/v1/releases/{VERSION}/targets/{TARGET}/index.json",
    *("/api/v1/diff-packages-stats", "/api/v1/diff-packages-trend", "/health", "/", "/openapi.json"),
)
_NOWHERE = ("/api/v1/build/" + "0" * 64, "/store/" + "0" * 64 + "/image.bin", "/nowhere")


class Mix:
    """Chooses what is asked next by what was answered before; for one thread."""

    def __init__(self, *, until: float) -> None:
        self.until = until
        self.unexpected: Counter[str] = Counter()
        self.promised: Counter[str] = Counter()
        self.accepted: set[str] = set()
        """Hashes that a 202 has created a job for."""
        self._random = random.Random(5)
        self._numbers = 0
        self._bodies: list[bytes] = []
        """Every request that was answered, to be asked again."""
        self._fresh: set[bytes] = set()
        """Requests on their way for the first time."""
        self._doomed: set[bytes] = set()
        """Requests for what cannot be built, and the polls of their builds."""
        self._live: list[str] = []
        self._finished: list[str] = []
        self._files: list[str] = []

    def warming_up(self) -> Iterator[bytes]:
        """Everything that needs upstream, until it is known: what was never asked before is a 503."""
        deadline = time.monotonic() + _WARMING_SECONDS
        while not self.accepted and time.monotonic() < deadline:
            yield self._first()
            time.sleep(_LOOK_SECONDS)
        for path in _DOCUMENTS:
            unknown = self._unknown()
            yield load.get(path)
            while self._unknown() > unknown and time.monotonic() < deadline:
                unknown = self._unknown()
                time.sleep(_LOOK_SECONDS)
                yield load.get(path)
        self.unexpected.clear()

    def __iter__(self) -> Iterator[bytes]:
        kinds = (self._poll_live, self._poll_finished, self._again, self._new, self._file, self._page)
        while time.monotonic() < self.until:
            (choose,) = self._random.choices(kinds, (30, 30, 12, 4, 10, 14))
            yield choose() or self._page()

    def _unknown(self) -> int:
        return sum(self.unexpected.values())

    def _new(self) -> bytes | None:
        return self._first() if len(self._live) + len(self._fresh) < _LIVE else None

    def _first(self) -> bytes:
        """A request that nobody has sent before."""
        self._numbers += 1
        document = a_request(self._numbers)
        if doomed := self._numbers % _FAILING_EVERY == 0:
            document["packages"] = [f"no-such-package-{self._numbers}"]
        request = load.post("/api/v1/build", json.dumps(document).encode())
        self._fresh.add(request)
        if doomed:
            self._doomed.add(request)
        return request

    def _again(self) -> bytes | None:
        return self._random.choice(self._bodies) if self._bodies else None

    def _poll_live(self) -> bytes | None:
        return _poll(self._random.choice(self._live)) if self._live else None

    def _poll_finished(self) -> bytes | None:
        return _poll(self._random.choice(self._finished)) if self._finished else None

    def _file(self) -> bytes | None:
        return load.get(self._random.choice(self._files)) if self._files else None

    def _page(self) -> bytes:
        return load.get(self._random.choice((*_DOCUMENTS, *_NOWHERE)))

    def hear(self, request: bytes, status: int, body: bytes) -> None:
        """Learns from an answer, and notes one that should not have been given."""
        line = request[: request.index(b" HTTP/")].decode()
        if request.startswith(b"POST"):
            self._hear_post(request, status, body)
        elif line.startswith("GET /api/v1/build/") and status in (200, 500):
            self._hear_end(line.rpartition("/")[2], status, body)
        if status not in self._meant(request, line):
            self.unexpected[f"{line} {status}"] += 1

    def _hear_post(self, request: bytes, status: int, body: bytes) -> None:
        fresh = request in self._fresh
        self._fresh.discard(request)
        if status == 200:
            self.promised["cache_hit"] += 1
        if fresh and status == 202:
            request_hash = str(json.loads(body)["request_hash"])
            self.promised["request"] += 1
            self.accepted.add(request_hash)
            self._live.append(request_hash)
            self._bodies.append(request)
            if request in self._doomed:
                self._doomed.add(_poll(request_hash))

    def _hear_end(self, request_hash: str, status: int, body: bytes) -> None:
        if request_hash in self._live:
            self._live.remove(request_hash)
            self._finished.append(request_hash)
            if status == 200:
                names = [image["name"] for image in json.loads(body)["images"]]
                self._files += [f"/store/{request_hash}/{name}" for name in names]

    def _meant(self, request: bytes, line: str) -> tuple[int, ...]:
        if line.removeprefix("GET ") in _NOWHERE:
            return (404,)
        if request in self._doomed:
            return (202, 500)
        return (200, 202) if "/api/v1/build" in line else (200,)


def _poll(request_hash: str) -> bytes:
    return load.get(f"/api/v1/build/{request_hash}")
