"""How long builds took, in all and stage by stage, since the start of this process."""

import threading
import time
from collections.abc import Callable, Sequence

from msgspec import Struct

from asu_builder.domain.job import Stage

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
    """Counts from any thread. `clock` counts seconds."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._stages = {stage: _Buckets(STAGE_BOUNDS) for stage in Stage}
        self._builds = {completed: _Buckets(BUILD_BOUNDS) for completed in (True, False)}

    def begin(self) -> "StopWatch":
        """For one build, which begins now."""
        return StopWatch(self, self._clock)

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


class StopWatch:
    """Follows one build through its stages. What is given back to the queue is never counted."""

    def __init__(self, durations: Durations, clock: Callable[[], float]) -> None:
        self._durations = durations
        self._clock = clock
        self._began = clock()
        self._reached = [(Stage.INIT, self._began)]

    def reach(self, stage: Stage) -> None:
        """The build is in this stage now; the same one again means nothing."""
        if self._reached[-1][0] is not stage:
            self._reached.append((stage, self._clock()))

    def end(self, *, completed: bool) -> float:
        """The build has come to its end, in the stage that it had reached; its seconds."""
        ended = self._clock()
        ends = [*(at for _, at in self._reached[1:]), ended]
        for (stage, since), until in zip(self._reached, ends, strict=True):
            self._durations.observe(stage, until - since)
        self._durations.observe_build(ended - self._began, completed=completed)
        return ended - self._began
