"""The operator's hand: see every job, cancel, requeue, purge, pause; each act is written down."""

from collections.abc import Callable, Sequence
from datetime import datetime

from asu_builder.domain.errors import BuildNotFound, Conflict, StillRead
from asu_builder.domain.job import FINAL_STATES, Job, JobState
from asu_builder.ports import (
    Act,
    JobFilter,
    JobQueue,
    Operations,
    Pause,
    RetentionLedger,
    Statistics,
    Store,
)
from asu_builder.services.cancellation import Cancellation


class Operator:
    """Acts for whoever is named as `who`; the HTTP layer and the command line ask for a right first."""

    def __init__(
        self,
        operations: Operations,
        queue: JobQueue,
        *,
        ledger: RetentionLedger,
        store: Store,
        statistics: Statistics,
        cancellation: Cancellation,
        now: Callable[[], datetime],
        wake: Callable[[], None],
        wake_all: Callable[[], None] | None = None,
    ) -> None:
        """`wake` says that one job can be claimed, `wake_all` (else `wake`) that all that wait can."""
        self._operations = operations
        self._queue = queue
        self._ledger = ledger
        self._store = store
        self._statistics = statistics
        self._cancellation = cancellation
        self._now = now
        self._wake = wake
        self._wake_all = wake_all or wake

    def jobs(self, wanted: JobFilter) -> Sequence[Job]:
        """Jobs, newest first."""
        return self._operations.jobs(wanted)

    def find(self, request_hash: str) -> Job | None:
        """The newest job of this hash that still answers, with its outcome."""
        return self._queue.find(request_hash, now=self._now())

    def acts(self, limit: int) -> Sequence[Act]:
        """What operators did, newest first."""
        return self._operations.acts(limit)

    def cancel(self, request_hash: str, *, who: str) -> None:
        """Ends the live job of this hash. Raises `BuildNotFound` or `Conflict`."""
        job = self._live(request_hash)
        if not self._cancellation.by_operator(job, who=who):
            raise Conflict("The build has just ended.")

    def requeue(self, request_hash: str, *, who: str) -> None:
        """Builds once more what has ended, or gives a running build back to the queue.

        Raises `BuildNotFound`, or `Conflict` when it waits already.
        """
        now = self._now()
        job = self._queue.find(request_hash, now=now)
        if job is not None and job.state is JobState.PENDING:
            raise Conflict("The job waits already.")
        if job is not None and job.state is JobState.BUILDING:
            if not self._operations.give_back(job.id, now=now):
                raise Conflict("The build has just ended.")
        else:
            anew = self._operations.requeue(request_hash, now=now)
            if anew is None:
                raise BuildNotFound(
                    "Nobody has asked for this, or only digests of its script and keys are left; "
                    "whoever wants it must ask again."
                )
            self._statistics.record("request", anew.request, client=anew.client)
        self._note(who, "requeue", request_hash)
        self._wake()

    def purge(self, request_hash: str, *, who: str) -> None:
        """Forgets a result or a failure now, with its images; the next request starts anew.

        Raises `BuildNotFound`, `Conflict` while somebody downloads from it, or `Unavailable` where the
        store is not there; then its images go when they can.
        """
        now = self._now()
        if not self._operations.purge(request_hash, now=now) and not self._store.holds(request_hash):
            raise BuildNotFound("There is no result and no failure under this hash.")
        try:
            self._ledger.forget(
                request_hash,
                remove=lambda confirm: self._store.remove(request_hash, confirm=confirm),
                now=now,
                unexpired=True,
            )
        except StillRead as error:
            raise Conflict(
                "Somebody is downloading from it. It answers no more; its images go with the next tidying."
            ) from error
        finally:
            self._note(who, "purge", request_hash)

    def pause(self, *, who: str) -> None:
        """No worker of any process claims a job from now on; what is being built goes on."""
        self._operations.pause(who, now=self._now())
        self._note(who, "pause")

    def resume(self, *, who: str) -> None:
        """Workers claim again."""
        self._operations.resume()
        self._note(who, "resume")
        self._wake_all()

    def paused(self) -> Pause | None:
        """Since when and by whom the workers are paused."""
        return self._operations.paused()

    def _note(self, who: str, act: str, subject: str = "") -> None:
        self._operations.record(Act(self._now(), who, act, subject))

    def _live(self, request_hash: str) -> Job:
        job = self._queue.find(request_hash, now=self._now())
        if job is None:
            raise BuildNotFound("There is no job under this hash.")
        if job.state in FINAL_STATES:
            raise Conflict(f"The build has ended before: it is {job.state}.")
        return job
