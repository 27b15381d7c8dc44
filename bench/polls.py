"""Polls of many builds in turn, as real clients poll; and small answers that monitors and scanners want."""

import hashlib
import json
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from bench import load
from bench.figures import Figure, Yardstick, alternate
from bench.process import Server, settle
from bench.sample import download_server, hash_of, request_body, seed
from bench.scenarios import cost, paced_cost, service
from bench.yardsticks import hello

_CLIENTS = 1225
"""Each waits 3.5 seconds on average: 350 polls a second."""
_WAITING, _FINISHED = 200, 2000
_LEAD_SECONDS = 7.0
"""Then each of the builds was polled once, as it was in a service that runs for long."""
_TIMES = 1.6
_STATISTICS_TIMES, _UNKNOWN_TIMES = 1.8, 2.3


def polling(*, rounds: int, seconds: float) -> list[Figure]:
    """Clients that poll every two to five seconds: one finished build, many finished ones, many that wait.

    What is remembered of one build is the yardstick: polls of many should cost hardly more.
    """
    slowest: dict[str, list[float]] = {}
    seeds = iter(range(1_000_000))

    def poll(name: str, server: Server, paths: Sequence[str], status: int) -> float:
        requests = [load.get(path) for path in paths]
        spent, report = paced_cost(
            server,
            requests,
            clients=_CLIENTS,
            seconds=seconds,
            lead=min(seconds, _LEAD_SECONDS),
            seed=next(seeds),
            status=status,
        )
        slowest.setdefault(name, []).append(report.p99 * 1e3)
        return spent

    with tempfile.TemporaryDirectory(prefix="asu-bench-") as name, download_server() as upstream:
        seed(Path(name), finished_jobs=_FINISHED, usual=True)
        with service(Path(name), workers=0, upstream=upstream) as server, hello() as raw:
            finished = [f"/api/v1/build/{hash_of(number)}" for number in range(_FINISHED)]
            waiting = [f"/api/v1/build/{each}" for each in _enqueue(server, _WAITING)]
            settle(server)
            # Clients poll a build again and again; what its very first poll costs is not what this is about.
            load.run(server.port, map(load.get, (*finished, *waiting)), connections=8)
            spent = alternate(
                rounds,
                {
                    "raw": partial(poll, "raw", raw, ["/"], 200),
                    "one": partial(poll, "one", server, finished[:1], 200),
                    "finished": partial(poll, "finished", server, finished, 200),
                    "waiting": partial(poll, "waiting", server, waiting, 202),
                },
            )
    bare, known = Yardstick("raw hello", spent["raw"]), Yardstick("one build", spent["one"])
    pace = f"{_CLIENTS} clients"
    return [
        Figure(f"{pace}, one finished build, CPU a poll", "µs", spent["one"], yardstick=bare),
        Figure(f"{pace}, {_FINISHED} finished in turn, CPU a poll", "µs", spent["finished"], _TIMES, known),
        Figure(f"{pace}, {_WAITING} waiting in turn, CPU a poll", "µs", spent["waiting"], _TIMES, known),
        Figure(f"{pace}, {_FINISHED} finished in turn, p99", "ms", slowest["finished"]),
        Figure(f"{pace}, {_WAITING} waiting in turn, p99", "ms", slowest["waiting"]),
    ]


def _enqueue(server: Server, count: int) -> list[str]:
    """Hashes of so many new builds, which wait."""
    hashes: list[str] = []
    load.run(
        server.port,
        (load.post("/api/v1/build", request_body(number, packages=20)) for number in range(count)),
        connections=8,
        heard=lambda _, __, body: hashes.append(json.loads(body)["request_hash"]),
    )
    return hashes


def asking(*, rounds: int, count: int) -> Iterator[Figure]:
    """The length of the queue, and builds that never were, each time another one."""
    unknown = [
        load.get(f"/api/v1/build/{hashlib.sha256(b'%d' % number).hexdigest()}") for number in range(count)
    ]
    statistics = load.get("/api/v1/stats")
    with tempfile.TemporaryDirectory(prefix="asu-bench-") as name:
        seed(Path(name), finished_jobs=_FINISHED)
        with service(Path(name), workers=0) as server, hello() as raw:
            _spend(server, [load.get("/api/v1/stats")], count=50)
            settle(server)
            spent = alternate(
                rounds,
                {
                    "raw": partial(_spend, raw, [load.get("/")], count=count),
                    "statistics": partial(_spend, server, [statistics], count=count),
                    "raw, one": partial(_spend, raw, [load.get("/")], count=count, connections=1),
                    "unknown": partial(_spend, server, unknown, count=count, connections=1, status=404),
                },
            )
    known = Yardstick("raw hello", spent["raw"])
    yield Figure("/api/v1/stats, CPU", "µs", spent["statistics"], _STATISTICS_TIMES, known)
    known = Yardstick("raw hello", spent["raw, one"])
    yield Figure("unknown hash, one client, CPU", "µs", spent["unknown"], _UNKNOWN_TIMES, known)


def _spend(
    server: Server, requests: Sequence[bytes], *, count: int, connections: int = 32, status: int = 200
) -> float:
    return cost(server, requests, count=count, connections=connections, status=status)[0]
