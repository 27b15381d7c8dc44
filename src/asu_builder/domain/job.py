"""A job: a request on its way from pending to completed, and what it leaves behind."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from enum import IntEnum, StrEnum

from msgspec import Struct, field

from asu_builder.domain.errors import BuildProblem, FailureReason, Fault, Side
from asu_builder.domain.packages import PackageChangesRecord
from asu_builder.domain.request import BuildRequest


class JobState(StrEnum):
    """Where in life a job is; the words of old clients live in `http/api/wire.py` alone."""

    PENDING = "pending"
    BUILDING = "building"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


NEXT_STATES: Mapping[JobState, frozenset[JobState]] = {
    JobState.PENDING: frozenset({JobState.BUILDING, JobState.FAILED, JobState.CANCELLED}),
    JobState.BUILDING: frozenset({JobState.PENDING, JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED}),
    JobState.COMPLETED: frozenset(),
    JobState.FAILED: frozenset(),
    JobState.CANCELLED: frozenset(),
}
"""The only steps there are; the queue's SQL refuses every other."""

FINAL_STATES = frozenset(state for state, following in NEXT_STATES.items() if not following)


class Stage(StrEnum):
    """How far a building job is; the closed list that clients know (facts on clients, §2.4)."""

    INIT = "init"
    CONTAINER_SETUP = "container_setup"
    VALIDATE_REVISION = "validate_revision"
    VALIDATE_MANIFEST = "validate_manifest"
    BUILDING_IMAGE = "building_image"


CONTAINER_STAGES = (Stage.VALIDATE_REVISION, Stage.VALIDATE_MANIFEST, Stage.BUILDING_IMAGE)
"""Stages in which the container had started: only there does a lapsed lease count as an attempt."""


class Priority(IntEnum):
    """The class of a job: a higher one goes first, whatever its age. Tokens name it."""

    BULK = -1
    NORMAL = 0
    INTERACTIVE = 1


class Attempt(Struct, frozen=True):
    """One start of a job that came to no end: when, how far, and how it broke off, in words."""

    started_at: datetime
    ended_at: datetime
    stage: Stage
    ending: str


class Image(Struct, frozen=True):
    """One file for a device. Digests are ours, of the bytes served; `size` is in bytes."""

    name: str
    type: str
    sha256: str
    sha256_unsigned: str
    size: int
    filesystem: str | None = None


class BuildResult(Struct, frozen=True):
    """What a completed job leaves: the ImageBuilder's own description and what we add."""

    description: Mapping[str, object]
    """`profiles.json` without `profiles`, with the keys of the built profile lifted to the top."""
    images: tuple[Image, ...]
    manifest: Mapping[str, str]
    build_cmd: tuple[str, ...]
    packages: tuple[str, ...]
    stdout: str
    stderr: str
    warnings: tuple[str, ...] = ()
    package_changes: PackageChangesRecord = field(default_factory=PackageChangesRecord)
    stored_bytes: int = 0
    """What the published files take."""


class BuildFailure(Struct, frozen=True):
    """What a failed job leaves: why, in the reason's name and in a sentence, and the last output."""

    reason: FailureReason
    detail: str
    stdout: str = ""
    stderr: str = ""
    build_cmd: tuple[str, ...] = ()
    attempts: tuple[Attempt, ...] = ()
    """What was tried before, where the job gave up or the infrastructure failed it more than once."""
    blamed: Side | None = None
    """Whose side it is on, where that is not the reason's own; failures of older versions say nothing."""
    field: str = ""
    """The field of the request that it is about; "" for none."""
    problem: BuildProblem = BuildProblem()
    """What it failed at, in names and numbers."""

    @property
    def side(self) -> Side:
        """Whose side the failure is on."""
        return self.blamed or self.reason.side

    @property
    def fault(self) -> Fault:
        """The same in the words of the wire."""
        return self.side.fault

    @property
    def is_retried(self) -> bool:
        """Whether waiting a little may help, so that the worker tries again by itself."""
        return self.side is Side.INFRASTRUCTURE and not self.reason.is_final


Outcome = BuildResult | BuildFailure


class Job(Struct, frozen=True):
    """One job as the queue knows it. Times are aware and in UTC."""

    id: int
    request_hash: str
    request: BuildRequest
    state: JobState
    enqueued_at: datetime
    client: str = ""
    caller: str = ""
    """The caller whose place it takes: the first, unless one who joined while it waited comes earlier.

    A token's name, else an address (IPv6 by its /64). `priority` is the class of the same one."""
    priority: Priority = Priority.NORMAL
    joined: bool = False
    """Whether another caller has joined; then only an operator may cancel it."""
    stage: Stage | None = None
    attempts: int = 0
    """How often a started build was cut off by a lapsed lease."""
    retries: int = 0
    """How often the infrastructure failed it and it was given back to try again."""
    history: tuple[Attempt, ...] = ()
    started_at: datetime | None = None
    finished_at: datetime | None = None
    reason: FailureReason | None = None
    """Why it failed, also where the outcome was not asked for."""
    outcome: Outcome | None = None


class Lease(Struct, frozen=True):
    """The proof of a claim. Every later write carries it; a stale one is refused."""

    job_id: int
    worker: str
    token: int


class Retention(Struct, frozen=True):
    """How long an outcome answers: `ttl` from its end and from each use, `max_age` from its end."""

    ttl: timedelta
    max_age: timedelta | None = None
    """None for as long as it is used."""


COOL_DOWN = timedelta(seconds=60)
"""How long a failure that is not the user's answers a repeated request, before it is tried again."""


def allows_resubmit(job: Job, *, now: datetime) -> bool:
    """Whether a repeated request makes a new job, though this final one has not expired.

    A user's failure and a result answer until their time is over; a failure of the
    infrastructure or of ours answers for the cool-down only; what was cancelled or abandoned not at all.
    """
    if job.state is JobState.CANCELLED:
        return True
    if not isinstance(job.outcome, BuildFailure) or job.finished_at is None:
        return False
    if job.outcome.reason is FailureReason.EXPIRED:
        return True
    # A failure far in the future was written by a clock that has been set back since.
    return job.outcome.side is not Side.USER and abs(now - job.finished_at) >= COOL_DOWN
