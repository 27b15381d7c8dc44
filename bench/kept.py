"""What 100,000 kept results cost a service that does nothing: after a start, in memory, and at a start."""

import contextlib
import hashlib
import os
import sqlite3
import tempfile
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from asu_builder.database.connection import Database
from asu_builder.database.rows import span_micros, to_micros
from asu_builder.domain.job import BuildResult
from asu_builder.domain.request import BuildRequest
from bench.figures import Figure, Yardstick
from bench.process import Server, cpu_seconds, resident_bytes
from bench.sample import PROFILE, TARGET, VERSION, seed
from bench.scenarios import service
from bench.yardsticks import hello

WATCHED_SECONDS = 65
"""The start, and two rounds of everything that comes twice a minute."""
_LINKS = 50_000
"""So many names one file may have; ext4 allows 65,000."""
_WEEK = timedelta(days=7)
_DOWNTIME = timedelta(hours=1)


def keeping(*, rounds: int, results: int, seconds: float = WATCHED_SECONDS) -> Iterator[Figure]:
    """Starts the service over and over, beside one that keeps nothing; watches both for so many seconds."""
    spent: dict[int, list[float]] = {0: [], results: []}
    memory: dict[int, list[float]] = {0: [], results: []}
    with _seeded(0) as empty, _seeded(results) as full:
        for _ in range(rounds):
            with service(empty) as idle, service(full) as keeper:
                servers = {0: idle, results: keeper}
                for kept, most in _watch(servers, seconds).items():
                    spent[kept].append(cpu_seconds(servers[kept].pid))
                    memory[kept].append(most / 1e6)
        starts = _starting(full, rounds=rounds)
    after = f"{seconds:g} s after a start"
    yield Figure(f"{after}, nothing kept, CPU", "s", spent[0])
    yield Figure(f"{after}, {results} results kept, CPU", "s", spent[results], 2)
    yield Figure(f"{after}, nothing kept, memory at most", "MB", memory[0])
    yield Figure(f"{after}, {results} results kept, memory at most", "MB", memory[results], 60)
    yield from starts


def _watch(servers: Mapping[int, Server], seconds: float) -> dict[int, int]:
    """The most resident memory of each, looked at second by second from the first answer on."""
    most = dict.fromkeys(servers, 0)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for kept, server in servers.items():
            most[kept] = max(most[kept], resident_bytes(server.pid))
        time.sleep(1.0)
    return most


def _starting(folder: Path, *, rounds: int) -> list[Figure]:
    """Starts after an hour in which nothing ran, each beside one of the bare server."""
    ours: list[Server] = []
    bare: list[Server] = []
    for _ in range(rounds + 1):
        with hello() as server:
            bare.append(server)
        _pass_time(folder, _DOWNTIME)
        with service(folder) as server:
            ours.append(server)
    del ours[0], bare[0]  # the first ones read their files from the disk
    known = Yardstick("raw hello", [server.start_cpu * 1e3 for server in bare])
    return [
        Figure("start after an hour's downtime, wall", "s", [server.start_wall for server in ours], 0.35),
        Figure(
            "start after an hour's downtime, CPU",
            "ms",
            [server.start_cpu * 1e3 for server in ours],
            yardstick=known,
        ),
    ]


def _pass_time(folder: Path, span: timedelta) -> None:
    """Lets the last look at the queue be longer ago."""
    with contextlib.closing(sqlite3.connect(folder / "bench.db", timeout=30)) as connection, connection:
        connection.execute("UPDATE queue_clock SET seen_at = seen_at - ?", (span_micros(span),))


@contextlib.contextmanager
def _seeded(results: int) -> Iterator[Path]:
    """A folder with so many more results than the one that is polled.

    Each has a row in each table as the queue writes it, of 20 packages and with an outcome of 1 KB, under a
    hash like a real one, and a directory in the store. In that lies only the mark of the installation, which
    is a hard link: images are not looked at.
    """
    with tempfile.TemporaryDirectory(prefix="asu-bench-") as name:
        folder = Path(name)
        seed(folder)
        database = Database(folder / "bench.db")
        hashes = [hashlib.sha256(b"%d" % number).hexdigest() for number in range(results)]
        _add_rows(database, hashes)
        _add_directories(folder / "public" / "store", hashes, mark=f"{database.installation()}\n")
        database.close()
        yield folder


def _add_rows(database: Database, hashes: list[str]) -> None:
    now = datetime.now(UTC)
    at, until = to_micros(now), to_micros(now + _WEEK)
    packages = tuple(f"package-number-{number:03}" for number in range(20))
    request = msgspec.json.encode(BuildRequest(VERSION, TARGET, PROFILE, packages=packages)).decode()
    manifest = dict.fromkeys(packages, "1.0-r1")
    outcome = msgspec.json.encode(BuildResult({}, (), manifest, (), packages, "", "")).decode()
    with database.writing() as connection:
        connection.executemany(
            "INSERT INTO build_requests (request_hash, request, first_requested_at) VALUES (?, ?, ?)",
            ((name, request, at) for name in hashes),
        )
        connection.executemany(
            "INSERT INTO build_jobs (request_hash, state, enqueued_at, last_accessed_at, started_at,"
            " finished_at, expires_at) VALUES (?1, 'completed', ?2, ?2, ?2, ?2, ?3)",
            ((name, at, until) for name in hashes),
        )
        connection.execute(
            "INSERT INTO build_results (job_id, completed, document)"
            " SELECT id, 1, ? FROM build_jobs WHERE id NOT IN (SELECT job_id FROM build_results)",
            (outcome,),
        )


def _add_directories(store: Path, hashes: list[str], *, mark: str) -> None:
    for first in range(0, len(hashes), _LINKS):
        linked = store / hashes[first] / ".installation"
        for name in hashes[first : first + _LINKS]:
            (store / name).mkdir()
            if linked.exists():
                os.link(linked, store / name / linked.name)
            else:
                linked.write_text(mark)
