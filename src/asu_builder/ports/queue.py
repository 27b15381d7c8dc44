"""The queue: jobs on their way from pending to completed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from asu_builder.domain.errors import QueueFull
from asu_builder.domain.job import Job, Lease, Outcome, Stage
from asu_builder.domain.request import BuildRequest


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
