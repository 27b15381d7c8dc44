"""The loads, one function each; every one returns figures."""

import contextlib
import itertools
import sqlite3
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import cycle, islice
from pathlib import Path

from bench import load
from bench.figures import Figure, Yardstick, alternate
from bench.process import Server, cpu_seconds, free_port, resident_bytes, serving, settle
from bench.sample import FINISHED, download_server, request_body, seed
from bench.yardsticks import hello, same_bytes

CONNECTIONS = 32
_PAGES = ("/", "/docs", "/openapi.json", "/health", "/metrics")
POLL = f"/api/v1/build/{FINISHED}"
_BATCHES, _BATCH = 5, 200
"""As many as may wait by default, so that the queue is as long as it gets."""
_HELLOS = 3000
_STORM_CONNECTIONS = 64
_STORM = 3000


@contextlib.contextmanager
def service(
    folder: Path,
    *,
    workers: int = 4,
    upstream: str = "http://127.0.0.1:9",
    command: Sequence[str] = ("serve",),
    **settings: str,
) -> Iterator[Server]:
    """The service on a seeded folder, with an engine that is not there."""
    port = free_port()
    environment = {
        "ASU_SERVER_PORT": str(port),
        "ASU_DATABASE_PATH": str(folder / "bench.db"),
        "ASU_PUBLIC_PATH": str(folder / "public"),
        "ASU_UPSTREAM_URL": upstream,
        "ASU_CONTAINER_RUNTIME": "podman",
        "ASU_CONTAINER_SOCKET_PATH": str(folder / "no-engine.sock"),
        "ASU_MAX_PENDING_JOBS": "1000000",
        "ASU_NEW_BUILDS_LIMIT": "",
        "ASU_WORKER_CONCURRENT": str(workers),
        "ASU_WORKER_ID": "bench",
        **{f"ASU_{name.upper()}": value for name, value in settings.items()},
    }
    with serving(
        ["asu_builder", *command], port, environment=environment, path=POLL, folder=folder
    ) as server:
        yield server


@contextlib.contextmanager
def seeded(*, finished_jobs: int = 0) -> Iterator[Path]:
    """A temporary folder with database and store."""
    with tempfile.TemporaryDirectory(prefix="asu-bench-") as name:
        seed(Path(name), finished_jobs=finished_jobs)
        yield Path(name)


def cost(
    server: Server,
    requests: Sequence[bytes],
    *,
    count: int,
    connections: int = CONNECTIONS,
    status: int = 200,
) -> tuple[float, load.Report]:
    """CPU of the server in microseconds, per request of so many of these in turn; all meet this status."""
    before = cpu_seconds(server.pid)
    report = load.run(server.port, islice(cycle(requests), count), connections=connections)
    spent = cpu_seconds(server.pid) - before
    _check(report, {status: count})
    return spent / count * 1e6, report


def paced_cost(
    server: Server,
    requests: Sequence[bytes],
    *,
    clients: int,
    seconds: float,
    lead: float = 0.0,
    seed: int = 0,
    status: int = 200,
) -> tuple[float, load.Report]:
    """The same for clients that poll these in turn, each every two to five seconds, as real ones do."""
    spent, report = load.run_paced(server, requests, clients=clients, seconds=seconds, lead=lead, seed=seed)
    _check(report, {status: len(report.latencies)})
    return spent / len(report.latencies) * 1e6, report


def _check(report: load.Report, expected: dict[int, int]) -> None:
    if report.statuses != expected or report.broken:
        raise SystemExit(
            f"unexpected answers: {dict(report.statuses)} {report.refused}, {report.broken} broken"
        )


def finished_answers(*, rounds: int, count: int) -> list[Figure]:
    """Polls and repeated POSTs of a finished build beside the yardsticks, round by round."""
    post = load.post("/api/v1/build", request_body())
    requests = {
        "GET": [load.get(POLL)],
        "HEAD": [load.get(POLL, method="HEAD")],
        "POST": [post],
        # As a proxy sends them.
        "POST with ids": [
            post.replace(b"\r\n", b"\r\nX-Request-ID: %d\r\n" % number, 1) for number in range(count)
        ],
    }
    slowest: dict[str, list[float]] = {name: [] for name in requests}

    def measure(server: Server, requests: Sequence[bytes], name: str = "") -> float:
        cpu, report = cost(server, requests, count=count)
        if name:
            slowest[name].append(report.p99 * 1e3)
        return cpu

    def look_around(server: Server) -> float:
        load.run(server.port, iter([load.get(page) for page in _PAGES]), connections=1)
        return resident_bytes(server.pid) / 1e6

    with seeded() as folder, download_server() as upstream, contextlib.ExitStack() as opened:
        raw, starlette = opened.enter_context(hello()), opened.enter_context(hello("starlette"))
        server = opened.enter_context(service(folder, upstream=upstream))
        at_start = resident_bytes(server.pid) / 1e6
        settle(server)
        same = opened.enter_context(same_bytes(server, requests["GET"][0]))
        measures = {
            "raw": partial(measure, raw, [load.get("/")]),
            "starlette": partial(measure, starlette, [load.get("/")]),
            "same GET": partial(measure, same, requests["GET"]),
            "same HEAD": partial(measure, same, requests["HEAD"]),
            **{name: partial(measure, server, each, name) for name, each in requests.items()},
            "memory": partial(look_around, server),
        }
        spent = alternate(rounds, measures)
    known = Yardstick("raw hello", spent["raw"])
    return [
        Figure("raw ASGI hello, CPU", "µs", spent["raw"]),
        Figure("bare Starlette hello, CPU", "µs", spent["starlette"], yardstick=known),
        Figure(
            "finished status, GET, CPU",
            "µs",
            spent["GET"],
            1.2,
            Yardstick("raw ASGI, same bytes", spent["same GET"]),
        ),
        Figure(
            "finished status, HEAD, CPU",
            "µs",
            spent["HEAD"],
            1.5,
            Yardstick("raw ASGI, same bytes", spent["same HEAD"]),
        ),
        Figure(f"finished status, GET, p99 at {CONNECTIONS} connections", "ms", slowest["GET"], 10),
        Figure(f"finished status, HEAD, p99 at {CONNECTIONS} connections", "ms", slowest["HEAD"], 10),
        Figure("repeated POST, finished result, CPU", "µs", spent["POST"], 1.7, known),
        Figure("repeated POST, each with its own id, CPU", "µs", spent["POST with ids"], 1.7, known),
        Figure(f"repeated POST, p99 at {CONNECTIONS} connections", "ms", slowest["POST"]),
        Figure("memory, API and 4 idle workers, at start", "MB", [at_start], 60),
        Figure(f"memory after {4 * count} requests, pages and a scrape", "MB", spent["memory"], 80),
    ]


def enqueueing(
    *,
    rounds: int,
    finished_jobs: int,
    connections: int,
    packages: int = 20,
    budget: float | None = None,
    rested: bool = True,
) -> Figure:
    """A new request each time: checked, hashed, written durably, answered with its position.

    A service that has not `rested` is looking through its database and its store meanwhile.
    """
    numbers = itertools.count()
    with seeded(finished_jobs=finished_jobs) as folder, download_server() as upstream, hello() as raw:
        with service(folder, workers=0, upstream=upstream) as server:

            def enqueue() -> float:
                seconds = 0.0
                for _ in range(_BATCHES):
                    _forget_pending(folder)
                    bodies = [request_body(next(numbers), packages=packages) for _ in range(_BATCH)]
                    seconds += _enqueue(server, bodies, connections=connections)
                return seconds / (_BATCHES * _BATCH) * 1e6

            def say_hello() -> float:
                return cost(raw, [load.get("/")], count=_HELLOS, connections=connections)[0]

            _enqueue(
                server, [request_body(next(numbers), packages=packages) for _ in range(100)], connections=8
            )
            if rested:
                settle(server)
            spent = alternate(rounds, {"enqueue": enqueue, "hello": say_hello})
    at = "1 connection" if connections == 1 else f"{connections} connections"
    name = f"enqueue, {at}, {packages} packages, {finished_jobs} finished jobs"
    return Figure(
        f"{name}, CPU" if rested else f"{name}, just started",
        "µs",
        spent["enqueue"],
        budget,
        Yardstick("raw hello", spent["hello"]),
    )


def _enqueue(server: Server, bodies: Sequence[bytes], *, connections: int) -> float:
    """CPU seconds of the server for these requests, all of them new."""
    requests = [load.post("/api/v1/build", body) for body in bodies]
    before = cpu_seconds(server.pid)
    report = load.run(server.port, iter(requests), connections=connections)
    spent = cpu_seconds(server.pid) - before
    _check(report, {202: len(requests)})
    return spent


def _forget_pending(folder: Path) -> None:
    with contextlib.closing(sqlite3.connect(folder / "bench.db", timeout=30)) as connection, connection:
        connection.execute("DELETE FROM build_jobs WHERE state = 'pending'")


def starting(*, rounds: int) -> list[Figure]:
    """From exec to the first answer, which is a poll of a finished build."""

    def start_hello(kind: str) -> Server:
        with hello(kind) as server:
            return server

    def start_ours() -> Server:
        with service(folder) as server:
            return server

    with seeded() as folder:
        started = [(start_hello("raw"), start_hello("starlette"), start_ours()) for _ in range(rounds + 1)]
    # The first ones read their files from the disk.
    raw, starlette, ours = zip(*started[1:], strict=True)
    known = Yardstick("raw hello", [server.start_cpu * 1e3 for server in raw])
    return [
        Figure(
            "bare Starlette hello, exec to first answer, CPU",
            "ms",
            [server.start_cpu * 1e3 for server in starlette],
            yardstick=known,
        ),
        Figure("exec to first answer, CPU", "ms", [server.start_cpu * 1e3 for server in ours], 1.5, known),
        Figure("exec to first answer, wall", "ms", [server.start_wall * 1e3 for server in ours]),
    ]


def storm() -> list[Figure]:
    """New and repeated requests and polls through 64 connections; then everything is counted."""
    with seeded() as folder, download_server() as upstream:
        with service(folder, workers=0, upstream=upstream) as server:
            requests = []
            for number in range(_STORM):
                requests += [load.post("/api/v1/build", request_body(number))]
                requests += [load.post("/api/v1/build", request_body()), load.get(POLL)]
            report = load.run(server.port, iter(requests), connections=_STORM_CONNECTIONS)
        with contextlib.closing(sqlite3.connect(folder / "bench.db")) as connection:
            (jobs,) = connection.execute("SELECT count(*) FROM build_jobs WHERE state = 'pending'").fetchone()
            (new,) = connection.execute("SELECT count(*) FROM build_stats WHERE kind = 'request'").fetchone()
            (hits,) = connection.execute(
                "SELECT count(*) FROM build_stats WHERE kind = 'cache_hit'"
            ).fetchone()
    refused = sum(count for status, count in report.statuses.items() if status not in (200, 202))
    return [
        Figure("64 connections: answers other than 200 and 202, or none", "", [refused + report.broken], 0),
        Figure(
            "64 connections: accepted jobs that are not in the database", "", [report.statuses[202] - jobs], 0
        ),
        Figure("64 connections: statistics rows lost", "", [abs(2 * _STORM - new - hits)], 0),
        Figure("64 connections: p99 of everything", "ms", [report.p99 * 1e3]),
    ]
