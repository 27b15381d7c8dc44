"""What this process counts and times: events, how long builds and their stages take, and wrong forecasts."""

import threading
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import accumulate

from msgspec import Struct

from asu_builder.domain.errors import FailureReason, Side
from asu_builder.domain.job import EventKind, Job, JobState, Stage
from asu_builder.domain.make import Step
from asu_builder.domain.preflight import Feasibility
from asu_builder.ports import Statistics


class EventCounts:
    """How often each kind of event happened, failures by their reason and side. For any thread."""

    def __init__(self) -> None:
        self.preflight = PreflightCounts()
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


STAGE_BOUNDS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 600.0)
"""Upper bounds of the buckets in seconds: from the start of a container to the usual deadline."""
BUILD_BOUNDS = (1.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 45.0, 60.0, 90.0, 120.0, 180.0, 300.0, 600.0)


class DurationCounts:
    """Seconds, counted by the first of the bounds that they do not exceed. For any thread.

    The worker counts here, so that only a scrape has to load prometheus_client.
    """

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self._lock = threading.Lock()
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, seconds: float) -> None:
        """Counts one duration."""
        with self._lock:
            self._counts[bisect_left(self.bounds, seconds)] += 1
            self._sum += seconds

    def read(self) -> tuple[list[int], float]:
        """How many are up to each bound, in the end how many there are; and their sum."""
        with self._lock:
            return list(accumulate(self._counts)), self._sum


class Durations:
    """Of builds that ended in this process: by stage and step, and as a whole by whether they completed."""

    def __init__(self) -> None:
        self.stages = {stage: DurationCounts(STAGE_BOUNDS) for stage in Stage}
        self.steps = {step: DurationCounts(STAGE_BOUNDS) for step in Step}
        """Of completed builds only."""
        self.builds = {completed: DurationCounts(BUILD_BOUNDS) for completed in (True, False)}


_LEAP = timedelta(seconds=1)
"""If the two clocks diverge by more, one was set; a clock that is adjusted gradually stays far below."""


class StageTimers:
    """Makes the timers for the workers of this process."""

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

    def begin(self, job: Job) -> "StageTimer":
        """A timer for a job that was just claimed.

        It knows the time from the request to the claim only if all of it passed in this process while no
        clock was set.
        """
        if job.handed_over:  # by the process that measured it until then
            since = self._clock()
            began = since - job.handed_over.seconds
            return StageTimer(
                *(self._statistics, self._durations, None, self._clock),
                began=began,
                since=since,
                stage=Stage.SIGNING_IMAGES,
            )
        waited = None
        if job.started_at and not job.retries and not job.attempts and job.enqueued_at >= self._began:
            steady = timedelta(seconds=self._clock() - self._began_at)
            if abs(self._now() - self._began - steady) > _LEAP:
                self._began, self._began_at = self._now(), self._clock()
            else:
                waited = job.started_at - job.enqueued_at
        since = self._clock()
        return StageTimer(self._statistics, self._durations, waited, self._clock, began=since, since=since)


class StageTimer(Struct):
    """Times the stages of one job, in the order in which they are entered."""

    statistics: Statistics
    durations: Durations
    waited: timedelta | None
    clock: Callable[[], float]
    began: float
    since: float
    stage: Stage | None = Stage.INIT
    spans: list[tuple[Stage, float]] = []

    def enter(self, stage: Stage | None) -> None:
        """The job has advanced, or is over for None; entering the same stage again continues it."""
        if self.stage is not None and stage is not self.stage:
            now = self.clock()
            self.spans.append((self.stage, now - self.since))
            self.stage, self.since = stage, now

    def hand_over(self) -> float:
        """Counts what was measured of a build that ends elsewhere; the seconds that it took until now."""
        self.enter(None)
        self._record_stages()
        return self.since - self.began

    def record(self, *, completed: bool, steps: Mapping[str, float]) -> float:
        """Counts what was measured, after the outcome is stored; the seconds that the build took.

        `steps` are a result's `seconds`.
        """
        self._record_stages()
        for step, seconds in steps.items():
            self.durations.steps[Step(step)].observe(seconds)
        whole = self.since - self.began
        self.statistics.record_duration(JobState.BUILDING, timedelta(seconds=whole))
        self.durations.builds[completed].observe(whole)
        return whole

    def _record_stages(self) -> None:
        if self.waited is not None and self.waited >= timedelta(0):
            self.statistics.record_duration(JobState.PENDING, self.waited)
        for stage, seconds in self.spans:
            self.statistics.record_duration(stage, timedelta(seconds=seconds))
            self.durations.stages[stage].observe(seconds)


class StepTimer:
    """Where the time of one build goes. It begins with setting up."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` counts seconds."""
        self._clock = clock
        self._step = Step.SET_UP
        self._since = clock()
        self._seconds = dict.fromkeys(Step, 0.0)

    def enter(self, step: Step) -> None:
        """What came since the last call belongs to the step before."""
        now = self._clock()
        self._seconds[self._step] += now - self._since
        self._step, self._since = step, now

    def durations(self, *, pulled: float = 0.0) -> dict[str, float]:
        """Seconds by step; of those of setting up so many were `pulled`."""
        self.enter(self._step)
        pulled = min(pulled, self._seconds[Step.SET_UP])
        changed = {Step.PULL: pulled, Step.SET_UP: self._seconds[Step.SET_UP] - pulled}
        return {step.value: round(seconds, 3) for step, seconds in (self._seconds | changed).items()}


FALSE_REFUSAL = "false_refusal"
OTHER_PACKAGES = "other_packages"
OUTDATED_INDEXES = "outdated_indexes"


class PreflightCounts:
    """How often builds were compared with what was foretold, and how they differed. For any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._compared = Counter(dict.fromkeys(Feasibility, 0))
        self._disagreed = Counter(dict.fromkeys((FALSE_REFUSAL, OTHER_PACKAGES, OUTDATED_INDEXES), 0))

    def note_compared(self, verdict: Feasibility) -> None:
        """Counts a build that was compared, by what was foretold."""
        with self._lock:
            self._compared[verdict] += 1

    def note_disagreed(self, cause: str) -> None:
        """Counts one that ended otherwise; `cause` is one of the three above, or a failure's reason."""
        with self._lock:
            self._disagreed[cause] += 1

    def compared(self) -> dict[Feasibility, int]:
        """Builds by what was foretold."""
        with self._lock:
            return dict(self._compared)

    def disagreed(self) -> dict[str, int]:
        """Those that ended otherwise, by cause."""
        with self._lock:
            return dict(self._disagreed)
