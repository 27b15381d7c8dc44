"""What is kept: jobs, their logs, results and statistics."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Protocol

from asu_builder.domain.errors import AsuError, Side
from asu_builder.domain.job import (
    MAX_LOG_LINES,
    AuditEntry,
    DoomedJobs,
    DurationTally,
    Entry,
    EventKind,
    HandedOver,
    IdlePolicy,
    Job,
    JobFilter,
    Lease,
    LiveJobs,
    LogLine,
    Outcome,
    Pause,
    PrintedLine,
    QueueLoad,
    RecordedFailure,
    Recovery,
    Retention,
    Stage,
    Standing,
    StoredFiles,
    Submission,
    Tally,
    TallyBy,
)
from asu_builder.domain.nodes import Node, NodeFacts, Takes
from asu_builder.domain.preflight import CarriedPackages, TargetRecord
from asu_builder.domain.request import BuildRequest


class JobQueue(Protocol):
    """Jobs on their way from pending to their end. Each method is one transaction.

    The order: jobs that no client polls come last; a higher priority goes first; then callers take turns, by
    a key that a job gets when it is inserted, or when a caller joins it whose own would have come earlier.
    """

    def submit(self, submission: Submission, *, max_pending: int | None = None) -> Entry:
        """The job for this hash; durable when this returns.

        A live job is the answer, and an unexpired final one unless `allows_resubmit`. Only where a new job
        would be made, the submission's refusal is raised. A job that waits takes class and place of a new
        job of a caller who joins it, if they are earlier; it is the joiner's then (`Job.caller`).
        """

    def submit_all(
        self, submissions: Sequence[Submission], *, max_pending: int | None = None
    ) -> Sequence[Entry | AsuError]:
        """The same for many in one transaction, each with its own answer, in order."""

    def find(self, request_hash: str) -> Job | None:
        """The newest unexpired job for this hash."""

    def find_id(self, request_hash: str) -> int | None:
        """The id of the job of `find`; never waits: raises `Unavailable` where it cannot be told at once."""

    def newest_id(self, request_hash: str) -> int | None:
        """The same, for who may wait for the database."""

    def standings(self, request_hashes: Collection[str]) -> Mapping[str, Standing]:
        """Of each hash how far the job of `find` is, all of one moment; hashes without one are left out."""

    def outdated(self, job_ids: Mapping[str, int]) -> tuple[Collection[str], datetime | None]:
        """Those whose `find` is another job by now, or none; and when the first of the others expires."""

    def changes(self) -> int:
        """Another number than before once any process has committed anything; never waits, as `find_id`."""

    def position(self, job_id: int) -> int:
        """How many pending jobs are ahead of this one; counted, never stored."""

    def pending(self) -> int:
        """How many jobs wait."""

    def typical_duration(self) -> timedelta | None:
        """The mean time from claim to end of the latest builds; None when nothing was built yet."""

    def touch(self, request_hashes: Collection[str]) -> None:
        """Notes that clients have polled these jobs or used their results.

        A waiting job keeps or takes back its place; a result is kept for its time from now on (`Retention`).
        """

    def expire_abandoned(self, policy: IdlePolicy, *, failure_ttl: timedelta) -> Sequence[Job]:
        """Deprioritizes waiting jobs that no client polls, and later fails them as expired; returns those."""

    def cancel(self, job_id: int, *, failure_ttl: timedelta, cancel_digest: str | None = None) -> bool:
        """Ends a live job as cancelled; a running one's lease is void at once. False when it was final.

        With `cancel_digest` also False when another caller has joined, or when it is not the digest of
        the secret that the job's first caller was given.
        """

    def may_cancel(self, job_id: int, cancel_digest: str) -> bool:
        """Whether this is the digest of the secret that the job's first caller was given."""

    def expire(self, job_id: int) -> None:
        """Ends a final job's time now, so that it no longer answers for its hash."""

    def claim(
        self, worker: str, *, lease_for: timedelta, only: int | None = None, takes: Takes | None = None
    ) -> tuple[Job, Lease] | None:
        """Takes the next job in one statement; None when no job waits or the workers are paused.

        `only` is the id of the one job to claim, whatever its place. The order of the others stays. Jobs that
        the worker may not build by what it `takes` are left to others, at their places.
        """

    def renew(self, lease: Lease, *, lease_for: timedelta) -> None:
        """Prolongs the lease. Raises `LeaseLost`, as every method that takes one."""

    def advance(self, lease: Lease, stage: Stage) -> None:
        """Says how far the building job is."""

    def finish(self, lease: Lease, outcome: Outcome, retention: Retention) -> None:
        """Completes or fails the job; durable when this returns."""

    def release(
        self,
        lease: Lease,
        *,
        delay: timedelta = timedelta(0),
        retry: str = "",
        from_start: bool = False,
    ) -> None:
        """Gives the job back to the queue, claimable after `delay`, at its old place.

        Giving back is never an attempt; `retry` says how the infrastructure failed it, and counts as a retry.
        One whose images were handed over waits for a signature again, unless it is built `from_start`.
        """

    def hand_over(self, lease: Lease, handed_over: HandedOver) -> None:
        """Leaves a job that was built to who has the keys; the lease is void, and no attempt is counted.

        Durable when this returns. It stays in the stage *signing images*, and lapses only as a job that waits
        does: when no client polls it.
        """

    def claim_unsigned(self, worker: str, *, key: str, lease_for: timedelta) -> tuple[Job, Lease] | None:
        """Takes a job whose images wait for a signature by this key, the oldest first; None without one.

        A job whose holder is lost waits again; that counts as an attempt.
        """

    def wait(self, timeout: timedelta) -> None:
        """Sleeps until a job may be claimed that was not there at this thread's last claim, or so long.

        A job that is submitted or returned ends it in one thread, `Operations.resume` and `wake_all` in all.
        """

    def wake_all(self) -> None:
        """Ends every `wait` of this process."""

    def live_leases(self) -> set[tuple[int, int]]:
        """Job id and lease token of every building job."""

    def recover(self, *, worker: str | None = None, failure_ttl: timedelta) -> Recovery:
        """Returns jobs whose lease lapsed, or that a former life of `worker` held, to the queue.

        The name of a worker's thread is `worker/number`. Time that passed while no process polled,
        and leaps of the clock, do not count: leases and waiting times are moved by it first.
        An attempt counts when the container had started; the third one fails the job as gave up.
        """


class Nodes(Protocol):
    """The processes on one database. Each method is one transaction."""

    def require_free(self, name: str, machine: str) -> None:
        """Raises `Unavailable` while a living process of another machine has this name."""

    def renew(self, name: str, machine: str, life: str, facts: NodeFacts) -> bool:
        """A sign of life; False when another life has taken the name meanwhile."""

    def leave(self, name: str, life: str) -> None:
        """The process ends in order. That it is drained is kept for its next life."""

    def all(self) -> Sequence[Node]:
        """Every process that was seen within a day, by name."""

    def drain(self, name: str, drained: bool) -> bool:
        """Lets its workers claim nothing more, from now on, or claim again; False for an unknown name."""

    def running(self, name: str) -> int:
        """How many jobs its workers hold."""


class Lead(Protocol):
    """Which of the processes on one database does what need be done only once: it has the lead."""

    def held(self) -> bool:
        """Whether this process has it; takes it where no living process does. Asked before each round.

        It is a saving, not a lock: of two that think they have it for a moment nothing is done twice, because
        each step names the rows as it found them.
        """

    def release(self) -> None:
        """Lets another process take it; may be called again."""


class Operations(Protocol):
    """Lists, acts and their record. Each method is one transaction."""

    def jobs(self, wanted: JobFilter) -> Sequence[Job]:
        """Jobs, newest first, without their outcome's output."""

    def live(self) -> Sequence[LiveJobs]:
        """The jobs that wait or are built, counted; the largest groups first."""

    def waits(self, limit: int) -> Sequence[timedelta]:
        """How long the builds that completed last had waited for their worker, the latest first."""

    def purge(self, request_hash: str) -> int:
        """Ends the time of every final job of this hash; how many."""

    def requeue(self, request_hash: str) -> Job | None:
        """A new job for what was asked under this hash, in place of the final one and under its terms.

        None without such a request, beside a live job, and where only digests of a script or keys are kept.
        Where these are encrypted, the job that is returned has digests of them; as claimed it is whole.
        """

    def kept_until(self, request_hash: str) -> datetime | None:
        """Until when the result of this hash answers unless it is used; None without one."""

    def keep(self, request_hash: str, span: timedelta) -> datetime | None:
        """Lets the result of this hash answer for so long from now at least; until when, None without one."""

    def give_back(self, job_id: int) -> bool:
        """Returns a building job to the queue, uncounted; its build is stopped. False when it is not."""

    def pause(self, operator: str) -> None:
        """From now on no worker of any process claims a job."""

    def resume(self) -> None:
        """Workers claim again."""

    def paused(self) -> Pause | None:
        """Since when and by whom the workers are paused."""

    def load(self) -> QueueLoad:
        """The queue at a glance; costs the same however many jobs have ended."""

    def record(self, operator: str, act: str, subject: str = "") -> None:
        """Writes an act down; durable when this returns."""

    def acts(self, limit: int) -> Sequence[AuditEntry]:
        """The latest acts, newest first."""


class RetentionRepository(Protocol):
    """Finished jobs and the images that belong to them: files and rows go together."""

    def expired(self, *, grace: timedelta = timedelta(0)) -> Sequence[str]:
        """Hashes with a final job that is past its time, some hundred at most."""

    def doomed(
        self, request_hash: str, *, grace: timedelta = timedelta(0), unexpired: bool = False
    ) -> DoomedJobs:
        """The final jobs of this hash that expired `grace` ago, or all of them with `unexpired`."""

    def are_exclusive(self, jobs: DoomedJobs) -> bool:
        """Whether still no other job carries their hash; asked while nothing can be published."""

    def delete(self, jobs: DoomedJobs) -> bool:
        """Deletes them, after their images; whether no job of the hash is left.

        The request is kept for audit, its `defaults` and keys only as digests.
        """

    def with_dropped(self) -> Sequence[tuple[str, BuildRequest]]:
        """Hashes and requests of unexpired results that packages were left out of; some hundred at most."""

    def signed_by(self, key_id: str) -> Sequence[str]:
        """The hashes of unexpired results that this key signed; reads every result."""

    def signed_otherwise(self, key_id: str) -> Sequence[int]:
        """The ids of unexpired results that this key has not signed; reads every result."""

    def without_statement(self) -> Sequence[int]:
        """The ids of unexpired results that do not state where images came from; reads every result."""

    def find_orphans(self, request_hashes: Sequence[str]) -> Sequence[str]:
        """Those that no job carries, in the same order."""

    def completed_hashes(self) -> Iterable[str]:
        """Hashes of every completed job, read page by page; one that was built again may come again."""

    def stored_files(self, request_hash: str) -> StoredFiles | None:
        """Where the files of the newest completed job of this hash lie, expired or not.

        None without such a job, and where its result does not say.
        """

    def stored_bytes(self) -> int:
        """What the images of all completed jobs take together."""

    def least_used(self, *, unused_for: timedelta) -> Sequence[tuple[str, int]]:
        """Completed hashes unused for this long, longest first, with their bytes."""

    def forget_requests(self, *, older_than: timedelta, most_bytes: int) -> int:
        """Deletes what was asked for the first time before this, and what is too much beside the newest.

        Requests that a job still carries stay. Some hundred at most; how many. Old acts go too.
        """

    def forget_statistics(self, *, older_than: timedelta) -> int:
        """Deletes statistics events older than this; how many, a few thousand at most.

        Counts of whole days before it go too, and of past days the counts of the packages least requested.
        """


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

    def record_duration(self, stage: str, span: timedelta) -> None:
        """Notes how long a stage of one build took, by the monotonic clock. Never waits."""

    def waiting(self) -> int:
        """How many events are recorded and not written yet."""

    def flush(self) -> int:
        """Writes what was recorded so far; how many events."""

    def tally(
        self, kinds: Sequence[EventKind], *, since: datetime, width: timedelta, by: TallyBy = "nothing"
    ) -> Sequence[Tally]:
        """Counts events since a moment in slots of `width`, grouped by a column; leaves out empty slots."""

    def durations(self, *, since: datetime) -> Sequence[DurationTally]:
        """How long stages took since the beginning of a day (UTC), class by class, shortest first."""

    def failures(self, limit: int) -> Sequence[RecordedFailure]:
        """The latest failed builds, newest first."""

    def top_packages(self, *, since: datetime, branch: str, limit: int) -> Sequence[tuple[str, int]]:
        """Packages most asked for, and by how many new builds, since the beginning of a day (UTC).

        `branch` is how the versions' names begin. Past days count only the names most requested.
        """


class BuildLog(Protocol):
    """Lines by job; they go when their job is forgotten."""

    def append(self, lease: Lease, lines: Sequence[PrintedLine]) -> bool:
        """Keeps lines of the attempt that holds this lease, in one transaction.

        False when nothing more will be kept for it: the log is full, or another attempt holds the job.
        """

    def read(self, job_id: int, *, after: int = 0, limit: int = MAX_LOG_LINES + 1) -> Sequence[LogLine]:
        """Lines with a higher `seq` than `after`, in order."""

    def last(self, job_id: int) -> int:
        """The highest `seq`; 0 when nothing was printed."""


class PreflightRecords(Protocol):
    """What builds have taught about foretelling: what ImageBuilders bring along, and where it was wrong."""

    def carried(self, release_path: str, target: str) -> CarriedPackages | None:
        """What the ImageBuilder brings along that was used last for a release and target.

        Answers from memory; what another process has learnt is known some seconds later. None where none
        was used, or not for long.
        """

    def learn(self, release_path: str, target: str, carried: CarriedPackages) -> None:
        """Keeps it in place of what was known. Of all that is kept the oldest goes when it is too much."""

    def targets(self) -> Mapping[tuple[str, str], TargetRecord]:
        """What is known of each release (its path) and target of which an *impossible* was compared.

        Answers from memory, as `carried`.
        """

    def note_sample(self, release_path: str, target: str, *, disagreement: str = "") -> None:
        """Counts a build that was foretold as impossible, durably.

        `disagreement` says how it was accepted: from then on the target is on *advise*, in every process.
        """

    def enforce(self, release_path: str, target: str) -> bool:
        """Takes the target from *advise* back to *enforce*; False where it was not on it."""
