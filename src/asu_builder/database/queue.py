"""The queue in SQL: what is asked, claimed and ended.

Every step names the state it leaves in its WHERE clause, so an illegal one matches no row. What
time does to jobs is in `expiry.py`, and their order in `order.py`; these, `retention.py` and
`operations.py` are the only modules that write `build_jobs`.
"""

import sqlite3
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta

from asu_builder.database import expiry
from asu_builder.database.connection import Database
from asu_builder.database.expiry import RESET_TO_PENDING, update_under_lease
from asu_builder.database.order import count_ahead, count_pending, insert_job, is_last, join_job
from asu_builder.database.rows import (
    FINAL,
    SELECT_JOB,
    encode,
    new_job,
    read_job,
    span_micros,
    to_job,
    to_micros,
)
from asu_builder.domain.errors import AsuError
from asu_builder.domain.job import (
    Job,
    JobState,
    Lease,
    Outcome,
    Retention,
    Stage,
    allows_resubmit,
)
from asu_builder.ports import Admit, Entry, IdlePolicy, Recovery, Submission, admit_all

_MEASURED = 50
"""How many of the latest builds say how long one takes."""
_IMPLAUSIBLE = timedelta(hours=6)
"""A clock that leapt in mid-build measures nothing."""

# What still answers for its hash: anything live, and what is final and not past its time.
_ANSWERS = "(job.state IN ('pending', 'building') OR job.expires_at > :now)"

_CLAIM = """
    UPDATE build_jobs
       SET state = 'building', stage = 'init', worker = :worker, lease_token = lease_token + 1,
           lease_until = :until, started_at = :now
     WHERE state = 'pending' AND id = (
           SELECT id FROM build_jobs
            WHERE {which} AND not_before <= :now AND NOT EXISTS (SELECT 1 FROM worker_pause)
            ORDER BY deprioritized, priority DESC, fair_start, id LIMIT 1)
    RETURNING id, lease_token, priority, fair_start
"""
_CLAIM_NEXT = _CLAIM.format(which="state = 'pending'")
_CLAIM_ONE = _CLAIM.format(which="id = :only")


class SqlJobQueue:
    """The job queue of `ports.JobQueue` on the embedded database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def submit(self, submission: Submission, *, now: datetime, admit: Admit = admit_all) -> Entry:
        """See `ports.JobQueue.submit`."""
        (entry,) = self.submit_all([submission], now=now, admit=admit)
        if isinstance(entry, AsuError):
            raise entry
        return entry

    def submit_all(
        self, submissions: Sequence[Submission], *, now: datetime, admit: Admit = admit_all
    ) -> list[Entry | AsuError]:
        """See `ports.JobQueue.submit_all`."""
        with self._at(now, durable=True) as connection:
            return [self._enter(connection, submission, admit, now) for submission in submissions]

    def _enter(
        self, connection: sqlite3.Connection, submission: Submission, admit: Admit, now: datetime
    ) -> Entry | AsuError:
        job = self._find(connection, submission.request_hash, now)
        if job is not None and not allows_resubmit(job, now=now):
            return self._join(connection, job, submission)
        pending = count_pending(connection)
        if refusal := admit(submission, pending):
            return refusal
        at = to_micros(now)
        if job is not None:
            connection.execute("UPDATE build_jobs SET expires_at = ? WHERE id = ?", (at, job.id))
        connection.execute(
            "INSERT INTO build_requests (request_hash, request, first_requested_at) VALUES (?, ?, ?)"
            " ON CONFLICT (request_hash) DO UPDATE SET request = excluded.request, scrubbed = 0",
            (submission.request_hash, encode(submission.request), at),
        )
        job_id = insert_job(connection, submission, at)
        # Mostly behind everybody, and then nobody need be counted again.
        ahead = pending if is_last(connection, job_id) else count_ahead(connection, job_id)
        return Entry(new_job(job_id, submission, at), created=True, ahead=ahead)

    def _join(self, connection: sqlite3.Connection, job: Job, submission: Submission) -> Entry:
        job = join_job(connection, job, submission)
        ahead = count_ahead(connection, job.id) if job.state is JobState.PENDING else None
        return Entry(job, created=False, ahead=ahead)

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
            return count_ahead(connection, job_id)

    def pending(self) -> int:
        """See `ports.JobQueue.pending`."""
        with self._database.reading() as connection:
            return count_pending(connection)

    def typical_duration(self) -> timedelta | None:
        """See `ports.JobQueue.typical_duration`."""
        with self._database.reading() as connection:
            (mean,) = connection.execute(
                "SELECT avg(duration) FROM ("
                " SELECT finished_at - started_at AS duration FROM build_jobs WHERE state = 'completed'"
                " ORDER BY finished_at DESC LIMIT ?) WHERE duration BETWEEN 0 AND ?",
                (_MEASURED, span_micros(_IMPLAUSIBLE)),
            ).fetchone()
        return None if mean is None else timedelta(microseconds=mean)

    def touch(self, request_hashes: Collection[str], *, now: datetime) -> None:
        """See `ports.JobQueue.touch`."""
        with self._at(now) as connection:
            expiry.touch(connection, request_hashes, to_micros(now))

    def expire_abandoned(
        self, patience: IdlePolicy, *, failure_ttl: timedelta, now: datetime
    ) -> Sequence[Job]:
        """See `ports.JobQueue.expire_abandoned`."""
        with self._at(now) as connection:
            return expiry.expire_abandoned(connection, patience, ttl=failure_ttl, now=now)

    def cancel(self, job_id: int, *, ttl: timedelta, now: datetime, unless_joined: bool = False) -> bool:
        """See `ports.JobQueue.cancel`."""
        with self._at(now, durable=True) as connection:
            cursor = connection.execute(
                "UPDATE build_jobs SET state = 'cancelled', stage = NULL, worker = NULL, lease_until = NULL,"
                " finished_at = ?, expires_at = ? WHERE id = ? AND state IN ('pending', 'building')"
                " AND NOT (joined AND ?)",
                (to_micros(now), to_micros(now + ttl), job_id, unless_joined),
            )
        return cursor.rowcount == 1

    def may_cancel(self, job_id: int, cancel_digest: str) -> bool:
        """See `ports.JobQueue.may_cancel`."""
        with self._database.reading() as connection:
            row = connection.execute(
                "SELECT 1 FROM build_jobs WHERE id = ? AND cancel_digest = ? AND cancel_digest <> ''",
                (job_id, cancel_digest),
            ).fetchone()
        return row is not None

    def expire(self, job_id: int, *, now: datetime) -> None:
        """See `ports.JobQueue.expire`."""
        with self._at(now) as connection:
            connection.execute(
                f"UPDATE build_jobs SET expires_at = min(expires_at, ?) WHERE id = ? AND {FINAL}",
                (to_micros(now), job_id),
            )

    def claim(
        self, worker: str, *, lease_for: timedelta, now: datetime, only: int | None = None
    ) -> tuple[Job, Lease] | None:
        """See `ports.JobQueue.claim`."""
        values = {"worker": worker, "now": to_micros(now), "until": to_micros(now + lease_for), "only": only}
        with self._at(now) as connection:
            row = connection.execute(_CLAIM_NEXT if only is None else _CLAIM_ONE, values).fetchone()
            if row is None:
                return None
            job_id, token, priority, start = row
            if only is None:
                connection.execute(
                    "INSERT INTO fair_queue (priority, reached) VALUES (?, ?)"
                    " ON CONFLICT (priority)"
                    " DO UPDATE SET reached = max(fair_queue.reached, excluded.reached)",
                    (priority, start),
                )
            return read_job(connection, job_id), Lease(job_id, worker, token)

    def renew(self, lease: Lease, *, lease_for: timedelta, now: datetime) -> None:
        """See `ports.JobQueue.renew`."""
        with self._at(now) as connection:
            values = {"until": to_micros(now + lease_for)}
            update_under_lease(connection, "UPDATE build_jobs SET lease_until = :until", lease, values)

    def advance(self, lease: Lease, stage: Stage) -> None:
        """See `ports.JobQueue.advance`."""
        with self._database.writing() as connection:
            update_under_lease(connection, "UPDATE build_jobs SET stage = :stage", lease, {"stage": stage})

    def finish(self, lease: Lease, outcome: Outcome, retention: Retention, *, now: datetime) -> None:
        """See `ports.JobQueue.finish`."""
        with self._at(now, durable=True) as connection:
            expiry.finish(connection, lease, outcome, retention, now=now)

    def release(self, lease: Lease, *, not_before: datetime, now: datetime, retry: str = "") -> None:
        """See `ports.JobQueue.release`."""
        with self._at(now) as connection:
            values: dict[str, object] = {"not_before": to_micros(not_before), "retry": int(bool(retry))}
            history = ""
            if retry:
                history = ", history = :history"
                values["history"] = expiry.with_attempt(connection, lease, retry, now)
            update_under_lease(
                connection,
                f"{RESET_TO_PENDING}, not_before = :not_before, retries = retries + :retry{history}",
                lease,
                values,
            )

    def live_leases(self) -> set[tuple[int, int]]:
        """See `ports.JobQueue.live_leases`."""
        with self._database.reading() as connection:
            rows = connection.execute("SELECT id, lease_token FROM build_jobs WHERE state = 'building'")
            return {(row[0], row[1]) for row in rows}

    def recover(self, *, worker: str | None = None, failure_ttl: timedelta, now: datetime) -> Recovery:
        """See `ports.JobQueue.recover`."""
        with self._database.writing(durable=True) as connection:
            expiry.discount_unseen_time(connection, to_micros(now))
            return expiry.recover(connection, worker, ttl=failure_ttl, now=now)

    @contextmanager
    def _at(self, now: datetime, *, durable: bool = False) -> Iterator[sqlite3.Connection]:
        """A transaction that writes times, by a clock that may have been set back."""
        with self._database.writing(durable=durable) as connection:
            expiry.notice_clock_set_back(connection, to_micros(now))
            yield connection
