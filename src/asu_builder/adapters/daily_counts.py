"""What happened on whole days, counted: functions on an open connection.

Kept beside the events and written with them, so that charts of months need not read each event.
Days are numbered from 1970 on and begin at midnight UTC.
"""

import sqlite3
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import timedelta

from asu_builder.adapters.job_rows import span_micros
from asu_builder.ports import DURATION_CLASSES, DurationTally, EventKind, Tally, TallyBy

EventRow = tuple[int, str, str, str, str, bool, str, str, str]
"""at, kind, version, target, profile, diff_packages, client, reason, side; times in microseconds."""
DurationRow = tuple[int, str, int]
"""at, stage, microseconds."""

DAY = 86_400_000_000
"""Microseconds."""
KEPT_NAMES = 150
"""Of a day that is over, for each version: the names most wanted. The API shows a hundred."""
_KEPT_DAYS = 100
"""Packages are many and are shown for 90 days at most."""

_UPPER_ENDS = [span_micros(end) for end in DURATION_CLASSES]
_AFTER_ANY = "\U0010ffff"

LABELS: Mapping[TallyBy, str] = {
    "nothing": "''",
    "version": "version",
    "reason_and_side": "reason || ' ' || side",
    "diff_packages": "diff_packages",
    "version_with_diff_packages": "CASE WHEN diff_packages THEN version END",
}
"""What can be told apart here; targets and profiles are too many."""


def add_events(connection: sqlite3.Connection, rows: Sequence[EventRow]) -> None:
    """Counts events that are appended in the same transaction."""
    counts = Counter((row[1], row[0] // DAY, row[2], row[7], row[8], row[5]) for row in rows)
    connection.executemany(
        "INSERT INTO daily_events (kind, day, version, reason, side, diff_packages, events)"
        " VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (kind, day, version, reason, side, diff_packages)"
        " DO UPDATE SET events = daily_events.events + excluded.events",
        [(*labels, count) for labels, count in counts.items()],
    )


def add_durations(connection: sqlite3.Connection, rows: Sequence[DurationRow]) -> None:
    """Counts stages by class of duration; the last class also holds what took longer still."""
    connection.executemany(
        "INSERT INTO daily_durations (day, stage, up_to, builds, total, longest) VALUES (?, ?, ?, 1, ?, ?)"
        " ON CONFLICT (day, stage, up_to) DO UPDATE SET builds = daily_durations.builds + 1,"
        " total = daily_durations.total + excluded.total,"
        " longest = max(daily_durations.longest, excluded.longest)",
        [(at // DAY, stage, _class_of(micros), micros, micros) for at, stage, micros in rows],
    )


def _class_of(micros: int) -> int:
    return _UPPER_ENDS[min(bisect_left(_UPPER_ENDS, micros), len(_UPPER_ENDS) - 1)]


def add_packages(connection: sqlite3.Connection, wanted: Mapping[tuple[int, str], Counter[str]]) -> None:
    """Counts names by day and version, and by day alone. What is to be left out (`-name`) is not wanted."""
    totals: dict[tuple[int, str], Counter[str]] = {}
    for (day, _), names in wanted.items():
        totals.setdefault((day, ""), Counter()).update(names)
    connection.executemany(
        "INSERT INTO daily_packages (version, day, name, builds) VALUES (?, ?, ?, ?)"
        " ON CONFLICT (version, day, name) DO UPDATE SET builds = daily_packages.builds + excluded.builds",
        (
            (version, day, name, count)
            for counted in (wanted, totals)
            for (day, version), names in counted.items()
            for name, count in names.items()
            if not name.startswith("-")
        ),
    )


def tally(
    connection: sqlite3.Connection, kinds: Sequence[EventKind], *, first: int, width: int, by: TallyBy
) -> list[Tally]:
    """Counts from the day `first` on in slots of `width` days, apart by one of `LABELS`."""
    marks = ", ".join("?" * len(kinds))
    rows = connection.execute(
        f"SELECT (day - ?) / ? AS slot, {LABELS[by]} AS label, sum(events) FROM daily_events"
        f" WHERE kind IN ({marks}) AND day >= ? GROUP BY slot, label ORDER BY slot, label",
        (first, width, *kinds, first),
    ).fetchall()
    return [Tally(slot, str(label), count) for slot, label, count in rows if label is not None]


def durations(connection: sqlite3.Connection, first: int) -> list[DurationTally]:
    """The classes of each stage from the day `first` on, shortest first."""
    rows = connection.execute(
        "SELECT stage, up_to, sum(builds), sum(total), max(longest) FROM daily_durations"
        " WHERE day >= ? GROUP BY stage, up_to ORDER BY stage, up_to",
        (first,),
    ).fetchall()
    return [
        DurationTally(stage, _span(up_to), count=builds, total=_span(total), longest=_span(longest))
        for stage, up_to, builds, total, longest in rows
    ]


def _span(micros: int) -> timedelta:
    return timedelta(microseconds=micros)


def top_packages(
    connection: sqlite3.Connection, *, first: int, branch: str, limit: int
) -> list[tuple[str, int]]:
    """The names most wanted from the day `first` on, by versions whose names begin with `branch`."""
    which = "version >= ? AND version < ?" if branch else "version = ''"
    versions = (branch, branch + _AFTER_ANY) if branch else ()
    rows = connection.execute(
        f"SELECT name, sum(builds) AS times FROM daily_packages WHERE {which} AND day >= ?"
        " GROUP BY name ORDER BY times DESC, name LIMIT ?",
        (*versions, first, limit),
    ).fetchall()
    return [(str(name), int(times)) for name, times in rows]


def forget(connection: sqlite3.Connection, *, before: int, today: int) -> None:
    """Deletes days before `before`, and of the days before `today` the packages hardly anybody wanted."""
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
