"""The queue in numbers."""

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import pytest

from asu_builder.core.operator import QueueGroup, QueueOverview
from asu_builder.database.connection import Database
from asu_builder.database.operator import SqlOperations
from asu_builder.database.queue import SqlJobQueue
from asu_builder.domain.job import JobState, LiveJobs, Priority
from database_clock import CLOCK
from factories import NOON

MINUTE = timedelta(minutes=1)


class Counted(SqlOperations):
    """Operations that have counted this."""

    live_jobs: Sequence[LiveJobs] = ()
    waited: Sequence[timedelta] = ()

    def live(self) -> Sequence[LiveJobs]:
        return self.live_jobs

    def waits(self, limit: int) -> Sequence[timedelta]:
        return self.waited[:limit]


@pytest.fixture
def counted(tmp_path: Path) -> Counted:
    return Counted(Database(tmp_path / "a.db", clock=CLOCK))


@pytest.fixture
def queue_overview(tmp_path: Path, counted: Counted) -> QueueOverview:
    return QueueOverview(counted, SqlJobQueue(Database(tmp_path / "a.db", clock=CLOCK)), now=lambda: NOON)


def jobs(
    state: JobState,
    count: int,
    *,
    priority: Priority = Priority.NORMAL,
    target: str = "pico/nine",
    ago: int = 1,
) -> LiveJobs:
    return LiveJobs(state, priority, "24.10.5", target, count, NOON - ago * MINUTE)


def test_an_empty_queue_has_nobody_and_waits_for_nothing(queue_overview: QueueOverview) -> None:
    crowd = queue_overview.summary()
    assert (crowd.waiting, crowd.building, crowd.classes, crowd.versions) == (0, 0, (), ())
    assert (crowd.oldest_wait, crowd.typical_wait, crowd.typical_build, crowd.pause) == (
        None,
        None,
        None,
        None,
    )


def test_groups_are_added_up_by_class_version_and_target_the_largest_first(
    counted: Counted, queue_overview: QueueOverview
) -> None:
    counted.live_jobs = (
        jobs(JobState.PENDING, 3),
        jobs(JobState.PENDING, 4, priority=Priority.BULK, target="pico/ten"),
        jobs(JobState.BUILDING, 2, target="pico/ten"),
    )
    crowd = queue_overview.summary()
    assert (crowd.waiting, crowd.building) == (7, 2)
    assert crowd.classes == (QueueGroup("normal", 3, 2), QueueGroup("bulk", 4, 0))
    assert crowd.versions == (QueueGroup("24.10.5", 7, 2),)
    assert crowd.targets == (QueueGroup("pico/ten", 4, 2), QueueGroup("pico/nine", 3, 0))


def test_the_longest_wait_is_of_those_that_wait_not_of_what_is_built(
    counted: Counted, queue_overview: QueueOverview
) -> None:
    counted.live_jobs = (jobs(JobState.PENDING, 1, ago=5), jobs(JobState.BUILDING, 1, ago=50))
    assert queue_overview.summary().oldest_wait == 5 * MINUTE


def test_one_long_wait_is_not_typical(counted: Counted, queue_overview: QueueOverview) -> None:
    counted.waited = (MINUTE, 2 * MINUTE, 600 * MINUTE)
    assert queue_overview.summary().typical_wait == 2 * MINUTE


def test_it_says_since_when_the_workers_are_paused(counted: Counted, queue_overview: QueueOverview) -> None:
    counted.pause("olga")
    pause = queue_overview.summary().pause
    assert pause is not None and pause.since == NOON
