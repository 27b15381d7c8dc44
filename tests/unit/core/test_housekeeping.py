import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import timedelta
from pathlib import Path
from threading import Event

import pytest

from asu_builder.core.housekeeping import GRACE, Collection, Housekeeping
from asu_builder.database.connection import Database
from asu_builder.database.queue import SqlJobQueue
from asu_builder.database.retention import SqlRetention
from asu_builder.domain.errors import EngineUnavailable
from asu_builder.domain.health import CheckResult
from asu_builder.domain.job import BuildFailure, JobState, Retention
from asu_builder.domain.make import ContainerSpec
from asu_builder.ports import Container
from asu_builder.settings import Settings, Size
from asu_builder.store.local import LocalStore
from factories import Clock, a_result, a_submission, eventually
from noted_statistics import NotedStatistics

HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)
DAY = timedelta(days=1)
LOOK = timedelta(seconds=10)


class LabelsOnly:
    """A runtime that has nothing but containers with labels."""

    def __init__(self) -> None:
        self.containers: list[Mapping[str, str]] = []
        self.is_down = False
        self.while_listing: Callable[[], None] = lambda: None

    def open(self, spec: ContainerSpec, *, stop: Event) -> AbstractContextManager[Container]:
        raise EngineUnavailable("this one builds nothing")

    def check(self) -> CheckResult:
        return CheckResult("ok", "fine")

    def check_registry(self) -> CheckResult:
        return CheckResult("ok", "fine")

    def make_ready(self, specs: Sequence[ContainerSpec], *, warm: int, stop: Event) -> int:
        return 0

    def close(self) -> bool:
        raise AssertionError("housekeeping has opened nothing")

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
        self.root = root
        self.clock = Clock()
        self.database = Database(root / "a.db", clock=self.clock)
        self.queue = SqlJobQueue(self.database)
        self.retention = SqlRetention(self.database)
        self.store = LocalStore(
            root / "store", installation="ours", floor=0, expects_results=self.retention.has_results
        )
        self.runtime = LabelsOnly()
        self.statistics = NotedStatistics()
        self.store_for_housekeeping = self.store
        self.housekeeping = self.with_budget(0)

    def with_budget(
        self,
        store_bytes: int,
        *,
        rest: timedelta = timedelta(0),
        required_key: str = "",
        requires_statement: bool = False,
    ) -> Housekeeping:
        """Housekeeping that keeps at most so many bytes; 0 for any number."""
        settings = Settings(store_max_size=Size(store_bytes))
        return Housekeeping(
            self.queue,
            self.retention,
            self.store_for_housekeeping,
            lambda: self.runtime,
            statistics=self.statistics,
            settings=settings,
            required_key=lambda: required_key,
            requires_statement=requires_statement,
            clock=lambda: self.clock().timestamp(),
            rest=rest,
        )

    def pass_time(self, span: timedelta) -> None:
        """Lets time pass while the queue is looked after."""
        for _ in range(round(span / LOOK)):
            self.clock.forward(LOOK)
            self.housekeeping.look_after_queue()

    def unmount(self) -> None:
        """Leaves an empty directory in the place of the store."""
        (self.root / "store").rename(self.root / "disk")
        (self.root / "store").mkdir()

    def mount(self) -> None:
        """Brings the store back."""
        (self.root / "store").rename(self.root / "mount point")
        (self.root / "disk").rename(self.root / "store")

    @property
    def wakes(self) -> int:
        return self.database.wakeups.count

    def claim(self) -> tuple[str, dict[str, str]]:
        claimed = self.queue.claim("host/1", lease_for=MINUTE)
        assert claimed is not None
        job, lease = claimed
        return job.request_hash, {"asu.job": str(lease.job_id), "asu.attempt": str(lease.token)}

    def completed(
        self,
        name: str = "vim",
        *,
        ttl: timedelta = DAY,
        size: int = 100,
        signed_by: str = "",
        provenance: str = "",
    ) -> str:
        submission = a_submission(packages=(name,))
        self.queue.submit(submission)
        claimed = self.queue.claim("host/1", lease_for=MINUTE)
        assert claimed is not None
        with self.store.scratch() as scratch:
            (scratch / "images").mkdir()
            (scratch / "images" / "sysupgrade.bin").write_bytes(bytes(size))
            self.store.publish(submission.request_hash, scratch / "images")
        outcome = a_result(stored_bytes=size, signed_by=signed_by, provenance=provenance)
        self.queue.finish(claimed[1], outcome, Retention(ttl))
        return submission.request_hash


class BuiltAgain(LocalStore):
    """The store of a home where somebody asks for a lost build while another is looked for."""

    def __init__(self, home: Home, package: str, *, when: str) -> None:
        super().__init__(home.root / "store", installation="ours", floor=0)
        self._home = home
        self._package = package
        self._when = when

    def absent(self, request_hashes: Sequence[str]) -> Sequence[str]:
        found = super().absent(request_hashes)
        if self._when in request_hashes and self._package:
            package, self._package = self._package, ""
            lost = self._home.queue.find(a_submission(packages=(package,)).request_hash)
            assert lost is not None
            self._home.queue.expire(lost.id)
            self._home.completed(package)
        return found


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    made = Home(tmp_path)
    yield made
    made.database.close()


def test_rows_and_images_of_an_expired_build_go_together(home: Home) -> None:
    name = home.completed(ttl=HOUR)
    home.housekeeping.tidy()
    assert home.store.holds(name)
    home.clock.forward(HOUR)
    home.housekeeping.tidy()
    assert home.store.holds(name), "somebody may just begin to download"
    home.clock.forward(GRACE)
    home.housekeeping.tidy()
    assert not home.store.holds(name)
    assert list(home.retention.expired()) == []


def test_results_that_the_required_key_has_not_signed_expire_with_their_files(
    home: Home, caplog: pytest.LogCaptureFixture
) -> None:
    ours = home.completed("ours", signed_by="0123456789abcdef")
    others = [home.completed("other", signed_by="f" * 16), home.completed("unsigned")]
    requiring = home.with_budget(0, required_key="0123456789abcdef")
    requiring.reconcile(dry_run=True)
    assert all(home.queue.find(name) for name in others), "a dry run only tells"
    with caplog.at_level(logging.WARNING):
        requiring.reconcile_when_due()
    assert "2 result(s) without a signature of key 0123456789abcdef" in caplog.text
    assert home.queue.find(ours) and not any(home.queue.find(name) for name in others)
    home.clock.forward(GRACE)
    requiring.tidy()
    assert [home.store.holds(name) for name in (ours, *others)] == [True, False, False]


def test_results_that_do_not_state_where_they_came_from_expire_where_they_must(
    home: Home, caplog: pytest.LogCaptureFixture
) -> None:
    stated, unstated = home.completed("stated", provenance="a.intoto.jsonl"), home.completed("unstated")
    home.housekeeping.reconcile_when_due()
    assert home.queue.find(stated) and home.queue.find(unstated)
    with caplog.at_level(logging.WARNING):
        home.with_budget(0, requires_statement=True).reconcile_when_due()
    assert "1 result(s) that do not state where their images came from have expired" in caplog.text
    assert home.queue.find(stated) and not home.queue.find(unstated)


def test_who_has_not_the_lead_deletes_nothing_that_has_expired(home: Home) -> None:
    name = home.completed(ttl=HOUR)
    home.clock.forward(HOUR + GRACE)
    home.housekeeping.tidy(leads=False)
    assert home.store.holds(name)
    assert home.housekeeping.stored_bytes, "what is stored is told by every process"
    home.housekeeping.tidy()
    assert not home.store.holds(name)


def test_images_of_another_server_in_the_same_store_are_left_alone(home: Home, tmp_path: Path) -> None:
    (tmp_path / "store" / ("e" * 64)).mkdir()
    home.clock.forward(timedelta(days=999))
    home.housekeeping.tidy()
    assert home.store.holds("e" * 64)


def test_a_lapsed_job_returns_and_a_worker_is_woken(home: Home) -> None:
    submission = a_submission()
    home.queue.submit(submission)
    home.claim()
    wakes = home.wakes
    home.pass_time(2 * MINUTE)
    found = home.queue.find(submission.request_hash)
    assert found is not None
    assert (found.state, home.wakes - wakes) == (JobState.PENDING, 1)


def test_only_containers_of_live_leases_are_kept(home: Home) -> None:
    home.queue.submit(a_submission())
    _, live = home.claim()
    former = {**live, "asu.attempt": "0"}
    home.runtime.containers = [live, former, {"asu.job": "x"}, {}]
    home.housekeeping.tidy()
    assert home.runtime.containers == [live]


def test_a_container_of_a_job_claimed_while_they_are_listed_is_kept(home: Home) -> None:
    home.queue.submit(a_submission())
    home.runtime.while_listing = lambda: home.runtime.containers.append(home.claim()[1])
    home.housekeeping.tidy()
    assert len(home.runtime.containers) == 1


def test_an_engine_that_is_down_does_not_stop_the_rest(home: Home) -> None:
    name = home.completed(ttl=HOUR)
    home.runtime.is_down = True
    home.clock.forward(HOUR + GRACE)
    home.housekeeping.tidy()
    assert not home.store.holds(name)


def test_a_result_that_is_being_downloaded_is_kept_whole(home: Home) -> None:
    name = home.completed(ttl=HOUR)
    home.clock.forward(HOUR + GRACE)
    with home.store.hold(name):
        home.housekeeping.tidy()
        assert home.store.holds(name)
        assert home.retention.find_orphans([name]) == []
    home.housekeeping.tidy()
    assert not home.store.holds(name)


def test_the_least_used_results_give_way_when_the_budget_is_full(home: Home) -> None:
    names = []
    for package in ("a", "b", "c", "d"):
        names.append(home.completed(package, size=100))
        home.clock.forward(MINUTE)
    home.clock.forward(HOUR)
    home.queue.touch([names[0]])
    home.clock.forward(HOUR)
    found = home.with_budget(250).collect(dry_run=True)
    assert (list(found.evicted), found.bytes) == ([names[1], names[2]], 200)
    assert all(home.store.holds(name) for name in names)
    with home.store.hold(names[2]):
        home.with_budget(250).collect()
    assert [home.store.holds(name) for name in names] == [True, False, True, False]
    assert home.queue.find(names[1]) is None


def test_a_full_disk_of_builds_takes_no_result_from_a_bucket(home: Home, tmp_path: Path) -> None:
    class Full(LocalStore):
        def room(self) -> int:
            return -1

    name = home.completed(size=100)
    home.clock.forward(HOUR)
    store = Full(home.root / "store", installation="ours", floor=0)
    store.keeps_on_disk = False
    home.store_for_housekeeping = store
    assert home.with_budget(100).collect().evicted == []
    assert home.with_budget(99).collect(dry_run=True).evicted == [name]
    store.keeps_on_disk = True
    assert home.with_budget(100).collect().evicted == [name]


def test_the_least_used_results_are_not_looked_for_while_there_is_room(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[timedelta] = []
    least_used = home.retention.least_used

    def noted(*, unused_for: timedelta) -> Sequence[tuple[str, int]]:
        asked.append(unused_for)
        return least_used(unused_for=unused_for)

    monkeypatch.setattr(home.retention, "least_used", noted)
    home.completed(size=100)
    home.clock.forward(HOUR)
    for budget in (0, 100):
        assert home.with_budget(budget).collect().evicted == []
    assert asked == []
    assert home.with_budget(99).collect().bytes == 100
    assert len(asked) == 1


def test_a_result_that_was_built_again_and_is_lost_is_counted_once(home: Home) -> None:
    home.completed("a", ttl=MINUTE)
    home.clock.forward(2 * MINUTE)
    name = home.completed("a")
    home.store.remove(name)
    assert home.housekeeping.reconcile(dry_run=True).expired == [name]
    assert home.housekeeping.reconcile().expired == [name]
    assert home.queue.find(name) is None


def test_a_dry_run_counts_on_the_room_that_expired_results_will_leave(home: Home) -> None:
    expired = home.completed("a", ttl=HOUR, size=100)
    kept = home.completed("b", size=100)
    home.clock.forward(HOUR + GRACE)
    tight = home.with_budget(150)
    told = tight.collect(dry_run=True)
    assert (list(told.expired), list(told.evicted), told.bytes) == ([expired], [], 0)
    assert tight.collect() == told
    assert home.store.holds(kept)


def test_a_result_that_is_built_again_while_lost_ones_are_looked_for_is_kept(home: Home) -> None:
    first, second = home.completed("a"), home.completed("b")
    for name in (first, second):
        home.store.remove(name)
    store = BuiltAgain(home, "a", when=second)
    home.store_for_housekeeping = store
    assert list(home.with_budget(0).reconcile().expired) == [second]
    assert store.holds(first)
    found = home.queue.find(first)
    assert found is not None
    assert found.state is JobState.COMPLETED


def test_a_result_used_just_now_never_gives_way(home: Home) -> None:
    name = home.completed(size=100)
    home.clock.forward(MINUTE)
    assert home.with_budget(1).collect().evicted == []
    assert home.store.holds(name)


def test_files_without_a_job_and_jobs_without_files_are_brought_together(home: Home, tmp_path: Path) -> None:
    kept, orphan, lost = (home.completed(package) for package in ("a", "b", "c"))
    with home.database.writing() as connection:
        connection.execute("DELETE FROM build_jobs WHERE request_hash = ?", (orphan,))
    home.store.remove(lost)
    assert home.housekeeping.reconcile(dry_run=True).orphaned == [orphan]
    assert home.store.holds(orphan)
    home.housekeeping.reconcile_when_due()
    assert [home.store.holds(name) for name in (kept, orphan, lost)] == [True, False, False]
    assert home.queue.find(lost) is None
    assert home.queue.find(kept) is not None


def test_what_another_installation_has_published_is_no_orphan(home: Home, tmp_path: Path) -> None:
    theirs = LocalStore(tmp_path / "store", installation="theirs", floor=0)
    with theirs.scratch() as scratch:
        theirs.publish("a" * 64, scratch)
    assert home.housekeeping.reconcile(dry_run=True).orphaned == []
    assert home.housekeeping.reconcile().orphaned == []
    assert home.store.holds("a" * 64)


def test_a_published_directory_whose_job_is_being_built_again_is_no_orphan(home: Home) -> None:
    name = home.completed()
    job = home.queue.find(name)
    assert job is not None
    home.queue.expire(job.id)
    home.queue.submit(a_submission(packages=("vim",)))
    home.claim()
    home.housekeeping.reconcile()
    assert home.store.holds(name)


def test_jobs_that_expire_or_give_up_are_counted_as_failed(home: Home) -> None:
    home.queue.submit(a_submission(packages=("idle",)))
    home.pass_time(HOUR + MINUTE)
    assert home.statistics.events == [("failed", "owut/2026.1", "expired")]
    found = home.queue.find(a_submission(packages=("idle",)).request_hash)
    assert found is not None
    assert isinstance(found.outcome, BuildFailure)


def test_a_leap_of_the_clock_makes_no_result_look_unused(home: Home) -> None:
    name = home.completed(size=100)
    home.housekeeping.look_after_queue()
    home.clock.forward(3 * HOUR)
    assert home.with_budget(1).collect().evicted == []
    assert home.store.holds(name)


def test_what_all_images_take_is_told_after_each_round(home: Home) -> None:
    told = [home.housekeeping.stored_bytes]
    for name, size in (("vim", 100), ("emacs", 50)):
        home.completed(name, size=size)
        home.housekeeping.tidy()
        told.append(home.housekeeping.stored_bytes)
    assert told == [None, 100, 150]


def test_without_its_disk_nothing_is_lost_expired_evicted_or_an_orphan(home: Home) -> None:
    kept, orphan, old = home.completed("a"), home.completed("b"), home.completed("c", ttl=HOUR)
    with home.database.writing() as connection:
        connection.execute("DELETE FROM build_jobs WHERE request_hash = ?", (orphan,))
    home.pass_time(HOUR)
    home.clock.forward(GRACE)
    tight = home.with_budget(1)
    home.unmount()
    assert tight.collect() == Collection()
    assert tight.reconcile() == tight.reconcile(dry_run=True) == Collection()
    tight.tidy()
    tight.reconcile_when_due()
    assert home.queue.find(kept) is not None

    home.mount()
    assert all(home.store.holds(name) for name in (kept, orphan, old))
    home.housekeeping.tidy()
    home.housekeeping.reconcile_when_due()
    assert [home.store.holds(name) for name in (kept, orphan, old)] == [True, False, False]


def test_the_hourly_look_comes_as_soon_as_the_disk_does(home: Home) -> None:
    kept, lost = home.completed("a"), home.completed("b")
    home.store.remove(lost)
    home.unmount()
    home.housekeeping.reconcile_when_due()
    home.mount()
    home.housekeeping.reconcile_when_due()
    assert home.queue.find(lost) is None
    assert home.queue.find(kept) is not None


def test_a_disk_that_goes_while_lost_results_are_looked_for_costs_none(home: Home) -> None:
    names = [home.completed(package) for package in ("a", "b")]

    class GoesAway(LocalStore):
        def absent(self, request_hashes: Sequence[str]) -> Sequence[str]:
            if not (home.root / "disk").exists():
                home.unmount()
            return super().absent(request_hashes)

    home.store_for_housekeeping = GoesAway(
        home.root / "store", installation="ours", floor=0, expects_results=home.retention.has_results
    )
    assert list(home.with_budget(0).reconcile().expired) == []
    home.mount()
    assert all(home.queue.find(name) for name in names)


def test_results_of_a_store_that_was_adopted_are_forgotten(home: Home) -> None:
    name = home.completed()
    home.unmount()
    home.store.adopt()
    assert list(home.housekeeping.reconcile().expired) == [name]


def test_a_look_at_many_results_rests_in_between_and_is_cut_off_by_a_stop(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asu_builder.core.housekeeping._NAMES_AT_ONCE", 1)
    lost = [home.completed(name) for name in ("a", "b")]
    for name in lost:
        home.store.remove(name)
    unhurried = home.with_budget(0, rest=HOUR)
    looked_at: list[str] = []
    absent = home.store.absent

    def noted(names: Sequence[str]) -> Sequence[str]:
        looked_at.extend(names)
        return absent(names)

    monkeypatch.setattr(home.store, "absent", noted)
    look = threading.Thread(target=unhurried.reconcile, daemon=True)
    look.start()
    assert eventually(lambda: looked_at == lost[:1])
    assert look.is_alive()
    unhurried.stop()
    look.join(60)
    assert not look.is_alive()
    assert [home.queue.find(name) is None for name in lost] == [True, False]
    assert home.housekeeping.reconcile().expired == [lost[1]]
