"""What time does to jobs: leases lapse, interest fades, outcomes come to their end.

Functions on an open transaction. Time that passed while no process looked (the service was down,
the machine slept, the clock was set) must not count against anybody, so it is discounted first.
"""

import logging
import sqlite3
from collections.abc import Collection, Mapping
from datetime import datetime, timedelta

from asu_builder.database.rows import (
    encode,
    encode_history,
    moment,
    read_job,
    span_micros,
    to_history,
    to_micros,
)
from asu_builder.domain.errors import FailureReason, LeaseLost
from asu_builder.domain.job import (
    CONTAINER_STAGES,
    Attempt,
    BuildFailure,
    BuildResult,
    Job,
    Lease,
    Outcome,
    Retention,
    Stage,
)
from asu_builder.ports import IdlePolicy, Recovery

_log = logging.getLogger(__name__)

MAX_ATTEMPTS = 3
UNSEEN = timedelta(seconds=30)
"""A gap between two looks at the queue above this is time that nobody saw; looks come every ten seconds."""

_LATE = timedelta(seconds=60)
"""Who waited for the database, or was frozen, comes with a time that has passed; so much is no leap
backwards. More than `UNSEEN`, so that whatever a later comer has moved back, the next look moves forth.
"""
_BESIDE = timedelta(seconds=1)
"""Two looks at the same time take their turns at the database, and the later one may have the earlier
time: no clock was set back. A leap moves every result that is kept, which nothing else may wait for.
"""
FAR = timedelta(minutes=2)
"""No lease and no pause reaches further into the future; one that seems to was written by a wrong clock."""

RESET_TO_PENDING = "UPDATE build_jobs SET state = 'pending', stage = NULL, worker = NULL, lease_until = NULL"
LEASED = "id = :job_id AND state = 'building' AND worker = :worker AND lease_token = :token"


def update_under_lease(
    connection: sqlite3.Connection, statement: str, lease: Lease, values: Mapping[str, object]
) -> None:
    """Runs an UPDATE on the leased job. Raises `LeaseLost` when it is somebody else's now."""
    named = {"job_id": lease.job_id, "worker": lease.worker, "token": lease.token, **values}
    if connection.execute(f"{statement} WHERE {LEASED}", named).rowcount != 1:
        raise LeaseLost(f"job {lease.job_id} is no longer held by {lease.worker}")


def attempt(started_at: int, stage: str, ending: str, now: datetime) -> Attempt:
    """One start that came to no end, from a row's values."""
    return Attempt(moment(started_at), now, Stage(stage), ending)


def with_attempt(connection: sqlite3.Connection, lease: Lease, ending: str, now: datetime) -> str:
    """The history of a leased job with what just broke off; "[]" when the lease is lost anyway."""
    values: Mapping[str, object] = {"job_id": lease.job_id, "worker": lease.worker, "token": lease.token}
    row = connection.execute(
        f"SELECT history, started_at, stage FROM build_jobs WHERE {LEASED}", values
    ).fetchone()
    if row is None:
        return "[]"
    history, started_at, stage = row
    broken_off = attempt(started_at, stage, ending, now)
    return encode_history((*to_history(history), broken_off))


def touch(connection: sqlite3.Connection, request_hashes: Collection[str], at: int) -> None:
    """See `ports.JobQueue.touch`."""
    connection.executemany(
        "UPDATE build_jobs SET last_accessed_at = :at, deprioritized = 0"
        " WHERE request_hash = :hash AND state IN ('pending', 'building')",
        [{"hash": request_hash, "at": at} for request_hash in request_hashes],
    )
    # The retention of a result begins anew with each use, but never past its last day.
    connection.executemany(
        "UPDATE build_jobs SET last_accessed_at = :at, expires_at = max(expires_at,"
        " min(:at + ttl, coalesce(max_expires_at, :at + ttl)))"
        " WHERE request_hash = :hash AND state = 'completed' AND expires_at > :at",
        [{"hash": request_hash, "at": at} for request_hash in request_hashes],
    )


def expire_abandoned(
    connection: sqlite3.Connection, patience: IdlePolicy, *, ttl: timedelta, now: datetime
) -> list[Job]:
    """See `ports.JobQueue.expire_abandoned`."""
    at = to_micros(now)
    connection.execute(
        "UPDATE build_jobs SET deprioritized = 1"
        " WHERE state = 'pending' AND NOT deprioritized AND last_accessed_at < ?",
        (at - span_micros(patience.sinks_after),),
    )
    rows = connection.execute(
        "SELECT id FROM build_jobs WHERE state = 'pending' AND last_accessed_at < ?",
        (at - span_micros(patience.expires_after),),
    ).fetchall()
    failure = BuildFailure(
        FailureReason.EXPIRED,
        f"Error: Nobody has asked how this build is for {_in_words(patience.expires_after)} while it waited, "
        "so it was given up. Ask for it again.",
    )
    return [_fail(connection, job_id, failure, ttl=ttl, at=at) for (job_id,) in rows]


def _fail(
    connection: sqlite3.Connection, job_id: int, failure: BuildFailure, *, ttl: timedelta, at: int
) -> Job:
    """Ends a waiting job."""
    connection.execute(
        "UPDATE build_jobs SET state = 'failed', reason = ?, finished_at = ?, expires_at = ?"
        " WHERE id = ? AND state = 'pending'",
        (failure.reason, at, at + span_micros(ttl), job_id),
    )
    _keep_outcome(connection, job_id, failure)
    return read_job(connection, job_id)


def _keep_outcome(connection: sqlite3.Connection, job_id: int, outcome: Outcome) -> None:
    connection.execute(
        "INSERT INTO build_results (job_id, completed, document) VALUES (?, ?, ?)",
        (job_id, isinstance(outcome, BuildResult), encode(outcome)),
    )


def finish(
    connection: sqlite3.Connection, lease: Lease, outcome: Outcome, retention: Retention, *, now: datetime
) -> None:
    """See `ports.JobQueue.finish`."""
    result = outcome if isinstance(outcome, BuildResult) else None
    at = to_micros(now)
    update_under_lease(
        connection,
        "UPDATE build_jobs SET state = :state, reason = :reason, stage = NULL, worker = NULL,"
        " lease_until = NULL, finished_at = :now, last_accessed_at = :now,"
        " expires_at = :now + min(:ttl, coalesce(:max_age, :ttl)),"
        " ttl = :ttl, max_expires_at = :now + :max_age, stored_bytes = :stored_bytes",
        lease,
        {
            "state": "completed" if result else "failed",
            "reason": "" if isinstance(outcome, BuildResult) else outcome.reason,
            "now": at,
            "ttl": span_micros(retention.ttl),
            "max_age": None if retention.max_age is None else span_micros(retention.max_age),
            "stored_bytes": result.stored_bytes if result else 0,
        },
    )
    _keep_outcome(connection, lease.job_id, outcome)


def notice_clock_set_back(connection: sqlite3.Connection, at: int) -> None:
    """Moves times by a leap backwards; to be called before a time is written.

    A result of the first moments after the leap would else be moved with the older ones by the next
    look, and seem long unused when a full disk asks for room.
    """
    row = connection.execute("SELECT seen_at FROM queue_clock").fetchone()
    if row is not None and at - int(row[0]) < -span_micros(_LATE):
        _look(connection, at, seen=int(row[0]))


def discount_unseen_time(connection: sqlite3.Connection, at: int) -> None:
    """Moves leases, waiting times and interest by the time that nobody has seen pass."""
    row = connection.execute("SELECT seen_at FROM queue_clock").fetchone()
    if row is None:
        connection.execute("INSERT INTO queue_clock (seen_at) VALUES (?)", (at,))
        return
    _look(connection, at, seen=int(row[0]))


def _look(connection: sqlite3.Connection, at: int, *, seen: int) -> None:
    gap = at - seen
    if -span_micros(_BESIDE) <= gap < 0:
        return
    connection.execute("UPDATE queue_clock SET seen_at = ?", (at,))
    if not 0 <= gap <= span_micros(UNSEEN):
        _move(connection, gap, seen=seen)
    # Whatever was written while the clock was wrong, between two looks: nobody waits for longer.
    connection.execute(
        "UPDATE build_jobs SET not_before = min(not_before, :far), lease_until = min(lease_until, :far),"
        " last_accessed_at = min(last_accessed_at, :far) WHERE state IN ('pending', 'building')"
        " AND (not_before > :far OR lease_until > :far OR last_accessed_at > :far)",
        {"far": at + span_micros(FAR)},
    )


def _move(connection: sqlite3.Connection, gap: int, *, seen: int) -> None:
    _log.info("%+.0f s passed unseen; leases and waiting times are moved by it", gap / 1_000_000)
    # What was written after the clock was set is right by it already: a lease that ended before the
    # last look would have lapsed in it. What could be claimed then can be claimed now.
    connection.execute(
        "UPDATE build_jobs SET last_accessed_at = last_accessed_at + :gap,"
        " lease_until = CASE WHEN lease_until >= :seen THEN lease_until + :gap ELSE lease_until END,"
        " not_before = CASE WHEN not_before > :seen THEN not_before + :gap ELSE 0 END"
        " WHERE state IN ('pending', 'building')",
        {"gap": gap, "seen": seen},
    )
    # What was used just before is still used just before, or a full disk would take it away.
    connection.execute(
        "UPDATE build_jobs SET last_accessed_at = last_accessed_at + ? WHERE state = 'completed'", (gap,)
    )


def recover(connection: sqlite3.Connection, worker: str | None, *, ttl: timedelta, now: datetime) -> Recovery:
    """See `ports.JobQueue.recover`."""
    lapsed = connection.execute(
        "SELECT id, worker, lease_token, stage, attempts, started_at, history FROM build_jobs"
        " WHERE state = 'building'"
        " AND (lease_until < :now OR substr(worker, 1, length(:prefix)) = :prefix)",
        {"now": to_micros(now), "prefix": None if worker is None else f"{worker}/"},
    ).fetchall()
    gave_up: list[Job] = []
    for job_id, holder, token, stage, attempts, started_at, history in lapsed:
        lease = Lease(job_id, holder, token)
        tried = (*to_history(history), attempt(started_at, stage, "its worker was lost", now))
        counted = attempts + (stage in CONTAINER_STAGES)
        values: Mapping[str, object] = {"attempts": counted, "history": encode_history(tried)}
        update_under_lease(
            connection, "UPDATE build_jobs SET attempts = :attempts, history = :history", lease, values
        )
        if counted >= MAX_ATTEMPTS:
            finish(connection, lease, _gave_up(counted, tried), Retention(ttl, ttl), now=now)
            gave_up.append(read_job(connection, job_id))
        else:
            update_under_lease(connection, RESET_TO_PENDING, lease, {})
    return Recovery(len(lapsed) - len(gave_up), gave_up)


def _gave_up(count: int, tried: tuple[Attempt, ...]) -> BuildFailure:
    return BuildFailure(
        FailureReason.GAVE_UP,
        f"Error: Gave up: the build was cut off {count} times without an end. This is the server's fault; "
        "try again later or tell its operator.",
        attempts=tried,
    )


def _in_words(span: timedelta) -> str:
    minutes = span.total_seconds() / 60
    return f"{minutes:.0f} minutes" if minutes >= 2 else f"{span.total_seconds():.0f} seconds"
