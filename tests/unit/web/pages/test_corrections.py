"""What is said about a failure, and which requests are offered in place of it."""

import re
import shlex
from pathlib import Path

import pytest

from asu_builder.domain.errors import FailureReason, Fault
from asu_builder.domain.job import BuildFailure
from asu_builder.domain.packages import SelectionProblem
from asu_builder.domain.request import BuildRequest
from asu_builder.web.pages.corrections import (
    AS_IT_IS,
    Advice,
    Surroundings,
    advise,
    advise_cancelled,
    find_problem,
)
from factories import TRANSCRIPTS, a_request

_SELECTION = FailureReason.IMPOSSIBLE_SELECTION
_DOCUMENTED = re.findall(
    r"^\| `([a-z_]+)` \| (user|world|ours)",
    (Path(__file__).resolve().parents[4] / "docs" / "errors.md").read_text(),
    re.MULTILINE,
)


def advised(
    request: BuildRequest,
    reason: FailureReason,
    detail: str = "",
    *,
    stderr: str = "",
    known: Surroundings | None = None,
) -> Advice:
    """Advice on a request that failed so."""
    return advise(request, BuildFailure(reason, detail, stderr=stderr), known or Surroundings())


def offered(advice: Advice) -> dict[str, tuple[str, ...]]:
    """What each correction would ask for, by its key."""
    return {each.key: each.request.wanted for each in advice.corrections}


@pytest.mark.parametrize(("reason", "fault"), _DOCUMENTED)
def test_every_documented_reason_has_words_and_a_side(reason: str, fault: str) -> None:
    advice = advised(a_request(), FailureReason(reason), "Error: x")
    assert advice.heading and advice.what_to_do.endswith(".")
    expected = {"user": "The request", "world": "The surroundings of this server", "ours": "This server"}
    assert advice.side == ("Nobody" if reason == "expired" else expected[fault])


def test_the_table_of_reasons_was_read() -> None:
    assert {reason for reason, _ in _DOCUMENTED} == set(FailureReason)


@pytest.mark.parametrize("reason", [each for each in FailureReason if each.fault is not Fault.USER])
def test_what_is_not_the_request_s_fault_is_tried_again_as_it_is(reason: FailureReason) -> None:
    request = a_request(packages=("luci",), defaults="echo")
    (again,) = advised(request, reason).corrections
    assert (again.key, again.request) == (AS_IT_IS, request)


@pytest.mark.parametrize(
    "reason", [FailureReason.DEADLINE, FailureReason.OUT_OF_MEMORY, FailureReason.MAKE_FAILED]
)
def test_a_user_s_failure_is_not_offered_again_unchanged(reason: FailureReason) -> None:
    assert advised(a_request(packages=("luci",)), reason, "Error: no").corrections == ()


def test_an_expired_and_a_cancelled_build_are_asked_for_again() -> None:
    request = a_request()
    assert advised(request, FailureReason.EXPIRED).corrections[0].request == request
    assert advise_cancelled(request).corrections[0].request == request


def test_a_missing_package_is_replaced_by_the_nearest_name_or_left_out() -> None:
    detail = "Error: Impossible package selection: missing (lucy)"
    request = a_request(packages=("vim", "lucy"), defaults="secret")
    advice = advised(request, _SELECTION, detail, known=Surroundings({"lucy": ("luci", "lua")}))
    assert offered(advice) == {"nearest": ("vim", "luci"), "without lucy": ("vim",)}
    assert advice.corrections[0].sentence == "Build with luci instead of lucy"
    assert all(each.request.defaults == "secret" for each in advice.corrections)


def test_a_package_is_left_out_that_needs_what_is_missing() -> None:
    stderr = (
        "ERROR: unable to select packages:\n"
        "  libfoo (no such package):\n"
        "    required by: bar-1.0-r1[libfoo]\n"
    )
    advice = advised(a_request(packages=("bar", "vim")), _SELECTION, stderr=stderr)
    assert offered(advice) == {"without bar": ("vim",)}


def test_of_packages_that_exclude_each_other_either_can_go() -> None:
    detail = "Error: Impossible package selection: conflicts (dnsmasq-full, dnsmasq)"
    both = advised(a_request(packages=("dnsmasq", "dnsmasq-full")), _SELECTION, detail)
    assert offered(both) == {
        "without dnsmasq-full": ("dnsmasq",),
        "without dnsmasq": ("dnsmasq-full",),
    }
    known = Surroundings(defaults=("dnsmasq",))
    default = advised(a_request(packages=("dnsmasq-full",)), _SELECTION, detail, known=known)
    assert offered(default)["without dnsmasq"] == ("dnsmasq-full", "-dnsmasq")


def test_what_would_change_nothing_is_not_offered() -> None:
    detail = "Error: Impossible package selection: missing (of-somebody-else)"
    assert advised(a_request(packages=("vim",)), _SELECTION, detail).corrections == ()


def test_versions_that_have_moved_are_given_up_or_kept_with_the_package() -> None:
    request = a_request(packages_versions={"vim": "1", "nano": "2"})
    moved = "Error: Impossible package selection: vim version not as requested: 1 vs. 3"
    (any_version,) = advised(request, FailureReason.VERSION_MISMATCH, moved).corrections
    assert any_version.request.packages_versions == {} and any_version.request.packages == ("vim", "nano")
    gone = "Error: Impossible package selection: vim not in manifest"
    (without,) = advised(request, FailureReason.VERSION_MISMATCH, gone).corrections
    assert without.request.packages_versions == {"nano": "2"} and without.request.packages == ()


def test_a_revision_that_has_moved_is_given_up() -> None:
    request = a_request(version_code="r1-aaaa")
    (correction,) = advised(request, FailureReason.REVISION_MISMATCH).corrections
    assert correction.request.version_code == ""


def test_a_full_root_partition_is_made_larger_as_far_as_is_allowed() -> None:
    full = "Error: Selected packages exceed device storage: the root file system is full; a larger"
    request = a_request(rootfs_size_mb=200)
    known = Surroundings(max_rootfs_size_mb=300)
    (larger,) = advised(request, FailureReason.TOO_BIG, full, known=known).corrections
    assert larger.request.rootfs_size_mb == 300
    known = Surroundings(max_rootfs_size_mb=200)
    assert advised(request, FailureReason.TOO_BIG, full, known=known).corrections == ()


def test_a_package_whose_script_failed_is_left_out() -> None:
    detail = "Error: Error while building firmware. The install script of foo failed with exit code 1; leave"
    advice = advised(a_request(packages=("foo", "vim")), FailureReason.MAKE_FAILED, detail)
    assert offered(advice) == {"without foo": ("vim",)}


@pytest.mark.parametrize(
    ("recorded", "expected"),
    [
        (
            "24.10-x86-64/manifest-missing",
            {"without no-such-package other-missing": ("vim",)},
        ),
        (
            "25.12-ath79-generic/manifest-missing",
            {"without no-such-package other-missing": ("vim",)},
        ),
        (
            "24.10-x86-64/manifest-conflict",
            {
                "without fixture-conflict-b": ("fixture-conflict-a",),
                "without fixture-conflict-a": ("fixture-conflict-b",),
            },
        ),
        (
            "24.10-x86-64/manifest-clash",
            {
                "without fixture-clash-b": ("fixture-clash-a",),
                "without fixture-clash-a": ("fixture-clash-b",),
            },
        ),
        ("24.10-x86-64/manifest-broken-dep", {"without fixture-broken-dep": ()}),
        ("25.12-ath79-generic/manifest-conflict-nftables", {"without nftables-nojson": ()}),
    ],
)
def test_what_real_package_managers_said_leads_to_a_request_without_it(
    recorded: str, expected: dict[str, tuple[str, ...]]
) -> None:
    command, stderr = (TRANSCRIPTS / f"{recorded}{end}" for end in (".cmd", ".stderr"))
    if not stderr.exists():
        pytest.skip("the recordings are not here")
    packages = next(
        word for word in shlex.split(command.read_text()) if word.startswith("PACKAGES=")
    ).removeprefix("PACKAGES=")
    request = a_request(packages=tuple(packages.split()))
    assert offered(advised(request, _SELECTION, stderr=stderr.read_text())) == expected


def test_a_sentence_with_many_names_is_understood_as_far_as_it_goes() -> None:
    detail = "Error: Impossible package selection: missing (a, b, c and 3 more) conflicts (d, e)"
    problem = find_problem(BuildFailure(_SELECTION, detail))
    assert problem == SelectionProblem(("a", "b", "c"), ("d", "e"))
