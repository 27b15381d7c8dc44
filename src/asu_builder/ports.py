"""The interfaces between `core` and its adapters.

Every adapter of a port runs its contract suite in `tests/contract/`. Only errors of `domain/errors.py` pass.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from pathlib import Path
from threading import Event
from typing import Protocol

from asu_builder.domain.access import Rate
from asu_builder.domain.errors import AsuError, Side
from asu_builder.domain.health import CheckResult
from asu_builder.domain.job import (
    MAX_LOG_LINES,
    AuditEntry,
    DoomedJobs,
    DurationTally,
    Entry,
    EventKind,
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
    Submission,
    Tally,
    TallyBy,
)
from asu_builder.domain.make import CommandResult, ContainerSpec, OutputCallback
from asu_builder.domain.packages import Baseline, PackageSelection
from asu_builder.domain.release import ClientChange, Release, TargetProfiles, VersionList
from asu_builder.domain.request import BuildRequest
from asu_builder.domain.search import Device


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
        self, worker: str, *, lease_for: timedelta, only: int | None = None
    ) -> tuple[Job, Lease] | None:
        """Takes the next job in one statement; None when no job waits or the workers are paused.

        `only` is the id of the one job to claim, whatever its place. The order of the others stays.
        """

    def renew(self, lease: Lease, *, lease_for: timedelta) -> None:
        """Prolongs the lease. Raises `LeaseLost`, as every method that takes one."""

    def advance(self, lease: Lease, stage: Stage) -> None:
        """Says how far the building job is."""

    def finish(self, lease: Lease, outcome: Outcome, retention: Retention) -> None:
        """Completes or fails the job; durable when this returns."""

    def release(self, lease: Lease, *, delay: timedelta = timedelta(0), retry: str = "") -> None:
        """Gives the job back to the queue, claimable after `delay`, at its old place.

        Giving back is never an attempt; `retry` says how the infrastructure failed it, and counts as a retry.
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
        """A new job for what was asked under this hash, in place of the final one.

        None without such a request, beside a live job, and where only digests of a script or keys are kept.
        """

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

    def find_orphans(self, request_hashes: Sequence[str]) -> Sequence[str]:
        """Those that no job carries, in the same order."""

    def completed_hashes(self) -> Iterable[str]:
        """Hashes of every completed job, read page by page; one that was built again may come again."""

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


class Container(Protocol):
    """One ImageBuilder, ours alone; none of its processes outlives the context that opened it."""

    identity: str
    """Names the ImageBuilder's content (image digest or directory): equal means equal answers."""
    workdir: str
    """Absolute path of the ImageBuilder inside the container, without a trailing slash."""
    warnings: Sequence[str]
    """What the operator or caller should know, for example an image that could not be refreshed."""

    def run(
        self,
        arguments: Sequence[str],
        *,
        output: Path,
        environment: Mapping[str, str] | None = None,
        on_output: OutputCallback | None = None,
    ) -> CommandResult:
        """Runs one command in `workdir` with a clean environment (plus `environment`).

        `output` is a directory on this host; stdout and stderr are streamed into files there. `on_output` is
        told both as they come, also what the files have no room for. Raises `BuildFailed` for deadline,
        memory and disk limits, `BuildInterrupted` when the stop event was set, or `EngineUnavailable`.
        """

    def exists(self, path: str) -> bool:
        """Whether a plain file of this name (relative to `workdir`) exists."""

    def read_text(self, path: str) -> str:
        """The text of a small file relative to `workdir`, at most 1 MiB."""

    def write_files(self, files: Mapping[str, str]) -> None:
        """Puts texts at paths relative to `workdir`, making directories, owned by its user."""

    def collect(self, directory: str, into: Path) -> Sequence[str]:
        """Streams the plain files of an absolute inner directory into `into`; returns their names.

        Nothing that leaves a container is trusted: anything but plain files with plain names
        under the count and size caps is `BuildFailed(UNTRUSTED_OUTPUT)`. No directory: no names.
        """


class Runtime(Protocol):
    """Where ImageBuilders run."""

    def open(self, spec: ContainerSpec, *, stop: Event) -> AbstractContextManager[Container]:
        """A fresh container, started. Setting `stop` ends it early.

        When the context is left, whatever happens, no process of it lives any more, as far as the
        engine answers. It is removed in the background; where many wait for that, this waits first.
        Raises `BuildFailed(IMAGEBUILDER_MISSING)`, `RegistryUnavailable` or `EngineUnavailable`.
        """

    def close(self) -> bool:
        """Waits a moment for what is still being removed; whether nothing is left for the next sweep."""

    def sweep(self, *, keep: Callable[[Mapping[str, str]], bool]) -> int:
        """Removes this installation's containers whose labels `keep` does not want; how many."""

    def check(self) -> CheckResult:
        """Whether a build could start now, within a few seconds."""

    def check_registry(self) -> CheckResult:
        """Whether the container images of ImageBuilders can be had, as far as the last tries tell."""


class Store(Protocol):
    """Published images: one directory per request hash, never rewritten."""

    def publish(self, request_hash: str, scratch: Path) -> int:
        """Makes a scratch directory the published one: synced, in one step; its size in bytes.

        Only the holder of the job's lease may call this: then a directory of that name belongs
        to no completed job (expired, or left by a crash before *completed*) and is taken away.
        """

    def scratch(self) -> AbstractContextManager[Path]:
        """A fresh directory on the store's disk, gone later unless published; raises as `require_root`."""

    def locate(self, request_hash: str, name: str) -> Path | None:
        """The published plain file, or None; never anything outside the store."""

    def holds(self, request_hash: str) -> bool:
        """Whether this hash is published."""

    def absent(self, request_hashes: Sequence[str]) -> Sequence[str]:
        """Those of these hashes that are not published, in the same order."""

    def owns(self, request_hash: str) -> bool:
        """Whether this installation has published it; what another has put there is not ours to touch."""

    def hold(self, request_hash: str, *, wait: bool = True) -> AbstractContextManager[None]:
        """Lets no process remove the directory; without `wait`, `BlockingIOError` while one removes it."""

    def remove(self, request_hash: str, *, confirm: Callable[[], bool] = ...) -> bool:
        """Takes a published directory away, and is done too if there is none.

        `confirm` is asked last, while nothing can be published, and must not wait; without its yes nothing is
        taken and False is the answer. Raises `StillRead` while it is held, and as `require_root` does.
        """

    def published(self) -> Iterable[str]:
        """The names in the store that are hashes, in no order, of any installation."""

    def require_root(self) -> None:
        """Passes where this is the store that results were put into; else raises `StoreUnavailable`.

        To be asked before anything is called lost: a disk that is not mounted leaves an empty directory.
        """

    def missing(self) -> str:
        """Why this is not the store that results were put into, as last seen; reads no disk. "" if it is."""

    def adopt(self) -> None:
        """Takes this for the store from now on, whatever lies in it; the operator has decided so."""

    def room(self) -> int:
        """Bytes of free disk above the floor. Raises `StoreUnavailable`, which does not mean a full disk."""

    def sweep(self) -> int:
        """Removes scratch directories that no living process holds; how many."""

    def check(self) -> CheckResult:
        """Whether images can be written now."""


class Upstream(Protocol):
    """The download server's metadata: cached, revalidated, stale rather than none.

    `Unavailable` means that a document is not here. Within a `Reading` everything answers at once,
    and what is lacking is noted there; without one the call waits for it, up to ten seconds.
    """

    def check(self) -> CheckResult:
        """Degraded when the download server does not answer."""

    def versions(self) -> VersionList:
        """Every released version that upstream lists, and which are the latest."""

    def targets(self, release: Release, *, wait: bool = True) -> Mapping[str, str] | None:
        """Target → package architecture; None when upstream has no such version.

        Without `wait` the answer can be made without it: five seconds at most, and none after a failure.
        """

    def devices(self, release: Release) -> Sequence[Device] | None:
        """Every device of a version, the very same value until upstream's list changes.

        None for an unknown version. Where upstream lists no devices, those of the targets asked for before.
        """

    def target_profiles(self, release: Release, target: str) -> TargetProfiles | None:
        """The profiles of one target; None when upstream does not have it."""

    def described_profile(self, release: Release, target: str, profile: str) -> bytes | None:
        """`profiles.json` as JSON with one profile's keys lifted to the top; None when unknown."""

    def architecture_packages(self, release: Release, architecture: str) -> Mapping[str, str] | None:
        """Names without ABI suffix and versions, merged over the feeds of an architecture."""

    def target_packages(self, release: Release, target: str) -> Mapping[str, str] | None:
        """Names and versions of a target's own packages, its kernel modules among them."""


class PackageChanges(Protocol):
    """Rules that are always there: the last good ones where new ones cannot be had."""

    def apply(
        self, request: BuildRequest, *, default_packages: Sequence[str], baseline: Baseline | None
    ) -> PackageSelection:
        """What make is told instead of the request's packages.

        `default_packages` are the default and device packages of the version asked for; without a
        `baseline` nothing is guessed about what the device had.
        """

    def digest(self, request: BuildRequest) -> str:
        """Names what the rules may do to this request; "" when none of them is about it."""

    def client_changes(self) -> Sequence[ClientChange]:
        """Every change that clients are told."""

    def check(self) -> CheckResult:
        """Whether the rules are those that the operator wants."""


class RateWindows(Protocol):
    """Moving windows: what a caller had is counted until it is as old as the window is long."""

    def admit(self, key: str, rates: Sequence[Rate]) -> tuple[Rate, float] | None:
        """None when one more fits into the windows of all rates: it is counted in each of them.

        Otherwise it is counted in none: the full rate that has room last, and the seconds until then.
        """

    def take_back(self, key: str, amount: int) -> None:
        """Counts the latest so many no more, as if they had not been admitted."""
