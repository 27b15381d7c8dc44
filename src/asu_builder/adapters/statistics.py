"""Statistics events, kept in memory for moments and appended in batches by one thread's `flush`."""

import threading
from collections.abc import Callable
from datetime import datetime

from asu_builder.adapters.database import Database
from asu_builder.adapters.job_rows import to_micros
from asu_builder.domain.request import BuildRequest

_Row = tuple[int, str, str, str, str, bool, str, str]


class SqlStatistics:
    """Appends events to `build_stats`; recording costs a list append and never waits for the disk."""

    def __init__(self, database: Database, *, now: Callable[[], datetime]) -> None:
        self._database = database
        self._now = now
        self._rows: list[_Row] = []
        self._flushing = threading.Lock()

    def record(self, kind: str, request: BuildRequest, *, client: str = "", reason: str = "") -> None:
        """See `ports.Statistics.record`."""
        at = to_micros(self._now())
        self._rows.append(
            (
                at,
                kind,
                request.version,
                request.target,
                request.profile,
                request.diff_packages,
                client,
                reason,
            )
        )

    def flush(self) -> int:
        """Writes what was recorded so far in one transaction; how many events. Nothing is lost on failure."""
        with self._flushing:
            count = len(self._rows)
            if count:
                batch = self._rows[:count]
                with self._database.writing() as connection:
                    connection.executemany(
                        "INSERT INTO build_stats"
                        " (at, kind, version, target, profile, diff_packages, client, reason)"
                        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                        batch,
                    )
                del self._rows[:count]
            return count
