"""The queue: jobs on their way from pending to their end."""

from collections.abc import Callable, Collection, Sequence
from datetime import datetime, timedelta
from typing import Protocol

from msgspec import Struct

from asu_builder.domain.errors import AsuError
from asu_builder.domain.job import Job, Keeping, Lease, Outcome, Priority, Stage
from asu_builder.domain.request import BuildRequest


class Submission(Struct, frozen=True):
    """A resolved request on its way into the queue."""

    request: BuildRequest
    request_hash: str
    client: str = ""
    asker: str = ""
    """Who asks: a token's name, else an address (IPv6 by its /64)."""
    priority: Priority = Priority.NORMAL
    cancel_digest: str = ""
    """SHA-256 (hexadecimal) of the secret by which its first asker may cancel the job; "" for none."""


class Entry(Struct, frozen=True):
    """What the queue has for a submission."""

    job: Job
    created: bool
    """Whether the job is new; otherwise somebody had asked before."""
    ahead: int | None
    """How many jobs are ahead of a pending one."""


Admit = Callable[[Submission, int], AsuError | None]
"""Whether a new job may enter; told the submission and how many jobs wait. Returns why not."""


def admit_all(_: Submission, __: int) -> None:
    """Lets every new job enter."""


class Patience(Struct, frozen=True):
    """How long a waiting job keeps its place though nobody polls it, and when it is given up."""

    sinks_after: timedelta
    expires_after: timedelta


class Recovery(Struct, frozen=True):
    """What became of jobs whose worker was lost."""

    returned: int
    gave_up: Sequence[Job]


class JobQueue(Protocol):
    """Jobs on their way from pending to their end. Each method is one transaction.

    The order: jobs that nobody polls any more come last; a higher priority goes first; within one,
    askers take turns, by a key that each job gets when it is inserted, or when somebody joins it whose
    own job would have come earlier.
    """

    def submit(self, submission: Submission, *, now: datetime, admit: Admit = admit_all) -> Entry:
        """The job for this hash; durable when this returns.

        A live job is the answer, and an unexpired final one unless `is_asked_anew`; `admit` is
        asked only before a new job is made. Raises what `admit` returns. A job that waits and is joined
        by another asker takes the class and the turn that a new job of the joiner would get, if it comes
        earlier by them; it is the joiner's then (`Job.asker`), so that the joiner's next job comes after it.
        """
        ...

    def submit_all(
        self, submissions: Sequence[Submission], *, now: datetime, admit: Admit = admit_all
    ) -> Sequence[Entry | AsuError]:
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

    def typical_duration(self) -> timedelta | None:
        """The mean time from claim to end of the latest builds; None when nothing was built yet."""
        ...

    def note_interest(self, request_hashes: Collection[str], *, now: datetime) -> None:
        """Somebody has polled these, or used their results.

        A waiting job keeps or takes back its place; a result is kept for its time from now on,
        yet not beyond `Keeping.at_most`.
        """
        ...

    def give_up_idle(
        self, patience: Patience, *, keep_failure_for: timedelta, now: datetime
    ) -> Sequence[Job]:
        """Lets waiting jobs sink that nobody polls, and in the end fails them as expired; these."""
        ...

    def cancel(self, job_id: int, *, keep_for: timedelta, now: datetime, unless_joined: bool = False) -> bool:
        """Ends a live job as cancelled; a running one's lease is void at once.

        False when it was final, or, if wished, when others have joined.
        """
        ...

    def may_cancel(self, job_id: int, cancel_digest: str) -> bool:
        """Whether this is the digest of the secret that the job's first asker was given."""
        ...

    def expire(self, job_id: int, *, now: datetime) -> None:
        """Ends a final job's time now, so that it no longer answers for its hash."""
        ...

    def claim(
        self, worker: str, *, lease_for: timedelta, now: datetime, only: int | None = None
    ) -> tuple[Job, Lease] | None:
        """Takes the next job in one statement; None when nobody waits or the workers are paused.

        `only` is the id of the one job that is wanted, whatever its place: for whoever brings a
        worker along for it. The others' turns stay as they are.
        """
        ...

    def renew(self, lease: Lease, *, lease_for: timedelta, now: datetime) -> None:
        """Prolongs the lease. Raises `LeaseLost`, as every method that takes one."""
        ...

    def advance(self, lease: Lease, stage: Stage) -> None:
        """Says how far the building job is."""
        ...

    def finish(self, lease: Lease, outcome: Outcome, keeping: Keeping, *, now: datetime) -> None:
        """Completes or fails the job; durable when this returns."""
        ...

    def release(self, lease: Lease, *, not_before: datetime, now: datetime, retry: str = "") -> None:
        """Gives the job back to the queue, claimable from `not_before` on, at its old place.

        Giving back is never an attempt; `retry` says how the world had failed it, which counts.
        """
        ...

    def live_leases(self) -> set[tuple[int, int]]:
        """Job id and lease token of every building job."""
        ...

    def recover(self, *, worker: str | None = None, keep_failure_for: timedelta, now: datetime) -> Recovery:
        """Returns jobs whose lease lapsed, or that a former life of `worker` held, to the queue.

        The name of a worker's thread is `worker/number`. Time that passed while no process looked,
        and leaps of the clock, do not count: leases and waiting times are moved by it first.

        An attempt counts when the container had started; the third one fails the job as gave up.
        """
        ...
