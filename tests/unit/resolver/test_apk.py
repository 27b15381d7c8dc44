"""The rules of apk, one by one, and that nothing is refused that could be installed."""

from collections.abc import Iterable, Sequence
from itertools import chain, combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asu_builder.domain.package_index import IndexedPackage, Relation
from asu_builder.domain.preflight import Feasibility, Foretold
from asu_builder.resolver.apk import ApkPool, begins_with, order_of
from asu_builder.resolver.pool import read_names

pytest.importorskip("solv", reason="there is no wheel of solv for this platform")


def relation(text: str) -> Relation:
    """`name`, `name=1` or `!name`."""
    plain = text.removeprefix("!")
    for operator in ("<=", ">=", "=", "<", ">", "~"):
        name, found, version = plain.partition(operator)
        if found:
            return Relation(name, operator, version, plain != text)
    return Relation(plain, excludes=plain != text)


def package(
    text: str,
    depends: str = "",
    provides: str = "",
    *,
    priority: int | None = None,
    install_if: str = "",
    recommends: str = "",
) -> IndexedPackage:
    name, _, version = text.partition("-")
    return IndexedPackage(
        name,
        version or "1",
        depends=tuple(map(relation, depends.split())),
        provides=tuple(map(relation, provides.split())),
        install_if=tuple(map(relation, install_if.split())),
        recommends=tuple(map(relation, recommends.split())),
        provider_priority=priority,
        size=10,
        installed_size=100,
    )


def resolve(names: str, *packages: IndexedPackage, left_out: int = 0) -> Foretold:
    return ApkPool(packages, left_out).resolve(names.split())


def installed(foretold: Foretold) -> str:
    """Names and versions, in order; the verdict where it is not *fine*."""
    if foretold.verdict is not Feasibility.FINE:
        return str(foretold.verdict)
    return " ".join(sorted(f"{name}-{version}" for name, version in foretold.packages.items()))


@pytest.mark.parametrize(
    ("names", "packages", "expected"),
    [
        ("v", [package("a", "", "v")], "impossible"),
        ("v a", [package("a", "", "v")], "a-1"),
        ("v", [package("a", "", "v", priority=10)], "a-1"),
        ("v", [package("a", "", "v=1")], "a-1"),
        ("b", [package("a", "", "v"), package("b", "v")], "impossible"),
        ("b c", [package("a", "", "v"), package("b", "v"), package("c", "a")], "a-1 b-1 c-1"),
        ("v", [package("v"), package("a", "", "v")], "v-1"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_name_without_version_or_priority_chooses_nothing(
    names: str, packages: Sequence[IndexedPackage], expected: str
) -> None:
    assert installed(resolve(names, *packages)) == expected


def test_what_is_only_needed_for_a_bare_name_is_told_with_who_needs_it() -> None:
    foretold = resolve("b", package("a", "", "v"), package("c", "", "v"), package("b", "v"))
    assert foretold.problem.missing == ("v",)
    assert foretold.problem.needed_by == {"v": ("b",)} and foretold.problem.providers == {"v": ("a", "c")}


@pytest.mark.parametrize(
    ("names", "packages", "expected"),
    [
        ("a b", [package("a", "", "v=1"), package("b", "", "v=2")], "impossible"),
        ("a v", [package("a", "", "v=1"), package("v")], "a-1"),
        ("a v c", [package("a", "", "v=1"), package("v"), package("c", "v>1")], "impossible"),
        ("a b", [package("a", "", "v=1"), package("b", "", "v")], "impossible"),
        ("a b", [package("a", "", "v"), package("b", "", "v")], "a-1 b-1"),
        ("a", [package("a", "", "a=1")], "impossible"),
        ("a", [package("a", "", "a")], "impossible"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_name_with_a_version_is_a_slot(
    names: str, packages: Sequence[IndexedPackage], expected: str
) -> None:
    assert installed(resolve(names, *packages)) == expected


@pytest.mark.parametrize(
    ("packages", "expected"),
    [
        ([package("v-1.10"), package("v-1.9")], "v-1.10"),
        ([package("v-1"), package("a", "", "v=2")], "a-1"),
        ([package("v-3"), package("a", "", "v=2")], "v-3"),
        ([package("b", "", "v=1"), package("a", "", "v=1")], "a-1"),
        ([package("a", "", "v=1"), package("b", "", "v=1", priority=10)], "b-1"),
        ([package("a", "", "v=2"), package("b", "", "v=1", priority=10)], "a-1"),
        ([package("a", "", "v", priority=5), package("b", "", "v", priority=10)], "b-1"),
        ([package("a", "", "v=2"), package("b", "", "v", priority=10)], "b-1"),
        ([package("v-2", "nothing"), package("v-1")], "v-1"),
    ],
)
def test_of_several_the_one_that_apk_prefers_is_chosen(
    packages: Sequence[IndexedPackage], expected: str
) -> None:
    assert installed(resolve("v", *packages)) == expected
    assert installed(resolve("v", *reversed(packages))) == expected


def test_what_is_excluded_and_needed_is_told() -> None:
    foretold = resolve("a !b", package("a", "b"), package("b"))
    assert (foretold.verdict, foretold.problem.conflicts) == (Feasibility.IMPOSSIBLE, ("b",))
    assert installed(resolve("b !b", package("b"))) == ""
    assert installed(resolve("!b b", package("b"))) == "b-1"
    foretold = resolve("a b", package("a", "!b"), package("b"))
    assert set(foretold.problem.conflicts) == {"a", "b"}
    # What excludes a name and provides it itself does not exclude itself.
    assert installed(resolve("a", package("a", "!v", "v=1"))) == "a-1"
    assert installed(resolve("a b", package("a", "!v", "v=1"), package("b", "", "v"))) == "impossible"


@pytest.mark.parametrize(
    ("need", "expected"),
    [
        ("x", "x-1.10 y-1"),
        ("x=1.9-r1", "x-1.9-r1 y-1"),
        ("x<1.10", "x-1.9-r1 y-1"),
        ("x<=1.10", "x-1.10 y-1"),
        ("x>1.9-r1", "x-1.10 y-1"),
        ("x~1.9", "x-1.9-r1 y-1"),
        ("x~1.1", "impossible"),
        ("x>1.10", "impossible"),
    ],
)
def test_versions_that_are_asked_for(need: str, expected: str) -> None:
    both = [IndexedPackage("x", "1.10"), IndexedPackage("x", "1.9-r1")]
    assert installed(resolve("y", package("y", need), *both)) == expected


def test_where_a_beginning_ends() -> None:
    assert begins_with("1.9", "1.9") and begins_with("1.9.1", "1.9") and begins_with("1.9-r1", "1.9")
    assert not begins_with("1.90", "1.9") and not begins_with("2.1.9", "1.9")


def test_a_dependency_that_nothing_provides_is_told_with_who_needs_it() -> None:
    foretold = resolve("a", package("a", "b"), package("b", "nothing"))
    assert (foretold.verdict, foretold.problem.missing) == (Feasibility.IMPOSSIBLE, ("nothing",))
    assert foretold.problem.needed_by == {"nothing": ("b",)}
    foretold = resolve("a", package("a", "b=2"), package("b"))
    assert set(foretold.problem.conflicts) == {"a", "b"} and not foretold.problem.missing


def test_what_is_not_modelled_makes_a_verdict_unknown() -> None:
    triggered = package("t", install_if="a b")
    assert resolve("a b", package("a"), package("b"), triggered).verdict is Feasibility.UNKNOWN
    assert installed(resolve("a", package("a"), package("b"), triggered)) == "a-1"
    assert resolve("a", package("a", recommends="b"), package("b")).verdict is Feasibility.UNKNOWN
    assert resolve("a>1", package("a")).verdict is Feasibility.UNKNOWN
    brings = package("t", "c", install_if="a")
    bare = [package("a"), package("c", "", "v")]
    assert resolve("a v", *bare, brings).verdict is Feasibility.UNKNOWN
    assert resolve("a v", *bare).verdict is Feasibility.IMPOSSIBLE


@pytest.mark.parametrize("version", ["abc", "1.0-", "1..2", "v2", "1 0"])
def test_what_only_an_odd_version_provides_is_not_called_missing(version: str) -> None:
    odd = IndexedPackage("x", version, provides=(Relation("w"),))
    assert resolve("x", odd).verdict is Feasibility.UNKNOWN
    assert resolve("a", package("a", "w"), odd).verdict is Feasibility.UNKNOWN
    assert resolve("b", package("b"), odd).verdict is Feasibility.FINE
    assert resolve("b nothing", package("b"), odd).problem.missing == ("nothing",)


def test_cycles_and_long_chains_are_followed() -> None:
    ring = [package(f"r{number}", f"r{(number + 1) % 300}") for number in range(300)]
    assert len(resolve("r7", *ring).packages) == 300
    foretold = resolve("r0", *ring[:-1], package("r299", "nothing"))
    assert foretold.problem.needed_by == {"nothing": ("r299",)}


def test_what_each_name_brings_in() -> None:
    both = [package("a", "x y"), package("b", "y z"), package("x"), package("y"), package("z", "z2")]
    foretold = resolve("a b", *both, package("z2"))
    assert foretold.brings == {"a": ("x",), "b": ("z", "z2")}
    assert (foretold.download_size, foretold.installed_size) == (60, 600)
    assert resolve("a -a b -y", *both, package("z2")).kept == ("y",)


def test_names_are_read_as_make_is_told_them() -> None:
    asked = read_names(["a", "b", "-a", "!c", "c", "d", "!d", "e e"])
    assert (asked.wanted, asked.excluded) == (("b", "c"), ("d",))
    assert (asked.taken_away, asked.odd) == (("a",), ("e e",))


_NAMES = st.sampled_from("abcdvw")
_RELATIONS = st.builds(
    lambda name, version, excludes: Relation(name, "=" if version else "", version, excludes),
    _NAMES,
    st.sampled_from(["", "", "1", "2"]),
    st.sampled_from([False, False, False, True]),
)
_PACKAGES = st.builds(
    IndexedPackage,
    st.sampled_from("abcd"),
    st.sampled_from("12"),
    depends=st.lists(_RELATIONS, max_size=2).map(tuple),
    provides=st.lists(
        st.builds(
            lambda name, version: Relation(name, "=" if version else "", version),
            st.sampled_from("vw"),
            st.sampled_from(["", "1", "2"]),
        ),
        max_size=1,
    ).map(tuple),
    provider_priority=st.sampled_from([None, 10]),
)


def provisions(package: IndexedPackage) -> Iterable[tuple[str, str]]:
    yield package.name, package.version
    for one in package.provides:
        yield one.name, one.version


def fulfils(package: IndexedPackage, wanted: Relation) -> bool:
    return any(
        name == wanted.name and (not wanted.operator or version in ("", wanted.version))
        for name, version in provisions(package)
    )


def could_be_installed(packages: Sequence[IndexedPackage], names: Sequence[str]) -> bool:
    """Whether apk's rules for a finished installation hold for these packages; written without libsolv."""
    for one, other in combinations(packages, 2):
        shared = dict(provisions(one))
        if any(name in shared and (version or shared[name]) for name, version in provisions(other)):
            return False
    needs = [Relation(name) for name in names]
    chosen: list[IndexedPackage] = []
    while needs:
        need = needs.pop()
        for one in packages:
            chooses = (
                need.name == one.name
                or one.provider_priority
                or any(name == need.name and version for name, version in provisions(one))
            )
            if one not in chosen and chooses and fulfils(one, need):
                chosen.append(one)
                needs += [need for need in one.depends if not need.excludes]
    return (
        all(one in chosen for one in packages)
        and all(
            any(fulfils(other, need) and other is not one for other in packages) is not need.excludes
            if need.excludes
            else any(fulfils(other, need) for other in packages)
            for one in packages
            for need in one.depends
        )
        and all(any(fulfils(one, Relation(name)) for one in packages) for name in names)
    )


@settings(max_examples=150, deadline=None)
@given(
    packages=st.lists(_PACKAGES, max_size=6, unique_by=lambda one: (one.name, one.version)),
    names=st.sets(_NAMES, min_size=1, max_size=3),
)
def test_nothing_is_refused_that_could_be_installed(packages: list[IndexedPackage], names: set[str]) -> None:
    foretold = ApkPool(packages).resolve(sorted(names))
    subsets = chain.from_iterable(combinations(packages, size) for size in range(len(packages) + 1))
    possible = [subset for subset in subsets if could_be_installed(subset, sorted(names))]
    if foretold.verdict is Feasibility.IMPOSSIBLE:
        assert not possible
    elif foretold.verdict is Feasibility.FINE:
        chosen = dict(foretold.packages)
        assert any({one.name: one.version for one in subset} == chosen for subset in possible)


_ORDER = """
    0.1.0_alpha_pre2 0.1.0_alpha 1_alpha 1_beta2 1_beta10 1_pre 1_rc1 1_rc1-r1 1 1-r1 1-r10 1~aaa 1~bbb-r1
    1_cvs 1_git20240101 1_p 1_p1 1_p10 1a 1b 1.0 1.00 1.01 1.1 1.1-r1 1.1.1 1.9 1.10 2 006 10
"""


def test_versions_are_in_the_order_of_apk() -> None:
    keys = [order_of(version) for version in _ORDER.split()]
    assert None not in keys and keys == sorted(keys, key=lambda key: key or ()) and len({*keys}) == len(keys)
    assert order_of("1-2") is None and order_of("v1") is None and order_of("9" * 40) is None


@pytest.mark.parametrize(
    ("names", "packages", "expected"),
    [
        ("b", [package("a-2_rc1"), package("b", "a<=2")], "a-2_rc1 b-1"),
        ("b", [package("a-2_rc1"), package("b", "a>=2")], "impossible"),
        ("a", [package("a-2_rc1"), package("a-2")], "a-2"),
        ("b", [package("a-2~abc"), package("b", "a>2")], "a-2~abc b-1"),
        ("a b", [package("a", "!v=2"), package("b", "", "v")], "impossible"),
        ("a b", [package("a", "v>=2"), package("b", "", "v")], "a-1 b-1"),
        ("b", [package("a", "", "v=odd"), package("b", "v>=2")], "unknown"),
        ("b", [package("a-1"), package("b", "a>=odd")], "unknown"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_versions_are_compared_as_apk_does(
    names: str, packages: Sequence[IndexedPackage], expected: str
) -> None:
    assert installed(resolve(names, *packages)) == expected


def test_what_excludes_itself_is_no_reason_where_apk_may_choose_another() -> None:
    clashing = package("a", "", "v a=1", priority=10)
    assert resolve("v", clashing).verdict is Feasibility.IMPOSSIBLE
    assert resolve("v", clashing, package("b", "", "v", priority=10)).verdict is Feasibility.UNKNOWN


def test_what_a_provider_needs_may_bring_the_provider_in() -> None:
    assert resolve("v", package("a", "b", "v"), package("b", "a")).verdict is not Feasibility.IMPOSSIBLE
