"""A job: a request on its way from pending to completed, and what it leaves behind."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from asu_builder.domain.changes import PackageChangesRecord
from asu_builder.domain.errors import FailureReason, Fault
from asu_builder.domain.request import BuildRequest


class JobState(StrEnum):
    """Where in life a job is; the words of old clients live in `web/wire.py` alone."""

    PENDING = "pending"
    BUILDING = "building"
    COMPLETED = "completed"
    FAILED = "failed"


NEXT_STATES: Mapping[JobState, frozenset[JobState]] = {
    JobState.PENDING: frozenset({JobState.BUILDING}),
    JobState.BUILDING: frozenset({JobState.PENDING, JobState.COMPLETED, JobState.FAILED}),
    JobState.COMPLETED: frozenset(),
    JobState.FAILED: frozenset(),
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


@dataclass(frozen=True, slots=True)
class Image:
    """One file for a device. Digests are ours, of the bytes served; `size` is in bytes."""

    name: str
    type: str
    sha256: str
    sha256_unsigned: str
    size: int
    filesystem: str | None = None


@dataclass(frozen=True, slots=True)
class BuildResult:
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


@dataclass(frozen=True, slots=True)
class BuildFailure:
    """What a failed job leaves: why, in the reason's name and in a sentence, and the last output."""

    reason: FailureReason
    detail: str
    stdout: str = ""
    stderr: str = ""
    build_cmd: tuple[str, ...] = ()

    @property
    def fault(self) -> Fault:
        """Whose side the failure is on."""
        return self.reason.fault


Outcome = BuildResult | BuildFailure


@dataclass(frozen=True, slots=True)
class Job:
    """One job as the queue knows it. Times are aware and in UTC."""

    id: int
    request_hash: str
    request: BuildRequest
    state: JobState
    enqueued_at: datetime
    client: str = ""
    stage: Stage | None = None
    attempts: int = 0
    """How often a started build was cut off by a lapsed lease."""
    retries: int = 0
    """How often the world failed it and it was given back to try again."""
    started_at: datetime | None = None
    finished_at: datetime | None = None
    outcome: Outcome | None = None


@dataclass(frozen=True, slots=True)
class Lease:
    """The proof of a claim. Every later write carries it; a stale one is refused."""

    job_id: int
    worker: str
    token: int


@dataclass(frozen=True, slots=True)
class Retention:
    """How long a finished job and its images are kept."""

    build: timedelta
    unversioned: timedelta
    with_defaults: timedelta
    failure: timedelta

    def keep_for(self, request: BuildRequest, outcome: Outcome) -> timedelta:
        """Short for images with a private script, longer for those whose versions are all named."""
        if isinstance(outcome, BuildFailure):
            return self.failure
        if request.defaults:
            return self.with_defaults
        return self.build if request.packages_versions else self.unversioned
