"""What is said about a failure, and which requests are offered in place of it."""

import re
import shlex
from pathlib import Path

import pytest

from asu_builder.domain.errors import BuildProblem, FailureReason, Fault, Side
from asu_builder.domain.job import BuildFailure
from asu_builder.domain.packages import explain_selection
from asu_builder.domain.request import BuildRequest
from asu_builder.http.pages.corrections import (
    AS_IT_IS,
    Advice,
    Context,
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
    problem: BuildProblem | None = None,
    known: Context | None = None,
    side: Side | None = None,
) -> Advice:
    """Advice on a request that failed so."""
    failure = BuildFailure(reason, detail, problem=problem or BuildProblem(), blamed=side)
    return advise(request, failure, known or Context())


def offered(advice: Advice) -> dict[str, tuple[str, ...]]:
    """What each correction would ask for, by its key."""
    return {each.key: each.request.wanted for each in advice.corrections}


@pytest.mark.parametrize(("reason", "fault"), _DOCUMENTED)
def test_every_documented_reason_has_words_and_a_cause(reason: str, fault: str) -> None:
    advice = advised(a_request(), FailureReason(reason), "Error: x")
    assert advice.heading and advice.what_to_do.endswith(".")
    expected = {
        "user": "the request",
        "world": "the infrastructure of this server",
        "ours": "an internal error of this server",
    }
    assert advice.cause == ("no client polled it" if reason == "expired" else expected[fault])


def test_the_table_of_reasons_was_read() -> None:
    assert {reason for reason, _ in _DOCUMENTED} == set(FailureReason)


@pytest.mark.parametrize("reason", [each for each in FailureReason if each.fault is not Fault.USER])
def test_what_is_not_the_request_s_fault_is_tried_again_as_it_is(reason: FailureReason) -> None:
    request = a_request(packages=("luci",), defaults="echo")
    (again,) = advised(request, reason).corrections
    assert (again.key, again.request) == (AS_IT_IS, request)


@pytest.mark.parametrize(
    "reason", [FailureReason.DISK_LIMIT, FailureReason.OUT_OF_MEMORY, FailureReason.MAKE_FAILED]
)
def test_a_user_s_failure_is_not_offered_again_unchanged(reason: FailureReason) -> None:
    assert advised(a_request(packages=("luci",)), reason, "Error: no").corrections == ()


def test_an_expired_and_a_cancelled_build_are_asked_for_again() -> None:
    request = a_request()
    assert advised(request, FailureReason.EXPIRED).corrections[0].request == request
    assert advise_cancelled(request).corrections[0].request == request


def test_a_missing_package_is_replaced_by_the_nearest_name_or_left_out() -> None:
    request = a_request(packages=("vim", "lucy"), defaults="secret")
    problem, known = BuildProblem(missing=("lucy",)), Context({"lucy": ("luci", "lua")})
    advice = advised(request, _SELECTION, problem=problem, known=known)
    assert offered(advice) == {"nearest": ("vim", "luci"), "without lucy": ("vim",)}
    assert advice.corrections[0].sentence == "Build with luci instead of lucy"
    assert all(each.request.defaults == "secret" for each in advice.corrections)


def test_a_package_is_left_out_that_needs_what_is_missing() -> None:
    problem = BuildProblem(missing=("libfoo",), needed_by={"libfoo": ("bar",)})
    advice = advised(a_request(packages=("bar", "vim")), _SELECTION, problem=problem)
    assert offered(advice) == {"without bar": ("vim",)}


def test_of_packages_that_exclude_each_other_either_can_go() -> None:
    problem = BuildProblem(conflicts=("dnsmasq-full", "dnsmasq"))
    both = advised(a_request(packages=("dnsmasq", "dnsmasq-full")), _SELECTION, problem=problem)
    assert offered(both) == {
        "without dnsmasq-full": ("dnsmasq",),
        "without dnsmasq": ("dnsmasq-full",),
    }
    known = Context(defaults=("dnsmasq",))
    default = advised(a_request(packages=("dnsmasq-full",)), _SELECTION, problem=problem, known=known)
    assert offered(default)["without dnsmasq"] == ("dnsmasq-full", "-dnsmasq")


def test_what_would_change_nothing_is_not_offered() -> None:
    problem = BuildProblem(missing=("of-somebody-else",))
    assert advised(a_request(packages=("vim",)), _SELECTION, problem=problem).corrections == ()


def test_versions_that_have_moved_are_given_up_or_kept_with_the_package() -> None:
    request = a_request(packages_versions={"vim": "1", "nano": "2"})
    moved = BuildProblem(versions={"vim": ("1", "3")})
    (any_version,) = advised(request, FailureReason.VERSION_MISMATCH, problem=moved).corrections
    assert any_version.request.packages_versions == {} and any_version.request.packages == ("vim", "nano")
    gone = BuildProblem(versions={"vim": ("1", "")})
    (without,) = advised(request, FailureReason.VERSION_MISMATCH, problem=gone).corrections
    assert without.request.packages_versions == {"nano": "2"} and without.request.packages == ()


def test_a_revision_that_has_moved_is_given_up() -> None:
    request = a_request(version_code="r1-aaaa")
    (correction,) = advised(request, FailureReason.REVISION_MISMATCH).corrections
    assert correction.request.version_code == ""


def test_a_full_root_partition_is_made_larger_as_far_as_is_allowed() -> None:
    full = BuildProblem(full=True)
    request = a_request(rootfs_size_mb=200)
    known = Context(max_rootfs_size_mb=300)
    (larger,) = advised(request, FailureReason.TOO_BIG, problem=full, known=known).corrections
    assert larger.request.rootfs_size_mb == 300
    known = Context(max_rootfs_size_mb=200)
    assert advised(request, FailureReason.TOO_BIG, problem=full, known=known).corrections == ()


def test_a_package_whose_script_failed_is_left_out() -> None:
    problem = BuildProblem(script="foo")
    advice = advised(a_request(packages=("foo", "vim")), FailureReason.MAKE_FAILED, problem=problem)
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
    assert offered(advised(request, _SELECTION, problem=explain_selection(stderr.read_text()))) == expected


def test_no_sentence_of_ours_is_read_back() -> None:
    detail = "Error: Impossible package selection: missing (a, b) conflicts (d, e)"
    assert not find_problem(BuildFailure(_SELECTION, detail))


@pytest.mark.parametrize(
    "reason", [FailureReason.REVISION_MISMATCH, FailureReason.VERSION_MISMATCH, _SELECTION]
)
def test_what_is_upstreams_is_tried_again_as_it_is(reason: FailureReason) -> None:
    request = a_request(packages=("vim",))
    problem = BuildProblem(missing=("vim",))
    advice = advised(request, reason, problem=problem, side=Side.INFRASTRUCTURE)
    assert advice.cause == "the infrastructure of this server"
    assert advice.corrections[0].request == request and "The request is fine" in advice.what_to_do
