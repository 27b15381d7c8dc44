"""How long builds took, in all and stage by stage, since the start of this process."""

import threading
from collections.abc import Sequence

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
