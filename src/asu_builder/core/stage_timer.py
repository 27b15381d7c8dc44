"""How long builds and their stages take: timed while they run, counted by class of duration."""

import threading
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from msgspec import Struct

from asu_builder.domain.job import Job, JobState, Stage
from asu_builder.ports import Statistics

STAGE_BOUNDS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 600.0)
"""Upper bounds of the buckets in seconds: from a container that is started to the usual deadline."""


BUILD_BOUNDS = (1.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 45.0, 60.0, 90.0, 120.0, 180.0, 300.0, 600.0)


class Histogram(Struct, frozen=True):
    """How many durations were at most as long as each bound, how many there were, and their sum."""

    bounds: Sequence[float]
    cumulative: Sequence[int]
    """One number for each bound."""
    count: int
    sum: float


class _Buckets:
    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def add(self, seconds: float) -> None:
        self._counts[sum(seconds > bound for bound in self._bounds)] += 1
        self._sum += seconds

    def histogram(self) -> Histogram:
        reached = 0
        cumulative = [reached := reached + count for count in self._counts]
        return Histogram(self._bounds, cumulative[:-1], cumulative[-1], self._sum)


class Durations:
    """Counts from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stages = {stage: _Buckets(STAGE_BOUNDS) for stage in Stage}
        self._builds = {completed: _Buckets(BUILD_BOUNDS) for completed in (True, False)}

    def observe(self, stage: Stage, seconds: float) -> None:
        """A build has spent this time in a stage."""
        with self._lock:
            self._stages[stage].add(seconds)

    def observe_build(self, seconds: float, *, completed: bool) -> None:
        """A build has come to its end."""
        with self._lock:
            self._builds[completed].add(seconds)

    def stages(self) -> dict[Stage, Histogram]:
        """By stage; every stage is there."""
        with self._lock:
            return {stage: buckets.histogram() for stage, buckets in self._stages.items()}

    def builds(self) -> dict[bool, Histogram]:
        """By whether the build was completed."""
        with self._lock:
            return {completed: buckets.histogram() for completed, buckets in self._builds.items()}


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
