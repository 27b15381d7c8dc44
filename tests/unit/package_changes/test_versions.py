import random

import pytest

from package_changes.versions import VersionProblem, branch_of, parse_range, version_order

OLD_TO_NEW = [
    "22.03.7", "23.05.0-rc1", "23.05.9", "23.05.10", "23.05-SNAPSHOT", "24.10.0-rc2", "24.10.0-rc10",
    "24.10.0", "24.10.9", "24.10.10", "24.10-SNAPSHOT", "25.12.0-rc1", "25.12.0", "25.12-SNAPSHOT",
    "SNAPSHOT",
]  # fmt: skip


def test_versions_sort_as_numbers_candidates_first_and_main_last() -> None:
    shuffled = random.Random(1).sample(OLD_TO_NEW, len(OLD_TO_NEW))
    assert sorted(shuffled, key=lambda version: version_order(version) or ()) == OLD_TO_NEW


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("24.10", "24.10.0-rc2 24.10.0-rc10 24.10.0 24.10.9 24.10.10 24.10-SNAPSHOT"),
        ("SNAPSHOT", "SNAPSHOT"),
        ("24.10.9", "24.10.9"),
        (">=25.12", "25.12.0-rc1 25.12.0 25.12-SNAPSHOT SNAPSHOT"),
        (">24.10", "25.12.0-rc1 25.12.0 25.12-SNAPSHOT SNAPSHOT"),
        ("<23.05", "22.03.7"),
        ("<=22.03", "22.03.7"),
        (">=24.10.0 <24.10.10", "24.10.0 24.10.9"),
        (">=24.10.0<=24.10.10", "24.10.0 24.10.9 24.10.10"),
        (">24.10.9 <25.12", "24.10.10 24.10-SNAPSHOT"),
        (">25.12 <SNAPSHOT", ""),
        ("24.10-SNAPSHOT", "24.10-SNAPSHOT"),
    ],
)
def test_a_range_holds_the_versions_it_names(text: str, expected: str) -> None:
    found = parse_range(text)
    assert [version for version in OLD_TO_NEW if (version_order(version) or ()) in found] == expected.split()


@pytest.mark.parametrize(
    "text", ["", "24", "v24.10", ">=", ">= <", ">=24.10 25.12", "=24.10", "24.10.x", "main"]
)
def test_what_is_no_range_is_refused(text: str) -> None:
    with pytest.raises(VersionProblem):
        parse_range(text)


@pytest.mark.parametrize("name", ["", "snapshot", "24.10", "24.10.1-rc", "24.10.1\n", "٢٤.10.1"])
def test_a_name_of_no_known_form_is_no_version(name: str) -> None:
    assert version_order(name) is None
    assert branch_of(name) is None


def test_a_version_knows_its_branch() -> None:
    assert [branch_of(version) for version in ("24.10.0-rc2", "24.10-SNAPSHOT", "SNAPSHOT")] == [
        "24.10",
        "24.10",
        "SNAPSHOT",
    ]
