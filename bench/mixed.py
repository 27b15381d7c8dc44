"""Everything at once through 64 connections beside running builds; then every promise is counted."""

import contextlib
import sqlite3
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from bench import load
from bench.figures import Figure
from bench.mix import Mix
from bench.worlds import World, faked, in_podman

CONNECTIONS = 64
SECONDS = 60.0
PACE = 0.05
"""How long a fake build takes at least, in seconds: then some wait, some run and some are finished."""


@dataclass
class Outcome:
    """What was promised to the clients, and what the service left behind."""

    report: load.Report
    unexpected: Counter[str] = field(default_factory=Counter)
    """Answers that the request should not get, by request line and status."""
    promised: Counter[str] = field(default_factory=Counter)
    """Answers that the statistics must know of, by the kind of their event."""
    recorded: Counter[str] = field(default_factory=Counter)
    """Events in the database after the service has stopped, by kind."""
    unfinished: int = 0
    """Accepted requests without a job in the database."""
    log: str = ""

    @property
    def server_errors(self) -> int:
        """Answers of 500 and above, and connections that got none; a failed build's 500 is its result."""
        refused = sum(n for line, n in self.unexpected.items() if line.rpartition(" ")[2] >= "500")
        return refused + self.report.broken

    @property
    def unaccounted(self) -> int:
        """Accepted requests and cache hits that are not in the statistics, or more often than promised."""
        return sum(abs(self.promised[kind] - self.recorded[kind]) for kind in ("request", "cache_hit"))

    @property
    def complaints(self) -> int:
        """Lines of the log that must not be there."""
        return sum(self.log.count(text) for text in ("database is locked", "Traceback", " ERROR "))


def mixing(*, seconds: float = SECONDS) -> list[Figure]:
    """Beside builds of the fake runtime: hundreds of them."""
    return _figures(mixed_load(seconds=seconds))


def mixing_in_podman(*, seconds: float = SECONDS) -> list[Figure]:
    """Beside real builds, a few."""
    return _figures(mixed_load(seconds=seconds, world=in_podman))


def mixed_load(
    *, seconds: float, world: Callable[[Path], AbstractContextManager[World]] | None = None
) -> Outcome:
    """Sends everything that clients send for so long, stops the service, and reads what it has left."""
    chosen = world or (lambda folder: faked(folder, pace=PACE))
    with tempfile.TemporaryDirectory(prefix="asu-bench-") as name:
        with chosen(Path(name)) as running:
            mix = Mix(until=0.0)
            load.run(running.server.port, mix.warming_up(), connections=1, heard=mix.hear)
            mix.until = time.monotonic() + seconds
            report = load.run(running.server.port, iter(mix), connections=CONNECTIONS, heard=mix.hear)
        outcome = Outcome(report, mix.unexpected, mix.promised, log=running.log.read_text())
        _count(outcome, running.database, mix.accepted)
    return outcome


def _count(outcome: Outcome, database: Path, accepted: set[str]) -> None:
    with contextlib.closing(sqlite3.connect(database)) as connection:
        kinds = connection.execute("SELECT kind, count(*) FROM build_stats GROUP BY kind")
        outcome.recorded = Counter(dict(kinds.fetchall()))
        jobs = {name for (name,) in connection.execute("SELECT request_hash FROM build_jobs")}
    outcome.unfinished = len(accepted - jobs)


def _figures(outcome: Outcome) -> list[Figure]:
    head = f"{CONNECTIONS} mixed connections"
    for line, number in outcome.unexpected.items():
        print(f"unexpected: {line}, {number} times")
    report = outcome.report
    total = sum(report.statuses.values())
    return [
        Figure(f"{head}: answers a second", "", [total / report.seconds]),
        Figure(f"{head}: builds completed beside them", "", [outcome.recorded["completed"]]),
        Figure(f"{head}: 5xx but failed builds, or no answer", "", [outcome.server_errors], 0),
        Figure(f"{head}: answers of another status than meant", "", [sum(outcome.unexpected.values())], 0),
        Figure(f"{head}: locked database, traceback, error in log", "", [outcome.complaints], 0),
        Figure(f"{head}: accepted requests", "", [outcome.promised["request"]]),
        Figure(f"{head}: accepted requests without a job", "", [outcome.unfinished], 0),
        Figure(f"{head}: cache hits", "", [outcome.promised["cache_hit"]]),
        Figure(f"{head}: events too few or too many", "", [outcome.unaccounted], 0),
        Figure(f"{head}: p99 of everything", "ms", [report.p99 * 1e3]),
    ]
