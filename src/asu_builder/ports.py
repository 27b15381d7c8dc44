"""What the services need from the world, in their own words. Adapters fulfil it.

Every adapter of a port runs the same contract suite (`tests/contract/`). Errors are those of
`domain/errors.py`; nothing foreign passes a port.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import KW_ONLY, dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from threading import Event
from typing import Protocol

from asu_builder.domain.errors import QueueFull
from asu_builder.domain.job import Job, Lease, Outcome, Stage
from asu_builder.domain.release import Release
from asu_builder.domain.request import BuildRequest

# --- the queue -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Submission:
    """A resolved request on its way into the queue."""

    request: BuildRequest
    request_hash: str
    client: str = ""


@dataclass(frozen=True, slots=True)
class Entry:
    """What the queue has for a submission."""

    job: Job
    created: bool
    """Whether the job is new; otherwise somebody had asked before."""
    ahead: int | None
    """How many jobs are ahead of a pending one."""


class JobQueue(Protocol):
    """Jobs on their way from pending to completed. Each method is one transaction."""

    def submit(self, submission: Submission, *, capacity: int, now: datetime) -> Entry:
        """The job for this hash; durable when this returns.

        A live job or an unexpired final one is the answer, even when the queue is full, except a
        failure that is not the user's and is older than the cool-down. Raises `QueueFull`.
        """
        ...

    def submit_all(
        self, submissions: Sequence[Submission], *, capacity: int, now: datetime
    ) -> Sequence[Entry | QueueFull]:
        """The same for many in one transaction, each with its own answer, in order."""
        ...

    def find(self, request_hash: str, *, now: datetime) -> Job | None:
        """The newest unexpired job for this hash."""
        ...

    def position(self, job_id: int) -> int:
        """How many pending jobs are ahead of this one; counted, never stored."""
        ...

    def pending(self) -> int:
        """How many jobs wait."""
        ...

    def expire(self, job_id: int, *, now: datetime) -> None:
        """Ends a final job's time now, so that it no longer answers for its hash."""
        ...

    def claim(self, worker: str, *, lease_for: timedelta, now: datetime) -> tuple[Job, Lease] | None:
        """Takes the next job in one statement; None when nobody waits."""
        ...

    def renew(self, lease: Lease, *, lease_for: timedelta, now: datetime) -> None:
        """Prolongs the lease. Raises `LeaseLost`, as every method that takes one."""
        ...

    def advance(self, lease: Lease, stage: Stage) -> None:
        """Says how far the building job is."""
        ...

    def finish(self, lease: Lease, outcome: Outcome, *, keep_for: timedelta, now: datetime) -> None:
        """Completes or fails the job; durable when this returns."""
        ...

    def release(self, lease: Lease, *, not_before: datetime, retry: bool = False) -> None:
        """Gives the job back to the queue, claimable from `not_before` on.

        Giving back is never an attempt; `retry` counts that the world had failed it.
        """
        ...

    def live_leases(self, *, now: datetime) -> set[tuple[int, int]]:
        """Job id and lease token of every building job whose lease has not lapsed."""
        ...

    def recover(self, *, worker: str | None = None, keep_failure_for: timedelta, now: datetime) -> int:
        """Returns jobs whose lease lapsed, or that a former life of `worker` held, to the queue.

        The name of a worker's thread is `worker/number`.

        An attempt counts when the container had started; the third one fails the job as gave up.
        """
        ...

    def expired(self, *, now: datetime) -> Sequence[str]:
        """Hashes whose final job is past its time and that no unexpired job shares."""
        ...

    def forget(self, request_hash: str, *, remove: Callable[[], None], now: datetime) -> None:
        """Deletes the expired jobs of this hash.

        `remove` takes the images away; it is called when no other job carries the hash, in the
        same transaction, so that nobody can complete a job for it in between.
        """
        ...


# --- where an ImageBuilder runs ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ContainerSpec:
    """What a build needs of its container; the hardening is the adapter's own, not a choice."""

    release: Release
    target: str
    deadline: timedelta
    _: KW_ONLY
    environment: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CommandResult:
    """How a command ended. Its output is on disk, capped; both files exist."""

    exit_code: int
    stdout: Path
    stderr: Path


class Container(Protocol):
    """One ImageBuilder, ours alone, gone with the context that opened it."""

    identity: str
    """Names the ImageBuilder's content (image digest or directory): equal means equal answers."""
    workdir: str
    """Absolute path of the ImageBuilder inside the container, without a trailing slash."""
    warnings: Sequence[str]
    """What the operator or asker should know, for example an image that could not be refreshed."""

    def run(
        self, arguments: Sequence[str], *, output: Path, environment: Mapping[str, str] | None = None
    ) -> CommandResult:
        """Runs one command in `workdir` with a clean environment (plus `environment`).

        `output` is a directory on this host; stdout and stderr are streamed into files there.
        Raises `BuildFailed` for deadline, memory and disk limits, `BuildInterrupted` when the
        stop event was set, `EngineUnavailable` when the engine fails.
        """
        ...

    def exists(self, path: str) -> bool:
        """Whether a plain file of this name (relative to `workdir`) exists."""
        ...

    def read_text(self, path: str) -> str:
        """The text of a small file relative to `workdir`, at most 1 MiB."""
        ...

    def write_files(self, files: Mapping[str, str]) -> None:
        """Puts texts at paths relative to `workdir`, making directories, owned by its user."""
        ...

    def collect(self, directory: str, into: Path) -> Sequence[str]:
        """Streams the plain files of an absolute inner directory into `into`; returns their names.

        Nothing that leaves a container is trusted: anything but plain files with plain names
        under the count and size caps is `BuildFailed(UNTRUSTED_OUTPUT)`. No directory: no names.
        """
        ...


@dataclass(frozen=True, slots=True)
class Verdict:
    """Health of one part in a word and a sentence."""

    status: str
    """`ok`, `degraded` or `down`."""
    sentence: str


class Runtime(Protocol):
    """Where ImageBuilders run."""

    def open(self, spec: ContainerSpec, *, stop: Event) -> AbstractContextManager[Container]:
        """A fresh container, started; removed whatever happens. Setting `stop` ends it early.

        Raises `BuildFailed(IMAGEBUILDER_MISSING)` or `EngineUnavailable`.
        """
        ...

    def sweep(self, *, keep: Callable[[Mapping[str, str]], bool]) -> int:
        """Removes this installation's containers whose labels `keep` does not want; how many."""
        ...

    def check(self) -> Verdict:
        """Whether a build could start now, within a few seconds."""
        ...


# --- images ----------------------------------------------------------------------------------------


class Store(Protocol):
    """Published images: one directory per request hash, never rewritten."""

    def publish(self, request_hash: str, scratch: Path) -> None:
        """Makes a scratch directory the published one: synced, in one step.

        Only the holder of the job's lease may call this: then a directory of that name belongs
        to no completed job (expired, or left by a crash before *completed*) and is taken away.
        """
        ...

    def scratch(self) -> AbstractContextManager[Path]:
        """A fresh directory on the store's own file system, gone afterwards if not published."""
        ...

    def locate(self, request_hash: str, name: str) -> Path | None:
        """The published plain file, or None; never anything outside the store."""
        ...

    def holds(self, request_hash: str) -> bool:
        """Whether this hash is published."""
        ...

    def remove(self, request_hash: str) -> None:
        """Takes a published directory away; nothing happens if there is none."""
        ...

    def sweep(self) -> int:
        """Removes scratch directories that no living process holds; how many."""
        ...

    def check(self) -> Verdict:
        """Whether images can be written now."""
        ...


# --- upstream ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TargetProfiles:
    """What upstream says about one target of one version (`profiles.json`)."""

    revision: str
    architecture: str
    profiles: Mapping[str, Sequence[str]]
    """Profile → the device names it supports, as upstream writes them."""
    default_packages: Sequence[str] = ()


class Upstream(Protocol):
    """The download server's metadata: cached, revalidated, stale rather than none.

    Raises `Unavailable` only when nothing usable was ever seen.
    """

    def versions(self) -> Sequence[str]:
        """Every released version that upstream lists."""
        ...

    def targets(self, release: Release) -> Mapping[str, str] | None:
        """Target → package architecture; None when upstream has no such version."""
        ...

    def target_profiles(self, release: Release, target: str) -> TargetProfiles | None:
        """The profiles of one target; None when upstream does not have it."""
        ...


# --- statistics --------------------------------------------------------------------------------------


class Statistics(Protocol):
    """Events, appended in batches off the request path; none are lost on a clean stop."""

    def flush(self) -> int:
        """Writes what was recorded so far; how many events."""
        ...

    def record(self, kind: str, request: BuildRequest, *, client: str = "", reason: str = "") -> None:
        """Notes one event: `request`, `cache_hit`, `completed` or `failed`."""
        ...
