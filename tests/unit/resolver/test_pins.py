"""Wishes for one version of a name, as the makefile has them for what an ImageBuilder carries."""

import pytest

from asu_builder.domain.errors import BuildProblem
from asu_builder.domain.package_index import IndexedPackage, PackageManager, Relation
from asu_builder.domain.preflight import Feasibility
from asu_builder.resolver.child import make_pool

_PACKAGES = [
    IndexedPackage("libc", "1.2.5-r4"),
    IndexedPackage("libc", "1.2.5-r5"),
    IndexedPackage("old", "1", depends=(Relation("libc", "=", "1.2.5-r4"),)),
]


@pytest.mark.parametrize("version", ["1.2.5-r4", "1.2.5-r5"])
def test_the_version_that_is_asked_for_is_installed(version: str) -> None:
    world = make_pool(PackageManager.APK, _PACKAGES, left_out=0)
    foretold = world.resolve([f"libc={version}"])
    assert (foretold.verdict, foretold.packages) == (Feasibility.FINE, {"libc": version})


def test_the_last_mention_of_a_name_counts() -> None:
    world = make_pool(PackageManager.APK, _PACKAGES, left_out=0)
    assert world.resolve(["libc", "libc=1.2.5-r4"]).packages == {"libc": "1.2.5-r4"}
    assert world.resolve(["libc=1.2.5-r4", "libc"]).packages == {"libc": "1.2.5-r5"}


def test_what_needs_another_version_conflicts() -> None:
    world = make_pool(PackageManager.APK, _PACKAGES, left_out=0)
    assert world.resolve(["libc=1.2.5-r4", "old"]).verdict is Feasibility.FINE
    foretold = world.resolve(["libc=1.2.5-r5", "old"])
    assert foretold.verdict is Feasibility.IMPOSSIBLE and "libc" in foretold.problem.conflicts


def test_a_missing_name_is_told_beside_it() -> None:
    world = make_pool(PackageManager.APK, _PACKAGES, left_out=0)
    assert world.resolve(["libc=1.2.5-r5", "nosuch"]).problem == BuildProblem(missing=("nosuch",))


@pytest.mark.parametrize(
    ("manager", "name"),
    [
        (PackageManager.APK, "libc=1.2.5-r6"),
        (PackageManager.APK, "!libc=1.2.5-r5"),
        (PackageManager.OPKG, "libc=1.2.5-r5"),
    ],
)
def test_what_is_not_modelled_is_not_known(manager: PackageManager, name: str) -> None:
    assert make_pool(manager, _PACKAGES, left_out=0).resolve([name, "nosuch"]).verdict is Feasibility.UNKNOWN


def test_it_is_not_taken_away_because_the_makefile_adds_it_beside_the_list() -> None:
    world = make_pool(PackageManager.APK, _PACKAGES, left_out=0)
    assert world.resolve(["-libc", "libc=1.2.5-r4"]).packages == {"libc": "1.2.5-r4"}
    assert world.resolve(["libc", "old", "-libc", "-old"]).packages == {}
