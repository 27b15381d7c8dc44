"""What operators see and do, in SQL, and the record of it."""

import math
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

from asu_builder.database.arrivals import insert_jobs
from asu_builder.database.dialect import Connection, SqlDatabase
from asu_builder.database.queue import RESET_TO_PENDING
from asu_builder.database.rows import FINAL, REQUEST, SELECT_WITHOUT_OUTCOME, moment, span_micros, to_job
from asu_builder.domain.job import (
    AuditEntry,
    Job,
    JobFilter,
    JobState,
    LiveJobs,
    Pause,
    Priority,
    QueueLoad,
    Submission,
    Waiting,
)
from asu_builder.domain.request import Terms

_LARGEST_LIST = 1000
_PAUSE_SECONDS = 1.0
_LIVE_STATES = (JobState.PENDING, JobState.BUILDING)

# The request by a subquery: PostgreSQL would join all requests that there are, and SQLite is quicker, too.
LIVE = """
    SELECT live.state, live.priority, json_extract(live.request, '$.version') AS version,
           json_extract(live.request, '$.target') AS target, count(*) AS times, min(live.enqueued_at)
      FROM (SELECT job.state, job.priority, job.enqueued_at,
                   (SELECT request.request FROM build_requests AS request
                     WHERE request.request_hash = job.request_hash) AS request
              FROM build_jobs AS job WHERE job.state IN ('pending', 'building')) AS live
     GROUP BY live.state, live.priority, version, target
     ORDER BY times DESC, version DESC, target, live.priority DESC
"""
"""Reads the live jobs' index and no other job, however many have ended."""

WAITS = """
    SELECT started_at - enqueued_at FROM build_jobs
     WHERE state = 'completed' ORDER BY finished_at DESC LIMIT ?
"""


def list_statement(wanted: JobFilter) -> tuple[str, Sequence[Any]]:
    """The SQL of a list and its values."""
    live = wanted.state in _LIVE_STATES
    # The plus hides the primary key: those that wait or are built are found in their own index, however
    # many have ended, and it names their states as it does here. So are those of one hash.
    number = "+job.id" if live or wanted.request_hash else "job.id"
    conditions: list[tuple[str, Any]] = [
        ("job.state = ?", wanted.state),
        ("json_extract(request.request, '$.version') = ?", wanted.version),
        ("json_extract(request.request, '$.target') = ?", wanted.target),
        ("json_extract(request.request, '$.profile') = ?", wanted.profile),
        ("job.caller = ?", wanted.caller),
        ("job.request_hash >= ?", wanted.request_hash),
        # The sign after the last digit.
        ("job.request_hash < ?", wanted.request_hash and f"{wanted.request_hash}g"),
        (f"{number} < ?", wanted.before),
        (f"{number} >= ?", None if live else wanted.since),
    ]
    chosen = [(text, value) for text, value in conditions if value not in (None, "")]
    texts = (["job.state IN ('pending', 'building')"] if live else []) + [text for text, _ in chosen]
    where = " AND ".join(texts) or "TRUE"
    limit = max(0, min(wanted.limit, _LARGEST_LIST))
    return (
        f"{SELECT_WITHOUT_OUTCOME} WHERE {where} ORDER BY {number} DESC LIMIT ?",
        [*(value for _, value in chosen), limit],
    )


# Counted in the index build_jobs_order alone; ids are given in the order in which jobs came.
WAITING = """
    SELECT counted.priority, counted.deprioritized, counted.jobs, first.enqueued_at
      FROM (SELECT deprioritized, priority, count(*) AS jobs, min(id) AS first FROM build_jobs
             WHERE state = 'pending' GROUP BY deprioritized, priority) AS counted
      JOIN build_jobs AS first ON first.id = counted.first
"""
BUILDING = "SELECT count(*) FROM build_jobs WHERE state = 'building'"


class SqlOperations:
    """Fulfils `ports.Operations` on the embedded database."""

    def __init__(
        self,
        database: SqlDatabase,
        *,
        on_revoked: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`on_revoked` is called whenever answers may have been taken back; `clock` counts seconds."""
        self._database = database
        self._note_revocation = on_revoked
        self._clock = clock
        self._were_paused = False
        self._asked_again_at = -math.inf

    def jobs(self, wanted: JobFilter) -> Sequence[Job]:
        statement, values = list_statement(wanted)
        with self._database.reading() as connection:
            rows = connection.execute(statement, values).fetchall()
        return [to_job(row) for row in rows]

    def live(self) -> Sequence[LiveJobs]:
        with self._database.reading() as connection:
            rows = connection.execute(LIVE).fetchall()
        return [
            LiveJobs(JobState(state), Priority(priority), version, target, count, moment(oldest))
            for state, priority, version, target, count, oldest in rows
        ]

    def waits(self, limit: int) -> Sequence[timedelta]:
        with self._database.reading() as connection:
            rows = connection.execute(WAITS, (max(0, min(limit, _LARGEST_LIST)),)).fetchall()
        return [timedelta(microseconds=micros) for (micros,) in rows if micros is not None and micros >= 0]

    def purge(self, request_hash: str) -> int:
        try:
            with self._database.timed(durable=True) as (connection, at):
                return _end_answers(connection, request_hash, at)
        finally:
            self._note_revocation()

    def kept_until(self, request_hash: str) -> datetime | None:
        with self._database.reading() as connection:
            (at,) = connection.execute(
                "SELECT max(expires_at) FROM build_jobs"
                " WHERE request_hash = :hash AND state = 'completed' AND expires_at > :now",
                {"hash": request_hash, "now": self._database.now()},
            ).fetchone()
        return None if at is None else moment(at)

    def keep(self, request_hash: str, span: timedelta) -> datetime | None:
        with self._database.timed(durable=True) as (connection, at):
            connection.execute(
                "UPDATE build_jobs SET expires_at = max(expires_at, :until),"
                " max_expires_at = CASE WHEN max_expires_at IS NOT NULL THEN max(max_expires_at, :until) END"
                " WHERE request_hash = :hash AND state = 'completed' AND expires_at > :at",
                {"hash": request_hash, "at": at, "until": at + span_micros(span)},
            )
        return self.kept_until(request_hash)

    def requeue(self, request_hash: str) -> Job | None:
        job = None
        try:
            with self._database.timed(durable=True) as (connection, at):
                row = connection.execute(
                    "SELECT request.request, coalesce(job.client, ''), coalesce(job.caller, ''),"
                    " coalesce(job.priority, 0), job.state, request.edition, request.errata, request.rules"
                    " FROM build_requests AS request"
                    " LEFT JOIN build_jobs AS job ON job.request_hash = request.request_hash"
                    " WHERE request.request_hash = ? AND NOT request.scrubbed ORDER BY job.id DESC LIMIT 1",
                    (request_hash,),
                ).fetchone()
                if row is not None and row[4] not in _LIVE_STATES:
                    text, client, caller, priority, _, *terms = row
                    request = REQUEST.decode(text)
                    _end_answers(connection, request_hash, at)
                    submission = Submission(
                        request, request_hash, client, caller, Priority(priority), terms=Terms(*terms)
                    )
                    ((job, _),) = insert_jobs(connection, [submission], at)
        finally:
            self._note_revocation()
        self._database.wakeups.notify(job is not None)
        return job

    def give_back(self, job_id: int) -> bool:
        with self._database.timed(durable=True) as (connection, at):
            cursor = connection.execute(
                f"{RESET_TO_PENDING}, not_before = ? WHERE id = ? AND state = 'building'", (at, job_id)
            )
        self._database.wakeups.notify(cursor.rowcount)
        return cursor.rowcount == 1

    def pause(self, operator: str) -> None:
        with self._database.writing(durable=True) as connection:
            connection.execute(
                "INSERT INTO worker_pause (since, operator) SELECT ?, ?"
                " WHERE NOT EXISTS (SELECT 1 FROM worker_pause)",
                (self._database.now(), operator),
            )
        self._asked_again_at = -math.inf

    def resume(self) -> None:
        with self._database.writing(durable=True) as connection:
            connection.execute("DELETE FROM worker_pause")
        self._asked_again_at = -math.inf
        self._database.wakeups.notify_all(everywhere=True)

    def paused(self) -> Pause | None:
        with self._database.reading() as connection:
            row = connection.execute("SELECT since, operator FROM worker_pause").fetchone()
        return Pause(moment(row[0]), row[1]) if row else None

    def were_paused(self) -> bool:
        """Whether they were paused a second ago at most; what this process does shows at once."""
        if self._clock() >= self._asked_again_at:
            self._asked_again_at = self._clock() + _PAUSE_SECONDS
            self._were_paused = self.paused() is not None
        return self._were_paused

    def load(self) -> QueueLoad:
        with self._database.reading() as connection:
            rows = connection.execute(WAITING).fetchall()
            (building,) = connection.execute(BUILDING).fetchone()
        waiting = {
            (Priority(priority), bool(deprioritized)): Waiting(jobs, moment(at))
            for priority, deprioritized, jobs, at in rows
        }
        return QueueLoad(waiting, building)

    def record(self, operator: str, act: str, subject: str = "") -> None:
        with self._database.writing(durable=True) as connection:
            connection.execute(
                "INSERT INTO audit_log (at, operator, action, subject) VALUES (?, ?, ?, ?)",
                (self._database.now(), operator, act, subject),
            )

    def acts(self, limit: int) -> Sequence[AuditEntry]:
        with self._database.reading() as connection:
            rows = connection.execute(
                "SELECT at, operator, action, subject FROM audit_log ORDER BY id DESC LIMIT ?",
                (max(0, min(limit, _LARGEST_LIST)),),
            ).fetchall()
        return [AuditEntry(moment(at), *rest) for at, *rest in rows]


def _end_answers(connection: Connection, request_hash: str, at: int) -> int:
    """Lets no final job of this hash answer any more; how many did."""
    cursor = connection.execute(
        f"UPDATE build_jobs SET expires_at = :at WHERE request_hash = :hash AND {FINAL} AND expires_at > :at",
        {"at": at, "hash": request_hash},
    )
    return cursor.rowcount
