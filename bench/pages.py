"""What pages cost with a full database: CPU of the server for each, templates warm, nothing remembered."""

import itertools
import json
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from asu_builder.database.connection import Database
from asu_builder.database.queue import SqlJobQueue
from asu_builder.database.statistics import SqlStatistics
from asu_builder.domain.access import digest_of
from asu_builder.domain.errors import FailureReason
from asu_builder.domain.job import Stage, Submission
from asu_builder.domain.request import BuildRequest, request_hash
from bench import load
from bench.figures import Figure, Yardstick, alternate
from bench.process import Server, resident_bytes
from bench.sample import TARGET, download_server, seed
from bench.scenarios import cost, service
from bench.yardsticks import hello

BUDGET = 1000.0
"""Times a raw hello, one request at a time: 25 to 90 ms, as machines go."""
_SETTLE_SECONDS = 3.0
"""So long checks and sweeps after a start may take and keep what they need."""
_TIMES, _HELLOS = 60, 1000
_SECRET = "bench"
_DAYS, _VERSIONS = 90, ("24.10.4", "24.10.3", "23.05.5", "SNAPSHOT")
_WAITING = 200
_PAGES = (
    ("Overview", "/", ""),
    ("Queue, for anybody", "/queue", ""),
    ("Queue, live part, for anybody", "/queue?fragment=1", ""),
    ("Queue, for an operator", "/queue", _SECRET),
    ("Queue, live part, for an operator", "/queue?fragment=1", _SECRET),
    ("Queue, for an operator, jobs that wait", "/queue?state=pending", _SECRET),
    ("Queue, for an operator, a device without requests", "/queue?profile=nothing", _SECRET),
    ("Statistics, 7 days", "/statistics?days=7", ""),
    ("Statistics, 90 days", "/statistics?days=90", ""),
    ("Configuration", "/configuration", _SECRET),
)


def paging(*, rounds: int, finished_jobs: int) -> Iterator[Figure]:
    """Each page, one request at a time."""
    with tempfile.TemporaryDirectory(prefix="asu-bench-") as name, download_server() as upstream:
        folder = Path(name)
        seed(folder, finished_jobs=finished_jobs)
        _fill(folder / "bench.db", events=finished_jobs)
        token = {"name": "bench", "digest": digest_of(_SECRET), "rights": ["operate"]}
        (folder / "config.yaml").write_text(json.dumps({"api_tokens": [token]}))
        with hello() as raw, service(folder, workers=0, upstream=upstream) as server:
            time.sleep(_SETTLE_SECONDS)
            before = resident_bytes(server.pid) / 1e6
            for title, path, secret in _PAGES:
                request = _with_token(load.get(path), secret)
                _spend(server, request)
                spent = alternate(
                    rounds, {"page": partial(_spend, server, request), "hello": partial(say_hello, raw)}
                )
                known = Yardstick("raw hello", spent["hello"])
                yield Figure(f"{title}, CPU", "ms", spent["page"], BUDGET, known)
            yield Figure("memory that all of them add", "MB", [resident_bytes(server.pid) / 1e6 - before])


def say_hello(raw: Server) -> float:
    """CPU of the yardstick in milliseconds."""
    return cost(raw, [load.get("/")], count=_HELLOS, connections=1)[0] / 1e3


def _spend(server: Server, request: bytes) -> float:
    """CPU of one answer in milliseconds."""
    return cost(server, [request], count=_TIMES, connections=1)[0] / 1e3


def _with_token(request: bytes, secret: str) -> bytes:
    header = f"Authorization: Bearer {secret}\r\n".encode() if secret else b""
    return request[: -len(b"\r\n")] + header + b"\r\n"


def _fill(path: Path, *, events: int) -> None:
    """Events of three months, a long queue and four builds that run."""
    database = Database(path)
    now = at = datetime.now(UTC)
    statistics = SqlStatistics(database, now=lambda: at)
    reasons = itertools.cycle(FailureReason)
    for day in range(_DAYS):
        at = now - timedelta(days=_DAYS - 1 - day)
        for number in range(events // _DAYS):
            request = _request(number)
            statistics.record("request", request)
            statistics.record("cache_hit", request)
            if number % 20:
                statistics.record("completed", request)
            else:
                statistics.record("failed", request, reason=next(reasons))
            for stage in Stage:
                statistics.record_duration(stage, timedelta(seconds=number % 97))
        statistics.flush()
    queue = SqlJobQueue(database)
    for number in range(_WAITING + 4):
        request = _request(number, f"waiting-{number}")
        submission = Submission(request, request_hash(request), "owut/2026.03.30", f"192.0.2.{number % 250}")
        queue.submit(submission)
    for number in range(4):
        queue.claim(f"elsewhere/{number}", lease_for=timedelta(hours=1))
    database.close()


def _request(number: int, *packages: str) -> BuildRequest:
    profile = f"vendor_model-{number % 250}"
    chosen = (*(f"package-{number % 50 + offset}" for offset in range(10)), *packages)
    return BuildRequest(_VERSIONS[number % len(_VERSIONS)], TARGET, profile, packages=chosen)
