"""A job: a request on its way from pending to completed, what it leaves behind, and what is told of many."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from enum import IntEnum, StrEnum
from typing import Literal

from msgspec import Struct, field

from asu_builder.domain.errors import AsuError, BuildProblem, FailureReason, Fault, Side
from asu_builder.domain.packages import PackageChangesRecord
from asu_builder.domain.request import BuildRequest, Terms


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
    SIGNING_IMAGES = "signing_images"


STAGE_WORDS: Mapping[Stage, tuple[str, str]] = {
    Stage.INIT: ("Preparing", "start"),
    Stage.CONTAINER_SETUP: ("Setting up the ImageBuilder", "ImageBuilder"),
    Stage.VALIDATE_REVISION: ("Checking version and device", "revision"),
    Stage.VALIDATE_MANIFEST: ("Resolving the packages", "packages"),
    Stage.BUILDING_IMAGE: ("Building the images", "image"),
    Stage.SIGNING_IMAGES: ("Signing the images", "signatures"),
}
"""Each stage for people: what happens, for pages, and one word, for the terminal."""


CONTAINER_STAGES = tuple(Stage)[2:]
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


class SbomFiles(Struct, frozen=True):
    """Names of the files beside the images that say what is in them."""

    cyclonedx: str
    spdx: str


class StoredFiles(Struct, frozen=True):
    """Where object storage holds the files of one publication; what is written there never changes."""

    folder: str
    """Its name below the request hash; no other publication has the same."""
    sizes: Mapping[str, int]
    """Every file, by name, with its bytes."""
    at: datetime


class Published(Struct, frozen=True):
    """What came of a publication."""

    stored_bytes: int
    files: StoredFiles | None = None
    """None where the name alone leads to them; else they are published when the job's result names them."""


class Traffic(Struct, frozen=True):
    """What a build had of the proxy that is its only way out."""

    requests: int = 0
    bytes: int = 0
    """Of the files that it was given."""
    refused: int = 0
    """Requests for what it may not have, and what was no request."""
    cached: int = 0
    """Requests that were answered without asking a server."""


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
    indexes: str = ""
    """Digest of the package indexes when it was built; "" where they were not known."""
    signed_by: str = ""
    """The name of the key that signed all of its images; "" where one is not signed."""
    sbom: SbomFiles | None = None
    """None for a build of an older version."""
    provenance: str = ""
    """Name of the file beside the images that states where they came from; "" where there is none."""
    files: StoredFiles | None = None
    """Where they lie in object storage; None where they lie on a disk, below the request hash."""
    traffic: Traffic | None = None
    """None where the build had no proxy."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """How long each `Step` took; empty for a build of an older version."""


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


class HandedOver(Struct, frozen=True):
    """Where the images of a job wait for a process that has the keys to sign them."""

    folder: str
    """As the store named it."""
    key: str
    """The name of the key that has to sign; "" where any may."""
    seconds: float
    """How long the build took until then."""


class Job(Struct, frozen=True):
    """One job as the queue knows it. Times are aware and in UTC."""

    id: int
    """Negative for a request that was refused before a build; the queue has no such job."""
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
    terms: Terms = Terms()
    withheld: AsuError | None = None
    """Why script and keys of its request cannot be read; the request has digests in their place then."""
    handed_over: HandedOver | None = None
    """Where its images wait for a signature, of a building job that has been built."""

    @property
    def whole_request(self) -> BuildRequest:
        """The request with its script and keys. Raises what `withheld` is."""
        if self.withheld is not None:
            raise self.withheld
        return self.request


class Standing(Struct, frozen=True):
    """How far a job is, without what was asked and what came of it; all that changes in answers about it."""

    job_id: int
    state: JobState
    stage: Stage | None
    ahead: int | None
    """How many jobs are ahead of a pending one; None for any other."""
    expires_at: datetime | None
    """Until when a final one answers for its hash, unless it is used."""
    started_at: datetime | None
    """When it was claimed last."""


class Lease(Struct, frozen=True):
    """The proof of a claim. Every later write carries it; a stale one is refused."""

    job_id: int
    worker: str
    token: int


class Retention(Struct, frozen=True):
    """How long an outcome answers: `ttl` from its end and from each use, `max_age` from its end.

    Of uses within a minute, or a sixtieth of `ttl`, only the first need be written.
    """

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
    terms: Terms = Terms()
    refused_after: int = 0
    """How many new jobs of its caller may come before it, in the same call, until the refusal holds."""


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


class DoomedJobs(Struct, frozen=True):
    """Final jobs of one hash that are to be deleted."""

    request_hash: str
    ids: Sequence[int]
    exclusive: bool
    """Whether no other job carries the hash, so that its images go with them."""


EventKind = Literal["request", "cache_hit", "completed", "failed", "cancelled", "refused"]
"""`refused` is a new request that was answered as a failed build without one."""


TallyBy = Literal[
    "nothing",
    "version",
    "target",
    "version_and_target",
    "profile",
    "reason_and_side",
    "diff_packages",
    "version_with_diff_packages",
]
"""`version_and_target` and `reason_and_side` are two words, the side "" if unknown. The last one counts
only events with `diff_packages`."""


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


MAX_LOG_LINES = 10_000
"""Lines that are kept of one job, over all its attempts."""


MAX_LOG_BYTES = 1 << 20
"""Bytes of their text (UTF-8) that are kept of one job."""


LOG_LEFT_OUT = "[The rest of this build's output is left out here; its end is in the outcome.]"
"""The last line of a log that came to one of these limits."""


class PrintedLine(Struct, frozen=True):
    """A line of output: when it was printed, in which stage, and its text without control characters."""

    at: datetime
    stage: Stage
    text: str


class LogLine(Struct, frozen=True):
    """A line that is kept. `seq` is 1, 2, 3 … for each job, whatever attempt printed it."""

    seq: int
    at: datetime
    stage: Stage
    text: str
