"""What apk and opkg would do with a request: their rules one by one, and every recorded answer."""

import gzip
import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from asu_sample.distribution import Distribution
from asu_sample.miniature import opkg, resolve, solver
from asu_sample.miniature.adb import write_index
from asu_sample.miniature.packages import Package, render_paragraphs
from asu_sample.miniature.usign import SigningKey

_RECORDED = Path(__file__).parents[4] / "shared" / "indexes"
_KEY = SigningKey(seed=bytes(32), key_id=b"12345678")


def a_package(name: str, version: str = "1-r1", *depends: str, **fields: Any) -> Package:
    return Package(name, version, "all", depends=depends, sha256="00" * 32, **fields)


def apk(packages: Sequence[Package], *names: str) -> list[str] | str:
    """The packages in their order, or the complaint without its first line."""
    verdict, chosen, text = resolve("apk", [write_index(packages, _KEY)], names)
    if verdict == "fine":
        return list(chosen)
    head, _, rest = text.partition("\n")
    assert head == "ERROR: unable to select packages:"
    return rest


def opkg_(packages: Sequence[Package], *names: str) -> list[str] | str:
    verdict, chosen, text = resolve("opkg", [render_paragraphs(packages).encode()], names)
    return list(chosen) if verdict == "fine" else text.removeprefix("Collected errors:\n")


_APK_ORDER = """
    0.9 1_alpha 1_beta2 1_beta10 1_pre 1_rc1 1 1-r1 1-r10 1~aaa 1~bbb-r1 1_cvs 1_svn 1_git 1_hg 1_p 1_p1 1a 1b
    1.01 1.1 1.1-r1 1.1.1 1.9 1.10 2 10
"""
_DEBIAN_ORDER = "1~~ 1~rc1 1 1-1 1-r2 1-r10 1a 1+b 1.1~x 1.1 1.2 1.10 2 1:0.1 2:0"


def test_apks_order_of_versions() -> None:
    for earlier, later in pairwise(_APK_ORDER.split()):
        assert solver.version_key(earlier) < solver.version_key(later), (earlier, later)


def test_opkgs_order_of_versions() -> None:
    for earlier, later in pairwise(_DEBIAN_ORDER.split()):
        assert opkg.version_key(earlier) < opkg.version_key(later), (earlier, later)


@pytest.mark.parametrize(
    ("wanted", "fits"),
    [
        ("a=1.2-r1", True),
        ("a=1.2", False),
        ("a~1.2", True),
        ("a~1", True),
        ("a~1.3", False),
        ("a>1.1", True),
        ("a>1.2-r1", False),
        ("a>=1.2-r1", True),
        ("a<1.2-r2", True),
        ("a<1.2", False),
        ("a<=1.2-r1", True),
    ],
)
def test_apks_relations(wanted: str, fits: bool) -> None:
    packages = [a_package("a", "1.2-r1")]
    refused = f"  a-1.2-r1:\n    breaks: world[{wanted}]\n"
    assert apk(packages, wanted) == (["a"] if fits else refused)


class TestApk:
    def test_dependencies_come_first_and_the_request_by_name(self) -> None:
        packages = [a_package("b", "1", "d", "c"), a_package("a"), a_package("c", "1", "d"), a_package("d")]
        assert apk(packages, "b", "a") == ["a", "d", "c", "b"]

    def test_what_is_missing_is_named_with_those_who_need_it(self) -> None:
        packages = [a_package("b", "1", "gone"), a_package("a", "1", "gone")]
        assert apk(packages, "b", "a", "nosuch") == (
            "  gone (no such package):\n    required by: a-1[gone] b-1[gone]\n"
            "  nosuch (no such package):\n    required by: world[nosuch]\n"
        )

    def test_a_bare_virtual_does_not_choose(self) -> None:
        packages = [a_package("vim", provides=("vim-any",)), a_package("b", "1", "vim-any")]
        assert apk(packages, "b") == (
            "  vim-any (virtual):\n"
            "    note: please select one of the 'provided by'\n          packages explicitly\n"
            "    provided by: vim\n    required by: b-1[vim-any]\n"
        )
        assert apk(packages, "b", "vim") == ["vim", "b"]

    def test_a_bare_virtual_with_a_priority_does(self) -> None:
        packages = [
            a_package("a", provides=("virtual",)),
            a_package("b", provides=("virtual",), provider_priority=5),
            a_package("c", provides=("virtual",), provider_priority=20),
        ]
        assert apk(packages, "virtual") == ["c"]
        assert apk(packages, "virtual", "!c") == ["b"]
        assert apk(packages, "virtual", "a", "b", "c") == ["a", "b", "c"]

    def test_a_name_with_a_version_is_a_slot(self) -> None:
        packages = [a_package("a", provides=("slot=1",)), a_package("b", provides=("slot=2",))]
        assert apk(packages, "slot") == ["b"]
        assert apk(packages, "slot", "a") == ["a"]
        assert apk(packages, "a", "b") == (
            "  a-1-r1:\n    conflicts: b-1-r1[slot=1]\n    satisfies: world[a]\n"
            "  b-1-r1:\n    conflicts: a-1-r1[slot=2]\n    satisfies: world[b]\n"
        )

    def test_a_slot_is_the_real_package_too(self) -> None:
        packages = [a_package("a"), a_package("b", provides=("a=1-r1",))]
        assert apk([*packages, a_package("c", "1", "b")], "c", "a") == ["b", "c"]

    def test_a_conflict_excludes(self) -> None:
        packages = [a_package("a", "1", "!b"), a_package("b"), a_package("c", "1", "b")]
        assert apk(packages, "a") == ["a"]
        assert apk(packages, "a", "c") == ("  b-1-r1:\n    breaks: a-1[!b]\n    satisfies: c-1[b]\n")
        assert apk(packages, "c", "!b") == "  b-1-r1:\n    breaks: world[!b]\n    satisfies: c-1[b]\n"

    def test_a_conflict_with_what_a_package_provides_itself_does_not_count(self) -> None:
        assert apk([a_package("a", "1", "!v", provides=("v=1",))], "a") == ["a"]

    def test_of_one_name_the_last_entry_counts(self) -> None:
        packages = [a_package("a"), a_package("b", "1", "a")]
        assert apk(packages, "a", "!a") == []
        assert apk(packages, "!a", "a") == ["a"]

    def test_a_package_that_provides_its_own_name_clashes_with_itself(self) -> None:
        for own in ("a", "a=1-r1"):
            packages = [a_package("a", provides=(own,)), a_package("b", "1", "a")]
            assert apk(packages, "b") == f"  a-1-r1:\n    conflicts: a-1-r1[{own}]\n    satisfies: b-1[a]\n"

    def test_the_highest_version_of_all_indexes_is_taken(self) -> None:
        indexes = [[a_package("a", "1.9")], [a_package("a", "1.10")], [a_package("a", "1.2")]]
        data = [write_index(packages, _KEY) for packages in indexes]
        assert resolve("apk", data, ["a"])[1] == {"a": "1.10"}
        assert resolve("apk", data, ["a<1.10"])[1] == {"a": "1.9"}

    def test_it_goes_back_on_a_choice_that_turns_out_badly(self) -> None:
        """The best provider of one name excludes what the only good provider of another one needs."""
        packages = [
            a_package("x-good", provides=("x=2",)),
            a_package("x-poor", provides=("x=1",)),
            a_package("y-good", "1", "z", provides=("y=2",)),
            a_package("y-poor", "1", "z", provides=("y=1",)),
            a_package("z-one", "1", "!x-good", provides=("z=2",)),
            a_package("z-two", "1", "!x-good", provides=("z=1",)),
        ]
        assert apk(packages, "x", "y") == ["x-poor", "z-one", "y-good"]

    def test_what_is_no_dependency_is_refused(self) -> None:
        assert resolve("apk", [write_index([a_package("a")], _KEY)], ["a="])[0] == "impossible"


class TestOpkg:
    def test_dependencies_come_first_in_the_order_of_the_request(self) -> None:
        packages = [a_package("b", "1", "d", "c"), a_package("a"), a_package("c", "1", "d"), a_package("d")]
        assert opkg_(packages, "b", "a") == ["d", "c", "b", "a"]

    def test_every_failure_is_collected(self) -> None:
        assert opkg_([a_package("a", "1", "gone (>= 2)"), a_package("b")], "a", "nosuch", "b") == (
            " * pkg_hash_check_unresolved: cannot find dependency gone (>= 2) for a\n"
            " * pkg_hash_fetch_best_installation_candidate: Packages for a found, but incompatible with the"
            " architectures configured\n"
            " * opkg_install_cmd: Cannot install package a.\n"
            " * opkg_install_cmd: Cannot install package nosuch.\n"
        )

    def test_a_requested_virtual_takes_the_first_provider_and_a_needed_one_the_last(self) -> None:
        packages = [
            a_package("ip-full", provides=("ip",)),
            a_package("ip-tiny", provides=("ip",)),
            a_package("b", "1", "ip"),
        ]
        assert opkg_(packages, "ip") == ["ip-full"]
        assert opkg_(packages, "b") == ["ip-tiny", "b"]
        assert opkg_(packages, "ip-full", "b") == ["ip-full", "b"]

    def test_a_package_of_the_name_comes_before_others_that_provide_it(self) -> None:
        packages = [a_package("a"), a_package("z", provides=("a",)), a_package("b", "1", "a")]
        assert opkg_(packages, "b") == ["a", "b"]

    def test_a_requested_package_is_installed_beside_one_that_provides_its_name(self) -> None:
        packages = [a_package("a"), a_package("z", provides=("a", "v"))]
        assert opkg_(packages, "z", "a", "v") == ["z", "a"]

    def test_only_the_conflicts_of_the_later_package_count(self) -> None:
        packages = [a_package("a", conflicts=("b",)), a_package("b")]
        assert opkg_(packages, "a", "b") == ["a", "b"]
        assert opkg_(packages, "b", "a") == (
            " * check_conflicts_for: The following packages conflict with a:\n"
            " * check_conflicts_for: \tb * \n"
            " * opkg_install_cmd: Cannot install package a.\n"
        )

    def test_versions_of_dependencies_count(self) -> None:
        packages = [
            a_package("a", "1-r1"),
            a_package("a", "2-r1"),
            a_package("b", "1", "a<2"),
            a_package("c", "1", "a>2-r1"),
            a_package("d", "1", "a>=3"),
        ]
        assert opkg_(packages, "a") == ["a"]
        assert opkg_(packages, "b") == ["a", "b"]
        assert opkg_(packages, "c") == ["a", "c"]  # opkg takes equality for every relation
        assert "cannot find dependency a (>= 3) for d\n" in opkg_(packages, "d")
        index = [gzip.compress(render_paragraphs(packages).encode())]
        assert resolve("opkg", index, ["a"])[1] == {"a": "2-r1"}
        assert resolve("opkg", index, ["b"])[1] == {"a": "1-r1", "b": "1"}

    def test_a_later_version_that_is_there_stays(self) -> None:
        packages = [a_package("a", "1"), a_package("a", "2"), a_package("b", "1", "a<1.5"), a_package("c")]
        assert opkg_(packages, "a", "b", "c") == " * opkg_install_cmd: Cannot install package b.\n"
        assert opkg_(packages, "b", "c") == ["a", "b", "c"]

    def test_alternatives_are_tried_in_their_order(self) -> None:
        packages = [a_package("b"), a_package("c"), a_package("d", "1", "a|c|b")]
        assert "Depends: a | c | b\n" in render_paragraphs(packages)
        assert opkg_(packages, "d") == ["c", "d"]
        assert opkg_(packages, "b", "d") == ["b", "d"]

    def test_a_provider_that_needs_what_is_nowhere_is_passed_over(self) -> None:
        packages = [
            a_package("v-one", provides=("v",)),
            a_package("v-two", "1", "gone", provides=("v",)),
            a_package("b", "1", "v"),
        ]
        assert opkg_(packages, "b") == ["v-one", "b"]


_REQUESTS = [
    ("25.12.0", "vim-any", "(virtual)"),
    ("25.12.0", "vim-any vim", "vim-9.1.1918-r2"),
    ("25.12.0", "sample-virtual", "sample-conflict-a-1.0-r1"),
    ("25.12.0", "sample-uses-engine", "sample-engine-two-2.0-r1"),
    ("25.12.0", "sample-uses-engine sample-uses-old-engine", "sample-engine-one-1.0-r1"),
    (
        "25.12.0",
        "sample-uses-old-engine sample-engine-two",
        "breaks: sample-uses-old-engine-1.0-r1[sample-engine<2]",
    ),
    ("25.12.0", "sample-needs-newer", "breaks: sample-needs-newer-1.0-r1[sample-note>=2]"),
    ("25.12.0", "sample-ranked", "sample-ranked-high-1.0-r1"),
    ("24.10.5", "vim-any", "Cannot install package vim-any."),
    ("24.10.5", "sample-uses-engine", "sample-engine-two-2.0-r1"),
    ("24.10.5", "sample-uses-old-engine", "sample-engine-one-1.0-r1"),
    ("24.10.5", "sample-uses-engine sample-uses-old-engine", "conflict with sample-engine-one:"),
    ("24.10.5", "sample-needs-newer", "cannot find dependency sample-note (>= 2) for sample-needs-newer"),
    ("24.10.5", "sample-ranked", "sample-ranked-high-1.0-r1"),
]


@pytest.mark.parametrize(("version", "names", "told"), _REQUESTS)
def test_the_world_has_something_for_each_rule(
    sample_world: Distribution, version: str, names: str, told: str
) -> None:
    manager, pattern = ("opkg", "Packages") if version.startswith("24") else ("apk", "packages.adb")
    tree = sample_world.imagebuilder(version, "x86/64")
    indexes = [path.read_bytes() for path in sorted(tree.glob(f"feeds/*/{pattern}"))]
    libc = a_package("libc", "1.2.5-r5")
    indexes.append(write_index([libc], _KEY) if manager == "apk" else render_paragraphs([libc]).encode())
    verdict, chosen, text = resolve(manager, indexes, names.split())
    assert told in (text or [f"{name}-{version}" for name, version in chosen.items()])
    assert (verdict == "fine") == (not text)


# libc and kernel are in no index that opkg downloads; they were there when the answers were recorded.
_INSTALLED = {"libc": "1.2.5-r4", "kernel": "6.6.66~9aa856cfbbfeb974739bb76ae6c8698a-r1"}
_CUT = 1500
"""Characters of a complaint that were recorded."""


def recorded(folder: str, pattern: str) -> tuple[list[bytes], list[dict[str, Any]]]:
    paths = sorted((_RECORDED / folder).glob(pattern))
    if not paths:
        pytest.skip(f"no recorded indexes in {_RECORDED / folder}")
    answers: list[dict[str, Any]] = json.loads((_RECORDED / folder / "verdicts.json").read_text())
    return [path.read_bytes() for path in paths], answers


def test_every_recorded_answer_of_apk_is_ours_to_the_letter() -> None:
    indexes, answers = recorded("25.12.0-x86-64", "*.adb")
    for answer in answers:
        verdict, chosen, text = resolve("apk", indexes, answer["request"])
        assert verdict == answer["verdict"], answer["request"]
        assert list(chosen.items()) == list(answer.get("packages", {}).items()), answer["request"]
        assert text[:_CUT].rstrip() == answer.get("stderr", "").rstrip(), answer["request"]
    assert {answer["verdict"] for answer in answers} == {"fine", "impossible"}


def test_every_recorded_answer_of_opkg_is_ours_but_for_the_order() -> None:
    indexes, answers = recorded("24.10.5-x86-64", "*.gz")
    present = [a_package(name, version) for name, version in _INSTALLED.items()]
    indexes.append(render_paragraphs(present).encode())
    for answer in answers:
        verdict, chosen, text = resolve("opkg", indexes, answer["request"])
        assert verdict == answer["verdict"], answer["request"]
        assert {k: v for k, v in chosen.items() if k not in _INSTALLED} == answer.get("packages", {})
        assert text.rstrip() == answer.get("stderr", "").rstrip()
    assert {answer["verdict"] for answer in answers} == {"fine", "impossible"}
