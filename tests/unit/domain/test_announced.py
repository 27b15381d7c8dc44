"""What a caller repeats after this server is never the caller's fault."""

import json

import pytest

from asu_builder.domain.errors import BuildFailed, FailureReason, Side
from asu_builder.domain.make import Announced, Circumstances, require_revision, require_versions
from factories import a_request, the_case


def refusal(
    announced: Announced, *, revision: str = "", manifest: dict[str, str] | None = None, **changes: object
) -> BuildFailed:
    """How a request is refused."""
    found = Circumstances(a_request(**changes), (), lambda: announced)
    with pytest.raises(BuildFailed) as caught:
        if revision:
            require_revision(found, revision)
        else:
            require_versions(found, manifest or {})
    return caught.value


def test_an_imagebuilder_that_is_behind_is_the_worlds() -> None:
    """Case 09: infrastructure, retried, says that upstream is between two
    states; builds once it has caught up."""
    case = json.loads(the_case("09-revision-behind.json"))
    announced, asked = Announced(case["profiles.json version_code"]), case["request"]["version_code"]
    failure = refusal(announced, revision="r32000-0123456789", version_code=asked, version="SNAPSHOT")
    assert (failure.reason, failure.side) == (FailureReason.REVISION_MISMATCH, Side.INFRASTRUCTURE)
    assert failure.detail.startswith(
        f"Error: Received incorrect version r32000-0123456789 (requested {asked})"
    )
    assert "between two states" in failure.detail
    require_revision(Circumstances(a_request(version_code=asked), (), lambda: announced), asked)


def test_a_revision_that_this_server_does_not_announce_is_the_users() -> None:
    failure = refusal(Announced("r2-b"), revision="r2-b", version_code="r1-a")
    assert failure.side is Side.USER and failure.field == "version_code"
    assert failure.problem.revisions == ("r1-a", "r2-b")


def test_what_is_not_known_is_not_the_users() -> None:
    assert refusal(Announced(), revision="r2-b", version_code="r1-a").side is Side.INFRASTRUCTURE


def test_versions_must_be_those_that_were_shown() -> None:
    request = a_request(packages_versions={"vim": "1", "-ppp": ""})
    require_versions(Circumstances(request), {"vim": "1", "libc": "2"})
    assert (
        "Impossible package selection: vim not in manifest"
        in refusal(Announced(), packages_versions={"vim": "1"}).detail
    )
    detail = refusal(Announced(), manifest={"vim": "2"}, packages_versions={"vim": "1"}).detail
    assert "vim version not as requested: 1 vs. 2" in detail


def test_all_wrong_versions_are_named() -> None:
    asked = {"vim": "1", "tmux": "1", "nano": "1", "htop": "1"}
    failure = refusal(Announced(), manifest={"vim": "2", "htop": "1", "nano": "3"}, packages_versions=asked)
    for name in ("vim version not as requested: 1 vs. 2", "tmux not in manifest", "nano version not"):
        assert name in failure.detail
    assert failure.problem.versions == {"vim": ("1", "2"), "tmux": ("1", ""), "nano": ("1", "3")}


def test_versions_that_this_server_announces_are_the_worlds() -> None:
    announced = Announced("r1", {"vim": "1", "tmux": "2"})
    lag = refusal(announced, manifest={"vim": "0"}, packages_versions={"vim": "1", "tmux": ""})
    assert lag.side is Side.INFRASTRUCTURE and "between two states" in lag.detail
    own = refusal(announced, manifest={"vim": "0"}, packages_versions={"vim": "7"})
    assert (own.side, own.field) == (Side.USER, "packages_versions")


def test_a_name_that_a_rule_renamed_or_removed_needs_no_version_any_more() -> None:
    found = Circumstances(a_request(packages_versions={"auc": "1", "vim": "2"}))
    require_versions(found, {"owut": "3", "vim": "2"}, released={"auc"})
    with pytest.raises(BuildFailed, match="auc not in manifest"):
        require_versions(found, {"owut": "3", "vim": "2"})


@pytest.mark.parametrize("asked", ["", "r32000-0123456789", "r1-other"])
def test_an_imagebuilder_of_another_release_is_the_worlds_fault_whatever_was_asked_for(asked: str) -> None:
    found = Circumstances(a_request(version_code=asked))
    with pytest.raises(BuildFailed, match=r"Received incorrect version r2-b \(requested r1-a\)") as caught:
        require_revision(found, "r2-b", released="r1-a")
    assert caught.value.side is Side.INFRASTRUCTURE


def test_without_a_revision_of_upstream_or_with_the_same_there_is_nothing_to_refuse() -> None:
    require_revision(Circumstances(a_request()), "r2-b", released="")
    require_revision(Circumstances(a_request()), "r2-b", released="r2-b")
