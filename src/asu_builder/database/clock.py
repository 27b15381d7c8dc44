"""The clock of the embedded database: the host's, which may leap and sleep.

Time that passed while no process polled the queue (the service was down, the machine slept, the clock
was set) counts against no lease and no job: `docs/decisions/the-databases-clock-decides.md`. A server
database has a clock that does not leap, and needs only `Database.now`.
"""

import logging
import sqlite3
from datetime import timedelta

from asu_builder.database.rows import span_micros

_log = logging.getLogger(__name__)

MAX_GAP = timedelta(seconds=30)
"""The longest time between two polls of the queue that counts; polls come every ten seconds."""
_MAX_SKEW = timedelta(seconds=60)
"""How far a write may be behind the last poll before it moves other times; more than `MAX_GAP`, so that
the next poll moves forth what the write has moved back."""
_JITTER = timedelta(seconds=1)
"""How far a poll may be behind the last one: it may have waited for the lock."""
MAX_LEAD = timedelta(minutes=2)
"""No lease and no pause reaches further into the future; one that does was written by a wrong clock."""
DOWNTIME = "coalesce((SELECT unseen FROM queue_clock), 0)"
"""SQL: the microseconds that passed unseen so far. Of a completed job `last_accessed_at` does not contain
them, so that a gap moves this one number and not each result that is kept."""


def move_times(connection: sqlite3.Connection, at: int, *, polled: bool = False) -> None:
    """Moves leases, waiting times and last accesses by the time in which nothing polled the queue.

    To be called with each poll, and before any time is written. The latter notices only a leap backwards:
    else the next poll would move what was written after the leap together with what is older, and a result
    of these moments would seem long unused when a full disk asks for room.
    """
    row = connection.execute("SELECT seen_at FROM queue_clock").fetchone()
    if row is None:
        if polled:
            connection.execute("INSERT INTO queue_clock (seen_at) VALUES (?)", (at,))
        return
    seen = int(row[0])
    gap = at - seen
    if -span_micros(_JITTER) <= gap < 0 if polled else gap >= -span_micros(_MAX_SKEW):
        return
    connection.execute("UPDATE queue_clock SET seen_at = ?", (at,))
    if not 0 <= gap <= span_micros(MAX_GAP):
        _log.info("%+.0f s passed unseen; leases and waiting times are moved by it", gap / 1_000_000)
        # A lease that ended before the last poll was written after the clock was set, and is right.
        # What could be claimed at the last poll can be claimed now.
        connection.execute(
            "UPDATE build_jobs SET last_accessed_at = last_accessed_at + :gap,"
            " lease_until = CASE WHEN lease_until >= :seen THEN lease_until + :gap ELSE lease_until END,"
            " not_before = CASE WHEN not_before > :seen THEN not_before + :gap ELSE 0 END"
            " WHERE state IN ('pending', 'building')",
            {"gap": gap, "seen": seen},
        )
        # What was used just before is still used just before, or a full disk would take it away.
        connection.execute("UPDATE queue_clock SET unseen = unseen + ?", (gap,))
    # What was written while the clock was wrong, between two polls, waits for no longer than this.
    connection.execute(
        "UPDATE build_jobs SET not_before = min(not_before, :lead), lease_until = min(lease_until, :lead),"
        " last_accessed_at = min(last_accessed_at, :lead) WHERE state IN ('pending', 'building')"
        " AND (not_before > :lead OR lease_until > :lead OR last_accessed_at > :lead)",
        {"lead": at + span_micros(MAX_LEAD)},
    )
