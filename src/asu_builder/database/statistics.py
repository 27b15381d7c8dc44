"""Statistics: collected in memory, written in batches, counted by day for the charts."""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, KeysView, Mapping, Sequence
from datetime import datetime, timedelta

from asu_builder.database.dialect import Connection, SqlDatabase
from asu_builder.database.rows import moment, span_micros, to_micros
from asu_builder.domain.errors import Side
from asu_builder.domain.job import DURATION_CLASSES, DurationTally, EventKind, RecordedFailure, Tally, TallyBy
from asu_builder.domain.request import BuildRequest

EventRow = tuple[int, str, str, str, str, bool, str, str, str]
"""at, kind, version, target, profile, diff_packages, client, reason, side; times in microseconds."""
DurationRow = tuple[int, str, int, int, int]
"""day, stage, the class's upper end, and twice the duration: for the sum and the longest; in microseconds."""

DAY = 86_400_000_000
"""Microseconds."""
KEPT_NAMES = 150
"""Of a past day, for each version: the names most requested. The API shows a hundred."""
_KEPT_DAYS = 100
"""Packages are many and are shown for 90 days at most."""
_PACKAGES_SECONDS = 60.0
"""A request names some hundred packages: they are written once for the requests of a minute."""
_MOST_WAITING = 50_000
"""Events in memory while the database takes none; more are dropped. About 20 MB."""
_MOST_NAMES = 20_000
"""More different names than this are written before the minute is over."""
_MOST_NAMES_WAITING = 100_000
"""The same in memory while the database takes none; more are dropped."""
_UPPER_ENDS = [span_micros(end) for end in DURATION_CLASSES]
_AFTER_ANY = "\U0010ffff"
_LABELS: Mapping[TallyBy, str] = {
    "nothing": "''",
    "version": "version",
    "target": "target",
    "version_and_target": "version || ' ' || target",
    "profile": "profile",
    "reason_and_side": "reason || ' ' || side",
    "diff_packages": "CASE WHEN diff_packages THEN '1' ELSE '0' END",
    "version_with_diff_packages": "CASE WHEN diff_packages THEN version END",
}
_NOT_BY_DAY = ("target", "version_and_target", "profile")
"""Too many for the daily counts."""
_ADD_EVENT = """
INSERT INTO build_stats (at, kind, version, target, profile, diff_packages, client, reason, side)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"""
_COUNT_EVENTS = """
INSERT INTO daily_events (kind, day, version, reason, side, diff_packages, events)
VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (kind, day, version, reason, side, diff_packages)
DO UPDATE SET events = daily_events.events + excluded.events"""
_COUNT_DURATION = """
INSERT INTO daily_durations (day, stage, up_to, builds, total, longest) VALUES (?, ?, ?, 1, ?, ?)
ON CONFLICT (day, stage, up_to) DO UPDATE SET builds = daily_durations.builds + 1,
total = daily_durations.total + excluded.total, longest = max(daily_durations.longest, excluded.longest)"""
_COUNT_PACKAGES = """
INSERT INTO daily_packages (version, day, name, builds) VALUES (?, ?, ?, ?) ON CONFLICT (version, day, name)
DO UPDATE SET builds = daily_packages.builds + excluded.builds"""
_log = logging.getLogger(__name__)


class SqlStatistics:
    """Recording costs a list append and never waits for the disk.

    A process that is killed loses its last second of events and its last minute of package names.
    """

    def __init__(
        self,
        database: SqlDatabase,
        *,
        now: Callable[[], datetime],
        clock: Callable[[], float] = time.monotonic,
        note: Callable[[EventKind, str, str], None] = lambda kind, reason, side: None,
    ) -> None:
        """`clock` counts seconds.

        `note` is called at once with the kind, reason and side of each event, even if writing fails later.
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
        if len(self._spans) >= _MOST_WAITING:
            self._dropped += 1
            return
        micros = max(0, span_micros(span))
        # The last class also holds all that took longer.
        up_to = next((end for end in _UPPER_ENDS if micros <= end), _UPPER_ENDS[-1])
        self._spans.append((to_micros(self._now()) // DAY, stage, up_to, micros, micros))

    def waiting(self) -> int:
        return len(self._rows)

    def flush(self) -> int:
        """Nothing is lost when writing fails."""
        with self._flushing:
            return self._flush(packages=True)

    def flush_often(self) -> int:
        """The same for a timer: package names are gathered for a minute, because they are many."""
        with self._flushing:
            names = sum(len(counted) for counted in self._wanted.values())
            return self._flush(packages=self._clock() >= self._packages_due or names > _MOST_NAMES)

    def _flush(self, *, packages: bool) -> int:
        asked = len(self._asked)
        room = _MOST_NAMES_WAITING - sum(len(counted) for counted in self._wanted.values())
        for day, version, names in self._asked[:asked]:
            if len(names) > room:
                self._dropped += 1
                continue
            counted = self._wanted.setdefault((day, version), Counter())
            before = len(counted)
            counted.update(names)
            room -= len(counted) - before
        del self._asked[:asked]
        wanted = self._wanted if packages else {}
        rows, spans = self._rows[:], self._spans[:]
        if rows or spans or wanted:
            # Sorted: two processes that count the same days would wait for each other otherwise.
            with self._database.writing(own_rows=True) as connection:
                connection.executemany(_ADD_EVENT, rows)
                counts = Counter((row[1], row[0] // DAY, row[2], row[7], row[8], row[5]) for row in rows)
                connection.executemany(
                    _COUNT_EVENTS, sorted((*labels, count) for labels, count in counts.items())
                )
                connection.executemany(_COUNT_DURATION, sorted(spans))
                # By day and version, and by day alone. Names to be left out (`-name`) do not count.
                totals: dict[tuple[int, str], Counter[str]] = {}
                for (day, _), counted in wanted.items():
                    totals.setdefault((day, ""), Counter()).update(counted)
                connection.executemany(
                    _COUNT_PACKAGES,
                    sorted(
                        (version, day, name, count)
                        for counts_of in (wanted, totals)
                        for (day, version), counted in counts_of.items()
                        for name, count in counted.items()
                        if not name.startswith("-")
                    ),
                )
            del self._rows[: len(rows)], self._spans[: len(spans)]
            if self._dropped:
                _log.warning(
                    "%d event(s) are missing in the statistics: the database took none for too long",
                    self._dropped,
                )
                self._dropped = 0
        if packages:
            self._wanted = {}
            self._packages_due = self._clock() + _PACKAGES_SECONDS
        return len(rows)

    def tally(
        self, kinds: Sequence[EventKind], *, since: datetime, width: timedelta, by: TallyBy = "nothing"
    ) -> list[Tally]:
        # Whole days are read from the daily counts.
        start, step = to_micros(since), span_micros(width)
        at, count, table = "at", "count(*)", "build_stats"
        if by not in _NOT_BY_DAY and start % DAY == step % DAY == 0:
            start, step = start // DAY, step // DAY
            at, count, table = "day", "sum(events)", "daily_events"
        marks = ", ".join("?" * len(kinds))
        with self._database.reading() as connection:
            rows = connection.execute(
                f"SELECT ({at} - ?) / ? AS slot, {_LABELS[by]} AS label, {count} FROM {table}"
                f" WHERE kind IN ({marks}) AND {at} >= ? GROUP BY slot, label ORDER BY slot, label",
                (start, step, *kinds, start),
            ).fetchall()
        return [Tally(slot, str(label), count) for slot, label, count in rows if label is not None]

    def durations(self, *, since: datetime) -> list[DurationTally]:
        with self._database.reading() as connection:
            rows = connection.execute(
                "SELECT stage, up_to, sum(builds), sum(total), max(longest) FROM daily_durations"
                " WHERE day >= ? GROUP BY stage, up_to ORDER BY stage, up_to",
                (to_micros(since) // DAY,),
            ).fetchall()
        return [
            DurationTally(
                stage,
                timedelta(microseconds=up_to),
                count=builds,
                total=timedelta(microseconds=total),
                longest=timedelta(microseconds=longest),
            )
            for stage, up_to, builds, total, longest in rows
        ]

    def failures(self, limit: int) -> list[RecordedFailure]:
        with self._database.reading() as connection:
            rows = connection.execute(
                "SELECT at, version, target, profile, reason FROM build_stats"
                " WHERE kind = 'failed' ORDER BY at DESC LIMIT ?",
                (limit,),
            ).fetchall()
        return [RecordedFailure(moment(at), *rest) for at, *rest in rows]

    def top_packages(self, *, since: datetime, branch: str, limit: int) -> list[tuple[str, int]]:
        which = "version >= ? AND version < ?" if branch else "version = ''"
        versions = (branch, branch + _AFTER_ANY) if branch else ()
        with self._database.reading() as connection:
            rows = connection.execute(
                f"SELECT name, sum(builds) AS times FROM daily_packages WHERE {which} AND day >= ?"
                " GROUP BY name ORDER BY times DESC, name LIMIT ?",
                (*versions, to_micros(since) // DAY, limit),
            ).fetchall()
        return [(str(name), int(times)) for name, times in rows]


def forget(connection: Connection, *, before: int, today: int) -> None:
    """Deletes days before `before`, and of the days before `today` the packages least requested."""
    ends = (("daily_events", before), ("daily_durations", before))
    for table, end in (*ends, ("daily_packages", max(before, today - _KEPT_DAYS))):
        connection.execute(f"DELETE FROM {table} WHERE day < ?", (end,))
    long = connection.execute(
        "SELECT version, day FROM daily_packages WHERE day < ? GROUP BY version, day HAVING count(*) > ?",
        (today, KEPT_NAMES),
    ).fetchall()
    connection.executemany(
        "DELETE FROM daily_packages WHERE version = :version AND day = :day AND name NOT IN"
        " (SELECT name FROM daily_packages WHERE version = :version AND day = :day"
        " ORDER BY builds DESC, name LIMIT :kept)",
        [{"version": version, "day": day, "kept": KEPT_NAMES} for version, day in long],
    )
