"""The queue in SQL: what is submitted, claimed and ended, and in which order jobs wait.

Every step names the state it leaves in its WHERE clause, so an illegal one matches no row. This module,
`retention.py` and `operator.py` are the only ones that write `build_jobs`. Why the queue is fair:
docs/decisions/callers-take-turns.md.
"""

import sqlite3
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta

from msgspec import json
from msgspec.structs import asdict, replace

from asu_builder.database.clock import DOWNTIME, move_times
from asu_builder.database.connection import Database
from asu_builder.database.rows import (
    FINAL,
    HISTORY,
    SELECT_JOB,
    moment,
    span_micros,
    to_job,
)
from asu_builder.database.standings import (
    ANSWERS,
    FORGET_MOVES,
    NEWEST_ID,
    OUTDATED,
    WaitingJobs,
    count_ahead,
)
from asu_builder.domain.errors import AsuError, FailureReason, LeaseLost, QueueFull
from asu_builder.domain.job import (
    CONTAINER_STAGES,
    FINAL_STATES,
    Attempt,
    BuildFailure,
    BuildResult,
    Entry,
    IdlePolicy,
    Job,
    JobState,
    Lease,
    Outcome,
    Recovery,
    Retention,
    Stage,
    Standing,
    Submission,
    allows_resubmit,
)

MAX_ATTEMPTS = 3
_RETRY_AFTER_FULL = 30
RESET_TO_PENDING = "UPDATE build_jobs SET state = 'pending', stage = NULL, worker = NULL, lease_until = NULL"
_LEASED = "id = :job_id AND state = 'building' AND worker = :worker AND lease_token = :token"
_MEASURED = 50
"""How many of the latest builds say how long one takes."""
_IMPLAUSIBLE = timedelta(hours=6)
"""A clock that leapt in mid-build measures nothing."""


COUNT_PENDING = "SELECT count(*) FROM build_jobs WHERE state = 'pending'"
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

_LAST = f"""
    SELECT ({COUNT_PENDING}), deprioritized, -priority, fair_start, id
      FROM build_jobs WHERE state = 'pending'
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
    RETURNING id, fair_start
"""
# Of two with the same start the older is first, so an equal start is not an earlier one.
TAKE_EARLIER_START = f"""
    UPDATE build_jobs SET priority = :priority, fair_start = own.fair_start, caller = :caller
      FROM (SELECT {_NEXT_START} AS fair_start) AS own
     WHERE id = :id AND state = 'pending'
       AND (-:priority, own.fair_start) < (-build_jobs.priority, build_jobs.fair_start)
"""
_WRITE_OUTCOME = "INSERT INTO build_results (job_id, completed, document) VALUES (?, ?, ?)"
_JOB = f"{SELECT_JOB} WHERE job.id = ?"

# A result's use within a minute of the last that was written, or a sixtieth of its retention, is not written
# unless it would prolong it by more. Thousands may be polled every few seconds, and each write is a page.
_TOUCHED = f"""
    SELECT job.id, job.state = 'completed', job.deprioritized
      FROM json_each(:hashes) AS used CROSS JOIN build_jobs AS job
     WHERE job.request_hash = used.value
       AND (job.state IN ('pending', 'building') OR job.state = 'completed' AND job.expires_at > :at
            AND max(abs(:at - {DOWNTIME} - job.last_accessed_at),
                    min(:at + job.ttl, coalesce(job.max_expires_at, :at + job.ttl)) - job.expires_at)
             >= min(job.ttl / 60, {span_micros(timedelta(minutes=1))}))
"""
_TOUCH_LIVE = "UPDATE build_jobs SET last_accessed_at = ? WHERE id = ?"
# Apart from it: to set the column would write the job's place into its index again.
_RESTORE_PLACE = "UPDATE build_jobs SET deprioritized = 0 WHERE id = ?"
# Each use starts a result's retention again, but never past its last day.
_TOUCH_RESULT = f"""
    UPDATE build_jobs SET last_accessed_at = ?1 - {DOWNTIME},
           expires_at = max(expires_at, min(?1 + ttl, coalesce(max_expires_at, ?1 + ttl)))
     WHERE id = ?2
"""


class SqlJobQueue:
    """The job queue of `ports.JobQueue` on the embedded database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting = WaitingJobs()

    def submit(self, submission: Submission, *, max_pending: int | None = None) -> Entry:
        (entry,) = self.submit_all([submission], max_pending=max_pending)
        if isinstance(entry, AsuError):
            raise entry
        return entry

    def submit_all(
        self, submissions: Sequence[Submission], *, max_pending: int | None = None
    ) -> list[Entry | AsuError]:
        entries: list[Entry | AsuError] = []
        created: Counter[str] = Counter()
        pending: int | None = None
        last: tuple[int, ...] = ()
        with self._database.timed(durable=True) as (connection, at):
            known = _find_all(connection, {submission.request_hash for submission in submissions}, at)
            for submission in submissions:
                name = submission.request_hash
                job = known.get(name)
                if job is not None and not allows_resubmit(job, now=moment(at)):
                    job = known[name] = _join(connection, job, submission)
                    ahead = count_ahead(connection, job.id) if job.state is JobState.PENDING else None
                    entries.append(Entry(job, created=False, ahead=ahead))
                    continue
                if pending is None:  # from here on only this transaction adds to them
                    pending, *last_place = connection.execute(_LAST).fetchone() or (0,)
                    last = tuple(last_place)
                if max_pending is not None and pending >= max_pending:
                    entries.append(QueueFull(pending, _RETRY_AFTER_FULL))
                    continue
                if submission.refusal is not None and created[submission.caller] >= submission.refused_after:
                    entries.append(submission.refusal)
                    continue
                if job is not None:
                    connection.execute("UPDATE build_jobs SET expires_at = ? WHERE id = ?", (at, job.id))
                connection.execute(
                    "INSERT INTO build_requests (request_hash, request, first_requested_at) VALUES (?, ?, ?)"
                    " ON CONFLICT (request_hash) DO UPDATE SET request = excluded.request, scrubbed = 0",
                    (name, json.encode(submission.request).decode(), at),
                )
                job, start = insert_job(connection, submission, at)
                known[name] = job
                # A new job is mostly the last one; then the others need not be counted again. Where the one
                # that was last has been moved forward since, they are counted for nothing.
                place = (0, -job.priority, start, job.id)
                ahead = pending if place > last else count_ahead(connection, job.id)
                last = max(last, place)
                entries.append(Entry(job, created=True, ahead=ahead))
                created[submission.caller] += 1
                pending += 1
        self._database.wakeups.notify(created.total())
        return entries

    def find(self, request_hash: str) -> Job | None:
        with self._database.reading() as connection:
            return _find_all(connection, [request_hash], self._database.now()).get(request_hash)

    def find_id(self, request_hash: str) -> int | None:
        row = self._database.peek(NEWEST_ID, {"hash": request_hash, "now": self._database.now()})
        return None if row is None else int(row[0])

    def outdated(self, job_ids: Mapping[str, int]) -> tuple[Collection[str], datetime | None]:
        with self._database.reading() as connection:
            values = {"ids": json.encode(job_ids).decode(), "now": self._database.now()}
            expires_at, names = connection.execute(OUTDATED, values).fetchone()
        return names.split(",") if names else (), None if expires_at is None else moment(expires_at)

    def changes(self) -> int:
        return int(self._database.peek("PRAGMA data_version")[0])

    def standings(self, request_hashes: Collection[str]) -> Mapping[str, Standing]:
        with self._database.reading(snapshot=True) as connection:
            return self._waiting.standings(connection, request_hashes, self._database.now())

    def position(self, job_id: int) -> int:
        with self._database.reading() as connection:
            return self._waiting.ahead(connection, job_id)

    def pending(self) -> int:
        with self._database.reading() as connection:
            return self._waiting.count(connection)

    def typical_duration(self) -> timedelta | None:
        with self._database.reading() as connection:
            (mean,) = connection.execute(
                "SELECT avg(duration) FROM ("
                " SELECT finished_at - started_at AS duration FROM build_jobs WHERE state = 'completed'"
                " ORDER BY finished_at DESC LIMIT ?) WHERE duration BETWEEN 0 AND ?",
                (_MEASURED, span_micros(_IMPLAUSIBLE)),
            ).fetchone()
        return None if mean is None else timedelta(microseconds=mean)

    def touch(self, request_hashes: Collection[str]) -> None:
        hashes = json.encode([*request_hashes]).decode()
        with self._database.timed() as (connection, at):
            values = {"hashes": hashes, "at": at}
            for job_id, ended, deprioritized in connection.execute(_TOUCHED, values).fetchall():
                connection.execute(_TOUCH_RESULT if ended else _TOUCH_LIVE, (at, job_id))
                if deprioritized and not ended:
                    connection.execute(_RESTORE_PLACE, (job_id,))

    def expire_abandoned(self, policy: IdlePolicy, *, failure_ttl: timedelta) -> Sequence[Job]:
        minutes = policy.expires_after.total_seconds() / 60
        span = f"{minutes:.0f} minutes" if minutes >= 2 else f"{minutes * 60:.0f} seconds"
        failure = BuildFailure(
            FailureReason.EXPIRED,
            f"Error: No client asked about this build for {span} while it waited, so it was given up. "
            "Ask for it again.",
        )
        with self._database.timed() as (connection, at):
            connection.execute(
                "UPDATE build_jobs SET deprioritized = 1"
                " WHERE state = 'pending' AND NOT deprioritized AND last_accessed_at < ?",
                (at - span_micros(policy.deprioritized_after),),
            )
            rows = connection.execute(
                "UPDATE build_jobs SET state = 'failed', reason = ?, finished_at = ?, expires_at = ?"
                " WHERE state = 'pending' AND last_accessed_at < ? RETURNING id",
                (failure.reason, at, at + span_micros(failure_ttl), at - span_micros(policy.expires_after)),
            ).fetchall()
            document = json.encode(failure).decode()
            connection.executemany(_WRITE_OUTCOME, [(job_id, False, document) for (job_id,) in rows])
            connection.execute(FORGET_MOVES)
            return [to_job(connection.execute(_JOB, row).fetchone()) for row in rows]

    def cancel(self, job_id: int, *, failure_ttl: timedelta, cancel_digest: str | None = None) -> bool:
        with self._database.timed(durable=True) as (connection, at):
            cursor = connection.execute(
                "UPDATE build_jobs SET state = 'cancelled', stage = NULL, worker = NULL, lease_until = NULL,"
                " finished_at = :at, expires_at = :until WHERE id = :id AND state IN ('pending', 'building')"
                " AND (:digest IS NULL OR (NOT joined AND cancel_digest = :digest AND cancel_digest <> ''))",
                {"at": at, "until": at + span_micros(failure_ttl), "id": job_id, "digest": cancel_digest},
            )
        return cursor.rowcount == 1

    def may_cancel(self, job_id: int, cancel_digest: str) -> bool:
        with self._database.reading() as connection:
            row = connection.execute(
                "SELECT 1 FROM build_jobs WHERE id = ? AND cancel_digest = ? AND cancel_digest <> ''",
                (job_id, cancel_digest),
            ).fetchone()
        return row is not None

    def expire(self, job_id: int) -> None:
        with self._database.timed() as (connection, at):
            connection.execute(
                f"UPDATE build_jobs SET expires_at = min(expires_at, ?) WHERE id = ? AND {FINAL}",
                (at, job_id),
            )

    def claim(
        self, worker: str, *, lease_for: timedelta, only: int | None = None
    ) -> tuple[Job, Lease] | None:
        self._database.wakeups.note_seen()
        with self._database.timed() as (connection, at):
            row = connection.execute(
                _CLAIM_NEXT if only is None else _CLAIM_ONE,
                {"worker": worker, "now": at, "until": at + span_micros(lease_for), "only": only},
            ).fetchone()
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
            job = to_job(connection.execute(_JOB, (job_id,)).fetchone())
            return job, Lease(job_id, worker, token)

    def renew(self, lease: Lease, *, lease_for: timedelta) -> None:
        with self._database.timed() as (connection, at):
            values = {"until": at + span_micros(lease_for)}
            _update_under_lease(connection, "UPDATE build_jobs SET lease_until = :until", lease, values)

    def advance(self, lease: Lease, stage: Stage) -> None:
        with self._database.writing() as connection:
            _update_under_lease(connection, "UPDATE build_jobs SET stage = :stage", lease, {"stage": stage})

    def finish(self, lease: Lease, outcome: Outcome, retention: Retention) -> None:
        with self._database.timed(durable=True) as (connection, at):
            _finish(connection, lease, outcome, retention, at=at)

    def release(self, lease: Lease, *, delay: timedelta = timedelta(0), retry: str = "") -> None:
        with self._database.timed() as (connection, at):
            history = None  # as it is
            row = connection.execute(
                f"SELECT history, started_at, stage FROM build_jobs WHERE {_LEASED}", asdict(lease)
            ).fetchone()
            if retry and row is not None:
                before, started_at, stage = row
                history = _with_attempt(before, started_at, stage, retry, at)
            _update_under_lease(
                connection,
                f"{RESET_TO_PENDING}, not_before = :not_before, retries = retries + :retry,"
                " history = coalesce(:history, history)",
                lease,
                {"not_before": at + span_micros(delay), "retry": int(bool(retry)), "history": history},
            )

    def wait(self, timeout: timedelta) -> None:
        self._database.wakeups.wait(timeout.total_seconds())

    def wake_all(self) -> None:
        self._database.wakeups.notify_all()

    def live_leases(self) -> set[tuple[int, int]]:
        with self._database.reading() as connection:
            rows = connection.execute("SELECT id, lease_token FROM build_jobs WHERE state = 'building'")
            return {(row[0], row[1]) for row in rows}

    def recover(self, *, worker: str | None = None, failure_ttl: timedelta) -> Recovery:
        gave_up: list[Job] = []
        with self._database.timed(durable=True) as (connection, at):
            move_times(connection, at, polled=True)
            lapsed = connection.execute(
                "SELECT id, worker, lease_token, stage, attempts, started_at, history FROM build_jobs"
                " WHERE state = 'building'"
                " AND (lease_until < :now OR substr(worker, 1, length(:prefix)) = :prefix)",
                {"now": at, "prefix": None if worker is None else f"{worker}/"},
            ).fetchall()
            for job_id, holder, token, stage, attempts, started_at, history in lapsed:
                lease = Lease(job_id, holder, token)
                counted = attempts + (stage in CONTAINER_STAGES)
                tried = _with_attempt(history, started_at, stage, "its worker was lost", at)
                ends = counted >= MAX_ATTEMPTS
                _update_under_lease(
                    connection,
                    f"{'UPDATE build_jobs SET' if ends else f'{RESET_TO_PENDING},'}"
                    " attempts = :attempts, history = :history",
                    lease,
                    {"attempts": counted, "history": tried},
                )
                if ends:
                    failure = BuildFailure(
                        FailureReason.GAVE_UP,
                        f"Error: Gave up: the build was cut off {counted} times without an end. This is the "
                        "server's fault; try again later or tell its operator.",
                        attempts=HISTORY.decode(tried),
                    )
                    _finish(connection, lease, failure, Retention(failure_ttl, failure_ttl), at=at)
                    gave_up.append(to_job(connection.execute(_JOB, (job_id,)).fetchone()))
        returned = len(lapsed) - len(gave_up)
        self._database.wakeups.notify(returned)
        return Recovery(returned, gave_up)


def _find_all(connection: sqlite3.Connection, request_hashes: Collection[str], at: int) -> dict[str, Job]:
    """Of each hash the newest job that answers."""
    values = {f"hash{number}": name for number, name in enumerate(request_hashes)}
    marks = ", ".join(f":{name}" for name in values)
    rows = connection.execute(
        f"{SELECT_JOB} WHERE job.request_hash IN ({marks}) AND {ANSWERS} ORDER BY job.id",
        {**values, "now": at},
    )
    return {job.request_hash: job for job in map(to_job, rows)}


def insert_job(connection: sqlite3.Connection, submission: Submission, at: int) -> tuple[Job, int]:
    """A new pending job, after those of its caller, and its start in the fair queue."""
    job_id, start = connection.execute(
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
    job = Job(
        id=job_id,
        request_hash=submission.request_hash,
        request=submission.request,
        state=JobState.PENDING,
        enqueued_at=moment(at),
        client=submission.client,
        caller=submission.caller,
        priority=submission.priority,
    )
    return job, start


def _join(connection: sqlite3.Connection, job: Job, submission: Submission) -> Job:
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


def _update_under_lease(
    connection: sqlite3.Connection, statement: str, lease: Lease, values: Mapping[str, object]
) -> None:
    """Runs an UPDATE on the leased job. Raises `LeaseLost` when another holds it now."""
    if connection.execute(f"{statement} WHERE {_LEASED}", {**asdict(lease), **values}).rowcount != 1:
        raise LeaseLost(f"job {lease.job_id} is no longer held by {lease.worker}")


def _with_attempt(history: str, started_at: int, stage: str, ending: str, at: int) -> str:
    """The history of a row with the attempt that just broke off."""
    attempt = Attempt(moment(started_at), moment(at), Stage(stage), ending)
    return json.encode((*HISTORY.decode(history), attempt)).decode()


def _finish(
    connection: sqlite3.Connection, lease: Lease, outcome: Outcome, retention: Retention, *, at: int
) -> None:
    completed = isinstance(outcome, BuildResult)
    _update_under_lease(
        connection,
        "UPDATE build_jobs SET state = :state, reason = :reason, stage = NULL, worker = NULL,"
        f" lease_until = NULL, finished_at = :now, last_accessed_at = :now - {DOWNTIME},"
        " expires_at = :now + min(:ttl, coalesce(:max_age, :ttl)),"
        " ttl = :ttl, max_expires_at = :now + :max_age, stored_bytes = :stored_bytes",
        lease,
        {
            "state": "completed" if completed else "failed",
            "reason": "" if isinstance(outcome, BuildResult) else outcome.reason,
            "now": at,
            "ttl": span_micros(retention.ttl),
            "max_age": None if retention.max_age is None else span_micros(retention.max_age),
            "stored_bytes": outcome.stored_bytes if isinstance(outcome, BuildResult) else 0,
        },
    )
    connection.execute(_WRITE_OUTCOME, (lease.job_id, completed, json.encode(outcome).decode()))
