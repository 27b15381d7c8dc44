"""Every recorded request: the same verdict, the same packages and the same words as the real program's."""

import random
from typing import Any

import pytest

from asu_builder.domain.errors import BuildProblem
from asu_builder.domain.package_index import PackageManager
from asu_builder.domain.packages import explain_selection, without_version
from asu_builder.domain.preflight import Foretold, Verdict
from asu_builder.resolver.child import make_world
from asu_builder.resolver.world import World
from recorded_indexes import APK, INSTALLED, OPKG, recorded, recorded_packages, recorded_verdicts

pytestmark = recorded
_CUT_AT = 1500
"""Characters of the recorded text of apk."""


@pytest.fixture(scope="module", params=[APK, OPKG])
def manager(request: pytest.FixtureRequest) -> PackageManager:
    found: PackageManager = request.param
    return found


@pytest.fixture(scope="module")
def world(manager: PackageManager) -> World:
    return make_world(manager, recorded_packages(manager), left_out=0)


def agrees(told: Foretold, recorded: dict[str, Any], manager: PackageManager) -> bool:
    """Whether verdict and packages are the recorded ones."""
    packages = dict(told.packages)
    if manager is OPKG:
        packages = {name: version for name, version in packages.items() if name not in INSTALLED}
    return bool(told.verdict == recorded["verdict"]) and packages == recorded.get("packages", {})


def test_verdict_and_packages_are_those_of_the_real_program(world: World, manager: PackageManager) -> None:
    verdicts = recorded_verdicts(manager)
    wrong = [one["request"] for one in verdicts if not agrees(world.resolve(one["request"]), one, manager)]
    assert len(verdicts) >= 90 and not wrong


def test_an_answer_changes_nothing_for_the_next(world: World, manager: PackageManager) -> None:
    for one in recorded_verdicts(manager)[:20]:
        first = world.resolve(one["request"])
        assert world.resolve(one["request"]) == first


def test_the_problem_is_what_would_be_read_from_the_real_output(
    world: World, manager: PackageManager
) -> None:
    told: list[tuple[BuildProblem, BuildProblem]] = []
    for one in recorded_verdicts(manager):
        if one["verdict"] == "impossible" and len(one["stderr"]) < _CUT_AT:
            told.append((world.resolve(one["request"]).problem, explain_selection(one["stderr"])))
    missing = [(ours.missing, real.missing) for ours, real in told]
    assert len(told) >= 10 and all(set(ours) == set(real) for ours, real in missing)
    assert all(dict(ours.needed_by) == dict(real.needed_by) for ours, real in told)
    for ours, real in told:
        # apk names the version of a provider where there is a choice of two.
        named = {name: tuple(map(without_version, found)) for name, found in real.providers.items()}
        assert ours.providers.keys() == named.keys()
    unlike = [(ours, real) for ours, real in told if set(ours.conflicts) != set(real.conflicts)]
    # Of several clashes of the same two packages one may be left out.
    assert all(set(ours.conflicts) & set(real.conflicts) for ours, real in unlike)
    assert len(unlike) <= len(told) // 50


def test_the_order_of_names_changes_nothing(world: World, manager: PackageManager) -> None:
    chance = random.Random(25)
    for one in recorded_verdicts(manager)[::4]:
        names = list(one["request"])
        told = world.resolve(names)
        chance.shuffle(names)
        again = world.resolve(names)
        # opkg sees a conflict only where the package that tells of it comes second.
        if manager is APK or not (told.problem.conflicts or again.problem.conflicts):
            assert again.verdict == told.verdict and again.packages == told.packages


def test_what_is_told_of_a_fine_selection_is_whole(world: World, manager: PackageManager) -> None:
    known = {package.name: package for package in recorded_packages(manager)}
    for one in recorded_verdicts(manager)[:40]:
        told = world.resolve(one["request"])
        if told.verdict is Verdict.FINE:
            installed = [known[name] for name in told.packages]
            assert told.download_size == sum(package.size for package in installed)
            assert told.installed_size == sum(package.installed_size for package in installed)
            for name, brought in told.brings.items():
                rest = world.resolve([other for other in one["request"] if other != name])
                assert rest.verdict is Verdict.FINE
                own = {name} - told.packages.keys()
                gone = told.packages.keys() - rest.packages.keys() - {name}
                assert own or gone == set(brought)


def test_a_default_that_is_taken_away_and_comes_back_is_told(world: World, manager: PackageManager) -> None:
    told = world.resolve(["base-files", "netifd", "vim", "-netifd", "-vim"])
    assert (told.verdict, told.kept) == (Verdict.FINE, ("netifd",))
    assert "vim" not in told.packages


def test_a_missing_name_is_told_with_the_nearest(world: World) -> None:
    told = world.resolve(["tmuxx", "libubus20230605", "base-files"])
    assert told.verdict is Verdict.IMPOSSIBLE
    assert set(told.problem.missing) == {"tmuxx", "libubus20230605"}
    assert told.nearest["tmuxx"][0] == "tmux"
    assert told.nearest["libubus20230605"][0] == "libubus20241020"


def test_entries_that_could_not_be_read_forbid_a_refusal(manager: PackageManager) -> None:
    world = make_world(manager, recorded_packages(manager), left_out=1)
    told = world.resolve(["tmuxx"])
    assert (told.verdict, told.problem.missing) == (Verdict.UNKNOWN, ("tmuxx",))
    assert world.resolve(["base-files"]).verdict is Verdict.FINE
