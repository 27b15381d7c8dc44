"""How long builds took, stage by stage."""

import threading

import pytest

from asu_builder.core.stage_timer import BUILD_BOUNDS, STAGE_BOUNDS, Durations
from asu_builder.domain.job import Stage


def test_every_stage_is_there_before_anything_was_built() -> None:
    assert set(Durations().stages()) == set(Stage)


@pytest.mark.parametrize(("seconds", "bucket"), [(0.0, 0.1), (0.1, 0.1), (0.11, 0.25), (600.0, 600.0)])
def test_a_duration_falls_into_every_bucket_that_is_not_shorter(seconds: float, bucket: float) -> None:
    durations = Durations()
    durations.observe(Stage.INIT, seconds)
    histogram = durations.stages()[Stage.INIT]
    expected = [1 if bound >= bucket else 0 for bound in STAGE_BOUNDS]
    assert list(histogram.cumulative) == expected
    assert (histogram.count, histogram.sum) == (1, seconds)


def test_what_takes_longer_than_every_bucket_is_counted_all_the_same() -> None:
    durations = Durations()
    durations.observe_build(BUILD_BOUNDS[-1] + 1, completed=False)
    histogram = durations.builds()[False]
    assert set(histogram.cumulative) == {0}
    assert histogram.count == 1


def test_many_threads_count_together() -> None:
    durations = Durations()

    def observe() -> None:
        for _ in range(2000):
            durations.observe(Stage.INIT, 1.0)

    threads = [threading.Thread(target=observe) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert durations.stages()[Stage.INIT].count == 8000


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
        durations = Durations()
        durations.observe(stage, seconds)
        histogram = durations.stages()[stage]
        return next(
            bound for bound, count in zip(histogram.bounds, histogram.cumulative, strict=True) if count
        )

    for seconds in QUIET[stage]:
        assert bucket(seconds) < bucket(2.5 * seconds), seconds
        assert all(
            bucket(seconds) != bucket(other)
            for others in QUIET.values()
            if others is not QUIET[stage]
            for other in others
        )
