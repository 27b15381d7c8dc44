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

EXISTS = f"SELECT 1 FROM build_jobs AS job WHERE job.request_hash = :hash AND {ANSWERS} LIMIT 1"

NEWEST = f"""
    SELECT job.request_hash, job.id, job.state, job.stage, job.expires_at, job.started_at,
           job.deprioritized, job.priority, job.fair_start
      FROM json_each(:hashes) AS wanted CROSS JOIN build_jobs AS job
     WHERE job.id = (SELECT job.id FROM build_jobs AS job
                      WHERE job.request_hash = wanted.value AND {ANSWERS} ORDER BY job.id DESC LIMIT 1)
     ORDER BY job.deprioritized, job.priority DESC, job.fair_start, job.id
"""
"""Of each hash the newest job that answers, in the order of claims."""

_ORDER = (("deprioritized", "<", ">"), ("priority", ">", "<"), ("fair_start", "<", ">"), ("id", "<", ">="))
"""The columns of the index, and how what is before and after a place compares with it in each.

With `>=` a place itself is among what is after it, so that the next one counts it.
"""
_Place = tuple[int, int, int, int]
"""The values of these columns."""


def _range(column: int, *comparisons: str, place: str = "?") -> str:
    """Counts what equals a place in the columns before this one, and compares so with it in this one."""
    conditions = ["state = 'pending'"]
    conditions += [f"{name} = {place.format(name)}" for name, *_ in _ORDER[:column]]
    name = _ORDER[column][0]
    conditions += [f"{name} {comparison} {place.format(name)}" for comparison in comparisons]
    return f"SELECT count(*) FROM build_jobs WHERE {' AND '.join(conditions)}"


BEFORE = [_range(column, before) for column, (_, before, _) in enumerate(_ORDER)]
AFTER = [_range(column, after) for column, (_, _, after) in enumerate(_ORDER)]
BETWEEN = [_range(column, after, before) for column, (_, before, after) in enumerate(_ORDER)]
_AHEAD = " + ".join(
    f"({_range(column, before, place='mine.{}')})" for column, (_, before, _) in enumerate(_ORDER)
)
AHEAD = f"SELECT {_AHEAD} FROM build_jobs AS mine WHERE mine.id = ?"


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
    values = {"hashes": json.encode({*request_hashes}).decode(), "now": at}
    standings: dict[str, Standing] = {}
    ahead = 0
    last: _Place | None = None
    rows = connection.execute(NEWEST, values)
    for request_hash, job_id, state, stage, expires_at, started_at, deprioritized, priority, start in rows:
        waits = state == "pending"
        if waits:
            place = (deprioritized, priority, start, job_id)
            ahead += _count_between(connection, last, place)
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


def _count_between(connection: sqlite3.Connection, first: _Place | None, then: _Place) -> int:
    """How many wait from the first place on, or from the beginning, and before the other one."""
    ranges: list[tuple[str, Sequence[int]]]
    if first is None:
        ranges = [(BEFORE[column], then[: column + 1]) for column in range(len(then))]
    else:
        differs = next(column for column, value in enumerate(first) if value != then[column])
        ranges = [(AFTER[column], first[: column + 1]) for column in range(differs + 1, len(first))]
        ranges.append((BETWEEN[differs], (*first[: differs + 1], then[differs])))
        ranges += [(BEFORE[column], then[: column + 1]) for column in range(differs + 1, len(then))]
    return sum(connection.execute(*counted).fetchone()[0] for counted in ranges)
