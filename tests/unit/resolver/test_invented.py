"""Two resolvers that know nothing of each other, on invented worlds: nothing possible is refused."""

import random
from collections import Counter
from collections.abc import Iterable

import pytest

from asu_builder.domain.package_index import PackageManager
from asu_builder.domain.preflight import Feasibility
from asu_builder.resolver.child import make_pool
from asu_builder.upstream.lenient import Notes
from asu_builder.upstream.package_index import read_index
from asu_sample.miniature import resolve
from invented_worlds import invent, requests

pytest.importorskip("solv", reason="there is no wheel of solv for this platform")


def judged(manager: PackageManager, worlds: Iterable[int]) -> Counter[tuple[str, Feasibility]]:
    """How often which verdicts of the sample and of ours came together."""
    counted: Counter[tuple[str, Feasibility]] = Counter()
    for seed in worlds:
        chance = random.Random(seed)
        world = invent(manager, chance)
        read = (read_index(manager, data, Notes()) for data in world.indexes)
        ours = make_pool(manager, [package for index in read for package in index.packages], 0)
        for names in requests(world, chance, 8):
            verdict, _, _ = resolve(manager, world.indexes, names)
            foretold = ours.resolve(names)
            counted[verdict, foretold.verdict] += 1
            assert (verdict, foretold.verdict) != ("fine", Feasibility.IMPOSSIBLE), (
                seed,
                names,
                foretold.problem,
            )
    return counted


@pytest.mark.parametrize("manager", PackageManager)
@pytest.mark.parametrize(
    "worlds", [range(25), pytest.param(range(25, 2000), marks=pytest.mark.long)], ids=["some", "many"]
)
def test_what_the_sample_installs_is_never_impossible(worlds: range, manager: PackageManager) -> None:
    counted = judged(manager, worlds)
    assert counted["fine", Feasibility.FINE] > len(worlds) and counted[
        "impossible", Feasibility.IMPOSSIBLE
    ] > len(worlds)
    assert counted["fine", Feasibility.UNKNOWN] <= sum(counted.values()) // 50


def test_what_opkg_overlooks_is_not_impossible() -> None:
    """A package that needs another version of itself in turn, which is broken: opkg does not look again."""
    assert judged(PackageManager.OPKG, (1876, 2392))["fine", Feasibility.UNKNOWN]
