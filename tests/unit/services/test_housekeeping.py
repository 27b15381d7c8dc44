from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from datetime import timedelta
from pathlib import Path
from threading import Event

import pytest

from asu_builder.adapters.database import Database
from asu_builder.adapters.jobs import SqlJobQueue
from asu_builder.adapters.stores import LocalStore
from asu_builder.domain.errors import EngineUnavailable
from asu_builder.domain.job import JobState
from asu_builder.ports import Container, ContainerSpec, Verdict
from asu_builder.services.housekeeping import Housekeeping
from factories import Clock, a_result, a_submission

HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)


class LabelsOnly:
    """A runtime that has nothing but containers with labels."""

    def __init__(self) -> None:
        self.containers: list[Mapping[str, str]] = []
        self.is_down = False
        self.while_listing: Callable[[], None] = lambda: None

    def open(self, spec: ContainerSpec, *, stop: Event) -> AbstractContextManager[Container]:
        raise EngineUnavailable("this one builds nothing")

    def check(self) -> Verdict:
        return Verdict("ok", "fine")

    def sweep(self, *, keep: Callable[[Mapping[str, str]], bool]) -> int:
        if self.is_down:
            raise EngineUnavailable("gone")
        self.while_listing()
        before = len(self.containers)
        self.containers = [labels for labels in self.containers if keep(labels)]
        return before - len(self.containers)


class Home:
    """Housekeeping over a real queue and store."""

    def __init__(self, root: Path) -> None:
        self.database = Database(root / "a.db")
        self.queue = SqlJobQueue(self.database)
        self.store = LocalStore(root / "store")
        self.runtime = LabelsOnly()
        self.clock = Clock()
        self.wakes = 0
        self.housekeeping = Housekeeping(
            self.queue, self.store, self.runtime, keep_failure_for=HOUR, now=self.clock, wake=self._wake
        )

    def _wake(self) -> None:
        self.wakes += 1

    def claim(self) -> tuple[str, dict[str, str]]:
        claimed = self.queue.claim("host/1", lease_for=MINUTE, now=self.clock())
        assert claimed is not None
        job, lease = claimed
        return job.request_hash, {"asu.job": str(lease.job_id), "asu.attempt": str(lease.token)}

    def completed(self, *, keep_for: timedelta) -> str:
        submission = a_submission()
        self.queue.submit(submission, capacity=9, now=self.clock())
        claimed = self.queue.claim("host/1", lease_for=MINUTE, now=self.clock())
        assert claimed is not None
        with self.store.scratch() as scratch:
            (scratch / "images").mkdir()
            self.store.publish(submission.request_hash, scratch / "images")
        self.queue.finish(claimed[1], a_result(), keep_for=keep_for, now=self.clock())
        return submission.request_hash


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    made = Home(tmp_path)
    yield made
    made.database.close()


def test_rows_and_images_of_an_expired_build_go_together(home: Home) -> None:
    name = home.completed(keep_for=HOUR)
    home.housekeeping.tidy()
    assert home.store.holds(name)
    home.clock.forward(HOUR)
    home.housekeeping.tidy()
    assert not home.store.holds(name)
    assert list(home.queue.expired(now=home.clock())) == []


def test_images_of_another_server_in_the_same_store_are_left_alone(home: Home) -> None:
    with home.store.scratch() as scratch:
        (scratch / "images").mkdir()
        home.store.publish("e" * 64, scratch / "images")
    home.clock.forward(timedelta(days=999))
    home.housekeeping.tidy()
    assert home.store.holds("e" * 64)


def test_a_lapsed_job_returns_and_a_worker_is_woken(home: Home) -> None:
    submission = a_submission()
    home.queue.submit(submission, capacity=9, now=home.clock())
    home.claim()
    home.clock.forward(2 * MINUTE)
    home.housekeeping.tidy()
    found = home.queue.find(submission.request_hash, now=home.clock())
    assert found is not None
    assert (found.state, home.wakes) == (JobState.PENDING, 1)


def test_only_containers_of_live_leases_are_kept(home: Home) -> None:
    home.queue.submit(a_submission(), capacity=9, now=home.clock())
    _, live = home.claim()
    former = {**live, "asu.attempt": "0"}
    home.runtime.containers = [live, former, {"asu.job": "x"}, {}]
    home.housekeeping.tidy()
    assert home.runtime.containers == [live]


def test_a_container_of_a_job_claimed_while_they_are_listed_is_kept(home: Home) -> None:
    home.queue.submit(a_submission(), capacity=9, now=home.clock())
    home.runtime.while_listing = lambda: home.runtime.containers.append(home.claim()[1])
    home.housekeeping.tidy()
    assert len(home.runtime.containers) == 1


def test_an_engine_that_is_down_does_not_stop_the_rest(home: Home) -> None:
    name = home.completed(keep_for=HOUR)
    home.runtime.is_down = True
    home.clock.forward(HOUR)
    home.housekeeping.tidy()
    assert not home.store.holds(name)
