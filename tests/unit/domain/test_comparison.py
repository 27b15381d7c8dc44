"""Two sets of packages, compared."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asu_builder.domain.comparison import compare, version_order

_VERSIONS = st.text("0123456789.~-rabc_", max_size=12)


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        ("1.9-r1", "1.10-r1"),
        ("2.90-r4", "2.91-r1"),
        ("2.91-r1", "2.91-r2"),
        ("1.0_rc1-r1", "1.0-r1"),
        ("1.0~rc1-1", "1.0-1"),
        ("1.0", "1.0_p1"),
        ("1.0", "1.0.1"),
        ("6.6.110~0a1b2c3d-r1", "6.12.62~00000000-r1"),
        ("2024.03.29~eb9bcb64-r1", "2025.03.17~00bcb64d-r1"),
        ("25.300.40000-r1", "25.301.1-r1"),
    ],
)
def test_later_versions_come_later(older: str, newer: str) -> None:
    assert version_order(older) < version_order(newer)
    changes = compare({"vim": older}, {"vim": newer})
    assert changes.upgraded == {"vim": (older, newer)} and not changes.downgraded
    assert compare({"vim": newer}, {"vim": older}).downgraded == {"vim": (newer, older)}


def test_another_commit_of_one_day_is_no_downgrade() -> None:
    changes = compare({"netifd": "2025.10.20~ffff0000-r1"}, {"netifd": "2025.10.20~0000ffff-r1"})
    assert list(changes.upgraded) == ["netifd"]


def test_what_is_there_on_one_side_only_was_added_or_removed() -> None:
    changes = compare({"a": "1", "b": "1", "kernel": "6.6"}, {"b": "1", "c": "2", "kernel": "6.12"})
    assert (changes.added, changes.removed, changes.unchanged) == ({"c": "2"}, {"a": "1"}, 1)
    assert changes.kernel == ("6.6", "6.12")
    assert compare({"kernel": "6.6"}, {"kernel": "6.6"}).kernel is None


def test_a_library_with_another_abi_number_is_the_same_package() -> None:
    changes = compare({"libubus20240101": "1"}, {"libubus20250102": "2"})
    assert changes.upgraded == {"libubus20250102": ("1", "2")}
    assert changes.added == changes.removed == {}
    # One side may be a manifest, which has no such numbers.
    assert compare({"libubus": "1"}, {"libubus20250102": "2"}).upgraded
    both = compare({"libubus": "1", "libubus20240101": "1"}, {"libubus20250102": "2"})
    assert len(both.upgraded) == len(both.removed) == 1


@given(_VERSIONS, _VERSIONS, _VERSIONS)
def test_versions_have_one_order(first: str, second: str, third: str) -> None:
    assert (
        sorted([first, second, third], key=version_order) == sorted([third, first, second], key=version_order)
        or len({version_order(version) for version in (first, second, third)}) < 3
    )


_SETS = st.dictionaries(
    st.sampled_from(["a", "b", "liba1", "liba2", "libb3", "kernel"]), st.sampled_from("123")
)


@given(_SETS, _SETS)
def test_every_package_is_counted_once(before: dict[str, str], after: dict[str, str]) -> None:
    changes = compare(before, after)
    same = len(changes.upgraded) + len(changes.downgraded) + changes.unchanged
    assert same + len(changes.removed) == len(before)
    assert same + len(changes.added) == len(after)
    back = compare(after, before)
    assert (len(back.added), len(back.removed)) == (len(changes.removed), len(changes.added))
