from asu_builder.core.worker import FailureStreak, PoisonJobDetector


def test_a_failure_counts_as_alone_only_where_another_build_went_well_since_the_one_before() -> None:
    suspects = PoisonJobDetector()
    assert suspects.failed(1) == FailureStreak(1, 1, 0)
    assert suspects.failed(1) == FailureStreak(2, 1, 0)
    suspects.ended(2, completed=False)
    assert suspects.failed(1).isolated == 1
    suspects.ended(3, completed=True)
    assert suspects.failed(1) == FailureStreak(4, 2, 1)


def test_a_job_that_has_ended_is_forgotten() -> None:
    suspects = PoisonJobDetector()
    suspects.failed(1)
    suspects.ended(1, completed=True)
    assert suspects.failed(1).times == 1


def test_jobs_that_are_never_heard_of_again_are_forgotten_the_oldest_first() -> None:
    suspects = PoisonJobDetector()
    for number in range(1001):
        suspects.failed(number)
    assert suspects.failed(1000).times == 2
    assert suspects.failed(0).times == 1
