"""The fair queue: in which order jobs wait, and how many are before one.

Why: docs/decisions/callers-take-turns.md.
"""

import sqlite3

from msgspec.structs import replace

from asu_builder.domain.job import FINAL_STATES, Job, JobState
from asu_builder.ports import Submission

# The row values are those of the index build_jobs_order.
_AHEAD = """
    SELECT count(*) FROM build_jobs AS other, build_jobs AS mine
     WHERE mine.id = ? AND other.state = 'pending'
       AND (other.deprioritized, -other.priority, other.fair_start, other.id)
         < (mine.deprioritized, -mine.priority, mine.fair_start, mine.id)
"""
_LAST = """
    SELECT id FROM build_jobs WHERE state = 'pending'
     ORDER BY deprioritized DESC, priority, fair_start DESC, id DESC LIMIT 1
"""
# A caller's next job starts one after its last one that is not done, and no job before the start
# that is reached.
_NEXT_START = """
    max(coalesce((SELECT reached FROM fair_queue WHERE priority = :priority), 0),
        coalesce((SELECT max(fair_start) + 1 FROM build_jobs
                   WHERE state IN ('pending', 'building')
                     AND caller = :caller AND priority = :priority), 0))
"""
_INSERT = f"""
    INSERT INTO build_jobs (request_hash, client, caller, cancel_digest, priority, enqueued_at,
                            last_accessed_at, fair_start)
    VALUES (:hash, :client, :caller, :cancel_digest, :priority, :at, :at, {_NEXT_START})
    RETURNING id
"""
# Of two with the same start the older is first, so an equal start is not an earlier one.
TAKE_EARLIER_START = f"""
    UPDATE build_jobs SET priority = :priority, fair_start = own.fair_start, caller = :caller
      FROM (SELECT {_NEXT_START} AS fair_start) AS own
     WHERE id = :id AND state = 'pending'
       AND (-:priority, own.fair_start) < (-build_jobs.priority, build_jobs.fair_start)
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
    """A new pending job, after those of its caller; its id."""
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
    if connection.execute(TAKE_EARLIER_START, own).rowcount:
        job = replace(job, caller=submission.caller, priority=submission.priority)
    return job
