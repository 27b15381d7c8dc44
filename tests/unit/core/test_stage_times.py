from datetime import timedelta

from msgspec.structs import replace

from asu_builder.core.stage_timer import Durations, StageTimes
from asu_builder.domain.job import Job, JobState, Stage
from factories import NOON, Clock, a_request
from noted_statistics import NotedStatistics


class Watch:
    """Stage times over two clocks: the one on the wall, which may be set, and the steady one."""

    def __init__(self) -> None:
        self.statistics = NotedStatistics()
        self.durations = Durations()
        self.wall = Clock()
        self.steady = 100.0
        self.times = StageTimes(self.statistics, self.durations, now=self.wall, clock=lambda: self.steady)

    def forward(self, seconds: float) -> None:
        self.steady += seconds
        self.wall.forward(timedelta(seconds=seconds))

    def claimed(self, **changes: object) -> Job:
        job = Job(1, "a" * 64, a_request(), JobState.BUILDING, NOON, started_at=self.wall())
        return replace(job, **changes)

    def noted(self, job: Job) -> dict[str, float]:
        self.statistics.durations_noted.clear()
        laps = self.times.begin(job)
        laps.end()
        laps.record(completed=True)
        return {stage: span.total_seconds() for stage, span in self.statistics.durations_noted}


def test_stages_are_timed_by_the_steady_clock_though_the_other_is_set() -> None:
    watch = Watch()
    laps = watch.times.begin(watch.claimed())
    watch.forward(1)
    laps.enter(Stage.CONTAINER_SETUP)
    watch.wall.forward(timedelta(days=-3))
    watch.forward(2)
    laps.enter(Stage.BUILDING_IMAGE)
    watch.forward(4)
    laps.enter(Stage.BUILDING_IMAGE)
    watch.forward(8)
    laps.end()
    assert watch.statistics.durations_noted == []
    laps.record(completed=True)
    assert {stage: span.total_seconds() for stage, span in watch.statistics.durations_noted} == {
        "pending": 0,
        "init": 1,
        "container_setup": 2,
        "building_image": 12,
        "building": 15,
    }
    sums = {stage: histogram.sum for stage, histogram in watch.durations.stages().items() if histogram.count}
    assert sums == {Stage.INIT: 1, Stage.CONTAINER_SETUP: 2, Stage.BUILDING_IMAGE: 12}
    assert (watch.durations.builds()[True].sum, watch.durations.builds()[False].count) == (15, 0)


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
