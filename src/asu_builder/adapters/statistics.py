"""Statistics: kept in memory for moments, written in batches, counted for the charts.

Each batch appends its events and adds to the daily counts in one transaction. Charts of whole days
read the counts; only what has too many labels for them is counted from events.
"""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, KeysView, Sequence
from datetime import datetime, timedelta

from asu_builder.adapters import daily_counts
from asu_builder.adapters.daily_counts import DAY, DurationRow, EventRow
from asu_builder.adapters.database import Database
from asu_builder.adapters.job_rows import moment, span_micros, to_micros
from asu_builder.domain.errors import Side
from asu_builder.domain.request import BuildRequest
from asu_builder.ports import DurationTally, EventKind, RecordedFailure, Tally, TallyBy

_log = logging.getLogger(__name__)

_PACKAGES_SECONDS = 60.0
"""A request names some hundred packages: writing them is worth it once for many requests."""
_MOST_WAITING = 50_000
"""Events in memory while the database takes none; more are dropped. About 20 MB."""
_MOST_NAMES = 20_000
"""So many different names are written without waiting for the minute."""
_MOST_NAMES_WAITING = 100_000
"""The same in memory while the database takes none; more are dropped."""

_LABELS: dict[TallyBy, str] = {
    "nothing": "''",
    "version": "version",
    "target": "target",
    "profile": "profile",
    "reason_and_side": "reason || ' ' || side",
    "diff_packages": "diff_packages",
    "version_with_diff_packages": "CASE WHEN diff_packages THEN version END",
}


class SqlStatistics:
    """Recording costs a list append and never waits for the disk.

    A process that is killed loses its last second of events and its last minute of package names.
    """

    def __init__(
        self,
        database: Database,
        *,
        now: Callable[[], datetime],
        clock: Callable[[], float] = time.monotonic,
        note: Callable[[EventKind, str, str], None] = lambda kind, reason, side: None,
    ) -> None:
        """`clock` counts seconds.

        `note` is told the kind, reason and side of each event at once, whatever becomes of the writing.
        """
        self._note = note
        self._database = database
        self._now = now
        self._clock = clock
        self._rows: list[EventRow] = []
        self._spans: list[DurationRow] = []
        self._asked: list[tuple[int, str, KeysView[str]]] = []
        self._wanted: dict[tuple[int, str], Counter[str]] = {}
        self._packages_due = clock() + _PACKAGES_SECONDS
        self._flushing = threading.Lock()
        self._dropped = 0

    def record(
        self,
        kind: EventKind,
        request: BuildRequest,
        *,
        client: str = "",
        reason: str = "",
        side: Side | None = None,
    ) -> None:
        """See `ports.Statistics.record`."""
        self._note(kind, reason, side or "")
        if len(self._rows) >= _MOST_WAITING:
            self._dropped += 1
            return
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
                side or "",
            )
        )
        if kind == "request":
            names = request.packages_versions.keys() or dict.fromkeys(request.packages).keys()
            self._asked.append((at // DAY, request.version, names))

    def record_duration(self, stage: str, span: timedelta) -> None:
        """See `ports.Statistics.record_duration`."""
        if len(self._spans) >= _MOST_WAITING:
            self._dropped += 1
            return
        self._spans.append((to_micros(self._now()), stage, max(0, span_micros(span))))

    def waiting(self) -> int:
        """See `ports.Statistics.waiting`."""
        return len(self._rows)

    def flush(self) -> int:
        """See `ports.Statistics.flush`. Nothing is lost when writing fails."""
        with self._flushing:
            return self._flush(packages=True)

    def flush_often(self) -> int:
        """The same for a timer: package names are gathered for a minute, because they are many."""
        with self._flushing:
            names = sum(len(counted) for counted in self._wanted.values())
            return self._flush(packages=self._clock() >= self._packages_due or names > _MOST_NAMES)

    def _flush(self, *, packages: bool) -> int:
        self._count_names()
        wanted = self._wanted if packages else {}
        count, spans = len(self._rows), len(self._spans)
        if count or spans or wanted:
            batch = self._rows[:count]
            with self._database.writing() as connection:
                connection.executemany(
                    "INSERT INTO build_stats"
                    " (at, kind, version, target, profile, diff_packages, client, reason, side)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    batch,
                )
                daily_counts.add_events(connection, batch)
                daily_counts.add_durations(connection, self._spans[:spans])
                daily_counts.add_packages(connection, wanted)
            del self._rows[:count], self._spans[:spans]
            self._tell_dropped()
        if packages:
            self._wanted = {}
            self._packages_due = self._clock() + _PACKAGES_SECONDS
        return count

    def _count_names(self) -> None:
        count = len(self._asked)
        room = _MOST_NAMES_WAITING - sum(len(counted) for counted in self._wanted.values())
        for day, version, names in self._asked[:count]:
            if len(names) > room:
                self._dropped += 1
                continue
            counted = self._wanted.setdefault((day, version), Counter())
            before = len(counted)
            counted.update(names)
            room -= len(counted) - before
        del self._asked[:count]

    def _tell_dropped(self) -> None:
        if self._dropped:
            _log.warning(
                "%d event(s) are missing in the statistics: the database took none for too long",
                self._dropped,
            )
            self._dropped = 0

    def tally(
        self, kinds: Sequence[EventKind], *, since: datetime, width: timedelta, by: TallyBy = "nothing"
    ) -> list[Tally]:
        """See `ports.Statistics.tally`. Whole days are read from the daily counts."""
        start, step = to_micros(since), span_micros(width)
        with self._database.reading() as connection:
            if by in daily_counts.LABELS and start % DAY == step % DAY == 0:
                return daily_counts.tally(connection, kinds, first=start // DAY, width=step // DAY, by=by)
            marks = ", ".join("?" * len(kinds))
            rows = connection.execute(
                f"SELECT (at - ?) / ? AS slot, {_LABELS[by]} AS label, count(*) FROM build_stats"
                f" WHERE kind IN ({marks}) AND at >= ? GROUP BY slot, label ORDER BY slot, label",
                (start, step, *kinds, start),
            ).fetchall()
        return [Tally(slot, str(label), count) for slot, label, count in rows if label is not None]

    def durations(self, *, since: datetime) -> list[DurationTally]:
        """See `ports.Statistics.durations`."""
        with self._database.reading() as connection:
            return daily_counts.durations(connection, to_micros(since) // DAY)

    def failures(self, limit: int) -> list[RecordedFailure]:
        """See `ports.Statistics.failures`."""
        with self._database.reading() as connection:
            rows = connection.execute(
                "SELECT at, version, target, profile, reason FROM build_stats"
                " WHERE kind = 'failed' ORDER BY at DESC LIMIT ?",
                (limit,),
            ).fetchall()
        return [RecordedFailure(moment(at), *rest) for at, *rest in rows]

    def top_packages(self, *, since: datetime, branch: str, limit: int) -> list[tuple[str, int]]:
        """See `ports.Statistics.top_packages`."""
        with self._database.reading() as connection:
            first = to_micros(since) // DAY
            return daily_counts.top_packages(connection, first=first, branch=branch, limit=limit)
