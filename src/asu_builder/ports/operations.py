"""What an operator sees and does beside the queue's own course."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Protocol

from msgspec import Struct

from asu_builder.domain.job import Job, JobState, Priority


class JobFilter(Struct, frozen=True):
    """Which jobs are meant; what is empty does not restrict. `before` is a job id, for paging.

    `request_hash` is how the hash begins, in lower-case hexadecimal digits.

    `since` is the lowest id that is looked at among jobs that have ended; live ones are few, and all found.
    """

    state: JobState | None = None
    version: str = ""
    target: str = ""
    profile: str = ""
    asker: str = ""
    request_hash: str = ""
    before: int | None = None
    since: int | None = None
    limit: int = 100


class LiveJobs(Struct, frozen=True):
    """How many jobs of one state, class, version and target are live, and since when the oldest is asked for.

    Nothing here tells one job from another, so anybody may see it.
    """

    state: JobState
    priority: Priority
    version: str
    target: str
    count: int
    oldest: datetime


class Act(Struct, frozen=True):
    """One act of an operator: who did what to what, and when."""

    at: datetime
    who: str
    act: str
    subject: str = ""


class Pause(Struct, frozen=True):
    """The workers claim nothing; builds that run go on."""

    since: datetime
    who: str


class Waiting(Struct, frozen=True):
    """Jobs of one class that wait: how many, and since when the one that came first."""

    jobs: int
    since: datetime


class QueueLoad(Struct, frozen=True):
    """The queue at a glance. Classes in which nobody waits are left out."""

    waiting: Mapping[tuple[Priority, bool], Waiting]
    """By class, and by whether nobody polls them any more."""
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

    def purge(self, request_hash: str, *, now: datetime) -> int:
        """Ends the time of every final job of this hash; how many."""
        ...

    def requeue(self, request_hash: str, *, now: datetime) -> Job | None:
        """A new job for what was asked under this hash, in place of the final one.

        None when nobody has asked or a live job is there. What expired with a script or keys
        cannot be requeued, because only digests of them are kept.
        """
        ...

    def give_back(self, job_id: int, *, now: datetime) -> bool:
        """Returns a building job to the queue, uncounted; its build is stopped. False when it is not."""
        ...

    def pause(self, who: str, *, now: datetime) -> None:
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

    def record(self, act: Act) -> None:
        """Writes an act down; durable when this returns."""
        ...

    def acts(self, limit: int) -> Sequence[Act]:
        """The latest acts, newest first."""
        ...
