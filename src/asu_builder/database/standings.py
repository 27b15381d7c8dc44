"""Where jobs stand: their states, and how many wait ahead of each, counted in ranges of one index.

The index build_jobs_order holds what waits in the order of claims, by four columns. One of them descends,
so no comparison of whole rows is a range of it. What lies between two places is counted column by
column: each range fixes the columns before one and has its ends in that one.
"""

import sqlite3
from collections.abc import Collection, Mapping, Sequence

from msgspec import json

from asu_builder.database.rows import moment
from asu_builder.domain.job import JobState, Stage, Standing

ANSWERS = "(job.state IN ('pending', 'building') OR job.expires_at > :now)"
"""What answers for its hash: anything live, and what is final and not past its time."""

NEWEST_ID = (
    f"SELECT job.id FROM build_jobs AS job WHERE job.request_hash = :hash AND {ANSWERS}"
    " ORDER BY job.id DESC LIMIT 1"
)
"""Of one hash the newest job that answers; read in its index alone."""

OUTDATED = f"""
    SELECT min(job.expires_at), group_concat(CASE WHEN job.id IS NOT wanted.value THEN wanted.key END)
      FROM json_each(:ids) AS wanted LEFT JOIN build_jobs AS job
        ON job.id = (SELECT job.id FROM build_jobs AS job
                      WHERE job.request_hash = wanted.key AND {ANSWERS} ORDER BY job.id DESC LIMIT 1)
"""
"""Of hashes with ids of jobs those that another job answers, or none; and when the first one expires."""

NEWEST = f"""
    SELECT job.request_hash, job.id, job.state, job.stage, job.expires_at, job.started_at,
           job.deprioritized, job.priority, job.fair_start
      FROM json_each(:hashes) AS wanted CROSS JOIN build_jobs AS job
     WHERE job.id = (SELECT job.id FROM build_jobs AS job
                      WHERE job.request_hash = wanted.value AND {ANSWERS} ORDER BY job.id DESC LIMIT 1)
     ORDER BY job.deprioritized, job.priority DESC, job.fair_start, job.id
"""
"""Of each hash the newest job that answers, in the order of claims."""

_COLUMNS = ("deprioritized", "priority", "fair_start", "id")
_EARLIER = ("<", ">", "<", "<")
_LATER = (">", "<", ">", ">=")
"""How what is before and after a place compares with it in each column of the index.

A place itself is among what is after it, so that the next one counts it.
"""
_Place = tuple[int, int, int, int]
"""The values of these columns."""
_MINE = [f"mine.{name}" for name in _COLUMNS]
_FIRST, _THEN = ("?1", "?2", "?3", "?4"), ("?5", "?6", "?7", "?8")


def _count(fixed: Sequence[str], *ends: str) -> str:
    """Counts the range with these values in the first columns, and with these ends in the one after them."""
    equal = [f"{name} = {value}" for name, value in zip(_COLUMNS, fixed, strict=False)]
    conditions = " AND ".join(["state = 'pending'", *equal, *ends])
    return f"(SELECT count(*) FROM build_jobs WHERE {conditions})"


def _end(column: int, comparisons: Sequence[str], place: Sequence[str]) -> str:
    return f"{_COLUMNS[column]} {comparisons[column]} {place[column]}"


def _ranges(place: Sequence[str], comparisons: Sequence[str], *, since: int = 0) -> list[str]:
    """The ranges of what compares so with a place, and equals it in the columns before `since`."""
    return [_count(place[:column], _end(column, comparisons, place)) for column in range(since, len(place))]


AHEAD = f"SELECT {' + '.join(_ranges(_MINE, _EARLIER))} FROM build_jobs AS mine WHERE mine.id = ?"
"""How many wait before a job."""
BETWEEN = [
    "SELECT "
    + " + ".join(
        [
            *_ranges(_FIRST, _LATER, since=column + 1),
            _count(_FIRST[:column], _end(column, _LATER, _FIRST), _end(column, _EARLIER, _THEN)),
            *_ranges(_THEN, _EARLIER, since=column + 1),
        ]
    )
    for column in range(len(_COLUMNS))
]
"""How many wait from a place on and before another, by the first column in which the two differ."""


def count_ahead(connection: sqlite3.Connection, job_id: int) -> int:
    """How many waiting jobs are before this one; 0 for one that is not there."""
    row = connection.execute(AHEAD, (job_id,)).fetchone()
    return int(row[0]) if row else 0


def find_standings(
    connection: sqlite3.Connection, request_hashes: Collection[str], at: int
) -> Mapping[str, Standing]:
    """Of each hash the newest job that answers; `connection` is in a transaction.

    All positions together cost one pass over the index at most, up to the last of them.
    """
    # Sorted, so that neighbours in the index of hashes are read from one page.
    values = {"hashes": json.encode(sorted({*request_hashes})).decode(), "now": at}
    standings: dict[str, Standing] = {}
    ahead = 0
    last: _Place | None = None
    rows = connection.execute(NEWEST, values)
    for request_hash, job_id, state, stage, expires_at, started_at, deprioritized, priority, start in rows:
        waits = state == "pending"
        if waits:
            place = (deprioritized, priority, start, job_id)
            ahead += _count_between(connection, last, place) if last else count_ahead(connection, job_id)
            last = place
        standings[request_hash] = Standing(
            job_id,
            JobState(state),
            None if stage is None else Stage(stage),
            ahead if waits else None,
            None if expires_at is None else moment(expires_at),
            None if started_at is None else moment(started_at),
        )
    return standings


def _count_between(connection: sqlite3.Connection, first: _Place, then: _Place) -> int:
    """How many wait from the first place on and before the other one, which comes later."""
    differs = 3
    while first[:differs] != then[:differs]:
        differs -= 1
    (between,) = connection.execute(BETWEEN[differs], first + then).fetchone()
    return int(between)
