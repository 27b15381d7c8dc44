"""The ways of opkg, one by one."""

from collections.abc import Sequence
from operator import lt

import pytest

from asu_builder.domain.package_index import IndexedPackage, Relation
from asu_builder.domain.preflight import Feasibility, Foretold
from asu_builder.resolver.opkg import OpkgPool, order_of


def relation(text: str) -> Relation:
    """`name`, `name=1`, or alternatives with `|` between them."""
    first, *others = text.split("|")
    for operator in ("<=", ">=", "=", "<", ">"):
        name, found, version = first.partition(operator)
        if found:
            return Relation(name, operator, version, others=tuple(map(relation, others)))
    return Relation(first, others=tuple(map(relation, others)))


def package(
    text: str,
    depends: str = "",
    provides: str = "",
    *,
    conflicts: str = "",
    replaces: str = "",
    recommends: str = "",
    architecture: str = "mips_24kc",
) -> IndexedPackage:
    name, _, version = text.partition("-")
    return IndexedPackage(
        name,
        version or "1",
        depends=tuple(map(relation, depends.split())),
        provides=tuple(map(relation, provides.split())),
        conflicts=tuple(map(relation, conflicts.split())),
        replaces=tuple(map(relation, replaces.split())),
        recommends=tuple(map(relation, recommends.split())),
        architecture=architecture,
    )


def resolve(names: str, *packages: IndexedPackage) -> Foretold:
    return OpkgPool(packages).resolve(names.split())


def installed(foretold: Foretold) -> str:
    """Names and versions, in order; the verdict where it is not *fine*."""
    if foretold.verdict is not Feasibility.FINE:
        return str(foretold.verdict)
    return " ".join(sorted(f"{name}-{version}" for name, version in foretold.packages.items()))


@pytest.mark.parametrize(
    ("names", "packages", "expected"),
    [
        ("v", [package("v"), package("z", "", "v")], "v-1"),
        ("v", [package("a", "", "v"), package("z", "", "v")], "a-1"),
        ("v", [package("a", "", "v", architecture="all"), package("z", "", "v")], "z-1"),
        ("z v", [package("a", "", "v"), package("z", "", "v")], "z-1"),
        ("u", [package("u", "v"), package("a", "", "v"), package("z", "", "v")], "u-1 z-1"),
        ("a u", [package("u", "v"), package("a", "", "v"), package("z", "", "v")], "a-1 u-1"),
        ("v", [package("v-1.10"), package("v-1.9")], "v-1.10"),
        ("v", [package("v-2", "nothing"), package("v-1")], "v-1"),
        ("u", [package("u", "v=1"), package("v-2"), package("v-1")], "u-1 v-1"),
        ("u", [package("u", "x|v"), package("v")], "u-1 v-1"),
        ("u", [package("u", "x|v"), package("v"), package("x", "nothing")], "u-1 v-1"),
        ("u", [package("u", "v|x"), package("v"), package("x")], "u-1 v-1"),
        ("x u", [package("u", "v|x"), package("v"), package("x")], "u-1 x-1"),
        ("u", [package("u", "v<2"), package("v-2")], "u-1 v-2"),
        ("u", [package("u", "v<2"), package("v-3")], "impossible"),
        ("u", [package("u", "v>=2"), package("v-3")], "u-1 v-3"),
        ("u u", [package("u", "u")], "u-1"),
        # A package that what it needs brings in is checked against what it needs.
        ("a", [package("a", "b", conflicts="b"), package("b")], "a-1 b-1"),
        ("a", [package("a", "b", conflicts="b"), package("b", "a")], "impossible"),
        ("v a", [package("v-2"), package("v-1"), package("a", "v=1")], "unknown"),
        # What one version of a package provides counts for all of its versions.
        ("u", [package("u", "v"), package("p-1"), package("p-2", "nothing", "v")], "p-1 u-1"),
        ("u", [package("u", "v"), package("p-1", "", "v"), package("p-2")], "p-2 u-1"),
        ("u", [package("u", "v"), package("p-1", "w"), package("p-2", "nothing", "v")], "impossible"),
        ("r1", [package("r1", "r2"), package("r2", "r1")], "r1-1 r2-1"),
    ],
)
def test_what_is_chosen(names: str, packages: Sequence[IndexedPackage], expected: str) -> None:
    assert installed(resolve(names, *packages)) == expected


@pytest.mark.parametrize(
    ("names", "packages", "conflicts"),
    [
        ("b a", [package("a", conflicts="b"), package("b")], ("a", "b")),
        ("a b", [package("a", conflicts="b"), package("b")], ()),
        ("c a", [package("a", conflicts="b"), package("c", "", "b")], ()),
        ("b a", [package("a", conflicts="b<2"), package("b-3")], ()),
        ("u", [package("u", "a b"), package("a", conflicts="b"), package("b")], ("a", "b")),
        ("a", [package("a", conflicts="a")], ()),
        ("b a", [package("a", conflicts="b", replaces="b"), package("b")], None),
    ],
)
def test_a_conflict_counts_where_the_package_that_tells_of_it_comes_second(
    names: str, packages: Sequence[IndexedPackage], conflicts: tuple[str, ...] | None
) -> None:
    foretold = resolve(names, *packages)
    if conflicts is None:
        assert foretold.verdict is Feasibility.UNKNOWN
    else:
        assert foretold.problem.conflicts == conflicts
        assert foretold.verdict is (Feasibility.IMPOSSIBLE if conflicts else Feasibility.FINE)


def test_a_missing_dependency_is_told_with_who_needs_it() -> None:
    foretold = resolve("a x", package("a", "b"), package("b", "nothing"), package("c", "b"))
    assert (foretold.verdict, foretold.problem.missing) == (Feasibility.IMPOSSIBLE, ("x", "nothing"))
    assert foretold.problem.needed_by == {"nothing": ("b",)}
    foretold = resolve("k", package("k", "kernel=6.6.1"), package("kernel-6.6.2"))
    assert foretold.problem.needed_by == {"kernel": ("k",)}


def test_a_second_mention_of_the_very_package_replaces_the_first() -> None:
    assert installed(resolve("a", package("a", "nothing"), package("a"))) == "a-1"
    assert installed(resolve("a", package("a"), package("a", "nothing"))) == "impossible"


def test_what_is_not_modelled_makes_a_verdict_unknown() -> None:
    assert resolve("a", package("a", recommends="b"), package("b")).verdict is Feasibility.UNKNOWN
    assert resolve("!a", package("a")).verdict is Feasibility.UNKNOWN
    two = [package("v-1"), package("v-2"), package("u", "v=1")]
    assert resolve("u v", *two).verdict is Feasibility.UNKNOWN


def test_long_chains_are_followed() -> None:
    links = [package(f"l{number}", f"l{number + 1}") for number in range(20_000)]
    assert len(resolve("l0", *links, package("l20000")).packages) == 20_001
    assert resolve("l0", *links).problem.needed_by == {"l20000": ("l19999",)}


def test_versions_are_ordered_as_debian_orders_them() -> None:
    ordered = [
        "1.0~rc1",
        "1.0",
        "1.0-r1",
        "1.0-r2",
        "1.0-r10",
        "1.0a",
        "1.0+b",
        "1.0.1",
        "1.9",
        "1.10",
        "1:0.1",
    ]
    assert all(map(lt, map(order_of, ordered), map(order_of, ordered[1:])))
    assert order_of("1.0") == order_of("01.0") == order_of("0:1.0")
    assert order_of("9" * 5000) > order_of("9" * 4)
