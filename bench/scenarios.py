"""The loads, one function each; every one returns figures."""

import contextlib
import itertools
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench import load
from bench.figures import Figure
from bench.process import Server, cpu_seconds, free_port, resident_bytes, serving, settle
from bench.sample import FINISHED, download_server, request_body, seed

CONNECTIONS = 32
_PAGES = ("/", "/docs", "/openapi.json", "/health", "/metrics")
POLL = f"/api/v1/build/{FINISHED}"
_BATCHES, _BATCH = 5, 200
"""As many as may wait by default, so that the queue is as long as it gets."""
_STORM_CONNECTIONS = 64
_STORM = 3000


@contextlib.contextmanager
def service(folder: Path, *, workers: int = 4, upstream: str = "http://127.0.0.1:9") -> Iterator[Server]:
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
    }
    with serving(["asu_builder", "serve"], port, environment=environment, path=POLL, folder=folder) as server:
        yield server


@contextlib.contextmanager
def hello(kind: str) -> Iterator[Server]:
    """One of the two yardsticks."""
    port = free_port()
    with serving(["bench.hello", kind, str(port)], port) as server:
        yield server


@contextlib.contextmanager
def seeded(*, finished_jobs: int = 0) -> Iterator[Path]:
    """A temporary folder with database and store."""
    with tempfile.TemporaryDirectory(prefix="asu-bench-") as name:
        seed(Path(name), finished_jobs=finished_jobs)
        yield Path(name)


def cost(server: Server, request: bytes, *, count: int) -> tuple[float, load.Report]:
    """CPU of the server per request, in microseconds, under a bounded load."""
    before = cpu_seconds(server.pid)
    report = load.run(server.port, itertools.repeat(request, count), connections=CONNECTIONS)
    spent = cpu_seconds(server.pid) - before
    if report.statuses != {200: count}:
        raise SystemExit(f"unexpected answers: {dict(report.statuses)} {report.refused}")
    return spent / count * 1e6, report


def finished_answers(*, rounds: int, count: int) -> list[Figure]:
    """Polls and repeated POSTs of a finished build beside the two yardsticks, round by round."""
    requests = {
        "GET": load.get(POLL),
        "HEAD": load.get(POLL, method="HEAD"),
        "POST": load.post("/api/v1/build", request_body()),
    }
    spent: dict[str, list[float]] = {name: [] for name in ("raw", "starlette", *requests)}
    slowest: dict[str, list[float]] = {name: [] for name in requests}
    memory = []
    with seeded() as folder, download_server() as upstream:
        with (
            hello("raw") as raw,
            hello("starlette") as starlette,
            service(folder, upstream=upstream) as server,
        ):
            at_start = resident_bytes(server.pid) / 1e6
            for _ in range(rounds):
                spent["raw"].append(cost(raw, load.get("/"), count=count)[0])
                spent["starlette"].append(cost(starlette, load.get("/"), count=count)[0])
                for name, request in requests.items():
                    cpu, report = cost(server, request, count=count)
                    spent[name].append(cpu)
                    slowest[name].append(report.p99 * 1e3)
                load.run(server.port, iter([load.get(page) for page in _PAGES]), connections=1)
                memory.append(resident_bytes(server.pid) / 1e6)
    ratios = [
        max(get, head) / hello
        for get, head, hello in zip(spent["GET"], spent["HEAD"], spent["raw"], strict=True)
    ]
    return [
        Figure("raw ASGI hello, CPU", "µs", spent["raw"]),
        Figure("bare Starlette hello, CPU", "µs", spent["starlette"]),
        Figure("finished status, GET, CPU", "µs", spent["GET"], 60),
        Figure("finished status, HEAD, CPU", "µs", spent["HEAD"], 60),
        Figure("finished status, times raw hello", "×", ratios, 2),
        Figure(f"finished status, GET, p99 at {CONNECTIONS} connections", "ms", slowest["GET"], 10),
        Figure(f"finished status, HEAD, p99 at {CONNECTIONS} connections", "ms", slowest["HEAD"], 10),
        Figure("repeated POST, finished result, CPU", "µs", spent["POST"], 120),
        Figure(f"repeated POST, p99 at {CONNECTIONS} connections", "ms", slowest["POST"]),
        Figure("memory, API and 4 idle workers, at start", "MB", [at_start], 60),
        Figure(f"memory after {3 * count} requests, pages and a scrape", "MB", memory, 80),
    ]


def enqueueing(
    *, rounds: int, finished_jobs: int, packages: int = 20, budget: float | None = None, rested: bool = True
) -> Figure:
    """A new request each time: checked, hashed, written durably, answered with its position.

    A service that has not `rested` is looking through its database and its store meanwhile.
    """
    spent = []
    numbers = itertools.count()
    with seeded(finished_jobs=finished_jobs) as folder, download_server() as upstream:
        with service(folder, workers=0, upstream=upstream) as server:
            _enqueue(server, numbers, count=100, packages=packages)
            if rested:
                settle(server)
            for _ in range(rounds):
                seconds = 0.0
                for _ in range(_BATCHES):
                    _forget_pending(folder)
                    before = cpu_seconds(server.pid)
                    _enqueue(server, numbers, count=_BATCH, packages=packages)
                    seconds += cpu_seconds(server.pid) - before
                spent.append(seconds / (_BATCHES * _BATCH) * 1e6)
    name = f"enqueue {packages} packages, {finished_jobs} finished jobs in table"
    return Figure(f"{name}, CPU" if rested else f"{name}, just started", "µs", spent, budget)


def _enqueue(server: Server, numbers: Iterator[int], *, count: int, packages: int) -> None:
    bodies = [
        load.post("/api/v1/build", request_body(next(numbers), packages=packages)) for _ in range(count)
    ]
    report = load.run(server.port, iter(bodies), connections=8)
    if report.statuses != {202: count}:
        raise SystemExit(f"unexpected answers: {dict(report.statuses)} {report.refused}")


def _forget_pending(folder: Path) -> None:
    with contextlib.closing(sqlite3.connect(folder / "bench.db", timeout=30)) as connection, connection:
        connection.execute("DELETE FROM build_jobs WHERE state = 'pending'")


def starting(*, rounds: int) -> list[Figure]:
    """From exec to the first answer, which is a poll of a finished build."""
    ours: list[Server] = []
    yardstick: list[Server] = []
    with seeded() as folder:
        for _ in range(rounds + 1):
            with hello("starlette") as server:
                yardstick.append(server)
            with service(folder) as server:
                ours.append(server)
    del ours[0], yardstick[0]  # the first ones read their files from the disk
    ratios = [mine.start_cpu / bare.start_cpu for mine, bare in zip(ours, yardstick, strict=True)]
    return [
        Figure(
            "bare Starlette hello, exec to first answer, CPU", "ms", [s.start_cpu * 1e3 for s in yardstick]
        ),
        Figure("exec to first answer, CPU", "ms", [s.start_cpu * 1e3 for s in ours]),
        Figure("exec to first answer, wall", "ms", [s.start_wall * 1e3 for s in ours]),
        Figure("exec to first answer, CPU, times bare Starlette", "×", ratios, 1.6),
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
