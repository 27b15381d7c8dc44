"""The operator's hand, where only the service can tell."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from asu_builder.core.operator import Operator
from asu_builder.core.submit import Cancellation
from asu_builder.database.connection import Database
from asu_builder.database.nodes import SqlNodes
from asu_builder.database.operator import SqlOperations
from asu_builder.database.preflight import SqlPreflightRecords
from asu_builder.database.queue import SqlJobQueue
from asu_builder.database.retention import SqlRetention
from asu_builder.domain.errors import Unavailable
from asu_builder.domain.job import Retention
from asu_builder.settings import Settings
from asu_builder.store.local import LocalStore
from database_clock import CLOCK
from factories import a_result, a_submission
from noted_statistics import NotedStatistics

DAY = timedelta(days=1)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    made = Database(tmp_path / "a.db", clock=CLOCK)
    yield made
    made.close()


def test_a_purge_without_the_disk_leaves_the_images_to_later(database: Database, tmp_path: Path) -> None:
    queue, retention = SqlJobQueue(database), SqlRetention(database)
    statistics, operations = NotedStatistics(), SqlOperations(database)
    store = LocalStore(
        tmp_path / "store", installation="ours", floor=0, expects_results=retention.has_results
    )
    operator = Operator(
        operations,
        queue,
        retention=retention,
        store=store,
        statistics=statistics,
        preflight_records=SqlPreflightRecords(database),
        nodes=SqlNodes(database),
        cancellation=Cancellation(queue, operations, statistics=statistics, settings=Settings()),
    )
    submission = a_submission()
    queue.submit(submission)
    claimed = queue.claim("host/1", lease_for=DAY)
    assert claimed is not None
    with store.scratch() as scratch:
        store.publish(submission.request_hash, scratch)
    queue.finish(claimed[1], a_result(), Retention(DAY))

    (tmp_path / "store").rename(tmp_path / "disk")
    with pytest.raises(Unavailable, match="is its disk mounted"):
        operator.purge(submission.request_hash, operator="alice")
    assert queue.find(submission.request_hash) is None, "it answers no more"
    assert list(retention.expired()) == [submission.request_hash], "its turn comes"
    assert [act.act for act in operator.acts(9)] == ["purge"]

    (tmp_path / "disk").rename(tmp_path / "store")
    operator.purge(submission.request_hash, operator="alice")
    assert not store.holds(submission.request_hash)


def test_who_resumes_wakes_every_worker_because_all_that_wait_can_be_claimed(
    database: Database, tmp_path: Path
) -> None:
    queue, retention = SqlJobQueue(database), SqlRetention(database)
    statistics, operations = NotedStatistics(), SqlOperations(database)
    woken: list[str] = []
    operator = Operator(
        operations,
        queue,
        retention=retention,
        store=LocalStore(tmp_path / "store", installation="ours", floor=0),
        statistics=statistics,
        preflight_records=SqlPreflightRecords(database),
        nodes=SqlNodes(database),
        cancellation=Cancellation(queue, operations, statistics=statistics, settings=Settings()),
    )
    database.wakeups.notify = lambda jobs: woken.append("one")  # type: ignore[method-assign]

    def notify_all(*, everywhere: bool = False) -> None:
        assert everywhere, "the workers of other processes wait too"
        woken.append("all" if operations.paused() is None else "too early")

    database.wakeups.notify_all = notify_all  # type: ignore[method-assign]
    operator.pause(operator="alice")
    assert woken == []
    operator.resume(operator="alice")
    assert woken == ["all"]
