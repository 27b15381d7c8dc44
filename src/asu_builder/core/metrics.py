"""What the service counts and times while it runs, read at the moment when somebody asks."""

import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta

from msgspec import Struct

from asu_builder.core.health import Health, HealthReport
from asu_builder.core.housekeeping import Housekeeping
from asu_builder.core.worker import Workers
from asu_builder.domain.errors import AsuError, FailureReason, Side
from asu_builder.domain.job import Job, JobState, Stage
from asu_builder.ports import EventKind, Operations, QueueLoad, Statistics, Store

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


class EventCounts:
    """How often each kind of event happened, failures by their reason and side. For any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._failures: Counter[tuple[FailureReason, Side]] = Counter(
            {(reason, reason.side): 0 for reason in FailureReason}
        )

    def note(self, kind: EventKind, reason: str = "", side: str = "") -> None:
        """Counts one event; `reason` and `side` are those of a failure, "" for the reason's own side."""
        # Without the lock two threads could count as one.
        with self._lock:
            self._counts[kind] += 1
            if kind == "failed" and reason in set(FailureReason):
                known = FailureReason(reason)
                self._failures[known, Side(side) if side else known.side] += 1

    def of(self, kind: EventKind) -> int:
        """How often it happened."""
        return self._counts[kind]

    def failures(self) -> dict[tuple[FailureReason, Side], int]:
        """Failures by reason and side; every reason is there with its own side."""
        with self._lock:
            return dict(self._failures)


class Measures(Struct, frozen=True):
    """One look. Nothing in it says what was asked for, or by whom.

    Counts and durations are those of this process since its start; the queue is that of all
    processes on this database. `queue` and `paused` are None where the database does not answer.
    """

    health: HealthReport
    queue: QueueLoad | None
    paused: bool | None
    running: int
    workers: int
    oldest: Mapping[bool, float]
    """Seconds since the first of the waiting jobs came, by whether nobody polls it any more."""
    requested: int
    cache_hits: int
    ended: Mapping[str, int]
    failed: Mapping[tuple[FailureReason, Side], int]
    stages: Mapping[Stage, Histogram]
    builds: Mapping[bool, Histogram]
    stored_bytes: int | None
    """None until it was summed up for the first time, soon after the start."""
    room_bytes: int
    events_waiting: int


class Gauges:
    """Knows where every number comes from. A look is a few indexed queries and no more."""

    def __init__(
        self,
        operations: Operations,
        workers: Workers,
        housekeeping: Housekeeping,
        *,
        health: Health,
        store: Store,
        statistics: Statistics,
        counts: EventCounts,
        now: Callable[[], datetime],
    ) -> None:
        self._operations = operations
        self._workers = workers
        self._health = health
        self._store = store
        self._housekeeping = housekeeping
        self._statistics = statistics
        self._counts = counts
        self._now = now

    def read(self) -> Measures:
        """Raises nothing: what cannot be read is None."""
        queue, paused = self._queue()
        return Measures(
            health=self._health.report(),
            queue=queue,
            paused=paused,
            running=self._workers.running,
            workers=self._workers.concurrent,
            oldest=self._oldest(queue),
            requested=self._counts.of("request"),
            cache_hits=self._counts.of("cache_hit"),
            ended={
                "completed": self._counts.of("completed"),
                "failed": self._counts.of("failed"),
                "cancelled": self._counts.of("cancelled"),
            },
            failed=self._counts.failures(),
            stages=self._workers.durations.stages(),
            builds=self._workers.durations.builds(),
            stored_bytes=self._housekeeping.stored_bytes,
            room_bytes=self._room(),
            events_waiting=self._statistics.waiting(),
        )

    def _room(self) -> int:
        try:
            return self._store.room()
        except AsuError:
            return 0

    def _queue(self) -> tuple[QueueLoad | None, bool | None]:
        try:
            return self._operations.load(), self._operations.paused() is not None
        except AsuError:
            return None, None

    def _oldest(self, queue: QueueLoad | None) -> Mapping[bool, float]:
        ages = {False: 0.0, True: 0.0}
        for (_, deprioritized), waiting in queue.waiting.items() if queue else ():
            age = (self._now() - waiting.since).total_seconds()
            ages[deprioritized] = max(
                ages[deprioritized], age
            )  # a clock that was set back makes nobody younger than 0
        return ages
