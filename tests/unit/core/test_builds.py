import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from asu_builder.core.catalog import Catalog, resolve_profile
from asu_builder.core.forecast import Forecast
from asu_builder.core.housekeeping import delete_with_files
from asu_builder.core.submit import AccessTracker, Ask, Builds, BuildView, Cancellation
from asu_builder.database.connection import Database
from asu_builder.database.operator import SqlOperations
from asu_builder.database.queue import SqlJobQueue
from asu_builder.database.retention import SqlRetention
from asu_builder.domain.access import Caller, Right, Token
from asu_builder.domain.errors import (
    BuildNotFound,
    Conflict,
    NotAllowed,
    QueueFull,
    RequestRejected,
    TooManyRequests,
    Unavailable,
)
from asu_builder.domain.health import CheckResult
from asu_builder.domain.job import IdlePolicy, JobState, Retention
from asu_builder.domain.release import Branches, Release, TargetProfiles, VersionList
from asu_builder.domain.search import Device, Title
from asu_builder.package_rules import LocalPackageChanges
from asu_builder.settings import Settings
from asu_builder.store.local import LocalStore
from asu_builder.upstream.formats import parse_profiles_json
from asu_builder.upstream.lenient import Notes
from factories import UPSTREAM, Clock, a_request, a_result
from noted_statistics import NotedStatistics

WIDGET = TargetProfiles("r1-a", "pico_9kc", {"acme_widget-5": ("acme,widget-5", "widget5"), "acme_tiny": ()})
GENERIC = TargetProfiles("r1-a", "x86_64", {"generic": ()})
SETTINGS = Settings(
    allow_defaults=False,
    max_defaults_length=10,
    max_custom_rootfs_size_mb=100,
    repository_allow_list=(
        "https://example.org/ok",
        "https://example.org/{version}/{branch}/{target}-{subtarget}/{arch}",
    ),
    max_pending_jobs=2,
)


class KnownUpstream:
    """A download server with two releases and a moving one."""

    revision = "r1-a"

    def __init__(self) -> None:
        self.widget = WIDGET

    def check(self) -> CheckResult:
        return CheckResult("ok", "It answers.")

    def versions(self) -> VersionList:
        return VersionList(("24.10.4", "24.10.5"), ("24.10.5",))

    def targets(self, release: Release, *, wait: bool = True) -> Mapping[str, str] | None:
        known = ("24.10.4", "24.10.5", "24.10-SNAPSHOT", "SNAPSHOT")
        return (
            {"pico/nine": "pico_9kc", "x86/64": "x86_64", "gone/away": "x"}
            if release.version in known
            else None
        )

    def devices(self, release: Release) -> Sequence[Device] | None:
        return None

    def target_profiles(self, release: Release, target: str) -> TargetProfiles | None:
        described = {"pico/nine": self.widget, "x86/64": GENERIC}.get(target)
        return None if described is None else replace(described, revision=self.revision)

    def described_profile(self, release: Release, target: str, profile: str) -> bytes | None:
        return None

    def architecture_packages(self, release: Release, architecture: str) -> Mapping[str, str] | None:
        return None

    def target_packages(self, release: Release, target: str) -> Mapping[str, str] | None:
        return None


class House:
    """Builds on a real queue and store."""

    def __init__(self, root: Path, *, floor: int = 0, **settings: Any) -> None:
        self.clock = Clock()
        self.database = Database(root / "a.db", clock=self.clock)
        self.queue = SqlJobQueue(self.database)
        self.root = root
        self.store = LocalStore(
            root / "store",
            installation="ours",
            floor=floor,
            expects_results=SqlRetention(self.database).has_results,
        )
        self.upstream = KnownUpstream()
        self.changes = LocalPackageChanges()
        self.statistics = NotedStatistics()
        self.hindrance = ""
        self.asked_for_hindrance = 0
        self.seconds = 0.0
        self.refused: set[str] = set()
        self.rejected_keys: set[str] = set()
        self.limited: Counter[str] = Counter()
        self.most = 99
        self.operations = SqlOperations(self.database)
        self.interest = AccessTracker(self.queue)
        self.builds = Builds(
            self.queue,
            Catalog(self.upstream, Branches(), self.changes),
            package_changes=self.changes,
            store=self.store,
            statistics=self.statistics,
            interest=self.interest,
            forecast=Forecast(
                self.queue,
                workers=2,
                now=self.clock,
                clock=lambda: self.seconds,
            ),
            cancellation=Cancellation(
                self.queue,
                self.operations,
                statistics=self.statistics,
                settings=Settings(),
            ),
            limit=self._limit,
            take_back=self._take_back,
            waiting_for=self._hindrance,
            accepts_result=lambda result: result.signed_by not in self.rejected_keys,
            settings=replace(SETTINGS, **settings),
        )

    def forecast_again(self) -> None:
        """Lets the next forecast measure anew."""
        self.seconds += 60

    def _hindrance(self) -> str:
        self.asked_for_hindrance += 1
        return self.hindrance

    def _limit(self, caller: str) -> TooManyRequests | None:
        if caller in self.refused or self.limited[caller] >= self.most:
            return TooManyRequests("Too many.", retry_after=7)
        self.limited[caller] += 1
        return None

    def _take_back(self, caller: str, amount: int) -> None:
        self.limited[caller] -= amount

    @property
    def wakes(self) -> int:
        return self.database.wakeups.count

    def complete_next(self) -> str:
        """Builds the next job without an ImageBuilder; its hash."""
        claimed = self.queue.claim("w/1", lease_for=timedelta(minutes=1))
        assert claimed is not None
        job, lease = claimed
        with self.store.scratch() as scratch:
            (scratch / "images").mkdir()
            self.store.publish(job.request_hash, scratch / "images")
        self.queue.finish(lease, a_result(), Retention(timedelta(days=1)))
        return job.request_hash


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    made = House(tmp_path)
    yield made
    made.database.close()


def test_a_new_request_wakes_a_worker_and_says_how_many_are_ahead(house: House) -> None:
    first = house.builds.submit(Ask(a_request(packages=("a",)), "owut/1"))
    second = house.builds.submit(Ask(a_request(packages=("b",)), "owut/1"))
    assert (first.position, second.position, house.wakes) == (0, 1, 2)
    assert house.builds.pending() == 2
    assert house.statistics.events == [("request", "owut/1", "")] * 2


def test_an_alias_and_its_profile_share_one_job(house: House) -> None:
    views = [
        house.builds.submit(Ask(a_request(profile=name))) for name in ("acme_widget-5", "widget5")
    ]  # the comma form is the wire's
    assert views[0].job.id == views[1].job.id
    assert views[1].job.request.profile == "acme_widget-5"
    assert house.wakes == 1


def test_a_repeated_request_with_a_result_is_a_cache_hit(house: House) -> None:
    house.builds.submit(Ask(a_request()))
    house.complete_next()
    view = house.builds.submit(Ask(a_request(), "luci/1"))
    assert (view.job.state, view.position) == (JobState.COMPLETED, None)
    assert house.statistics.events[-1] == ("cache_hit", "luci/1", "")


def test_a_result_whose_files_are_gone_is_not_shown_and_built_anew(house: House) -> None:
    house.builds.submit(Ask(a_request()))
    name = house.complete_next()
    house.store.remove(name)
    with pytest.raises(BuildNotFound):
        house.builds.look(name)
    assert house.builds.submit(Ask(a_request())).job.state is JobState.PENDING


def test_a_result_of_a_key_that_is_not_accepted_has_expired_for_every_process(house: House) -> None:
    house.builds.submit(Ask(a_request()))
    name = house.complete_next()
    job_id = house.builds.look(name).job.id
    assert house.builds.find_id(name) == job_id
    house.rejected_keys.add("")
    with pytest.raises(BuildNotFound):
        house.builds.look(name)
    assert house.builds.find_id(name) is None
    assert name not in house.builds.progress([name])
    assert house.builds.outdated({name: job_id})[0] == [name]
    house.rejected_keys.clear()
    with pytest.raises(BuildNotFound):
        house.builds.look(name)
    assert house.builds.submit(Ask(a_request())).job.state is JobState.PENDING


def test_a_result_whose_disk_is_not_mounted_is_neither_shown_nor_built_anew(house: House) -> None:
    house.builds.submit(Ask(a_request()))
    name = house.complete_next()
    house.builds.submit(Ask(a_request(packages=("waits",))))
    store, disk = house.root / "store", house.root / "disk"
    store.rename(disk)
    store.mkdir()
    with pytest.raises(Unavailable, match="is its disk mounted"):
        house.builds.look(name)
    asked = [a_request(), a_request(packages=("waits",)), a_request(packages=("new",))]
    done, waits, new = house.builds.submit_all([Ask(request) for request in asked])
    assert isinstance(waits, BuildView), "others are answered"
    assert isinstance(done, Unavailable) and isinstance(new, Unavailable)
    assert str(done) == str(new)
    assert house.builds.pending() == 1

    store.rmdir()
    disk.rename(store)
    assert house.builds.look(name).job.state is JobState.COMPLETED
    assert house.builds.submit(Ask(a_request())).job.state is JobState.COMPLETED


def test_an_unknown_hash_is_not_found_in_the_words_of_the_predecessor(house: House) -> None:
    with pytest.raises(BuildNotFound, match=r"^could not find provided request hash$"):
        house.builds.look("f" * 64)


def test_a_full_queue_still_answers_what_it_knows(house: House) -> None:
    known = house.builds.submit(Ask(a_request(packages=("a",))))
    house.builds.submit(Ask(a_request(packages=("b",))))
    with pytest.raises(QueueFull):
        house.builds.submit(Ask(a_request(packages=("c",))))
    assert house.builds.submit(Ask(a_request(packages=("a",)))).job.id == known.job.id


def test_a_moving_version_is_another_build_when_upstream_moves(house: House) -> None:
    first = house.builds.submit(Ask(a_request(version="SNAPSHOT")))
    house.upstream.revision = "r2-b"
    second = house.builds.submit(Ask(a_request(version="SNAPSHOT")))
    assert first.job.request_hash != second.job.request_hash


def test_a_release_is_the_same_build_whatever_upstream_says(house: House) -> None:
    first = house.builds.submit(Ask(a_request()))
    house.upstream.revision = "r2-b"
    assert house.builds.submit(Ask(a_request())).job.id == first.job.id


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"defaults": "uci"}, "^Handling `defaults` not enabled on server$"),
        ({"rootfs_size_mb": 101}, "^rootfs_size_mb: at most 100 MiB are allowed here$"),
        (
            {"repositories": {"x": "https://example.org/bad"}},
            "^Repository not allowed: https://example.org/bad$",
        ),
        ({"version": "1.2"}, r"^Unsupported branch: 1\.2$"),
        ({"version": "24.10.99"}, r"^Unsupported version: 24\.10\.99$"),
        ({"version": "25.12-SNAPSHOT"}, r"^Unsupported version: 25\.12-SNAPSHOT$"),
        (
            {"target": "no/such"},
            r"^Unsupported target: no/such\. The requested target was either dropped, is still",
        ),
        ({"target": "gone/away"}, r"^Unsupported target: gone/away\."),
        (
            {"profile": "nope"},
            r"^Unsupported profile: nope\. The requested profile was either dropped or never existed\.",
        ),
    ],
)
def test_what_cannot_be_served_is_refused_in_words_that_users_search_for(
    house: House, changes: dict[str, Any], text: str
) -> None:
    with pytest.raises(RequestRejected, match=text):
        house.builds.submit(Ask(a_request(**changes)))
    assert house.builds.pending() == 0


def test_the_allow_list_is_filled_in_from_the_request(house: House) -> None:
    allowed = "https://example.org/24.10.5/24.10/pico-nine/pico_9kc"
    house.builds.submit(Ask(a_request(repositories={"x": f"{allowed}/packages"})))
    with pytest.raises(RequestRejected, match="Repository not allowed"):
        house.builds.submit(Ask(a_request(version="24.10.4", repositories={"x": f"{allowed}/packages"})))


def test_defaults_that_are_allowed_have_a_length(tmp_path: Path) -> None:
    house = House(tmp_path, allow_defaults=True)
    house.builds.submit(Ask(a_request(defaults="x" * 10)))
    with pytest.raises(RequestRejected, match=r"^defaults: at most 10 characters are allowed here$"):
        house.builds.submit(Ask(a_request(defaults="x" * 11)))
    house.database.close()


def test_branch_snapshots_are_known_by_their_targets(house: House) -> None:
    assert house.builds.submit(Ask(a_request(version="24.10-SNAPSHOT"))).position == 0


@pytest.mark.parametrize(
    ("asked", "described", "profile"),
    [
        ("acme_widget-5", WIDGET, "acme_widget-5"),
        ("acme,widget-5", WIDGET, "acme_widget-5"),
        ("widget5", WIDGET, "acme_widget-5"),
        ("generic", WIDGET, None),
        ("any_board", GENERIC, "generic"),
        ("any_board", WIDGET, None),
    ],
)
def test_profiles_are_found_by_device_names_and_a_lone_generic_takes_all(
    asked: str, described: TargetProfiles, profile: str | None
) -> None:
    assert resolve_profile(asked, described) == profile


SHARED = {
    "qxwlan_e600gac-v2-16m": ("qxwlan,e600gac-v2-16m", "e600gac-v2"),
    "qxwlan_e600gac-v2-8m": ("qxwlan,e600gac-v2-8m", "e600gac-v2"),
    "cudy_wr1300-v1": ("cudy,wr1300-v1", "cudy,wr1300"),
    "cudy_wr1300-v2": ("cudy,wr1300-v2", "cudy,wr1300"),
    "cudy_wr1300-v3": ("cudy,wr1300-v3", "cudy,wr1300", "R30"),
    "cudy_x6-v2": ("cudy,x6-v2", "R30"),
    "acme_new": ("acme,board", "acme,former"),
    "acme_newer": ("acme,newer", "acme,board"),
    "acme_twin-a": ("acme,twin", "acme,twin-a"),
    "acme_twin-b": ("acme,twin", "acme,twin-b"),
    "acme_former": ("acme,former-1",),
    "acme_alone": ("acme,alone-1", "only-mine"),
}
"""Board names of the kinds that real metadata has."""


@pytest.mark.parametrize(
    ("asked", "profile"),
    [
        ("acme_former", "acme_former"),
        ("acme,former", "acme_former"),
        ("acme,board", "acme_new"),
        ("only-mine", "acme_alone"),
        ("cudy,wr1300-v2", "cudy_wr1300-v2"),
    ],
)
def test_an_id_and_then_a_profiles_own_name_go_before_former_names(asked: str, profile: str) -> None:
    assert resolve_profile(asked, TargetProfiles("r1-a", "mips", SHARED)) == profile


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ("e600gac-v2", {"qxwlan_e600gac-v2-16m", "qxwlan_e600gac-v2-8m"}),
        ("cudy_wr1300", {"cudy_wr1300-v1", "cudy_wr1300-v2", "cudy_wr1300-v3"}),
        ("cudy,wr1300", {"cudy_wr1300-v1", "cudy_wr1300-v2", "cudy_wr1300-v3"}),
        ("R30", {"cudy_wr1300-v3", "cudy_x6-v2"}),
        ("acme,twin", {"acme_twin-a", "acme_twin-b"}),
    ],
)
def test_a_name_of_several_profiles_is_refused_with_all_of_them(
    house: House, asked: str, meant: set[str]
) -> None:
    """Case 17: "400 that lists the profiles with their titles; nothing built"."""
    titles = {name: (Title(f"Title of {name}"),) for name in SHARED}
    house.upstream.widget = TargetProfiles("r1-a", "mips", SHARED, titles=titles)
    with pytest.raises(RequestRejected) as refusal:
        house.builds.submit(Ask(a_request(profile=asked.replace(",", "_"))))
    named = {name for name in SHARED if f"{name} (Title of {name})" in str(refusal.value)}
    assert named == meant
    assert "Send one of their ids" in str(refusal.value)
    assert house.queue.pending() == 0


def test_each_name_of_real_metadata_means_one_profile_or_is_refused_with_those_that_have_it() -> None:
    path = UPSTREAM / "releases/25.12.0/targets/ath79/generic/profiles.json"
    if not path.exists():
        pytest.skip("no recorded upstream metadata here")
    described = parse_profiles_json(path.read_bytes(), Notes())
    for profile, devices in described.profiles.items():
        assert resolve_profile(profile, described) == profile
        for device in devices:
            having = {
                name
                for name, others in described.profiles.items()
                if device in others or name == device.replace(",", "_")
            }
            try:
                assert resolve_profile(device, described) in having
            except RequestRejected as refusal:
                assert len(having) > 1
                assert all(name in str(refusal) for name in having)


def test_an_architecture_that_a_target_does_not_tell_is_that_of_the_list(house: House) -> None:
    house.upstream.widget = replace(WIDGET, architecture="")
    repositories = {"ok": "https://example.org/24.10.5/24.10/pico-nine/pico_9kc"}
    assert house.builds.submit(Ask(a_request(repositories=repositories))).position == 0


FIRST, OTHER = Caller("192.0.2.1"), Caller("192.0.2.2")
OPERATOR = Caller("alice", Token("alice", "d" * 64, frozenset({Right.OPERATE})))


def test_only_new_builds_count_against_the_limit_and_tokens_are_exempt(house: House) -> None:
    house.builds.submit(Ask(a_request(), "owut/1", FIRST))
    house.refused = {"192.0.2.1", "alice"}
    assert house.builds.submit(Ask(a_request(), "owut/1", FIRST)).job.state is JobState.PENDING
    with pytest.raises(TooManyRequests):
        house.builds.submit(Ask(a_request(packages=("vim",)), "owut/1", FIRST))
    house.builds.submit(Ask(a_request(packages=("vim",)), "owut/1", OPERATOR))
    assert house.limited == {"192.0.2.1": 1}


def test_what_joins_a_job_beside_new_builds_takes_none_of_what_its_caller_may_have(tmp_path: Path) -> None:
    house = House(tmp_path, max_pending_jobs=9)
    house.builds.submit(Ask(a_request(packages=("known",)), caller=OTHER))
    house.most = 2
    names = ("known", "one", "one", "two", "three")
    answers = house.builds.submit_all([Ask(a_request(packages=(name,)), caller=FIRST) for name in names])
    assert [type(answer) for answer in answers] == [BuildView] * 4 + [TooManyRequests]
    assert house.limited == {OTHER.name: 1, FIRST.name: 2}
    house.database.close()


def test_what_a_full_queue_refuses_does_not_count(tmp_path: Path) -> None:
    house = House(tmp_path, max_pending_jobs=1)
    answers = house.builds.submit_all([Ask(a_request(packages=(name,)), caller=FIRST) for name in "abc"])
    assert [type(answer) for answer in answers] == [BuildView, QueueFull, QueueFull]
    assert house.limited == {FIRST.name: 1}
    house.database.close()


def test_what_could_not_be_written_does_not_count(house: House) -> None:
    house.database.close()
    with pytest.raises(sqlite3.ProgrammingError):
        house.builds.submit(Ask(a_request(), caller=FIRST))
    assert house.limited == {FIRST.name: 0}


def test_a_disk_without_room_refuses_new_builds_and_answers_for_old_ones(
    house: House, tmp_path: Path
) -> None:
    known = house.builds.submit(Ask(a_request()))
    full = House(tmp_path, floor=1 << 62)
    with pytest.raises(Unavailable, match="nearly full"):
        full.builds.submit(Ask(a_request(packages=("vim",))))
    assert full.builds.submit(Ask(a_request())).job.id == known.job.id
    assert full.builds.look(known.job.request_hash).job.id == known.job.id
    full.database.close()


def test_whoever_started_a_build_may_cancel_it_with_its_secret(house: House) -> None:
    view = house.builds.submit(Ask(a_request(), "owut/1", FIRST))
    again = house.builds.submit(Ask(a_request(), "owut/1", FIRST))
    assert (len(view.cancel_token) >= 20, again.cancel_token) == (True, "")
    name = view.job.request_hash
    for wrong in ("", "wrong"):
        with pytest.raises(NotAllowed, match="X-Cancel-Token"):
            house.builds.cancel(name, caller=FIRST, cancel_token=wrong)
    assert (
        house.builds.cancel(name, caller=OTHER, cancel_token=view.cancel_token).job.state
        is JobState.CANCELLED
    )
    assert (
        house.builds.cancel(name, caller=OTHER, cancel_token=view.cancel_token).job.state
        is JobState.CANCELLED
    )
    assert [kind for kind, _, _ in house.statistics.events] == ["request", "cancelled"]
    assert house.builds.submit(Ask(a_request(), "owut/1", FIRST)).job.id != view.job.id


def test_a_build_for_which_others_wait_is_cancelled_by_an_operator_alone(house: House) -> None:
    view = house.builds.submit(Ask(a_request(), "owut/1", FIRST))
    house.builds.submit(Ask(a_request(), "luci/1", OTHER))
    name = view.job.request_hash
    with pytest.raises(Conflict, match="Others have asked"):
        house.builds.cancel(name, caller=FIRST, cancel_token=view.cancel_token)
    assert house.operations.acts(9) == []
    assert house.builds.cancel(name, caller=OPERATOR, cancel_token="").job.state is JobState.CANCELLED
    (act,) = house.operations.acts(9)
    assert (act.operator, act.act, act.subject) == ("alice", "cancel", name)


def test_what_has_ended_is_not_cancelled(house: House) -> None:
    view = house.builds.submit(Ask(a_request(), "owut/1", FIRST))
    name = house.complete_next()
    with pytest.raises(Conflict, match="completed"):
        house.builds.cancel(name, caller=OPERATOR, cancel_token=view.cancel_token)
    with pytest.raises(BuildNotFound):
        house.builds.cancel("f" * 64, caller=OPERATOR, cancel_token="")


def test_the_time_that_is_left_follows_from_what_builds_took_and_from_the_place(house: House) -> None:
    first = house.builds.submit(Ask(a_request(packages=("a",))))
    assert first.remaining is None
    claimed = house.queue.claim("w/1", lease_for=timedelta(minutes=1))
    assert claimed is not None
    house.clock.forward(timedelta(seconds=20))
    house.queue.finish(claimed[1], a_result(), Retention(timedelta(days=1)))
    house.forecast_again()
    views = [house.builds.submit(Ask(a_request(packages=(name,)))) for name in ("b", "c")]
    assert [view.remaining for view in views] == [timedelta(seconds=30), timedelta(seconds=40)]
    house.queue.claim("w/1", lease_for=timedelta(minutes=1))
    house.clock.forward(timedelta(seconds=5))
    assert house.builds.look(views[0].job.request_hash).remaining == timedelta(seconds=15)
    assert not house.builds.look(views[0].job.request_hash).late
    house.clock.forward(timedelta(seconds=30))
    overdue = house.builds.look(views[0].job.request_hash)
    assert (overdue.remaining, overdue.late) == (timedelta(seconds=3.5), True), "longer than builds took"
    house.hindrance = "engine"
    building = house.builds.look(views[0].job.request_hash)
    assert (building.remaining, building.waiting_for) == (None, ""), "it waits for nothing itself"
    waiting = house.builds.look(views[1].job.request_hash)
    assert (waiting.remaining, waiting.waiting_for) == (None, "engine")


def test_what_hinders_builds_is_asked_for_once_for_all_who_submit_together(house: House) -> None:
    house.hindrance = "paused"
    views = house.builds.submit_all([Ask(a_request(packages=(name,))) for name in ("a", "b")])
    assert [view.waiting_for for view in views if isinstance(view, BuildView)] == ["paused", "paused"]
    assert house.asked_for_hindrance == 1


def test_looking_keeps_a_waiting_job_in_its_place(house: House) -> None:
    view = house.builds.submit(Ask(a_request()))
    patience = IdlePolicy(timedelta(minutes=5), timedelta(minutes=30))
    for _ in range(10):
        house.clock.forward(timedelta(minutes=4))
        house.builds.look(view.job.request_hash)
        house.interest.flush()
        assert not house.queue.expire_abandoned(patience, failure_ttl=timedelta(hours=1))
    house.clock.forward(timedelta(minutes=31))
    assert house.queue.expire_abandoned(patience, failure_ttl=timedelta(hours=1))


def test_a_bug_met_by_one_request_is_answered_to_that_one_alone(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it is met: while it is prepared, while it is entered, or when it is welcomed."""
    asked = [Ask(a_request(packages=(name,))) for name in ("a", "trap", "b")]
    resolve = house.builds._catalog.resolve

    def resolve_badly(request: Any) -> Any:
        if "trap" in request.packages:
            raise RuntimeError("a bug")
        return resolve(request)

    monkeypatch.setattr(house.builds._catalog, "resolve", resolve_badly)
    kinds = [type(answer) for answer in house.builds.submit_all(asked)]
    assert kinds == [BuildView, RuntimeError, BuildView]
    monkeypatch.undo()

    submit_all = house.queue.submit_all

    def enter_badly(submissions: Any, **rest: Any) -> Any:
        if any("trap" in submission.request.packages for submission in submissions):
            raise RuntimeError("a bug")
        return submit_all(submissions, **rest)

    monkeypatch.setattr(house.queue, "submit_all", enter_badly)
    kinds = [type(answer) for answer in house.builds.submit_all(asked)]
    assert kinds == [BuildView, RuntimeError, BuildView]


def test_a_store_that_was_deleted_is_not_called_full(house: House) -> None:
    (house.root / "store").rmdir()
    with pytest.raises(Unavailable) as refusal:
        house.builds.submit(Ask(a_request()))
    assert "full" not in str(refusal.value)
    assert "store" in str(refusal.value)


def test_nobody_waits_for_a_disk_within_a_transaction(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    locked: list[bool] = []
    room, writing = house.store.room, house.database._writing

    def look() -> int:
        locked.append(writing.locked())
        return room()

    monkeypatch.setattr(house.store, "room", look)
    house.builds.submit(Ask(a_request()))
    name = house.complete_next()
    retention = SqlRetention(house.database)

    def remove(confirm: Callable[[], bool]) -> bool:
        locked.append(writing.locked())
        return house.store.remove(name, confirm=confirm)

    assert delete_with_files(retention, name, remove=remove, unexpired=True)
    assert not house.store.holds(name)
    assert locked == [False, False]


def test_images_stay_whose_request_was_asked_for_again_meanwhile(house: House) -> None:
    house.builds.submit(Ask(a_request()))
    name = house.complete_next()
    retention = SqlRetention(house.database)

    def remove(confirm: Callable[[], bool]) -> bool:
        house.operations.purge(name)
        house.builds.submit(Ask(a_request()))
        return house.store.remove(name, confirm=confirm)

    assert not delete_with_files(retention, name, remove=remove, unexpired=True)
    assert house.store.holds(name)
