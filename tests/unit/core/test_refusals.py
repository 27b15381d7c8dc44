"""Requests that are refused before a build: what is remembered, how long, and what is built all the same."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from asu_builder.core.catalog import Catalog
from asu_builder.core.forecast import Forecast
from asu_builder.core.operator import Operator
from asu_builder.core.preflight import Preflight
from asu_builder.core.refusals import Refusals
from asu_builder.core.submit import AccessTracker, Ask, Builds, BuildView, Cancellation
from asu_builder.database.connection import Database
from asu_builder.database.nodes import SqlNodes
from asu_builder.database.operator import SqlOperations
from asu_builder.database.preflight import SqlPreflightRecords
from asu_builder.database.queue import SqlJobQueue
from asu_builder.database.retention import SqlRetention
from asu_builder.domain.access import Caller, Right, Token
from asu_builder.domain.errors import (
    BuildNotFound,
    BuildProblem,
    Conflict,
    NotAllowed,
    QueueFull,
    TooManyRequests,
    Unavailable,
)
from asu_builder.domain.job import BuildFailure, JobState, Retention
from asu_builder.domain.package_index import PackageIndex, PackageManager
from asu_builder.domain.preflight import CarriedPackages, Feasibility, Foretold, PackageIndexes
from asu_builder.domain.reading import DocumentState, Reading, current_reading
from asu_builder.domain.release import Branches, Release
from asu_builder.package_rules import LocalPackageChanges
from asu_builder.settings import Settings
from asu_builder.store.local import LocalStore
from factories import Clock, a_failure, a_request
from noted_statistics import NotedStatistics
from web_scene import DescribingUpstream

_FEED = "https://downloads.example.org/releases/24.10.5/packages/pico_9kc/base/packages.adb"
_CARRIED = CarriedPackages("image", "r1-a", PackageManager.APK, b"libc", (_FEED,))
STRANGER = Caller("192.0.2.7")
OPERATOR = Caller("ops", token=Token("ops", "", frozenset({Right.OPERATE})))


class KnownIndex:
    """One package index that tests change; it is read as a document is."""

    def __init__(self) -> None:
        self.state = DocumentState(lambda: 0.0)
        self.lacking = ""
        self.is_on_its_way = False
        self.asked = 0
        self.publish(b"the first")

    def publish(self, content: bytes) -> None:
        """The download server has another one by now, and that is known here."""
        self.content = content
        self.state.digest = hashlib.sha256(content).digest()

    def package_indexes(self, release: Release, target: str, architecture: str) -> PackageIndexes:
        self.asked += 1
        if self.is_on_its_way and (reading := current_reading()) is not None:
            reading.await_beside(None)  # type: ignore[arg-type] # nothing waits for it here
        if (reading := current_reading()) is not None:
            reading.note(_FEED, self.state)
        index = PackageIndex("base", _FEED, self.state.digest.hex(), PackageManager.APK, lambda: self.content)
        return PackageIndexes(PackageManager.APK, (index,), self.lacking)

    def repository_index(self, name: str, url: str, manager: PackageManager) -> PackageIndex | None:
        return None


class NamedPackages:
    """Nothing else than `nosuch` is missing; counts how often it was asked."""

    def __init__(self) -> None:
        self.asked = 0
        self.error: Exception | None = None
        self.existing: set[str] = set()
        self.on_question: Callable[[], object] = lambda: None

    def resolve(self, known: PackageIndexes, names: Sequence[str]) -> Foretold:
        self.asked += 1
        self.on_question()
        if self.error:
            raise self.error
        missing = tuple(name for name in names if name.startswith("nosuch") and name not in self.existing)
        if not missing:
            return Foretold(Feasibility.FINE, packages=dict.fromkeys(names, "1"), indexes=known.digest)
        problem, nearest = BuildProblem(missing=missing), {missing[0]: ("some", "such")}
        return Foretold(Feasibility.IMPOSSIBLE, problem=problem, nearest=nearest, indexes=known.digest)

    def close(self) -> None:
        pass


class House:
    """Builds on a real queue, which refuse."""

    def __init__(self, root: Path) -> None:
        self.clock, self.seconds = Clock(), 0.0
        self.database = Database(root / "a.db", clock=self.clock)
        self.queue = SqlJobQueue(self.database)
        self.index, self.resolver, self.statistics = KnownIndex(), NamedPackages(), NotedStatistics()
        self.enforced, self.idle, self.samples = True, False, 0
        self.looks: Counter[str] = Counter()
        self.told: list[str] = []
        self.most_looks = 99
        rules = LocalPackageChanges()
        catalog = Catalog(DescribingUpstream(), Branches(), rules)
        self.carried: CarriedPackages | None = _CARRIED
        preflight = Preflight(
            catalog, rules, self.index, self.resolver, carried_by=lambda path, target: self.carried
        )
        self.refusals = Refusals(
            preflight,
            is_enforced=lambda path, target: self.enforced,
            sample=self._sample,
            is_idle=lambda: self.idle,
            limit=self._limit,
            statistics=self.statistics,
            ttl=timedelta(hours=1),
            now=self.clock,
            clock=lambda: self.seconds,
            announce=self.told.append,
        )
        self.operations = SqlOperations(self.database)
        retention = SqlRetention(self.database)
        store = LocalStore(
            root / "store", installation="ours", floor=0, expects_results=retention.has_results
        )
        settings = Settings(max_pending_jobs=1, allow_defaults=True)
        cancellation = Cancellation(
            self.queue, self.operations, statistics=self.statistics, settings=settings
        )
        self.builds = Builds(
            self.queue,
            catalog,
            package_changes=rules,
            store=store,
            statistics=self.statistics,
            interest=AccessTracker(self.queue),
            forecast=Forecast(self.queue, workers=1, now=self.clock),
            cancellation=cancellation,
            settings=settings,
            limit=lambda caller: None,
            take_back=lambda caller, amount: None,
            refusals=self.refusals,
        )
        self.operator = Operator(
            self.operations,
            self.queue,
            retention=retention,
            store=store,
            statistics=self.statistics,
            preflight_records=SqlPreflightRecords(self.database),
            nodes=SqlNodes(self.database),
            cancellation=cancellation,
            forget_refusal=self.refusals.forget,
        )

    def submit(self, *packages: str, caller: Caller = STRANGER, **changes: Any) -> BuildView:
        return self.builds.submit(self.ask(*packages, caller=caller, **changes))

    def ask(self, *packages: str, caller: Caller = STRANGER, **changes: Any) -> Ask:
        return Ask(a_request(packages=packages, **changes), "owut/1", caller, Reading())

    def _sample(self, path: str, target: str) -> bool:
        assert (path, target) == ("releases/24.10.5", "pico/nine")
        self.samples -= 1
        return self.samples >= 0

    def _limit(self, caller: str) -> TooManyRequests | None:
        self.looks[caller] += 1
        return TooManyRequests("Too many.", retry_after=7) if self.looks[caller] > self.most_looks else None


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    made = House(tmp_path)
    yield made
    made.database.close()


def test_what_cannot_be_installed_is_a_failed_build_that_the_queue_never_saw(house: House) -> None:
    view = house.submit("vim", "nosuch")
    job, outcome = view.job, view.job.outcome
    assert isinstance(outcome, BuildFailure)
    assert (job.state, job.client, view.cancel_token, view.position) == (JobState.FAILED, "owut/1", "", None)
    assert outcome.detail == "Error: Impossible package selection: missing (nosuch)"
    assert (outcome.problem, outcome.field) == (BuildProblem(missing=("nosuch",)), "packages")
    assert (outcome.reason, outcome.side) == (a_failure().reason, a_failure().side)
    assert house.queue.find(job.request_hash) is None
    assert house.builds.pending() == 0
    assert house.statistics.events == [("refused", "owut/1", "impossible_selection")]


def test_a_refusal_answers_the_same_to_everyone_and_is_judged_once(house: House) -> None:
    first = house.submit("nosuch").job
    assert house.submit("nosuch").job == first
    assert house.submit("nosuch", caller=Caller("198.51.100.1")).job == first
    assert house.builds.look(first.request_hash).job == first
    assert house.builds.find_id(first.request_hash) == first.id < 0
    assert (house.resolver.asked, house.looks) == (1, {STRANGER.name: 1})
    assert len(house.statistics.events) == 1
    assert house.submit("nosuch", "vim").job.id not in (first.id, None)


def test_a_full_queue_refuses_what_is_fine_and_not_what_is_impossible(house: House) -> None:
    house.submit("vim")
    with pytest.raises(QueueFull):
        house.submit("htop")
    assert house.submit("nosuch").job.state is JobState.FAILED


def test_a_job_that_answers_wins_over_a_refusal(house: House) -> None:
    house.enforced = False
    waiting = house.submit("nosuch").job
    house.enforced = True
    assert house.submit("nosuch").job.id == waiting.id
    claimed = house.queue.claim("w/1", lease_for=timedelta(minutes=1))
    assert claimed is not None
    house.queue.finish(claimed[1], a_failure(), Retention(timedelta(minutes=5)))
    assert house.submit("nosuch").job.id == waiting.id
    assert house.resolver.asked == 0
    house.clock.forward(timedelta(minutes=6))
    assert house.submit("nosuch").job.id < 0
    assert house.resolver.asked == 1


def test_a_job_that_comes_later_takes_the_place_of_a_refusal(house: House) -> None:
    refused = house.submit("nosuch").job
    assert house.builds.outdated({refused.request_hash: refused.id}) == ([], None)
    house.enforced = False
    # As another process makes one, which knows other indexes.
    built = house.submit("nosuch").job
    assert built.id > 0
    assert house.builds.look(refused.request_hash).job.id == built.id
    names, _ = house.builds.outdated({refused.request_hash: refused.id})
    assert list(names) == [refused.request_hash]


def test_a_refusal_ends_when_an_index_says_something_else(house: House) -> None:
    refused = house.submit("nosuch").job
    house.index.publish(b"the second")
    assert house.builds.find_id(refused.request_hash) is None
    names, _ = house.builds.outdated({refused.request_hash: refused.id})
    assert list(names) == [refused.request_hash]
    with pytest.raises(BuildNotFound):
        house.builds.look(refused.request_hash)
    house.resolver.existing.add("nosuch")
    assert house.submit("nosuch").job.state is JobState.PENDING


def test_a_refusal_ends_with_its_time(house: House) -> None:
    refused = house.submit("nosuch").job
    house.seconds = 3599
    assert house.builds.find_id(refused.request_hash) == refused.id
    house.seconds = 3600
    assert house.builds.find_id(refused.request_hash) is None
    assert house.submit("nosuch").job.id == refused.id - 1


@pytest.mark.parametrize("lacking", ["The feed luci is not readable.", "The indexes are past their time."])
def test_what_lacks_an_index_is_built_though_it_was_refused_before(house: House, lacking: str) -> None:
    house.index.lacking = lacking
    assert house.submit("nosuch").job.state is JobState.PENDING
    house.index.lacking = ""
    assert house.submit("nosuch", "htop").job.state is JobState.FAILED
    house.index.lacking = lacking
    with pytest.raises(QueueFull):
        house.submit("nosuch", "htop")
    assert house.resolver.asked == 1


@pytest.mark.parametrize(
    ("own", "state"),
    [
        ("file:packages", JobState.FAILED),
        ("packages/packages.adb", JobState.FAILED),
        ("feeds/packages/packages.adb", JobState.PENDING),
        ("file:feeds/base", JobState.PENDING),
        ("https://other.example.org/packages.adb", JobState.PENDING),
    ],
)
def test_an_imagebuilder_that_reads_what_is_not_known_here_is_asked(
    house: House, own: str, state: JobState
) -> None:
    house.carried = replace(_CARRIED, repositories=(_FEED, own))
    assert house.submit("nosuch").job.state is state


def test_nothing_is_read_where_nothing_can_be_told(house: House) -> None:
    house.enforced = False
    house.submit("nosuch")
    house.enforced, house.carried = True, None
    with pytest.raises(QueueFull):
        house.submit("nosuch", "vim")
    assert (house.index.asked, house.resolver.asked) == (0, 0)


def test_nothing_is_entered_while_an_index_is_on_its_way(house: House) -> None:
    house.index.is_on_its_way = True
    ask = house.ask("nosuch")
    with pytest.raises(Unavailable):
        house.builds.submit(ask)
    assert ask.reading is not None
    assert ask.reading.lacks
    assert (house.builds.pending(), house.resolver.asked) == (0, 0)


@pytest.mark.parametrize("error", [Unavailable("no process"), ZeroDivisionError()])
def test_whatever_goes_wrong_the_request_is_built(house: House, error: Exception) -> None:
    house.resolver.error = error
    assert house.submit("nosuch").job.state is JobState.PENDING


def test_after_a_slow_verdict_none_is_asked_for_a_minute(house: House) -> None:
    def take_long() -> None:
        house.seconds += 3

    house.resolver.on_question = take_long
    assert house.submit("nosuch-1").job.state is JobState.FAILED
    house.seconds += 59
    assert house.submit("nosuch-2").job.state is JobState.PENDING
    house.seconds += 1
    assert house.submit("nosuch-3").job.state is JobState.FAILED
    assert house.resolver.asked == 2


def test_a_caller_who_asks_too_often_is_built_unjudged(house: House) -> None:
    house.most_looks = 1
    assert house.submit("nosuch").job.state is JobState.FAILED
    assert house.submit("nosuch", "vim").job.state is JobState.PENDING
    assert house.submit("nosuch").job.state is JobState.FAILED, "what is remembered costs nothing"
    assert house.submit("nosuch", "htop", caller=OPERATOR).job.state is JobState.FAILED
    assert (house.resolver.asked, house.looks) == (2, {STRANGER.name: 2})


def test_a_sample_is_built_while_a_worker_is_idle_and_once_a_minute(house: House) -> None:
    house.samples = 2
    assert house.submit("nosuch").job.state is JobState.FAILED, "no worker is idle"
    house.idle = True
    sample = house.submit("nosuch-1").job
    assert sample.state is JobState.PENDING
    assert house.submit("nosuch-1").job.id == sample.id
    house.seconds = 59
    assert house.submit("nosuch-2").job.state is JobState.FAILED
    assert house.samples == 1
    house.seconds = 60
    house.operator.cancel(sample.request_hash, operator="alice")
    assert house.submit("nosuch-3").job.state is JobState.PENDING
    house.seconds = 120
    assert house.submit("nosuch-4").job.state is JobState.FAILED, "the samples are used up"


def test_equal_requests_at_once_have_one_answer_also_when_it_is_a_sample(house: House) -> None:
    house.samples, house.idle = 1, True
    others = [Caller(f"192.0.2.{number}") for number in range(3)]
    views = house.builds.submit_all([house.ask("nosuch", caller=caller) for caller in others])
    assert {view.job.id for view in views if isinstance(view, BuildView)} == {1}
    house.samples = 0
    views = house.builds.submit_all([house.ask("nosuch", "vim", caller=caller) for caller in others])
    assert {view.job.id for view in views if isinstance(view, BuildView)} == {-1}
    assert house.resolver.asked == 2


def test_only_so_many_refusals_are_kept(house: House) -> None:
    first, second = (house.submit(f"nosuch-{number}", caller=OPERATOR).job for number in range(2))
    for number in range(2, 1000):
        house.submit(f"nosuch-{number}", caller=OPERATOR)
    assert house.builds.find_id(first.request_hash) == first.id
    house.submit("nosuch-1000", caller=OPERATOR)
    assert house.builds.find_id(second.request_hash) is None
    assert house.builds.find_id(first.request_hash) == first.id


def test_only_so_many_bytes_of_refusals_are_kept(house: House) -> None:
    names = [
        house.submit("nosuch", caller=OPERATOR, defaults=f"# {number} {'x' * 18000}").job.request_hash
        for number in range(200)
    ]
    kept = [name for name in names if house.builds.find_id(name)]
    assert 140 < len(kept) < 170
    assert kept == names[-len(kept) :]


def test_nobody_cancels_a_refusal_and_an_operator_can_drop_it(house: House) -> None:
    name = house.submit("nosuch").job.request_hash
    with pytest.raises(NotAllowed):
        house.builds.cancel(name, caller=STRANGER, cancel_token="guess")
    with pytest.raises(Conflict, match="ended before: it is failed"):
        house.builds.cancel(name, caller=OPERATOR, cancel_token="")
    house.operator.purge(name, operator="ops")
    with pytest.raises(BuildNotFound):
        house.builds.look(name)
    with pytest.raises(BuildNotFound):
        house.operator.purge(name, operator="ops")
    assert house.submit("nosuch").job.id == -2


@pytest.fixture
def other(tmp_path: Path) -> Iterator[House]:
    """Another node; it has a database of its own, for refusals are in none."""
    made = House(tmp_path / "other")
    yield made
    made.database.close()


def test_what_one_node_has_refused_another_tells_too(house: House, other: House) -> None:
    refused = house.submit("nosuch").job
    (line,) = house.told
    other.refusals.adopt(line)
    told = other.builds.look(refused.request_hash).job
    assert (told.outcome, told.request, told.client) == (refused.outcome, refused.request, refused.client)
    assert (told.enqueued_at, told.state) == (refused.enqueued_at, JobState.FAILED) and told.id < 0
    assert not other.statistics.events, "it was counted where it was refused"
    assert other.submit("nosuch").job.id == told.id and not other.resolver.asked, "it is judged only once"
    assert house.submit("nosuch").job.id == refused.id and len(house.told) == 1


def test_a_told_refusal_is_judged_again_by_other_indexes(house: House, other: House) -> None:
    name = house.submit("nosuch").job.request_hash
    other.index.publish(b"newer")
    other.resolver.existing.add("nosuch")
    other.refusals.adopt(house.told[0])
    assert other.submit("nosuch").job.id > 0
    house.refusals.adopt(house.told[0])
    house.seconds += 301
    assert house.builds.look(name).job.id < 0, "its own lasts as it did"


def test_a_told_refusal_ends_after_five_minutes(house: House, other: House) -> None:
    name = house.submit("nosuch").job.request_hash
    other.refusals.adopt(house.told[0])
    other.seconds += 299
    assert other.builds.find_id(name)
    other.seconds += 2
    assert other.builds.find_id(name) is None


def test_no_node_is_told_a_script_or_what_is_too_long(house: House) -> None:
    assert house.submit("nosuch", defaults="echo secret").job.id < 0
    assert house.submit("nosuch", *(hashlib.sha256(b"%d" % it).hexdigest() for it in range(250))).job.id < 0
    assert not house.told


@pytest.mark.parametrize("line", ["", "x", "%%%", "eJw=", "eJyrrgUAAXUA+Q==", "\xff", "A" * 9000])
def test_a_line_that_makes_no_sense_is_left(other: House, line: str) -> None:
    other.refusals.adopt(line)
    assert not other.refusals.find("a" * 64)
