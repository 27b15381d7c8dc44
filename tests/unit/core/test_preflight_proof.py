"""Builds are compared with what is foretold for them: real records, and verdicts that the tests decide."""

import logging
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from asu_builder.core.catalog import Catalog
from asu_builder.core.metrics import PreflightCounts
from asu_builder.core.preflight import Preflight, PreflightProof
from asu_builder.database.connection import Database
from asu_builder.database.preflight import SqlPreflightRecords
from asu_builder.domain.errors import BuildProblem, FailureReason, RequestRejected, Unavailable
from asu_builder.domain.job import BuildFailure, Job, JobState, Outcome
from asu_builder.domain.package_index import PackageIndex, PackageManager
from asu_builder.domain.preflight import (
    CarriedPackages,
    Feasibility,
    Foretold,
    PackageIndexes,
    PreflightMode,
    differing_packages,
)
from asu_builder.domain.release import Branches, Release
from asu_builder.domain.request import request_hash
from asu_builder.package_rules import LocalPackageChanges
from factories import NOON, Clock, a_request, a_result
from web_scene import DescribingUpstream

PLACE = "releases/24.10.5", "pico/nine"
BASE = "https://downloads.example.org/releases/24.10.5/packages/pico_9kc/base"
MISSING = Foretold(Feasibility.IMPOSSIBLE, problem=BuildProblem(missing=("no-such",)))
MANIFEST = {"base-files": "1~a", "libubus": "2.1-r1", "vim": "9.1-r0"}
FINE = Foretold(
    Feasibility.FINE, packages={"base-files": "1~a", "libubus20241020": "2.1-r1", "vim": "9.1-r0"}
)


def a_carried() -> CarriedPackages:
    return CarriedPackages("1", "r1-a", PackageManager.APK, b"", (f"{BASE}/packages.adb",))


class World:
    """Indexes and verdicts, as a test decides them."""

    def __init__(self) -> None:
        self.lacking = ""
        self.digest = "1" * 64
        self.foretold = FINE
        self.names: tuple[str, ...] = ()
        self.manager = PackageManager.APK

    def package_indexes(self, release: Release, target: str, architecture: str) -> PackageIndexes:
        index = PackageIndex("base", f"{BASE}/packages.adb", self.digest, self.manager, lambda: b"")
        return PackageIndexes(self.manager, (index,), self.lacking)

    def repository_index(self, name: str, url: str, manager: PackageManager) -> PackageIndex | None:
        return None

    def resolve(self, known: PackageIndexes, names: Sequence[str]) -> Foretold:
        self.names = tuple(names)
        return self.foretold

    def close(self) -> None:
        pass


class Bench:
    """A proof over real records."""

    def __init__(self, root: Path) -> None:
        self.clock = Clock()
        self.world = World()
        self.counts = PreflightCounts()
        self.database = Database(root / "a.db", clock=self.clock)
        self.records = SqlPreflightRecords(self.database, clock=self.seconds)
        self.records.learn(*PLACE, a_carried())
        self.upstream = DescribingUpstream()
        self.catalog = Catalog(self.upstream, Branches(), LocalPackageChanges())
        self.proof = self.with_mode(PreflightMode.ENFORCE)

    def with_mode(self, mode: PreflightMode) -> PreflightProof:
        rules = LocalPackageChanges()
        preflight = Preflight(self.catalog, rules, self.world, self.world, carried_by=self.records.carried)
        return PreflightProof(
            lambda: preflight,
            self.catalog.resolve,
            self.records,
            mode=mode,
            counts=self.counts,
            clock=self.seconds,
        )

    def seconds(self) -> float:
        return self.clock().timestamp()

    def ends(self, outcome: Outcome, **changes: Any) -> None:
        """A build ends so, and is compared."""
        request = a_request(**{"version": "24.10.5", "packages": ("vim",), **changes})
        self.proof.note(Job(1, request_hash(request), request, JobState.BUILDING, NOON), outcome)
        self.proof.compare_waiting()

    @property
    def disagreed(self) -> dict[str, int]:
        return {cause: count for cause, count in self.counts.disagreed().items() if count}


def a_failure(reason: FailureReason, goal: str = "manifest") -> BuildFailure:
    return BuildFailure(reason, f"Error: {reason}", build_cmd=("make", goal))


REFUSED = a_failure(FailureReason.IMPOSSIBLE_SELECTION)
BUILT = a_result(manifest=MANIFEST)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.database.close()


@pytest.mark.parametrize(
    "outcome",
    [
        BUILT,
        a_failure(FailureReason.TOO_BIG, "image"),
        a_failure(FailureReason.MAKE_FAILED, "image"),
        a_failure(FailureReason.VERSION_MISMATCH),
    ],
)
def test_a_false_refusal_takes_the_target_off_enforce_and_is_told(
    bench: Bench, outcome: Outcome, caplog: pytest.LogCaptureFixture
) -> None:
    bench.world.foretold = MISSING
    assert bench.proof.is_enforced(*PLACE)
    with caplog.at_level(logging.WARNING):
        bench.ends(outcome)
    assert not bench.proof.is_enforced(*PLACE)
    assert bench.proof.is_enforced(PLACE[0], "x86/64")
    record = bench.records.targets()[PLACE]
    assert (record.sampled, record.disagreements) == (1, 1)
    assert "missing (no-such)" in record.last_disagreement
    assert record.last_disagreement in caplog.text
    assert bench.disagreed == {"false_refusal": 1}


def test_a_build_that_fails_as_foretold_is_a_sample_that_agrees(bench: Bench) -> None:
    bench.world.foretold = MISSING
    bench.ends(REFUSED)
    assert bench.proof.is_enforced(*PLACE)
    assert (bench.records.targets()[PLACE].sampled, bench.disagreed) == (1, {})
    assert bench.counts.compared()[Feasibility.IMPOSSIBLE] == 1


@pytest.mark.parametrize(
    "outcome", [a_failure(FailureReason.WORLD_UNAVAILABLE), a_failure(FailureReason.BAD_REPOSITORY)]
)
def test_a_build_that_did_not_get_so_far_proves_nothing(bench: Bench, outcome: Outcome) -> None:
    bench.world.foretold = MISSING
    bench.ends(outcome)
    assert bench.records.targets() == {}
    assert bench.disagreed == {}


@pytest.mark.parametrize("reason", [FailureReason.IMPOSSIBLE_SELECTION, FailureReason.TOO_BIG])
def test_what_was_fine_and_failed_is_counted_by_its_reason_and_switches_nothing(
    bench: Bench, reason: FailureReason
) -> None:
    bench.ends(a_failure(reason))
    assert bench.disagreed == {reason: 1}
    assert bench.proof.is_enforced(*PLACE)


def test_a_manifest_with_other_packages_is_counted_and_the_first_are_named(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.ends(BUILT)
    assert bench.disagreed == {}
    with caplog.at_level(logging.INFO):
        bench.ends(a_result(manifest=MANIFEST | {"nano": "1", "vim": "9.2"}))
    assert bench.disagreed == {"other_packages": 1}
    assert "nano, vim" in caplog.text
    assert bench.proof.is_enforced(*PLACE)


def test_nothing_is_compared_where_something_is_lacking(bench: Bench) -> None:
    bench.world.foretold, bench.world.lacking = MISSING, "The index of luci is not readable."
    bench.ends(BUILT)
    assert bench.counts.compared()[Feasibility.UNKNOWN] == 1
    assert (bench.disagreed, bench.records.targets()) == ({}, {})


def test_newer_indexes_take_back_what_older_ones_have_caused(bench: Bench) -> None:
    bench.world.foretold = MISSING
    bench.ends(BUILT)
    bench.world.foretold, bench.world.digest = FINE, "2" * 64
    bench.clock.forward(timedelta(minutes=1))
    bench.proof.compare_waiting()
    assert not bench.proof.is_enforced(*PLACE), "the indexes may be the same that were used"
    bench.clock.forward(timedelta(minutes=6))
    bench.proof.compare_waiting()
    assert bench.proof.is_enforced(*PLACE)
    assert bench.disagreed == {"false_refusal": 1, "outdated_indexes": 1}


@pytest.mark.parametrize(
    "second", [("2" * 64, MISSING), ("1" * 64, FINE), ("2" * 64, Foretold(Feasibility.UNKNOWN))]
)
def test_what_newer_indexes_do_not_explain_waits_for_the_operator(
    bench: Bench, second: tuple[str, Foretold]
) -> None:
    bench.world.foretold = MISSING
    bench.ends(BUILT)
    bench.world.digest, bench.world.foretold = second
    bench.clock.forward(timedelta(minutes=7))
    bench.proof.compare_waiting()
    assert not bench.proof.is_enforced(*PLACE)


@pytest.mark.parametrize("first_is_explained", [True, False])
def test_newer_indexes_must_explain_each_contradiction(bench: Bench, first_is_explained: bool) -> None:
    bench.world.foretold = MISSING
    bench.ends(BUILT)
    bench.clock.forward(timedelta(minutes=1))
    bench.ends(BUILT, packages=("tmux",))
    bench.world.foretold, bench.world.digest = FINE if first_is_explained else MISSING, "2" * 64
    bench.clock.forward(timedelta(minutes=5.5))
    bench.proof.compare_waiting()
    assert not bench.proof.is_enforced(*PLACE), "the other is not explained yet"
    bench.world.foretold = FINE
    bench.clock.forward(timedelta(minutes=1))
    bench.proof.compare_waiting()
    assert bench.proof.is_enforced(*PLACE) is first_is_explained
    assert bench.disagreed["false_refusal"] == 2


@pytest.mark.parametrize("error", [Unavailable("down"), RequestRejected("gone")])
def test_a_build_that_cannot_be_compared_is_left_out(
    bench: Bench, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> object:
        raise error

    bench.world.foretold = MISSING
    monkeypatch.setattr(bench.upstream, "target_profiles", fail)
    bench.ends(BUILT)
    monkeypatch.undo()
    bench.proof.compare_waiting()
    assert bench.records.targets() == {}


@pytest.mark.parametrize("mode", [PreflightMode.ADVISE, PreflightMode.OFF])
def test_the_operator_s_setting_holds_for_every_target(bench: Bench, mode: PreflightMode) -> None:
    bench.proof = bench.with_mode(mode)
    bench.world.foretold = MISSING
    assert not bench.proof.is_enforced(*PLACE)
    bench.ends(BUILT)
    compared = mode is PreflightMode.ADVISE
    assert sum(bench.counts.compared().values()) == compared


def test_the_first_few_impossible_ones_are_built_and_later_some(bench: Bench) -> None:
    bench.world.foretold = MISSING
    for number in range(5):
        assert bench.proof.sample(*PLACE), number
        bench.ends(REFUSED)
    assert [bench.proof.sample(*PLACE) for _ in range(100)].count(True) == 2


def test_apk_is_asked_for_the_very_versions_that_the_makefile_pins(bench: Bench) -> None:
    pins = {"base-files": "1~a", "kernel": "6.6~b-r1", "libc": "1.2-r4"}
    bench.records.learn(*PLACE, replace(a_carried(), pins=pins))
    bench.ends(BUILT)
    assert {f"{name}={version}" for name, version in pins.items()} <= set(bench.world.names)
    bench.world.manager = PackageManager.OPKG
    bench.ends(BUILT)
    assert {*pins} <= set(bench.world.names)
    assert not any("=" in name for name in bench.world.names)


@pytest.mark.parametrize(
    ("foretold", "manifest", "differing"),
    [
        ({"libubus20241020": "1"}, {"libubus": "1"}, ()),
        ({"libubus20241020": "1"}, {"libubus20241020": "1"}, ()),
        ({"jansson4": "1"}, {"jansson": "1"}, ()),
        ({"libpython3.3-0": "1"}, {"libpython3.3": "1"}, ()),
        ({"libubus20241020": "1"}, {"libubus": "2"}, ("libubus", "libubus20241020")),
        ({"vim": "1", "vim-full": "1"}, {"vim": "1"}, ("vim-full",)),
        ({"vim": "1"}, {"vim": "1", "vim-full": "1"}, ("vim-full",)),
        ({"libfoo1": "1", "libfoo2": "1"}, {"libfoo": "1"}, ("libfoo2",)),
    ],
)
def test_a_suffix_that_the_manifest_leaves_out_is_no_difference(
    foretold: dict[str, str], manifest: dict[str, str], differing: tuple[str, ...]
) -> None:
    assert differing_packages(foretold, manifest) == differing
