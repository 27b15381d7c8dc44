"""Statistics events: kept in memory for moments, appended in batches, counted for the charts."""

import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

from asu_builder.adapters.database import Database
from asu_builder.adapters.job_rows import to_micros
from asu_builder.domain.request import BuildRequest
from asu_builder.ports import EventKind, RecordedFailure, Tally, TallyBy

_Row = tuple[int, str, str, str, str, bool, str, str]
_MICROS = 1_000_000
# Enough for a chart; a month of requests of a large server would take seconds to count.
_MAX_COUNTED_REQUESTS = 20_000

_LABELS: dict[TallyBy, str] = {
    "nothing": "''",
    "version": "version",
    "target": "target",
    "profile": "profile",
    "reason": "reason",
    "diff_packages": "diff_packages",
    "version_with_diff_packages": "CASE WHEN diff_packages THEN version END",
}


class SqlStatistics:
    """Appends events to `build_stats`; recording costs a list append and never waits for the disk."""

    def __init__(
        self,
        database: Database,
        *,
        now: Callable[[], datetime],
        note: Callable[[EventKind, str], None] = lambda kind, reason: None,
    ) -> None:
        """`note` is told the kind and reason of each event at once, whatever becomes of the writing."""
        self._note = note
        self._database = database
        self._now = now
        self._rows: list[_Row] = []
        self._flushing = threading.Lock()

    def record(self, kind: EventKind, request: BuildRequest, *, client: str = "", reason: str = "") -> None:
        """See `ports.Statistics.record`."""
        self._note(kind, reason)
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

    def waiting(self) -> int:
        """See `ports.Statistics.waiting`."""
        return len(self._rows)

    def flush(self) -> int:
        """See `ports.Statistics.flush`. Nothing is lost when writing fails."""
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

    def tally(
        self, kinds: Sequence[EventKind], *, since: datetime, width: timedelta, by: TallyBy = "nothing"
    ) -> list[Tally]:
        """See `ports.Statistics.tally`."""
        start = to_micros(since)
        marks = ", ".join("?" * len(kinds))
        with self._database.reading() as connection:
            rows = connection.execute(
                f"SELECT (at - ?) / ? AS slot, {_LABELS[by]} AS label, count(*) FROM build_stats"
                f" WHERE kind IN ({marks}) AND at >= ? GROUP BY slot, label ORDER BY slot, label",
                (start, int(width.total_seconds()) * _MICROS, *kinds, start),
            ).fetchall()
        return [Tally(slot, str(label), count) for slot, label, count in rows if label is not None]

    def failures(self, limit: int) -> list[RecordedFailure]:
        """See `ports.Statistics.failures`."""
        with self._database.reading() as connection:
            rows = connection.execute(
                "SELECT at, version, target, profile, reason FROM build_stats"
                " WHERE kind = 'failed' ORDER BY at DESC LIMIT ?",
                (limit,),
            ).fetchall()
        return [RecordedFailure(datetime.fromtimestamp(at / _MICROS, UTC), *rest) for at, *rest in rows]

    def top_packages(self, *, since: datetime, branch: str, limit: int) -> list[tuple[str, int]]:
        """See `ports.Statistics.top_packages`."""
        with self._database.reading() as connection:
            rows = connection.execute(
                "SELECT name.value, count(*) AS times FROM ("
                "  SELECT request FROM build_requests"
                "   WHERE first_asked_at >= ? AND json_extract(request, '$.version') LIKE ? || '%'"
                "   ORDER BY first_asked_at DESC LIMIT ?) AS asked,"
                " json_each(CASE json_extract(asked.request, '$.packages_versions') WHEN '{}'"
                "  THEN json_extract(asked.request, '$.packages')"
                "  ELSE (SELECT json_group_array(key)"
                "          FROM json_each(asked.request, '$.packages_versions')) END)"
                " AS name GROUP BY name.value ORDER BY times DESC, name.value LIMIT ?",
                (to_micros(since), branch, _MAX_COUNTED_REQUESTS, limit),
            ).fetchall()
        return [(str(name), int(times)) for name, times in rows]
