"""Every recorded request: the same verdict, the same packages and the same words as the real program's."""

import random
from typing import Any

import pytest

from asu_builder.domain.errors import BuildProblem
from asu_builder.domain.package_index import PackageManager
from asu_builder.domain.packages import explain_selection, without_version
from asu_builder.domain.preflight import Feasibility, Foretold
from asu_builder.resolver.child import make_pool
from asu_builder.resolver.pool import PackagePool
from recorded_indexes import APK, INSTALLED, OPKG, recorded, recorded_packages, recorded_verdicts

pytestmark = recorded
_CUT_AT = 1500
"""Characters of the recorded text of apk."""


@pytest.fixture(scope="module", params=[APK, OPKG])
def manager(request: pytest.FixtureRequest) -> PackageManager:
    found: PackageManager = request.param
    return found


@pytest.fixture(scope="module")
def world(manager: PackageManager) -> PackagePool:
    return make_pool(manager, recorded_packages(manager), left_out=0)


def agrees(foretold: Foretold, recorded: dict[str, Any], manager: PackageManager) -> bool:
    """Whether verdict and packages are the recorded ones."""
    packages = dict(foretold.packages)
    if manager is OPKG:
        packages = {name: version for name, version in packages.items() if name not in INSTALLED}
    return bool(foretold.verdict == recorded["verdict"]) and packages == recorded.get("packages", {})


def test_verdict_and_packages_are_those_of_the_real_program(
    world: PackagePool, manager: PackageManager
) -> None:
    verdicts = recorded_verdicts(manager)
    wrong = [one["request"] for one in verdicts if not agrees(world.resolve(one["request"]), one, manager)]
    assert len(verdicts) >= 90 and not wrong


def test_an_answer_changes_nothing_for_the_next(world: PackagePool, manager: PackageManager) -> None:
    for one in recorded_verdicts(manager)[:20]:
        first = world.resolve(one["request"])
        assert world.resolve(one["request"]) == first


def test_the_problem_is_what_would_be_read_from_the_real_output(
    world: PackagePool, manager: PackageManager
) -> None:
    foretold: list[tuple[BuildProblem, BuildProblem]] = []
    for one in recorded_verdicts(manager):
        if one["verdict"] == "impossible" and len(one["stderr"]) < _CUT_AT:
            foretold.append((world.resolve(one["request"]).problem, explain_selection(one["stderr"])))
    missing = [(ours.missing, real.missing) for ours, real in foretold]
    assert len(foretold) >= 10 and all(set(ours) == set(real) for ours, real in missing)
    assert all(dict(ours.needed_by) == dict(real.needed_by) for ours, real in foretold)
    for ours, real in foretold:
        # apk names the version of a provider where there is a choice of two.
        named = {name: tuple(map(without_version, found)) for name, found in real.providers.items()}
        assert ours.providers.keys() == named.keys()
    unlike = [(ours, real) for ours, real in foretold if set(ours.conflicts) != set(real.conflicts)]
    # Of several clashes of the same two packages one may be left out.
    assert all(set(ours.conflicts) & set(real.conflicts) for ours, real in unlike)
    assert len(unlike) <= len(foretold) // 50


def test_the_order_of_names_changes_nothing(world: PackagePool, manager: PackageManager) -> None:
    chance = random.Random(25)
    for one in recorded_verdicts(manager)[::4]:
        names = list(one["request"])
        foretold = world.resolve(names)
        chance.shuffle(names)
        again = world.resolve(names)
        # opkg sees a conflict only where the package that tells of it comes second.
        if manager is APK or not (foretold.problem.conflicts or again.problem.conflicts):
            assert again.verdict == foretold.verdict and again.packages == foretold.packages


def test_what_is_told_of_a_fine_selection_is_whole(world: PackagePool, manager: PackageManager) -> None:
    known = {package.name: package for package in recorded_packages(manager)}
    for one in recorded_verdicts(manager)[:40]:
        foretold = world.resolve(one["request"])
        if foretold.verdict is Feasibility.FINE:
            installed = [known[name] for name in foretold.packages]
            assert foretold.download_size == sum(package.size for package in installed)
            assert foretold.installed_size == sum(package.installed_size for package in installed)
            for name, brought in foretold.brings.items():
                rest = world.resolve([other for other in one["request"] if other != name])
                assert rest.verdict is Feasibility.FINE
                own = {name} - foretold.packages.keys()
                gone = foretold.packages.keys() - rest.packages.keys() - {name}
                assert own or gone == set(brought)


def test_a_default_that_is_taken_away_and_comes_back_is_told(
    world: PackagePool, manager: PackageManager
) -> None:
    foretold = world.resolve(["base-files", "netifd", "vim", "-netifd", "-vim"])
    assert (foretold.verdict, foretold.kept) == (Feasibility.FINE, ("netifd",))
    assert "vim" not in foretold.packages


def test_a_missing_name_is_told_with_the_nearest(world: PackagePool) -> None:
    foretold = world.resolve(["tmuxx", "libubus20230605", "base-files"])
    assert foretold.verdict is Feasibility.IMPOSSIBLE
    assert set(foretold.problem.missing) == {"tmuxx", "libubus20230605"}
    assert foretold.nearest["tmuxx"][0] == "tmux"
    assert foretold.nearest["libubus20230605"][0] == "libubus20241020"


def test_entries_that_could_not_be_read_forbid_a_refusal(manager: PackageManager) -> None:
    world = make_pool(manager, recorded_packages(manager), left_out=1)
    foretold = world.resolve(["tmuxx"])
    assert (foretold.verdict, foretold.problem.missing) == (Feasibility.UNKNOWN, ("tmuxx",))
    assert world.resolve(["base-files"]).verdict is Feasibility.FINE
