"""The database: the queue, operators' acts, retention and statistics."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Literal, Protocol

from msgspec import Struct

from asu_builder.domain.errors import AsuError, Side
from asu_builder.domain.job import Job, JobState, Lease, Outcome, Priority, Retention, Stage
from asu_builder.domain.request import BuildRequest


class Submission(Struct, frozen=True):
    """A resolved request on its way into the queue."""

    request: BuildRequest
    request_hash: str
    client: str = ""
    caller: str = ""
    """The caller: a token's name, else an address (IPv6 by its /64)."""
    priority: Priority = Priority.NORMAL
    cancel_digest: str = ""
    """SHA-256 (hexadecimal) of the secret by which its first caller may cancel the job; "" for none."""
    refusal: AsuError | None = None
    """Why no new job may be made of it; a job that is there answers nevertheless."""


class Entry(Struct, frozen=True):
    """What the queue has for a submission."""

    job: Job
    created: bool
    """Whether the job is new; false when it answers an earlier request too."""
    ahead: int | None
    """How many jobs are ahead of a pending one."""


class IdlePolicy(Struct, frozen=True):
    """When a waiting job that no client polls loses its place, and when it expires."""

    deprioritized_after: timedelta
    expires_after: timedelta


class Recovery(Struct, frozen=True):
    """What became of jobs whose worker was lost."""

    returned: int
    gave_up: Sequence[Job]


class JobQueue(Protocol):
    """Jobs on their way from pending to their end. Each method is one transaction.

    The order: jobs that no client polls come last; a higher priority goes first; within one priority
    callers take turns, by a key that each job gets when it is inserted, or when another caller joins it whose
    own job would have come earlier.
    """

    def submit(self, submission: Submission, *, max_pending: int | None = None) -> Entry:
        """The job for this hash; durable when this returns.

        A live job is the answer, and an unexpired final one unless `allows_resubmit`; `admit` is
        asked only before a new job is made. Raises what `admit` returns. A job that waits and is joined
        by another caller takes the class and the place that a new job of the joiner would get, if it comes
        earlier by them; it is the joiner's then (`Job.caller`), so that the joiner's next job comes after it.
        """
        ...

    def submit_all(
        self, submissions: Sequence[Submission], *, max_pending: int | None = None
    ) -> Sequence[Entry | AsuError]:
        """The same for many in one transaction, each with its own answer, in order."""
        ...

    def answers(self, request_hash: str) -> bool:
        """Whether a job of this hash answers a submission now, so that no new one is made."""
        ...

    def find(self, request_hash: str) -> Job | None:
        """The newest unexpired job for this hash."""
        ...

    def position(self, job_id: int) -> int:
        """How many pending jobs are ahead of this one; counted, never stored."""
        ...

    def pending(self) -> int:
        """How many jobs wait."""
        ...

    def typical_duration(self) -> timedelta | None:
        """The mean time from claim to end of the latest builds; None when nothing was built yet."""
        ...

    def touch(self, request_hashes: Collection[str]) -> None:
        """Notes that clients have polled these jobs or used their results.

        A waiting job keeps or takes back its place; a result is kept for its time from now on,
        yet not beyond `Retention.max_age`.
        """
        ...

    def expire_abandoned(self, policy: IdlePolicy, *, failure_ttl: timedelta) -> Sequence[Job]:
        """Deprioritizes waiting jobs that no client polls, and later fails them as expired; returns those."""
        ...

    def cancel(self, job_id: int, *, failure_ttl: timedelta, cancel_digest: str | None = None) -> bool:
        """Ends a live job as cancelled; a running one's lease is void at once. False when it was final.

        With `cancel_digest` also False when another caller has joined, or when it is not the digest of
        the secret that the job's first caller was given.
        """
        ...

    def may_cancel(self, job_id: int, cancel_digest: str) -> bool:
        """Whether this is the digest of the secret that the job's first caller was given."""
        ...

    def expire(self, job_id: int) -> None:
        """Ends a final job's time now, so that it no longer answers for its hash."""
        ...

    def claim(
        self, worker: str, *, lease_for: timedelta, only: int | None = None
    ) -> tuple[Job, Lease] | None:
        """Takes the next job in one statement; None when no job waits or the workers are paused.

        `only` is the id of the one job to claim, whatever its place. The order of the others stays.
        """
        ...

    def renew(self, lease: Lease, *, lease_for: timedelta) -> None:
        """Prolongs the lease. Raises `LeaseLost`, as every method that takes one."""
        ...

    def advance(self, lease: Lease, stage: Stage) -> None:
        """Says how far the building job is."""
        ...

    def finish(self, lease: Lease, outcome: Outcome, retention: Retention) -> None:
        """Completes or fails the job; durable when this returns."""
        ...

    def release(self, lease: Lease, *, delay: timedelta = timedelta(0), retry: str = "") -> None:
        """Gives the job back to the queue, claimable after `delay`, at its old place.

        Giving back is never an attempt; `retry` says how the infrastructure failed it, and counts as a retry.
        """
        ...

    def wait(self, timeout: timedelta) -> None:
        """Sleeps until a job may be claimed that was not there at this thread's last claim.

        A job that is submitted or returned ends the wait of one thread, `Operations.resume` and `wake_all`
        that of all. It ends after `timeout` too: a job whose delay is over wakes no thread.
        """
        ...

    def wake_all(self) -> None:
        """Ends every `wait` of this process."""
        ...

    def live_leases(self) -> set[tuple[int, int]]:
        """Job id and lease token of every building job."""
        ...

    def recover(self, *, worker: str | None = None, failure_ttl: timedelta) -> Recovery:
        """Returns jobs whose lease lapsed, or that a former life of `worker` held, to the queue.

        The name of a worker's thread is `worker/number`. Time that passed while no process polled,
        and leaps of the clock, do not count: leases and waiting times are moved by it first.

        An attempt counts when the container had started; the third one fails the job as gave up.
        """
        ...


class JobFilter(Struct, frozen=True):
    """Which jobs are meant; what is empty does not restrict. `before` is a job id, for paging.

    `request_hash` is how the hash begins, in lower-case hexadecimal digits.

    `since` is the lowest id that is read among jobs that have ended; live ones are few, and all found.
    """

    state: JobState | None = None
    version: str = ""
    target: str = ""
    profile: str = ""
    caller: str = ""
    request_hash: str = ""
    before: int | None = None
    since: int | None = None
    limit: int = 100


class LiveJobs(Struct, frozen=True):
    """How many jobs of one state, class, version and target are live, and since when the oldest is asked for.

    It identifies no job, so it is public.
    """

    state: JobState
    priority: Priority
    version: str
    target: str
    count: int
    oldest: datetime


class AuditEntry(Struct, frozen=True):
    """One act of an operator: who did what to what, and when."""

    at: datetime
    operator: str
    act: str
    subject: str = ""


class Pause(Struct, frozen=True):
    """The workers claim nothing; builds that run go on."""

    since: datetime
    operator: str


class Waiting(Struct, frozen=True):
    """Jobs of one class that wait: how many, and since when the one that came first."""

    jobs: int
    since: datetime


class QueueLoad(Struct, frozen=True):
    """The queue at a glance, without classes in which no job waits."""

    waiting: Mapping[tuple[Priority, bool], Waiting]
    """By class, and by whether they are deprioritized."""
    building: int
    """In all processes."""


class Operations(Protocol):
    """Lists, acts and their record. Each method is one transaction."""

    def jobs(self, wanted: JobFilter) -> Sequence[Job]:
        """Jobs, newest first, without their outcome's output."""
        ...

    def live(self) -> Sequence[LiveJobs]:
        """The jobs that wait or are built, counted; the largest groups first."""
        ...

    def waits(self, limit: int) -> Sequence[timedelta]:
        """How long the builds that completed last had waited for their worker, the latest first."""
        ...

    def purge(self, request_hash: str) -> int:
        """Ends the time of every final job of this hash; how many."""
        ...

    def requeue(self, request_hash: str) -> Job | None:
        """A new job for what was asked under this hash, in place of the final one.

        None when there is no such request, or a live job. What expired with a script or keys
        cannot be requeued, because only digests of them are kept.
        """
        ...

    def give_back(self, job_id: int) -> bool:
        """Returns a building job to the queue, uncounted; its build is stopped. False when it is not."""
        ...

    def pause(self, operator: str) -> None:
        """From now on no worker of any process claims a job."""
        ...

    def resume(self) -> None:
        """Workers claim again."""
        ...

    def paused(self) -> Pause | None:
        """Since when and by whom the workers are paused."""
        ...

    def load(self) -> QueueLoad:
        """The queue at a glance; costs the same however many jobs have ended."""
        ...

    def record(self, operator: str, act: str, subject: str = "") -> None:
        """Writes an act down; durable when this returns."""
        ...

    def acts(self, limit: int) -> Sequence[AuditEntry]:
        """The latest acts, newest first."""
        ...


class DoomedJobs(Struct, frozen=True):
    """Final jobs of one hash that are to be deleted."""

    request_hash: str
    ids: Sequence[int]
    exclusive: bool
    """Whether no other job carries the hash, so that its images go with them."""


class RetentionRepository(Protocol):
    """Finished jobs and the images that belong to them: files and rows go together."""

    def expired(self, *, grace: timedelta = timedelta(0)) -> Sequence[str]:
        """Hashes with a final job that is past its time, some hundred at most."""
        ...

    def doomed(
        self, request_hash: str, *, grace: timedelta = timedelta(0), unexpired: bool = False
    ) -> DoomedJobs:
        """The final jobs of this hash that expired `grace` ago, or all of them with `unexpired`."""
        ...

    def are_exclusive(self, jobs: DoomedJobs) -> bool:
        """Whether still no other job carries their hash; asked while nothing can be published."""
        ...

    def delete(self, jobs: DoomedJobs) -> bool:
        """Deletes them, after their images; whether no job of the hash is left.

        The request is kept for audit, its `defaults` and keys only as digests.
        """
        ...

    def find_orphans(self, request_hashes: Sequence[str]) -> Sequence[str]:
        """Those that no job carries, in the same order."""
        ...

    def completed_hashes(self) -> Iterable[str]:
        """Hashes of every completed job, read page by page."""
        ...

    def stored_bytes(self) -> int:
        """What the images of all completed jobs take together."""
        ...

    def least_used(self, *, unused_for: timedelta) -> Sequence[tuple[str, int]]:
        """Completed hashes unused for this long, longest first, with their bytes."""
        ...

    def forget_requests(self, *, older_than: timedelta, most_bytes: int) -> int:
        """Deletes what was asked for the first time before this, and what is too much beside the newest.

        Requests that a job still carries stay. Some hundred at most; how many. Old acts of operators
        go too.
        """
        ...

    def forget_statistics(self, *, older_than: timedelta) -> int:
        """Deletes statistics events older than this; how many, a few thousand at most.

        Counts of whole days before it go too, and of past days the counts of the packages least requested.
        """
        ...


EventKind = Literal["request", "cache_hit", "completed", "failed", "cancelled"]
TallyBy = Literal[
    "nothing",
    "version",
    "target",
    "profile",
    "reason_and_side",
    "diff_packages",
    "version_with_diff_packages",
]
"""`reason_and_side` are two words, the second "" if unknown. The last one counts only events with
`diff_packages`."""


class Tally(Struct, frozen=True):
    """The number of events of one label in one slot of time; slots are numbered from `since` on."""

    slot: int
    label: str
    count: int


DURATION_CLASSES = tuple(
    timedelta(seconds=seconds)
    for seconds in (
        0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 20, 30, 45, 60, 90, 120, 180, 300, 600, 1200, 1800, 3600, 7200
    )
)  # fmt: skip
"""Upper ends of the classes in which durations are counted; the last also holds what took longer."""


class DurationTally(Struct, frozen=True):
    """How many times a stage took up to `up_to` (and longer than the class before), and how long in total."""

    stage: str
    up_to: timedelta
    count: int
    total: timedelta
    longest: timedelta


class RecordedFailure(Struct, frozen=True):
    """One failed build, without anything that only its caller may know."""

    at: datetime
    version: str
    target: str
    profile: str
    reason: str


class Statistics(Protocol):
    """Events, appended in batches off the request path; none are lost on a clean stop."""

    def record(
        self,
        kind: EventKind,
        request: BuildRequest,
        *,
        client: str = "",
        reason: str = "",
        side: Side | None = None,
    ) -> None:
        """Notes one event; a failure with its reason, and its side if known. Never waits."""
        ...

    def record_duration(self, stage: str, span: timedelta) -> None:
        """Notes how long a stage of one build took, by the monotonic clock. Never waits."""
        ...

    def waiting(self) -> int:
        """How many events are recorded and not written yet."""
        ...

    def flush(self) -> int:
        """Writes what was recorded so far; how many events."""
        ...

    def tally(
        self, kinds: Sequence[EventKind], *, since: datetime, width: timedelta, by: TallyBy = "nothing"
    ) -> Sequence[Tally]:
        """Counts events since a moment in slots of `width`, grouped by a column; leaves out empty slots."""
        ...

    def durations(self, *, since: datetime) -> Sequence[DurationTally]:
        """How long stages took since the beginning of a day (UTC), class by class, shortest first."""
        ...

    def failures(self, limit: int) -> Sequence[RecordedFailure]:
        """The latest failed builds, newest first."""
        ...

    def top_packages(self, *, since: datetime, branch: str, limit: int) -> Sequence[tuple[str, int]]:
        """Packages most asked for, and by how many new builds, since the beginning of a day (UTC).

        `branch` is how the versions' names begin. Past days count only the names most requested.
        """
        ...
