"""What many processes on PostgreSQL cost: the queue's steps, polls, builds, the way to a worker."""

import contextlib
import itertools
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from msgspec import Struct

from asu_builder.database.connection import Database
from asu_builder.database.dialect import SqlDatabase
from asu_builder.database.queue import SqlJobQueue
from asu_builder.domain.job import Submission
from asu_builder.domain.nodes import Takes
from asu_sample.distribution import write_distribution
from asu_sample.server import DownloadServer
from bench import load
from bench.figures import Figure, Yardstick, alternate
from bench.process import Server, free_port, serving, settle
from bench.sample import a_request, add_finished, hash_of, seed
from bench.scenarios import POLL, cost, service
from bench.soak import build_all
from bench.worlds import common_settings, stub_settings

if TYPE_CHECKING:
    from postgresql import PostgresServer

_TESTS = Path(__file__).parents[1] / "tests"
"""Where the private PostgreSQL is; the benchmarks borrow it."""
_SESSIONS = (1, 8, 64)
_PROCESSES = 4
"""That share the sessions: one has 16 connections at most."""
_STEPS = {1: 150, 8: 400, 64: 640}
_LEASE = timedelta(days=1)
_AHEAD_SECONDS = 1.0
"""From the moment at which all processes are told when to begin until then."""
_PACE_SECONDS = 0.25
"""How long a stub build waits at least, while on a real host a container works."""
_AT_ONCE = 4
"""Builds in each worker process."""
_BUILDS = 120
"""For each worker process."""
_DISPATCHES = 40
_PER_POLL, _FULL, _DISPATCH_MS = 1.2, 1.2, 100
_TWICE = 0.556
"""1 ÷ 1.8: builds with two processes, while cores are free."""


class Rate(NamedTuple):
    """What one round of one kind of step came to, for all sessions."""

    per_second: float
    milliseconds: float
    """Of one step, mean."""


class _Part(Struct, frozen=True):
    """What one process does: `threads` sessions, `steps` each, from `first` on, beginning at this moment."""

    place: str
    threads: int
    steps: int
    first: int
    at: float


def clustering(*, rounds: int, count: int, finished_jobs: int) -> Iterator[Figure]:
    """All of it, on one PostgreSQL server of the benchmark's own."""
    with _postgresql() as server:
        yield from _stepping(server, rounds=rounds)
        yield from _beside_finished(server, rounds=rounds, finished_jobs=finished_jobs)
        yield from _polling(server, rounds=rounds, count=count)
        yield from _building(server, rounds=rounds)


@contextlib.contextmanager
def _postgresql() -> Iterator["PostgresServer"]:
    sys.path.append(str(_TESTS))
    from postgresql import PostgresServer

    with tempfile.TemporaryDirectory(prefix="asu-bench-", ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o755)  # its user must be able to get there
        server = PostgresServer(Path(name) / "pg", autovacuum="on", shared_buffers="128MB")
        server.make()
        server.start()
        try:
            yield server
        finally:
            server.stop()


def _place(server: "PostgresServer", numbers: Iterator[int] = itertools.count()) -> str:  # noqa: B008 - shared
    """The address of a new, empty schema."""
    import psycopg

    name = f"bench{next(numbers)}"
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {name}")
    return server.url(schema=name)


def _open(place: str) -> SqlDatabase:
    if not place.startswith("postgresql:"):
        return Database(Path(place), clock=lambda: datetime.now(UTC))
    from asu_builder.database.postgresql import ServerDatabase

    return ServerDatabase(place)


# The queue's steps.


def _enqueue(part: _Part) -> float:
    return _run(part, lambda queue, number: queue.submit(Submission(a_request(), hash_of(number))))


def _claim(part: _Part) -> float:
    takes = Takes(edition=1, errata=("",), rules=("",))

    def step(queue: SqlJobQueue, number: int) -> None:
        # Others may hold for a moment what it would take.
        while queue.claim(f"bench/{number}", lease_for=_LEASE, takes=takes) is None:
            pass

    return _run(part, step)


def _run(part: _Part, step: "object") -> float:
    """Takes the steps; when the last of them had ended."""
    assert callable(step)
    database = _open(part.place)
    queue = SqlJobQueue(database)

    def session(start: int) -> None:
        queue.pending()  # connects
        time.sleep(max(0.0, part.at - time.monotonic()))
        for number in range(start, start + part.steps):
            step(queue, number)

    try:
        with ThreadPoolExecutor(part.threads) as threads:
            starts = range(part.first, part.first + part.threads * part.steps, part.steps)
            for _ in threads.map(session, starts):
                pass
        return time.monotonic()
    finally:
        database.close()


class _Sessions:
    """Sessions in some processes, and the numbers that they have used."""

    def __init__(self, place: str, sessions: int, *, processes: int = _PROCESSES) -> None:
        self._place = place
        self._processes = min(processes, sessions)
        self._threads = sessions // self._processes
        self._steps = _STEPS[sessions] // sessions
        self._first = 1_000_000
        self._pool = ProcessPoolExecutor(self._processes, mp_context=multiprocessing.get_context("spawn"))

    def round(self) -> tuple[Rate, Rate]:
        """Enqueues and claims so many jobs, and forgets them."""
        enqueued, claimed = self._take(_enqueue), self._take(_claim)
        self._first += self._processes * self._threads * self._steps
        with contextlib.closing(_open(self._place)) as database, database.writing() as connection:
            connection.execute("DELETE FROM build_jobs WHERE state = 'building'")
        return enqueued, claimed

    def _take(self, step: "object") -> Rate:
        assert callable(step)
        of_one = self._threads * self._steps
        at = time.monotonic() + _AHEAD_SECONDS
        parts = [
            _Part(self._place, self._threads, self._steps, self._first + number * of_one, at)
            for number in range(self._processes)
        ]
        seconds = max(self._pool.map(step, parts)) - at
        count = len(parts) * of_one
        return Rate(count / seconds, seconds * 1e3 / count)

    def close(self) -> None:
        """Ends the processes."""
        self._pool.shutdown()


def _stepping(server: "PostgresServer", *, rounds: int) -> Iterator[Figure]:
    with tempfile.TemporaryDirectory(prefix="asu-bench-") as name, contextlib.ExitStack() as opened:
        place = _place(server)
        known = {f"{sessions} sessions": _Sessions(place, sessions) for sessions in _SESSIONS}
        known["8 sessions, SQLite in one process"] = _Sessions(f"{name}/bench.db", 8, processes=1)
        for sessions in known.values():
            opened.callback(sessions.close)
            sessions.round()
        spent = [{name: sessions.round() for name, sessions in known.items()} for _ in range(rounds)]
    for number, what in enumerate(("enqueue", "claim")):
        for name in known:
            yield Figure(f"{what}, {name}", "/s", [each[name][number].per_second for each in spent])


def _beside_finished(server: "PostgresServer", *, rounds: int, finished_jobs: int) -> Iterator[Figure]:
    """The same with many finished jobs in the table beside an empty one, in turn."""
    full = _place(server)
    with contextlib.closing(_open(full)) as database:
        add_finished(database, finished_jobs)
    pair = _Sessions(_place(server), 8), _Sessions(full, 8)
    try:
        for sessions in pair:
            sessions.round()
        spent = [tuple(sessions.round() for sessions in pair) for _ in range(rounds)]
    finally:
        for sessions in pair:
            sessions.close()
    for number, what in enumerate(("enqueue", "claim")):
        yield Figure(
            f"{what}, 8 sessions, {finished_jobs} finished jobs",
            "ms",
            [full[number].milliseconds for _, full in spent],
            _FULL,
            Yardstick("empty table", [empty[number].milliseconds for empty, _ in spent]),
        )


# What clients notice.


def _polling(server: "PostgresServer", *, rounds: int, count: int) -> Iterator[Figure]:
    """A process that only answers, on PostgreSQL, beside the service on SQLite: both answer from memory."""
    place = _place(server)
    with contextlib.ExitStack() as opened:
        on_file, on_server = (
            Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="asu-bench-"))) for _ in range(2)
        )
        seed(on_file)
        with contextlib.closing(_open(place)) as database:
            seed(on_server, database=database)
        api = opened.enter_context(
            service(on_server, workers=0, command=("serve", "--no-workers"), database_url=place)
        )
        one = opened.enter_context(service(on_file, workers=0))
        for each in (api, one):
            settle(each)

        def poll(asked: Server) -> float:
            return cost(asked, [load.get(POLL)], count=count)[0]

        spent = alternate(rounds, {"server": partial(poll, api), "file": partial(poll, one)})
    yield Figure(
        "finished status on PostgreSQL, GET, CPU",
        "µs",
        spent["server"],
        _PER_POLL,
        Yardstick("on SQLite", spent["file"]),
    )


# What workers do.


def _building(server: "PostgresServer", *, rounds: int) -> Iterator[Figure]:
    rates: dict[int, list[float]] = {1: [], 2: [], 4: []}
    waits: list[list[float]] = []
    numbers = itertools.count()
    for _ in range(rounds):
        for workers, found in rates.items():
            with _installation(server, workers) as (port, place):
                # What a worker loads for its first build is not what this is about.
                build_all(port, [next(numbers) for _ in range(_AT_ONCE * workers)])
                began = _micros()
                build_all(port, [next(numbers) for _ in range(_BUILDS * workers)], connections=16)
                ends = _column(place, f"SELECT finished_at FROM build_jobs WHERE enqueued_at > {began}")
                found.append((len(ends) - 1) / (max(ends) - min(ends)) * 1e6)
                if workers == 2:
                    began = _micros()
                    for _ in range(_DISPATCHES):
                        build_all(port, [next(numbers)])
                    waits.append(
                        _column(
                            place,
                            f"SELECT started_at - enqueued_at FROM build_jobs WHERE enqueued_at > {began}",
                        )
                    )
    one = Yardstick("one process", [1 / rate for rate in rates[1]])
    for workers, found in rates.items():
        yield Figure(f"stub builds, {workers} worker processes of {_AT_ONCE}", "/s", found)
    # As times, because budgets are upper ones.
    yield Figure("a stub build with 2 processes, time", "s", [1 / rate for rate in rates[2]], _TWICE, one)
    for name, part in (("p50", 50), ("p99", 99)):
        values = [statistics.quantiles(each, n=100)[part - 1] / 1e3 for each in waits]
        budget = _DISPATCH_MS if part == 99 else None
        yield Figure(f"accepted by one process, taken by another, {name}", "ms", values, budget)


@contextlib.contextmanager
def _installation(server: "PostgresServer", workers: int) -> Iterator[tuple[int, str]]:
    """One process that answers and so many that build; the port of the first, and where the rows are."""
    place = _place(server)
    with contextlib.ExitStack() as opened:
        folder = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="asu-bench-")))
        world = write_distribution(folder / "world", archives=False)
        upstream = opened.enter_context(DownloadServer(world.downloads))
        shared = {
            **common_settings(folder),
            **stub_settings(world, upstream.url, pace=_PACE_SECONDS),
            "ASU_DATABASE_URL": place,
            "ASU_WORKER_CONCURRENT": str(_AT_ONCE),
        }
        ports = [free_port() for _ in range(workers + 1)]
        names = ["api", *(f"hut{number}" for number in range(workers))]
        for name, port in zip(names, ports, strict=True):
            command = ("serve", "--no-workers") if name == "api" else ("worker",)
            environment = {
                **shared,
                "ASU_WORKER_ID": name,
                "ASU_DATABASE_PATH": str(folder / name / "bench.db"),
                "ASU_SERVER_PORT": str(port),
                "ASU_MONITORING_PORT": str(port),
            }
            opened.enter_context(
                serving(
                    ("fake_runtime", *command),
                    port,
                    environment=environment,
                    path="/health",
                    folder=folder,
                    log=folder / f"{name}.log",
                )
            )
        yield ports[0], place


def _micros() -> int:
    return time.time_ns() // 1000


def _column(place: str, statement: str) -> list[float]:
    with contextlib.closing(_open(place)) as database, database.reading() as connection:
        return [float(value) for (value,) in connection.execute(statement).fetchall()]
