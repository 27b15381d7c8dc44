"""How long the stages of builds take, for the statistics and for whoever watches this process.

Spans are measured by a clock that nobody sets. How long a job waited is known to the queue in times
of the day only, and counts where the steady clock vouches for them.
"""

from collections.abc import Callable
from datetime import datetime, timedelta

from asu_builder.domain.job import Job, JobState, Stage
from asu_builder.ports import Statistics
from asu_builder.services.durations import Durations

_LEAP = timedelta(seconds=1)
"""Clocks that went apart by more were set; a clock that is steered gently stays far below."""


class StageTimes:
    """Stop watches for the workers of this process."""

    def __init__(
        self,
        statistics: Statistics,
        durations: Durations,
        *,
        now: Callable[[], datetime],
        clock: Callable[[], float],
    ) -> None:
        """`clock` counts seconds."""
        self._statistics = statistics
        self._durations = durations
        self._now = now
        self._clock = clock
        self._began = now()
        self._began_at = clock()

    def begin(self, job: Job) -> "Laps":
        """A stop watch for a job that was just claimed."""
        return Laps(self._statistics, self._durations, waited=self._waited(job), clock=self._clock)

    def _waited(self, job: Job) -> timedelta | None:
        """From the request to the claim; None for a job that began before, or that nobody can vouch for."""
        if job.started_at is None or job.retries or job.attempts or job.enqueued_at < self._began:
            return None
        steady = timedelta(seconds=self._clock() - self._began_at)
        if abs(self._now() - self._began - steady) > _LEAP:
            self._began, self._began_at = self._now(), self._clock()
            return None
        return job.started_at - job.enqueued_at


class Laps:
    """One job's stages, in the order in which they are entered."""

    def __init__(
        self,
        statistics: Statistics,
        durations: Durations,
        *,
        waited: timedelta | None,
        clock: Callable[[], float],
    ) -> None:
        self._statistics = statistics
        self._durations = durations
        self._clock = clock
        self._stage = Stage.INIT
        self._began = self._since = clock()
        self._waited = waited
        self._spans: list[tuple[Stage, float]] = []

    def enter(self, stage: Stage) -> None:
        """The job has advanced; entering a stage again goes on with it."""
        if stage is not self._stage:
            self._lap(stage)

    def end(self) -> None:
        """The build is over, whatever came of it."""
        self._lap(self._stage)

    def _lap(self, following: Stage) -> None:
        now = self._clock()
        self._spans.append((self._stage, now - self._since))
        self._stage, self._since = following, now

    def record(self, *, completed: bool) -> float:
        """Counts what was measured, once the outcome is kept; the seconds that the build took."""
        if self._waited is not None and self._waited >= timedelta(0):
            self._statistics.record_duration(JobState.PENDING, self._waited)
        for stage, seconds in self._spans:
            self._statistics.record_duration(stage, timedelta(seconds=seconds))
            self._durations.observe(stage, seconds)
        whole = self._since - self._began
        self._statistics.record_duration(JobState.BUILDING, timedelta(seconds=whole))
        self._durations.observe_build(whole, completed=completed)
        return whole
