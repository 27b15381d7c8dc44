"""The queue in SQL: what is submitted, claimed and ended, and in which order jobs wait.

Every step names the state it leaves in its WHERE clause, so an illegal one matches no row. This module,
`arrivals.py`, `retention.py` and `operator.py` are the only ones that write `build_jobs`. Why the queue is
fair: docs/decisions/callers-take-turns.md.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta

from msgspec import json
from msgspec.structs import asdict, replace

from asu_builder.database.arrivals import Arrivals, find_all
from asu_builder.database.clock import DOWNTIME
from asu_builder.database.dialect import Connection, SqlDatabase
from asu_builder.database.nodes import taken_by
from asu_builder.database.rows import (
    FINAL,
    HISTORY,
    SELECT_JOB,
    moment,
    span_micros,
    to_job,
)
from asu_builder.database.secrets import Secrets, has_secrets
from asu_builder.database.standings import (
    FORGET_MOVES,
    NEWEST_ID,
    OUTDATED,
    WaitingJobs,
)
from asu_builder.domain.errors import AsuError, FailureReason, LeaseLost, RequestRejected
from asu_builder.domain.job import (
    CONTAINER_STAGES,
    Attempt,
    BuildFailure,
    BuildResult,
    Entry,
    HandedOver,
    IdlePolicy,
    Job,
    Lease,
    Outcome,
    Recovery,
    Retention,
    Stage,
    Standing,
    Submission,
)
from asu_builder.domain.nodes import Takes
from asu_builder.domain.request import BuildRequest

MAX_ATTEMPTS = 3
RESET_TO_PENDING = (
    "UPDATE build_jobs SET state = 'pending', stage = NULL, worker = NULL, lease_until = NULL,"
    " handed_over = NULL"
)
_WAITS_FOR_KEY = "state = 'building' AND worker = ''"
"""Of a job whose images wait for a signature: no worker has it, and so nothing lapses."""
_GIVE_BACK = (RESET_TO_PENDING, "UPDATE build_jobs SET worker = ''")
"""By whether its images are handed over: then they wait again."""
_LEASED = "id = :job_id AND state = 'building' AND worker = :worker AND lease_token = :token"
_MEASURED = 50
"""How many of the latest builds say how long one takes."""
_IMPLAUSIBLE = timedelta(hours=6)
"""A clock that leapt in mid-build measures nothing."""


_CLAIM = """
    UPDATE build_jobs
       SET state = 'building', stage = 'init', worker = :worker, lease_token = lease_token + 1,
           lease_until = :until, started_at = :now, handed_over = NULL
     WHERE state = 'pending' AND id = (
           SELECT id FROM build_jobs
            WHERE {which}{taken} AND not_before <= :now AND NOT EXISTS (SELECT 1 FROM worker_pause)
              AND NOT EXISTS (SELECT 1 FROM nodes WHERE name = :node AND drained)
            ORDER BY deprioritized, priority DESC, fair_start, id LIMIT 1
             /*postgresql FOR UPDATE SKIP LOCKED*/)
    RETURNING id, lease_token, priority, fair_start
"""
_CLAIM_UNSIGNED = f"""
    UPDATE build_jobs SET worker = :worker, lease_token = lease_token + 1, lease_until = :until
     WHERE {_WAITS_FOR_KEY} AND id = (
           SELECT id FROM build_jobs
            WHERE {_WAITS_FOR_KEY} AND not_before <= :now AND json_extract(handed_over, '$.key') IN ('', :key)
              AND NOT EXISTS (SELECT 1 FROM worker_pause)
              AND NOT EXISTS (SELECT 1 FROM nodes WHERE name = :node AND drained)
            ORDER BY id LIMIT 1
             /*postgresql FOR UPDATE SKIP LOCKED*/)
    RETURNING id, lease_token
"""


def _claim(only: int | None, takes: Takes | None) -> tuple[str, dict[str, object]]:
    """The statement that claims, and what it is told of what the worker takes."""
    condition, values = taken_by(takes) if takes is not None else ("", {})
    which = "state = 'pending'" if only is None else "id = :only"
    return _CLAIM.format(which=which, taken=condition and f" AND {condition}"), values


_WRITE_OUTCOME = "INSERT INTO build_results (job_id, completed, document) VALUES (?, ?, ?)"
_ENDED_SO = (
    "SELECT 1 FROM build_jobs AS job JOIN build_results AS result ON result.job_id = job.id"
    " WHERE job.id = ? AND job.lease_token = ? AND result.document = ?"
)
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
_TOUCH_LIVE = "UPDATE build_jobs SET last_accessed_at = :at WHERE id = :id"
# Apart from it: to set the column would write the job's place into its index again.
_RESTORE_PLACE = "UPDATE build_jobs SET deprioritized = FALSE WHERE id = ?"
# Each use starts a result's retention again, but never past its last day.
_TOUCH_RESULT = f"""
    UPDATE build_jobs SET last_accessed_at = :at - {DOWNTIME},
           expires_at = max(expires_at, min(:at + ttl, coalesce(max_expires_at, :at + ttl)))
     WHERE id = :id
"""


class SqlJobQueue:
    """The job queue of `ports.JobQueue` on the embedded database."""

    def __init__(self, database: SqlDatabase, secrets: Secrets | None = None) -> None:
        """Without `secrets` scripts and keys of requests are stored as they are."""
        self._database = database
        self._secrets = secrets or Secrets()
        self._waiting = WaitingJobs()

    def submit(self, submission: Submission, *, max_pending: int | None = None) -> Entry:
        (entry,) = self.submit_all([submission], max_pending=max_pending)
        if isinstance(entry, AsuError):
            raise entry
        return entry

    def submit_all(
        self, submissions: Sequence[Submission], *, max_pending: int | None = None
    ) -> list[Entry | AsuError]:
        secrets = self._secrets
        # Loads a library where it encrypts, and not within the transaction.
        submissions = [
            submission
            if secrets.encrypted(submission.request)
            or self._database.overwrites_deleted
            or not has_secrets(submission.request)
            else replace(submission, refusal=_not_kept(submission.request), refused_after=0)
            for submission in submissions
        ]

        runs: list[Arrivals] = []

        def take_all(connection: Connection, at: int) -> Arrivals:
            known = find_all(connection, {submission.request_hash for submission in submissions}, at, secrets)
            arrivals = Arrivals(connection, at, known, max_pending, secrets)
            for submission in submissions:
                arrivals.take(submission)
            arrivals.write()
            runs.append(arrivals)
            return arrivals

        arrivals = self._database.repeated(take_all)
        created, entries = arrivals.created.total(), arrivals.entries
        if len(runs) > 1:
            entries = _made_before(entries, runs[:-1])
            created = sum(isinstance(entry, Entry) and entry.created for entry in entries)
        self._database.wakeups.notify(created)
        return entries

    def find(self, request_hash: str) -> Job | None:
        with self._database.reading() as connection:
            found = find_all(connection, [request_hash], self._database.now(), self._secrets)
        return found.get(request_hash)

    def find_id(self, request_hash: str) -> int | None:
        row = self._database.peek(NEWEST_ID, {"hash": request_hash, "now": self._database.now()})
        return None if row is None else int(row[0])

    def newest_id(self, request_hash: str) -> int | None:
        values = {"hash": request_hash, "now": self._database.now()}
        with self._database.reading() as connection:
            row = connection.execute(NEWEST_ID, values).fetchone()
        return None if row is None else int(row[0])

    def outdated(self, job_ids: Mapping[str, int]) -> tuple[Collection[str], datetime | None]:
        with self._database.reading() as connection:
            values = {"ids": json.encode(job_ids).decode(), "now": self._database.now()}
            expires_at, names = connection.execute(OUTDATED, values).fetchone()
        return names.split(",") if names else (), None if expires_at is None else moment(expires_at)

    def changes(self) -> int:
        return self._database.changes()

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
                " ORDER BY finished_at DESC LIMIT ?) AS measured WHERE duration BETWEEN 0 AND ?",
                (_MEASURED, span_micros(_IMPLAUSIBLE)),
            ).fetchone()
        return None if mean is None else timedelta(microseconds=mean)

    def touch(self, request_hashes: Collection[str]) -> None:
        hashes = json.encode([*request_hashes]).decode()
        with self._database.timed() as (connection, at):
            values = {"hashes": hashes, "at": at}
            for job_id, ended, deprioritized in connection.execute(_TOUCHED, values).fetchall():
                connection.execute(_TOUCH_RESULT if ended else _TOUCH_LIVE, {"at": at, "id": job_id})
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
                "UPDATE build_jobs SET deprioritized = TRUE"
                " WHERE state = 'pending' AND NOT deprioritized AND last_accessed_at < ?",
                (at - span_micros(policy.deprioritized_after),),
            )
            rows = connection.execute(
                "UPDATE build_jobs SET state = 'failed', reason = ?, finished_at = ?, expires_at = ?,"
                " stage = NULL, worker = NULL, lease_until = NULL"
                f" WHERE (state = 'pending' OR {_WAITS_FOR_KEY}) AND last_accessed_at < ? RETURNING id",
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
                " AND (CAST(:digest AS TEXT) IS NULL"
                " OR (NOT joined AND cancel_digest = :digest AND cancel_digest <> ''))",
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
        self, worker: str, *, lease_for: timedelta, only: int | None = None, takes: Takes | None = None
    ) -> tuple[Job, Lease] | None:
        self._database.wakeups.note_seen()
        statement, values = _claim(only, takes)
        with self._database.timed() as (connection, at):
            given = {
                "worker": worker,
                "node": worker.rpartition("/")[0],
                "now": at,
                "until": at + span_micros(lease_for),
                "only": only,
            }
            row = connection.execute(statement, {**given, **values}).fetchone()
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
            row = connection.execute(_JOB, (job_id,)).fetchone()
        return to_job(row, self._secrets), Lease(job_id, worker, token)

    def hand_over(self, lease: Lease, handed_over: HandedOver) -> None:
        handed = json.encode(handed_over).decode()
        with self._database.timed(durable=True, own_rows=True) as (connection, at):
            _update_under_lease(
                connection,
                "UPDATE build_jobs SET worker = '', stage = :stage, handed_over = :handed, not_before = :at",
                lease,
                {"stage": Stage.SIGNING_IMAGES, "handed": handed, "at": at},
            )

    def claim_unsigned(self, worker: str, *, key: str, lease_for: timedelta) -> tuple[Job, Lease] | None:
        with self._database.reading() as connection:
            if connection.execute(f"SELECT 1 FROM build_jobs WHERE {_WAITS_FOR_KEY}").fetchone() is None:
                return None
        with self._database.timed() as (connection, at):
            given = {"worker": worker, "node": worker.rpartition("/")[0], "key": key}
            times = {"now": at, "until": at + span_micros(lease_for)}
            row = connection.execute(_CLAIM_UNSIGNED, {**given, **times}).fetchone()
            if row is None:
                return None
            job_id, token = row
            row = connection.execute(_JOB, (job_id,)).fetchone()
        return to_job(row, self._secrets), Lease(job_id, worker, token)

    def renew(self, lease: Lease, *, lease_for: timedelta) -> None:
        with self._database.timed(own_rows=True) as (connection, at):
            values = {"until": at + span_micros(lease_for)}
            _update_under_lease(connection, "UPDATE build_jobs SET lease_until = :until", lease, values)

    def advance(self, lease: Lease, stage: Stage) -> None:
        with self._database.writing(own_rows=True) as connection:
            _update_under_lease(connection, "UPDATE build_jobs SET stage = :stage", lease, {"stage": stage})

    def finish(self, lease: Lease, outcome: Outcome, retention: Retention) -> None:
        document = json.encode(outcome).decode()
        tried = False

        def finish(connection: Connection, at: int) -> None:
            nonlocal tried
            again, tried = tried, True
            try:
                _finish(connection, lease, outcome, document, retention, at=at)
            except LeaseLost:
                # A connection that is lost while it commits leaves open whether it has.
                ended = (lease.job_id, lease.token, document)
                if not again or connection.execute(_ENDED_SO, ended).fetchone() is None:
                    raise

        self._database.repeated(finish, own_rows=True)

    def release(
        self,
        lease: Lease,
        *,
        delay: timedelta = timedelta(0),
        retry: str = "",
        from_start: bool = False,
    ) -> None:
        with self._database.timed() as (connection, at):
            history = None  # as it is
            row = connection.execute(
                f"SELECT history, started_at, stage, handed_over FROM build_jobs WHERE {_LEASED}",
                asdict(lease),
            ).fetchone()
            is_built = row is not None and row[3] is not None and not from_start
            if retry and row is not None:
                before, started_at, stage, _ = row
                history = _with_attempt(before, started_at, stage, retry, at)
            _update_under_lease(
                connection,
                f"{_GIVE_BACK[is_built]}, not_before = :not_before, retries = retries + :retry,"
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
        with self._database.timed(durable=True, polled=True) as (connection, at):
            lapsed = connection.execute(
                "SELECT id, worker, lease_token, stage, attempts, started_at, history, handed_over"
                " FROM build_jobs WHERE state = 'building' AND worker <> ''"
                " AND (lease_until < :now OR substr(worker, 1, length(:prefix)) = :prefix)"
                # What is being finished at this moment is not lost.
                " /*postgresql FOR UPDATE SKIP LOCKED*/",
                {"now": at, "prefix": None if worker is None else f"{worker}/"},
            ).fetchall()
            for job_id, holder, token, stage, attempts, started_at, history, handed_over in lapsed:
                lease = Lease(job_id, holder, token)
                counted = attempts + (stage in CONTAINER_STAGES)
                tried = _with_attempt(history, started_at, stage, "its worker was lost", at)
                ends = counted >= MAX_ATTEMPTS
                _update_under_lease(
                    connection,
                    f"{'UPDATE build_jobs SET' if ends else f'{_GIVE_BACK[handed_over is not None]},'}"
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
                    document = json.encode(failure).decode()
                    _finish(connection, lease, failure, document, Retention(failure_ttl, failure_ttl), at=at)
                    gave_up.append(to_job(connection.execute(_JOB, (job_id,)).fetchone()))
        returned = len(lapsed) - len(gave_up)
        self._database.wakeups.notify(returned)
        return Recovery(returned, gave_up)


def _made_before(entries: Sequence[Entry | AsuError], runs: Sequence[Arrivals]) -> list[Entry | AsuError]:
    """What was submitted, where the commit of an earlier run had taken place although it was lost."""
    made = {
        entry.job.id for run in runs for entry in run.entries if isinstance(entry, Entry) and entry.created
    }
    found: list[Entry | AsuError] = []
    for entry in entries:
        if isinstance(entry, Entry) and entry.job.id in made:
            made.remove(entry.job.id)
            entry = replace(entry, created=True)
        found.append(entry)
    return found


def _not_kept(request: BuildRequest) -> RequestRejected:
    """Why a request with secrets is not taken."""
    field, what = ("defaults", "first-boot scripts") if request.defaults else ("repository_keys", "keys")
    return RequestRejected(
        f"{field}: this server stores no {what}, because it has no key to encrypt them with. Its operator "
        "can set secrets_key.",
        field=field,
    )


def _update_under_lease(
    connection: Connection, statement: str, lease: Lease, values: Mapping[str, object]
) -> None:
    """Runs an UPDATE on the leased job. Raises `LeaseLost` when another holds it now."""
    if connection.execute(f"{statement} WHERE {_LEASED}", {**asdict(lease), **values}).rowcount != 1:
        raise LeaseLost(f"job {lease.job_id} is no longer held by {lease.worker}")


def _with_attempt(history: str, started_at: int, stage: str, ending: str, at: int) -> str:
    """The history of a row with the attempt that just broke off."""
    attempt = Attempt(moment(started_at), moment(at), Stage(stage), ending)
    return json.encode((*HISTORY.decode(history), attempt)).decode()


def _finish(
    connection: Connection, lease: Lease, outcome: Outcome, document: str, retention: Retention, *, at: int
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
    connection.execute(_WRITE_OUTCOME, (lease.job_id, completed, document))
