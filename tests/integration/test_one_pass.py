"""Builds without `make manifest`: real ImageBuilders, what they carry, and the rules of apk and opkg."""

import gzip
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from asu_builder.core.catalog import Catalog
from asu_builder.core.imagebuilder import ImageBuilder
from asu_builder.core.metrics import PreflightCounts
from asu_builder.core.one_pass import OnePass
from asu_builder.core.preflight import Preflight
from asu_builder.database.connection import Database
from asu_builder.database.preflight import SqlPreflightRecords
from asu_builder.domain.errors import FailureReason
from asu_builder.domain.job import BuildResult
from asu_builder.domain.package_index import PackageIndex, PackageManager
from asu_builder.domain.preflight import Feasibility, Foretold, PackageIndexes, manifest_of
from asu_builder.domain.release import Branches
from asu_builder.domain.request import BuildRequest, request_hash
from asu_builder.package_rules import LocalPackageChanges
from asu_builder.resolver.child import make_pool
from asu_builder.upstream.lenient import Notes
from asu_builder.upstream.package_index import read_index
from asu_sample.distribution import Distribution
from asu_sample.miniature.images import SIGNATURE, last_chunk
from factories import a_request
from pipeline_rig import Bench
from podman_service import APK_VERSION, OPKG_VERSION
from still_preflight import NoIndexes
from web_scene import DescribingUpstream

pytestmark = pytest.mark.long

_AT_ONCE = ["make image"]
_IN_TWO_STEPS = ["make manifest", "make image"]


class World:
    """The indexes of an ImageBuilder that brings all packages along, and verdicts by them."""

    def __init__(self, root: Path) -> None:
        self.database = Database(root / "asu.db")
        self.records = SqlPreflightRecords(self.database)
        self.counts = PreflightCounts()
        self.changed: dict[str, str] = {}
        """Other versions than those of the indexes, which the verdict tells."""
        self.later: tuple[PackageIndex, ...] = ()
        self.lacking = ""
        rules = LocalPackageChanges()
        catalog = Catalog(DescribingUpstream(), Branches(), rules)
        self.one_pass = OnePass(
            Preflight(catalog, rules, NoIndexes(), self, carried_by=self.records.carried),
            self.indexes_of,
            self.records.carried,
            self.counts,
        )

    def indexes_of(self, request: BuildRequest) -> PackageIndexes | None:
        carried = self.records.carried(f"releases/{request.version}", request.target)
        if carried is None:
            return None
        return PackageIndexes(carried.manager, (*carried.indexes(), *self.later), self.lacking)

    def resolve(self, known: PackageIndexes, names: Sequence[str]) -> Foretold:
        packages, left_out = [], 0
        for index in known.indexes:
            data = index.read()
            assert data is not None
            read = read_index(known.manager, data, Notes())
            packages += read.packages
            left_out += read.left_out
        foretold = make_pool(known.manager, packages, left_out).resolve(names)
        return replace(foretold, packages={**foretold.packages, **self.changed})

    def close(self) -> None:
        self.database.close()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.close()


@pytest.fixture
def bench(tmp_path: Path, sample_world: Distribution, world: World) -> Bench:
    return a_bench(tmp_path / "one", sample_world, world, one_pass=True)


def a_bench(root: Path, sample_world: Distribution, world: World, *, one_pass: bool) -> Bench:
    root.mkdir()
    chosen = world.one_pass if one_pass else None
    return Bench(root, sample_world.template, records=world.records, one_pass=chosen)


def published(bench: Bench, result: BuildResult, request: BuildRequest) -> dict[str, object]:
    """Every published file, without the throw-away signature that releases with opkg give each image."""
    images = {image.name: image.sha256_unsigned for image in result.images}
    is_signed = any(image.sha256 != image.sha256_unsigned for image in result.images)
    files: dict[str, object] = {}
    for path in sorted((bench.store_path / request_hash(request)).iterdir()):
        if path.name.startswith("."):
            continue
        files[path.name] = images.get(path.name) or path.read_bytes()
        if is_signed and path.name.endswith("sdcard.img.gz"):
            found = last_chunk(gzip.decompress(path.read_bytes()))
            assert found and found[1] == SIGNATURE  # inside of what was compressed afterwards
            files[path.name] = found[0]
        if is_signed and path.name == "profiles.json":
            document = json.loads(path.read_bytes())
            for entry in document["profiles"][request.profile]["images"]:
                del entry["sha256"]
            files[path.name] = document
        elif is_signed and path.name == "sha256sums":
            files[path.name] = [line.partition("*")[2] for line in path.read_text().splitlines()]
    return files


@pytest.mark.parametrize(
    ("version", "target", "profile"),
    [
        (APK_VERSION, "pico/nine", "acme_widget-5"),
        (APK_VERSION, "x86/64", "generic"),
        (OPKG_VERSION, "pico/nine", "acme_sdcard"),
        (OPKG_VERSION, "x86/64", "generic"),
        ("24.10.4", "nano/tiny", "acme_nano"),
    ],
)
def test_images_are_the_same_bit_by_bit_in_one_pass_and_in_two_steps(
    tmp_path: Path, sample_world: Distribution, world: World, version: str, target: str, profile: str
) -> None:
    asked: dict[str, Any] = {
        "version": version,
        "target": target,
        "profile": profile,
        "packages": ("tmux", "sample-uses-lib", "-ca-bundle"),
        "defaults": "echo first boot\n",
    }
    results, files = [], []
    for one_pass in (False, True):
        bench = a_bench(tmp_path / f"{one_pass}", sample_world, world, one_pass=one_pass)
        results.append(bench.build(**asked))
        assert bench.commands()[1:] == (_AT_ONCE if one_pass else _IN_TWO_STEPS)
        files.append(published(bench, results[-1], a_request(**asked)))
    in_two_steps, at_once = results
    assert at_once.manifest == in_two_steps.manifest
    assert "libsample" in at_once.manifest and "kernel" in at_once.manifest
    assert (at_once.warnings, at_once.packages) == (in_two_steps.warnings, in_two_steps.packages)
    assert [one.split("=")[0] for one in at_once.build_cmd] == [
        one.split("=")[0] for one in in_two_steps.build_cmd
    ]
    assert len(files[0]) >= 5 and files[0] == files[1]
    assert set(world.counts.disagreed().values()) == {0}


@pytest.mark.parametrize(
    ("reason", "changes"),
    [
        (FailureReason.IMPOSSIBLE_SELECTION, {"packages": ("sample-clash-a", "sample-clash-b")}),
        (FailureReason.IMPOSSIBLE_SELECTION, {"packages": ("nosuch", "nothere")}),
        (FailureReason.MAKE_FAILED, {"packages": ("sample-postinst-fail",)}),
        (FailureReason.TOO_BIG, {"packages": ("sample-big",)}),
        (FailureReason.VERSION_MISMATCH, {"packages_versions": {"tmux": "0"}}),
        (FailureReason.VERSION_MISMATCH, {"packages_versions": {"libsample": "0"}}),
    ],
)
@pytest.mark.parametrize("version", [APK_VERSION, OPKG_VERSION])
def test_what_fails_is_told_in_the_same_words_in_one_pass_and_in_two_steps(
    tmp_path: Path,
    sample_world: Distribution,
    world: World,
    version: str,
    reason: FailureReason,
    changes: dict[str, Any],
) -> None:
    told = []
    a_bench(tmp_path / "before", sample_world, world, one_pass=False).build(version)
    for one_pass in (False, True):
        bench = a_bench(tmp_path / f"{one_pass}", sample_world, world, one_pass=one_pass)
        failure = bench.failure(version, **changes)
        assert failure.reason is reason
        told.append((failure.detail, failure.problem, failure.side, failure.field, failure.build_cmd[:2]))
        assert bench.is_clean()
        assert not list(bench.store_path.glob("?" * 64))
    assert told[0] == told[1]


def test_the_first_build_of_an_imagebuilder_is_in_two_steps(bench: Bench) -> None:
    bench.build()
    assert bench.commands() == ["make info", *_IN_TWO_STEPS]
    bench.build(packages=("tmux",))
    assert bench.commands() == _AT_ONCE


def test_an_unexpected_package_is_the_truth_of_the_image_and_counted(bench: Bench, world: World) -> None:
    there = bench.build().manifest["dropbear"]
    world.changed = {"dropbear": "0", "libsample20231231": "1"}
    bench.commands()
    assert bench.build(packages=("tmux",)).manifest["dropbear"] == there
    assert bench.commands() == _AT_ONCE
    assert world.counts.disagreed()["other_packages"] == 1
    assert world.one_pass.has_compared(1)
    world.changed = {}
    bench.build(packages=("vim",))
    assert bench.commands() == _IN_TWO_STEPS
    other = {"target": "x86/64", "profile": "generic"}
    bench.build(**other)
    bench.build(packages=("vim",), **other)
    assert bench.commands() == ["make info", *_IN_TWO_STEPS, *_AT_ONCE], "of another target"
    world.later = (PackageIndex("later", "", "f" * 64, PackageManager.APK, lambda: b""),)
    carried = world.records.carried(f"releases/{APK_VERSION}", "pico/nine")
    assert carried is not None
    own = tuple(carried.indexes())
    world.later = (replace(own[0], digest="f" * 64),)
    bench.build(packages=("nano",))
    assert bench.commands() == _AT_ONCE, "the indexes have changed"
    assert world.counts.disagreed()["other_packages"] == 1


def test_versions_that_only_the_image_shows_to_be_wrong_publish_nothing(bench: Bench, world: World) -> None:
    bench.build()
    world.changed = {"tmux": "0"}
    bench.commands()
    failure = bench.failure(packages_versions={"tmux": "0"})
    assert bench.commands() == _AT_ONCE
    assert failure.reason is FailureReason.VERSION_MISMATCH
    assert "tmux version not as requested: 0 vs. " in failure.detail
    assert failure.build_cmd[:2] == ("make", "image")
    assert len(list(bench.store_path.glob("?" * 64))) == 1


@pytest.mark.parametrize("why", ["lacking", "other imagebuilder", "not learnt"])
def test_what_is_not_known_for_sure_is_asked_of_the_imagebuilder(
    bench: Bench, world: World, why: str
) -> None:
    bench.build()
    bench.commands()
    carried = world.records.carried(f"releases/{APK_VERSION}", "pico/nine")
    assert carried is not None
    if why == "lacking":
        world.lacking = "The package index of base could not be read."
    else:
        is_other = why == "other imagebuilder"
        former = replace(carried, identity="another") if is_other else replace(carried, pins={})
        world.records.learn(f"releases/{APK_VERSION}", "pico/nine", former)
    bench.build(packages=("tmux",))
    assert bench.commands() == _IN_TWO_STEPS
    learnt = world.records.carried(f"releases/{APK_VERSION}", "pico/nine")
    assert learnt and (learnt.identity, learnt.pins) == (carried.identity, carried.pins)


def test_an_image_without_a_list_of_its_packages_is_asked_for_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.build()
    bench.commands()
    read = ImageBuilder.read_manifest

    def read_beside_another(self: ImageBuilder, images: Path) -> dict[str, str]:
        assert read(self, images)
        (images / "other.manifest").write_text("x - 1\n")
        return read(self, images)

    monkeypatch.setattr(ImageBuilder, "read_manifest", read_beside_another)
    result = bench.build(packages=("tmux",))
    assert bench.commands() == ["make image", "make manifest"]
    assert "tmux" in result.manifest
    assert result.build_cmd[:2] == ("make", "image")
    assert "Building images" in result.stdout


@pytest.mark.parametrize(
    ("installed", "manifest"),
    [
        ({"libfoo2024": "1", "foo": "2"}, {"foo": "2", "libfoo": "1"}),
        ({"libfoo2025": "1"}, {"libfoo": "1"}),
        ({"libfoo2024": "1", "libfoo5": "3"}, {"libfoo": "1", "libfoo5": "3"}),
        ({"libbar3-0": "1"}, {"libbar3": "1"}),
        ({"libfood": "1", "libfoo-2-x y": "1"}, {"libfoo-2-x y": "1", "libfood": "1"}),
        ({}, {}),
    ],
)
def test_an_images_own_list_reads_like_that_of_make_manifest(
    installed: dict[str, str], manifest: dict[str, str]
) -> None:
    short = {"libfoo2024": "libfoo", "libbar3-1": "libbar3"}
    foretold = Foretold(
        Feasibility.FINE, packages=dict.fromkeys((*short, "foo", "libfoo5"), "1"), short=short
    )
    assert list(manifest_of(installed, foretold).items()) == list(manifest.items())


def test_a_verdict_names_libraries_without_their_abi(sample_world: Distribution, tmp_path: Path) -> None:
    for version in (APK_VERSION, OPKG_VERSION):
        root = tmp_path / version
        root.mkdir()
        world = World(root)
        a_bench(root / "one", sample_world, world, one_pass=False).build(version)
        known = world.indexes_of(a_request(version=version))
        assert known is not None
        foretold = world.resolve(known, ("sample-uses-lib",))
        assert foretold.verdict is Feasibility.FINE
        assert foretold.short["libsample20240101"] == "libsample"
        world.close()
