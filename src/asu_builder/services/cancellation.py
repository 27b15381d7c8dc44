"""Ends a live job before its time: for its first asker, or for an operator, who is written down."""

from collections.abc import Callable
from datetime import datetime, timedelta

from asu_builder.domain.job import Job
from asu_builder.ports import Act, JobQueue, Operations, Statistics


class Cancellation:
    """The one way to cancel; `kept_for` is how long a cancelled job is shown."""

    def __init__(
        self,
        queue: JobQueue,
        operations: Operations,
        *,
        statistics: Statistics,
        kept_for: timedelta,
        now: Callable[[], datetime],
    ) -> None:
        self._queue = queue
        self._operations = operations
        self._statistics = statistics
        self._kept_for = kept_for
        self._now = now

    def by_asker(self, job: Job) -> bool:
        """False when it has ended, or when others have asked for the same since."""
        return self._end(job, unless_joined=True)

    def by_operator(self, job: Job, *, who: str) -> bool:
        """False when it has ended."""
        ended = self._end(job, unless_joined=False)
        if ended:
            self._operations.record(Act(self._now(), who, "cancel", job.request_hash))
        return ended

    def _end(self, job: Job, *, unless_joined: bool) -> bool:
        ended = self._queue.cancel(
            job.id, keep_for=self._kept_for, now=self._now(), unless_joined=unless_joined
        )
        if ended:
            self._statistics.record("cancelled", job.request, client=job.client)
        return ended
