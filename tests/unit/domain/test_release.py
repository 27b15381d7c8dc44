import random

import pytest

from asu_builder.domain.errors import RequestRejected
from asu_builder.domain.release import parse_release


@pytest.mark.parametrize(
    ("version", "branch", "path", "tag", "moving"),
    [
        ("24.10.4", "24.10", "releases/24.10.4", "v24.10.4", False),
        ("24.10.0-rc2", "24.10", "releases/24.10.0-rc2", "v24.10.0-rc2", False),
        ("24.10-SNAPSHOT", "24.10", "releases/24.10-SNAPSHOT", "openwrt-24.10", True),
        ("SNAPSHOT", "SNAPSHOT", "snapshots", "master", True),
    ],
)
def test_a_version_name_says_its_branch_path_and_image_tag(
    version: str, branch: str, path: str, tag: str, moving: bool
) -> None:
    release = parse_release(version)
    assert (release.branch, release.path, release.tag, release.moving) == (branch, path, tag, moving)


@pytest.mark.parametrize(
    "version", ["", "snapshot", "24.10", "24.10.x", "24.10.1-rc", "v24.10.1", "24.10.1\n", "٢٤.10.1"]
)
def test_a_name_of_no_known_form_is_refused_in_the_words_users_search_for(version: str) -> None:
    with pytest.raises(RequestRejected, match=r"^Unsupported branch: "):
        parse_release(version)


def test_versions_sort_as_numbers_and_candidates_before_their_release() -> None:
    old_to_new = [
        "23.05.5", "23.05.10", "24.10.0-rc2", "24.10.0-rc10", "24.10.0", "24.10.9", "24.10.10",
        "24.10-SNAPSHOT", "25.12.0-rc1", "25.12.0", "SNAPSHOT",
    ]  # fmt: skip
    shuffled = random.Random(1).sample(old_to_new, len(old_to_new))
    assert sorted(shuffled, key=lambda version: parse_release(version).order) == old_to_new
