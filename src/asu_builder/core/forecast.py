"""How long a build will take, told from the latest ones."""

import time
from collections.abc import Callable
from datetime import datetime, timedelta

from asu_builder.domain.job import FINAL_STATES, Job, JobState, Standing
from asu_builder.ports import JobQueue

_MEASURED_EVERY = 10.0
_LEAST = timedelta(seconds=1)
_LATE_SHARE = 10
"""A build that has taken longer than usual is said to take this part of its time so far again."""


class Forecast:
    """Honest or silent: nothing is foretold while no build can run or none was measured.

    `workers` is how many builds run at once; `clock` counts seconds.
    """

    def __init__(
        self,
        queue: JobQueue,
        *,
        workers: int,
        now: Callable[[], datetime],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._queue = queue
        self._workers = workers
        self.now = now
        self._clock = clock
        self._typical: timedelta | None = None
        self._measured_at = -_MEASURED_EVERY

    def typical(self) -> timedelta | None:
        """How long a build takes; None where nothing can be said."""
        if not self._workers:
            return None
        if self._clock() - self._measured_at >= _MEASURED_EVERY:
            self._measured_at = self._clock()
            self._typical = self._queue.typical_duration()
        return self._typical

    def remaining(
        self, job: Job | Standing, ahead: int | None, typical: timedelta | None
    ) -> timedelta | None:
        """The time until a live job's end, where builds take so long; None where nothing can be said.

        A waiting job starts when as many slots have become free as there are jobs ahead, and each
        worker frees one per build; then it takes as long as builds do.
        """
        if job.state in FINAL_STATES or typical is None:
            return None
        if job.state is JobState.PENDING:
            return typical * (((ahead or 0) + 1) / self._workers + 1)
        elapsed = self._elapsed(job)
        # One that takes longer than usual will go on for a while: the more, the longer it has taken.
        return max(_LEAST, typical - elapsed, elapsed / _LATE_SHARE if elapsed > typical else _LEAST)

    def is_late(self, job: Job | Standing, typical: timedelta | None) -> bool:
        """Whether a build runs that has taken longer than builds usually do."""
        running = job.state is JobState.BUILDING and typical is not None
        return running and typical is not None and self._elapsed(job) > typical

    def _elapsed(self, job: Job | Standing) -> timedelta:
        return max(self.now() - (job.started_at or self.now()), timedelta(0))
