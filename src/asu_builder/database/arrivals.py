"""What is submitted in one transaction: it joins a job, is refused, or becomes a new job in the fair queue.

Why the queue is fair: docs/decisions/callers-take-turns.md.
"""

from collections import Counter
from collections.abc import Collection, Sequence

from msgspec import json
from msgspec.structs import astuple, replace

from asu_builder.database.dialect import Connection
from asu_builder.database.rows import SELECT_JOB, moment, to_job
from asu_builder.database.secrets import STORE_SECRET, Secrets, without_secrets
from asu_builder.database.standings import ANSWERS, count_ahead
from asu_builder.domain.errors import AsuError, QueueFull
from asu_builder.domain.job import FINAL_STATES, Entry, Job, JobState, Submission, allows_resubmit

_RETRY_AFTER_FULL = 30
COUNT_PENDING = "SELECT count(*) FROM build_jobs WHERE state = 'pending'"
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
                            last_accessed_at, edition, errata, rules, fair_start)
    VALUES (:hash, :client, :caller, :cancel_digest, :priority, :at, :at, :edition, :errata, :rules,
            {_NEXT_START})
"""
_INSERT_ONE = f"{_INSERT} RETURNING id, fair_start"
# An id is never used again, so the newest jobs have the largest.
_INSERTED = "SELECT id, fair_start FROM build_jobs ORDER BY id DESC LIMIT ?"
_INSERT_REQUEST = """
    INSERT INTO build_requests (request_hash, request, first_requested_at, sealed, edition, errata, rules)
    VALUES (?, ?, ?, ?, ?, ?, ?)
        ON CONFLICT (request_hash) DO UPDATE
       SET request = excluded.request, sealed = excluded.sealed, scrubbed = FALSE,
           edition = excluded.edition, errata = excluded.errata, rules = excluded.rules
"""
# Of two with the same start the older is first, so an equal start is not an earlier one.
TAKE_EARLIER_START = f"""
    UPDATE build_jobs SET priority = :priority, fair_start = own.fair_start, caller = :caller
      FROM (SELECT {_NEXT_START} AS fair_start) AS own
     WHERE id = :id AND state = 'pending'
       AND (-:priority, own.fair_start) < (-build_jobs.priority, build_jobs.fair_start)
"""


def find_all(
    connection: Connection, request_hashes: Collection[str], at: int, secrets: Secrets
) -> dict[str, Job]:
    """Of each hash the newest job that answers."""
    values = {f"hash{number}": name for number, name in enumerate(request_hashes)}
    marks = ", ".join(f":{name}" for name in values)
    rows = connection.execute(
        f"{SELECT_JOB} WHERE job.request_hash IN ({marks}) AND {ANSWERS} ORDER BY job.id",
        {**values, "now": at},
    )
    return {job.request_hash: job for job in (to_job(row, secrets) for row in rows)}


class Arrivals:
    """The submissions of one transaction, one after the other; new jobs in a row are written together."""

    def __init__(
        self,
        connection: Connection,
        at: int,
        known: dict[str, Job],
        max_pending: int | None,
        secrets: Secrets,
    ) -> None:
        """`known` are the jobs that answer for the hashes of all submissions."""
        self._connection = connection
        self._secrets = secrets
        self._at = at
        self._known = known
        self._max_pending = max_pending
        self._new: dict[str, Submission] = {}
        """What is not written yet, by hash."""
        self._pending: int | None = None
        """How many wait, with these; None until it is needed."""
        self._last: tuple[int, ...] = ()
        """The last place in the queue, without these."""
        self.entries: list[Entry | AsuError] = []
        """One for each submission that was taken and written."""
        self.created: Counter[str] = Counter()
        """New jobs by caller."""

    def take(self, submission: Submission) -> None:
        """Joins a job, is refused, or becomes a new job with the next `write`."""
        connection, name = self._connection, submission.request_hash
        if name in self._new:
            self.write()
        job = self._known.get(name)
        if job is not None and not allows_resubmit(job, now=moment(self._at)):
            self.write()
            if job.withheld is not None:  # the same request, by its hash: here it is whole
                self._keep([submission])
                job = replace(job, request=submission.request, withheld=None)
            job = self._known[name] = _join(connection, job, submission)
            ahead = count_ahead(connection, job.id) if job.state is JobState.PENDING else None
            self.entries.append(Entry(job, created=False, ahead=ahead))
            return
        if self._pending is None:  # from here on only this transaction adds to them
            self._pending, *last_place = connection.execute(_LAST).fetchone() or (0,)
            self._last = tuple(last_place)
        refusal = submission.refusal
        if self._max_pending is not None and self._pending >= self._max_pending:
            refusal = QueueFull(self._pending, _RETRY_AFTER_FULL)
        elif refusal is not None and self.created[submission.caller] < submission.refused_after:
            refusal = None
        if refusal is not None:
            self.write()
            self.entries.append(refusal)
            return
        if job is not None:
            connection.execute("UPDATE build_jobs SET expires_at = ? WHERE id = ?", (self._at, job.id))
        self._new[name] = submission
        self._pending += 1
        self.created[submission.caller] += 1

    def write(self) -> None:
        """Inserts what is new."""
        new, self._new = [*self._new.values()], {}
        if not new:
            return
        connection, ahead = self._connection, (self._pending or 0) - len(new)
        self._keep(new)
        inserted = insert_jobs(connection, new, self._at)
        places = [(0, -job.priority, start, job.id) for job, start in inserted]
        for number, (job, _) in enumerate(inserted):
            place, before = places[number], ahead + number
            # A new job is mostly the last one; then the others need not be counted again. Where the one that
            # was last has been moved forward since, they are counted for nothing. Those that came after it
            # had not come yet.
            if place < self._last:
                later = sum(after < place for after in places[number + 1 :])
                before = count_ahead(connection, job.id) - later
            self._last = max(self._last, place)
            self._known[job.request_hash] = job
            self.entries.append(Entry(job, created=True, ahead=before))

    def _keep(self, submissions: Sequence[Submission]) -> None:
        """Writes what is asked; its script and keys apart and encrypted, where there is a key for that."""
        requests, sealed = [], []
        for made in submissions:
            request, name = made.request, made.request_hash
            encrypted = self._secrets.encrypted(request)
            if encrypted:
                sealed.append((name, *astuple(self._secrets.seal(request, name))))
                request = without_secrets(request)
            terms = astuple(made.terms)
            requests.append((name, json.encode(request).decode(), self._at, encrypted, *terms))
        self._connection.executemany(_INSERT_REQUEST, requests)
        if sealed:
            self._connection.executemany(STORE_SECRET, sealed)


def insert_jobs(connection: Connection, submissions: Sequence[Submission], at: int) -> list[tuple[Job, int]]:
    """New pending jobs, each after those of its caller, with their starts in the fair queue."""
    values = [
        {
            "hash": submission.request_hash,
            "client": submission.client,
            "caller": submission.caller,
            "cancel_digest": submission.cancel_digest,
            "priority": submission.priority,
            "at": at,
            "edition": submission.terms.edition,
            "errata": submission.terms.errata,
            "rules": submission.terms.rules,
        }
        for submission in submissions
    ]
    if len(values) == 1:
        inserted = connection.execute(_INSERT_ONE, values[0]).fetchall()
    else:
        connection.executemany(_INSERT, values)
        inserted = connection.execute(_INSERTED, (len(values),)).fetchall()[::-1]
    enqueued_at = moment(at)
    return [
        (
            Job(
                id=job_id,
                request_hash=submission.request_hash,
                request=submission.request,
                state=JobState.PENDING,
                enqueued_at=enqueued_at,
                client=submission.client,
                caller=submission.caller,
                priority=submission.priority,
                terms=submission.terms,
            ),
            start,
        )
        for (job_id, start), submission in zip(inserted, submissions, strict=True)
    ]


def _join(connection: Connection, job: Job, submission: Submission) -> Job:
    """The live or final job as it is once this submission has joined it.

    One that waits takes the place that a job of the joiner's own would get, if that is a better one.
    """
    if job.state in FINAL_STATES or submission.caller == job.caller:
        return job
    if not job.joined:
        connection.execute("UPDATE build_jobs SET joined = TRUE WHERE id = ?", (job.id,))
        job = replace(job, joined=True)
    if job.state is not JobState.PENDING:
        return job
    own = {"id": job.id, "caller": submission.caller, "priority": submission.priority}
    if connection.execute(TAKE_EARLIER_START, own).rowcount:
        job = replace(job, caller=submission.caller, priority=submission.priority)
    return job
