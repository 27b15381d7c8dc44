"""The queue in SQL: the only module that writes `build_jobs`.

Every step names the state it leaves in its WHERE clause, so an illegal one matches no row.
"""

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta

from asu_builder.adapters.database import Database
from asu_builder.adapters.job_rows import SELECT_JOB, encode, is_stale_failure, new_job, to_job, to_micros
from asu_builder.domain.errors import FailureReason, LeaseLost, QueueFull
from asu_builder.domain.job import (
    CONTAINER_STAGES,
    BuildFailure,
    BuildResult,
    Job,
    JobState,
    Lease,
    Outcome,
    Stage,
)
from asu_builder.ports import Entry, Submission

MAX_ATTEMPTS = 3
COOL_DOWN = timedelta(seconds=60)
"""How long a failure that is not the user's answers a repeated request, before it is tried anew."""
_RETRY_AFTER_FULL = 30

# What still answers for its hash: anything live, and what is final and not past its time.
_ANSWERS = "(job.state IN ('pending', 'building') OR job.expires_at > :now)"

_CLAIM = """
    UPDATE build_jobs
       SET state = 'building', stage = 'init', worker = :worker, lease_token = lease_token + 1,
           lease_until = :until, started_at = :now
     WHERE state = 'pending' AND id = (
           SELECT id FROM build_jobs
            WHERE state = 'pending' AND not_before <= :now
            ORDER BY priority DESC, id LIMIT 1)
    RETURNING id, lease_token
"""
_BACK = "UPDATE build_jobs SET state = 'pending', stage = NULL, worker = NULL, lease_until = NULL"
_LEASED = "id = :job_id AND state = 'building' AND worker = :worker AND lease_token = :token"


def _count_pending(connection: sqlite3.Connection) -> int:
    (pending,) = connection.execute("SELECT count(*) FROM build_jobs WHERE state = 'pending'").fetchone()
    return int(pending)


def _count_ahead(connection: sqlite3.Connection, job_id: int) -> int:
    (ahead,) = connection.execute(
        "SELECT count(*) FROM build_jobs AS other, build_jobs AS mine"
        " WHERE mine.id = ? AND other.state = 'pending'"
        " AND (other.priority, -other.id) > (mine.priority, -mine.id)",
        (job_id,),
    ).fetchone()
    return int(ahead)


def _gave_up(attempts: int) -> BuildFailure:
    return BuildFailure(
        FailureReason.GAVE_UP,
        f"Error: Gave up: the build was cut off {attempts} times without an end. This is the server's fault; "
        "try again later or tell its operator.",
    )


class SqlJobQueue:
    """The job queue of `ports.JobQueue` on the embedded database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def submit(self, submission: Submission, *, capacity: int, now: datetime) -> Entry:
        """See `ports.JobQueue.submit`."""
        (entry,) = self.submit_all([submission], capacity=capacity, now=now)
        if isinstance(entry, QueueFull):
            raise entry
        return entry

    def submit_all(
        self, submissions: Sequence[Submission], *, capacity: int, now: datetime
    ) -> list[Entry | QueueFull]:
        """See `ports.JobQueue.submit_all`."""
        with self._database.writing(durable=True) as connection:
            return [self._enter(connection, submission, capacity, now) for submission in submissions]

    def _enter(
        self, connection: sqlite3.Connection, submission: Submission, capacity: int, now: datetime
    ) -> Entry | QueueFull:
        job = self._find(connection, submission.request_hash, now)
        if job is not None and not is_stale_failure(job, cool_down_start=now - COOL_DOWN):
            ahead = _count_ahead(connection, job.id) if job.state is JobState.PENDING else None
            return Entry(job, created=False, ahead=ahead)
        pending = _count_pending(connection)
        if pending >= capacity:
            return QueueFull(pending, _RETRY_AFTER_FULL)
        at = to_micros(now)
        if job is not None:
            connection.execute("UPDATE build_jobs SET expires_at = ? WHERE id = ?", (at, job.id))
        connection.execute(
            "INSERT INTO build_requests (request_hash, request, first_asked_at) VALUES (?, ?, ?)"
            " ON CONFLICT (request_hash) DO NOTHING",
            (submission.request_hash, encode(submission.request), at),
        )
        (job_id,) = connection.execute(
            "INSERT INTO build_jobs (request_hash, client, enqueued_at) VALUES (?, ?, ?) RETURNING id",
            (submission.request_hash, submission.client, at),
        ).fetchone()
        return Entry(new_job(job_id, submission, at), created=True, ahead=pending)

    def find(self, request_hash: str, *, now: datetime) -> Job | None:
        """See `ports.JobQueue.find`."""
        with self._database.reading() as connection:
            return self._find(connection, request_hash, now)

    def _find(self, connection: sqlite3.Connection, request_hash: str, now: datetime) -> Job | None:
        row = connection.execute(
            f"{SELECT_JOB} WHERE job.request_hash = :hash AND {_ANSWERS} ORDER BY job.id DESC LIMIT 1",
            {"hash": request_hash, "now": to_micros(now)},
        ).fetchone()
        return None if row is None else to_job(row)

    def position(self, job_id: int) -> int:
        """See `ports.JobQueue.position`."""
        with self._database.reading() as connection:
            return _count_ahead(connection, job_id)

    def pending(self) -> int:
        """See `ports.JobQueue.pending`."""
        with self._database.reading() as connection:
            return _count_pending(connection)

    def expire(self, job_id: int, *, now: datetime) -> None:
        """See `ports.JobQueue.expire`."""
        with self._database.writing() as connection:
            connection.execute(
                "UPDATE build_jobs SET expires_at = ? WHERE id = ? AND state IN ('completed', 'failed')",
                (to_micros(now), job_id),
            )

    def claim(self, worker: str, *, lease_for: timedelta, now: datetime) -> tuple[Job, Lease] | None:
        """See `ports.JobQueue.claim`."""
        with self._database.writing() as connection:
            row = connection.execute(
                _CLAIM, {"worker": worker, "now": to_micros(now), "until": to_micros(now + lease_for)}
            ).fetchone()
            if row is None:
                return None
            job_id, token = row
            claimed = connection.execute(f"{SELECT_JOB} WHERE job.id = ?", (job_id,)).fetchone()
        return to_job(claimed), Lease(job_id, worker, token)

    def renew(self, lease: Lease, *, lease_for: timedelta, now: datetime) -> None:
        """See `ports.JobQueue.renew`."""
        self._leased("UPDATE build_jobs SET lease_until = :until", lease, until=to_micros(now + lease_for))

    def advance(self, lease: Lease, stage: Stage) -> None:
        """See `ports.JobQueue.advance`."""
        self._leased("UPDATE build_jobs SET stage = :stage", lease, stage=stage)

    def finish(self, lease: Lease, outcome: Outcome, *, keep_for: timedelta, now: datetime) -> None:
        """See `ports.JobQueue.finish`."""
        with self._database.writing(durable=True) as connection:
            self._finish(connection, lease, outcome, keep_for=keep_for, now=now)

    def _finish(
        self,
        connection: sqlite3.Connection,
        lease: Lease,
        outcome: Outcome,
        *,
        keep_for: timedelta,
        now: datetime,
    ) -> None:
        completed = isinstance(outcome, BuildResult)
        values = {
            "state": "completed" if completed else "failed",
            "now": to_micros(now),
            "expires_at": to_micros(now + keep_for),
        }
        self._leased_in(
            connection,
            "UPDATE build_jobs SET state = :state, stage = NULL, worker = NULL, lease_until = NULL,"
            " finished_at = :now, expires_at = :expires_at",
            lease,
            values,
        )
        connection.execute(
            "INSERT INTO build_results (job_id, completed, document) VALUES (?, ?, ?)",
            (lease.job_id, completed, encode(outcome)),
        )

    def release(self, lease: Lease, *, not_before: datetime, retry: bool = False) -> None:
        """See `ports.JobQueue.release`."""
        self._leased(
            f"{_BACK}, not_before = :not_before, retries = retries + :retry",
            lease,
            not_before=to_micros(not_before),
            retry=int(retry),
        )

    def live_leases(self, *, now: datetime) -> set[tuple[int, int]]:
        """See `ports.JobQueue.live_leases`."""
        with self._database.reading() as connection:
            rows = connection.execute(
                "SELECT id, lease_token FROM build_jobs WHERE state = 'building' AND lease_until >= ?",
                (to_micros(now),),
            ).fetchall()
        return {(row[0], row[1]) for row in rows}

    def recover(self, *, worker: str | None = None, keep_failure_for: timedelta, now: datetime) -> int:
        """See `ports.JobQueue.recover`."""
        with self._database.writing(durable=True) as connection:
            lapsed = connection.execute(
                "SELECT id, worker, lease_token, stage, attempts FROM build_jobs"
                " WHERE state = 'building'"
                " AND (lease_until < :now OR substr(worker, 1, length(:prefix)) = :prefix)",
                {"now": to_micros(now), "prefix": None if worker is None else f"{worker}/"},
            ).fetchall()
            for job_id, holder, token, stage, attempts in lapsed:
                lease = Lease(job_id, holder, token)
                counted = attempts + (stage in CONTAINER_STAGES)
                self._leased_in(
                    connection, "UPDATE build_jobs SET attempts = :attempts", lease, {"attempts": counted}
                )
                if counted >= MAX_ATTEMPTS:
                    self._finish(connection, lease, _gave_up(counted), keep_for=keep_failure_for, now=now)
                else:
                    self._leased_in(connection, _BACK, lease, {})
        return len(lapsed)

    def expired(self, *, now: datetime) -> Sequence[str]:
        """See `ports.JobQueue.expired`."""
        with self._database.reading() as connection:
            rows = connection.execute(
                "SELECT DISTINCT request_hash FROM build_jobs"
                " WHERE state IN ('completed', 'failed') AND expires_at <= ? LIMIT 1000",
                (to_micros(now),),
            ).fetchall()
        return [row[0] for row in rows]

    def forget(self, request_hash: str, *, remove: Callable[[], None], now: datetime) -> None:
        """See `ports.JobQueue.forget`."""
        with self._database.writing() as connection:
            connection.execute(
                "DELETE FROM build_jobs"
                " WHERE request_hash = ? AND state IN ('completed', 'failed') AND expires_at <= ?",
                (request_hash, to_micros(now)),
            )
            (left,) = connection.execute(
                "SELECT count(*) FROM build_jobs WHERE request_hash = ?", (request_hash,)
            ).fetchone()
            if not left:
                remove()

    def _leased(self, statement: str, lease: Lease, **values: object) -> None:
        with self._database.writing() as connection:
            self._leased_in(connection, statement, lease, values)

    def _leased_in(
        self, connection: sqlite3.Connection, statement: str, lease: Lease, values: Mapping[str, object]
    ) -> None:
        named = {"job_id": lease.job_id, "worker": lease.worker, "token": lease.token, **values}
        cursor = connection.execute(f"{statement} WHERE {_LEASED}", named)
        if cursor.rowcount != 1:
            raise LeaseLost(f"job {lease.job_id} is no longer held by {lease.worker}")
