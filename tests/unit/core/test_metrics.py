"""Events since the start, and how long builds took, stage by stage."""

import threading
from datetime import timedelta

import pytest
from msgspec.structs import replace

from asu_builder.core.metrics import (
    BUILD_BOUNDS,
    STAGE_BOUNDS,
    DurationCounts,
    Durations,
    EventCounts,
    StageTimers,
    StepTimer,
)
from asu_builder.domain.errors import FailureReason, Side
from asu_builder.domain.job import Job, JobState, Stage
from asu_builder.domain.make import Step
from factories import NOON, Clock, a_request
from noted_statistics import NotedStatistics


def test_every_stage_is_there_before_anything_was_built() -> None:
    assert set(Durations().stages) == set(Stage)


@pytest.mark.parametrize(("seconds", "bucket"), [(0.0, 0.1), (0.1, 0.1), (0.11, 0.25), (600.0, 600.0)])
def test_a_duration_falls_into_every_bucket_that_is_not_shorter(seconds: float, bucket: float) -> None:
    durations = DurationCounts(STAGE_BOUNDS)
    durations.observe(seconds)
    expected = [1 if bound >= bucket else 0 for bound in STAGE_BOUNDS]
    assert durations.read() == ([*expected, 1], seconds)


def test_what_takes_longer_than_every_bucket_is_counted_all_the_same() -> None:
    durations = DurationCounts(BUILD_BOUNDS)
    durations.observe(BUILD_BOUNDS[-1] + 1)
    *cumulative, count = durations.read()[0]
    assert set(cumulative) == {0}
    assert count == 1


def test_many_threads_count_together() -> None:
    durations = DurationCounts(STAGE_BOUNDS)

    def observe() -> None:
        for _ in range(2000):
            durations.observe(1.0)

    threads = [threading.Thread(target=observe) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert durations.read()[0][-1] == 8000


QUIET = {
    Stage.VALIDATE_REVISION: (0.36, 0.4),
    Stage.VALIDATE_MANIFEST: (2.2, 2.9),
    Stage.BUILDING_IMAGE: (6.5, 17.7),
}


@pytest.mark.parametrize("stage", QUIET)
def test_the_stages_of_a_quiet_build_fall_into_narrow_buckets_of_their_own(stage: Stage) -> None:
    """Facts §9: quiet times on two cores: ath79 info 0.36 s, manifest 2.2 s, image 6.5 s; x86/64 0.4, 2.9,
    17.7 s. A build that becomes twice as slow must be seen to."""

    def bucket(seconds: float) -> float:
        durations = Durations().stages[stage]
        durations.observe(seconds)
        return next(
            bound for bound, count in zip(durations.bounds, durations.read()[0], strict=False) if count
        )

    for seconds in QUIET[stage]:
        assert bucket(seconds) < bucket(2.5 * seconds), seconds
        assert all(
            bucket(seconds) != bucket(other)
            for others in QUIET.values()
            if others is not QUIET[stage]
            for other in others
        )


def test_events_are_counted_by_kind_and_failures_by_reason_and_side() -> None:
    counts = EventCounts()
    counts.note("completed", "")
    counts.note("failed", "too_big")
    counts.note("failed", "too_big")
    counts.note("failed", "internal")
    counts.note("failed", "no_images", "user")
    counts.note("failed", "no_images")
    counts.note("failed", "of another version")
    assert (counts.of("completed"), counts.of("failed"), counts.of("cancelled")) == (1, 6, 0)
    failures = counts.failures()
    assert failures[FailureReason.TOO_BIG, Side.USER] == 2
    assert failures[FailureReason.NO_IMAGES, Side.USER] == 1
    assert failures[FailureReason.NO_IMAGES, Side.INFRASTRUCTURE] == 1
    assert failures[FailureReason.DEADLINE, Side.INFRASTRUCTURE] == 0
    assert sum(failures.values()) == 5


def test_many_threads_lose_no_event() -> None:
    counts = EventCounts()

    def note() -> None:
        for _ in range(5000):
            counts.note("cache_hit", "")

    threads = [threading.Thread(target=note) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts.of("cache_hit") == 20000


class Watch:
    """Stage times over two clocks: the one on the wall, which may be set, and the steady one."""

    def __init__(self) -> None:
        self.statistics = NotedStatistics()
        self.durations = Durations()
        self.wall = Clock()
        self.steady = 100.0
        self.timers = StageTimers(self.statistics, self.durations, now=self.wall, clock=lambda: self.steady)

    def forward(self, seconds: float) -> None:
        self.steady += seconds
        self.wall.forward(timedelta(seconds=seconds))

    def claimed(self, **changes: object) -> Job:
        job = Job(1, "a" * 64, a_request(), JobState.BUILDING, NOON, started_at=self.wall())
        return replace(job, **changes)

    def noted(self, job: Job) -> dict[str, float]:
        self.statistics.durations_noted.clear()
        timer = self.timers.begin(job)
        timer.enter(None)
        timer.record(completed=True, steps={"image": 2.5})
        return {stage: span.total_seconds() for stage, span in self.statistics.durations_noted}


def test_stages_are_timed_by_the_steady_clock_though_the_other_is_set() -> None:
    watch = Watch()
    timer = watch.timers.begin(watch.claimed())
    watch.forward(1)
    timer.enter(Stage.CONTAINER_SETUP)
    watch.wall.forward(timedelta(days=-3))
    watch.forward(2)
    timer.enter(Stage.BUILDING_IMAGE)
    watch.forward(4)
    timer.enter(Stage.BUILDING_IMAGE)
    watch.forward(8)
    timer.enter(None)
    assert watch.statistics.durations_noted == []
    timer.record(completed=True, steps={})
    assert {stage: span.total_seconds() for stage, span in watch.statistics.durations_noted} == {
        "pending": 0,
        "init": 1,
        "container_setup": 2,
        "building_image": 12,
        "building": 15,
    }
    read = {stage: durations.read() for stage, durations in watch.durations.stages.items()}
    sums = {stage: seconds for stage, (cumulative, seconds) in read.items() if cumulative[-1]}
    assert sums == {Stage.INIT: 1, Stage.CONTAINER_SETUP: 2, Stage.BUILDING_IMAGE: 12}
    completed, failed = (watch.durations.builds[well].read() for well in (True, False))
    assert (completed[1], failed[0][-1]) == (15, 0)


def test_waiting_counts_only_where_the_steady_clock_vouches_for_it() -> None:
    watch = Watch()
    watch.forward(7)
    assert watch.noted(watch.claimed())["pending"] == 7
    assert "pending" not in watch.noted(watch.claimed(enqueued_at=NOON - timedelta(seconds=1)))
    assert "pending" not in watch.noted(watch.claimed(retries=1))
    watch.wall.forward(timedelta(hours=1))
    assert "pending" not in watch.noted(watch.claimed())
    # From then on the new time is the right one.
    job = watch.claimed(enqueued_at=watch.wall())
    watch.forward(3)
    assert watch.noted(replace(job, started_at=watch.wall()))["pending"] == 3


def test_the_time_of_a_build_goes_to_the_step_that_is_entered() -> None:
    seconds = [0.0]
    timer = StepTimer(clock=lambda: seconds[0])
    for step, at in ((Step.INSTALL, 3.0), (Step.IMAGE, 4.0), (Step.INSTALL, 4.5), (Step.PUBLISH, 5.0)):
        seconds[0] = at
        timer.enter(step)
    seconds[0] = 5.25
    told = timer.durations(pulled=1.0)
    assert list(told) == [step.value for step in Step]
    assert {step: took for step, took in told.items() if took} == {
        "pull": 1.0,
        "set_up": 2.0,
        "install": 1.5,
        "image": 0.5,
        "publish": 0.25,
    }
    assert timer.durations(pulled=9.0)["set_up"] == 0.0, "never less than nothing"
