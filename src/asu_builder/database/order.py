"""The order of the jobs that wait: whose turn each takes, and how many are before it.

Why so: docs/decisions/callers-take-turns.md.
"""

import sqlite3

from msgspec.structs import replace

from asu_builder.domain.job import FINAL_STATES, Job, JobState
from asu_builder.ports import Submission

# The row values are those of the index build_jobs_order.
_AHEAD = """
    SELECT count(*) FROM build_jobs AS other, build_jobs AS mine
     WHERE mine.id = ? AND other.state = 'pending'
       AND (other.deprioritized, -other.priority, other.turn, other.id)
         < (mine.deprioritized, -mine.priority, mine.turn, mine.id)
"""
_LAST = """
    SELECT id FROM build_jobs WHERE state = 'pending'
     ORDER BY deprioritized DESC, priority, turn DESC, id DESC LIMIT 1
"""
# An caller's next job comes a turn after its last one that is not done, and nobody's before the turn
# that is reached.
_NEXT_TURN = """
    max(coalesce((SELECT turn FROM queue_turns WHERE priority = :priority), 0),
        coalesce((SELECT max(turn) + 1 FROM build_jobs
                   WHERE state IN ('pending', 'building')
                     AND caller = :caller AND priority = :priority), 0))
"""
_INSERT = f"""
    INSERT INTO build_jobs (request_hash, client, caller, cancel_digest, priority, enqueued_at, last_accessed_at, turn)
    VALUES (:hash, :client, :caller, :cancel_digest, :priority, :at, :at, {_NEXT_TURN})
    RETURNING id
"""
# Of two with the same turn the older is first, so an equal turn is no better one.
TAKE_BETTER_TURN = f"""
    UPDATE build_jobs SET priority = :priority, turn = own.turn, caller = :caller
      FROM (SELECT {_NEXT_TURN} AS turn) AS own
     WHERE id = :id AND state = 'pending'
       AND (-:priority, own.turn) < (-build_jobs.priority, build_jobs.turn)
"""


def count_pending(connection: sqlite3.Connection) -> int:
    """How many jobs wait."""
    (pending,) = connection.execute("SELECT count(*) FROM build_jobs WHERE state = 'pending'").fetchone()
    return int(pending)


def count_ahead(connection: sqlite3.Connection, job_id: int) -> int:
    """How many waiting jobs are before this one."""
    (ahead,) = connection.execute(_AHEAD, (job_id,)).fetchone()
    return int(ahead)


def is_last(connection: sqlite3.Connection, job_id: int) -> bool:
    """Whether this waiting job is behind all others; cheaper than counting them."""
    (last,) = connection.execute(_LAST).fetchone()
    return bool(last == job_id)


def insert_job(connection: sqlite3.Connection, submission: Submission, at: int) -> int:
    """A new pending job, at the end of its caller's turns; its id."""
    (job_id,) = connection.execute(
        _INSERT,
        {
            "hash": submission.request_hash,
            "client": submission.client,
            "caller": submission.caller,
            "cancel_digest": submission.cancel_digest,
            "priority": submission.priority,
            "at": at,
        },
    ).fetchone()
    return int(job_id)


def join_job(connection: sqlite3.Connection, job: Job, submission: Submission) -> Job:
    """The live or final job as it is once this submission has joined it.

    One that waits takes the place that a job of the joiner's own would get, if that is a better one.
    """
    if job.state in FINAL_STATES or submission.caller == job.caller:
        return job
    if not job.joined:
        connection.execute("UPDATE build_jobs SET joined = 1 WHERE id = ?", (job.id,))
        job = replace(job, joined=True)
    if job.state is not JobState.PENDING:
        return job
    own = {"id": job.id, "caller": submission.caller, "priority": submission.priority}
    if connection.execute(TAKE_BETTER_TURN, own).rowcount:
        job = replace(job, caller=submission.caller, priority=submission.priority)
    return job
