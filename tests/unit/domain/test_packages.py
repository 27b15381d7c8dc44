import pytest

from asu_builder.domain import packages
from asu_builder.domain.errors import BuildFailed
from factories import TRANSCRIPTS, a_request


def test_versions_must_be_those_that_were_shown() -> None:
    packages.require_versions(
        a_request(packages_versions={"vim": "1", "-ppp": ""}), {"vim": "1", "libc": "2"}
    )
    with pytest.raises(BuildFailed, match="Impossible package selection: vim not in manifest"):
        packages.require_versions(a_request(packages_versions={"vim": "1"}), {})
    with pytest.raises(BuildFailed, match=r"vim version not as requested: 1 vs\. 2"):
        packages.require_versions(a_request(packages_versions={"vim": "1"}), {"vim": "2"})


def test_a_name_that_a_rule_renamed_or_removed_needs_no_version_any_more() -> None:
    request = a_request(packages_versions={"auc": "1", "vim": "2"})
    packages.require_versions(request, {"owut": "3", "vim": "2"}, released={"auc"})
    with pytest.raises(BuildFailed, match="auc not in manifest"):
        packages.require_versions(request, {"owut": "3", "vim": "2"})


RECORDED = {
    "24.10-x86-64/manifest-missing": "missing (no-such-package, other-missing)",
    "24.10-x86-64/manifest-broken-dep": "missing (this-package-does-not-exist)",
    "24.10-x86-64/manifest-conflict": "conflicts (fixture-conflict-b, fixture-conflict-a)",
    "24.10-x86-64/manifest-conflict-nftables": "conflicts (nftables-json, nftables-nojson)",
    "24.10-x86-64/image-clash": "conflicts (fixture-clash-b, fixture-clash-a)",
    "25.12-ath79-generic/manifest-missing": "missing (no-such-package, other-missing)",
    "25.12-ath79-generic/manifest-broken-dep": "missing (this-package-does-not-exist)",
    "25.12-ath79-generic/manifest-conflict": "conflicts (fixture-conflict-a, fixture-conflict-b)",
    "25.12-ath79-generic/manifest-conflict-nftables": "conflicts (nftables-json, nftables-nojson)",
    "25.12-ath79-generic/image-clash": "conflicts (fixture-clash-b, fixture-clash-a)",
}


@pytest.mark.parametrize(("name", "expected"), RECORDED.items())
def test_recorded_complaints_are_explained_by_name(name: str, expected: str) -> None:
    path = TRANSCRIPTS / f"{name}.stderr"
    if not path.exists():
        pytest.skip("no recorded transcripts here")
    sentence = packages.explain_selection(path.read_text()).sentence()
    assert sentence.startswith(f"Error: Impossible package selection: {expected}")
    if "broken-dep" in name:
        assert ". this-package-does-not-exist is needed by fixture-broken-dep" in sentence


@pytest.mark.parametrize("folder", ["24.10-x86-64", "25.12-ath79-generic"])
def test_no_recorded_success_and_no_other_failure_is_taken_for_a_selection_problem(folder: str) -> None:
    if not TRANSCRIPTS.exists():
        pytest.skip("no recorded transcripts here")
    others = [
        path for path in (TRANSCRIPTS / folder).glob("*.stderr") if f"{folder}/{path.stem}" not in RECORDED
    ]
    others = [path for path in others if path.stem not in ("manifest-clash", "image-missing")]
    assert len(others) >= 6
    for path in others:
        assert not packages.explain_selection(path.read_text()), path.name
        assert packages.unreachable_repositories(path.read_text()) == ()


TOO_BIG = {
    "24.10-x86-64/image-too-big-ext4": "rootfs_size_mb",
    "25.12-ath79-generic/image-too-big": "Remove packages",
    "25.12-ath79-generic/image-too-big-checksize": "17891332 bytes do not fit into 16384000, 1507332 too",
    "25.12-ath79-generic/image-too-big-safeloader": "Remove packages",
    "25.12-ath79-generic/image-too-big-ubnt": "17825796 bytes do not fit into 15859712",
}


@pytest.mark.parametrize(("name", "expected"), TOO_BIG.items())
def test_every_recorded_wording_of_too_big_is_recognised(name: str, expected: str) -> None:
    path = TRANSCRIPTS / f"{name}.stderr"
    if not path.exists():
        pytest.skip("no recorded transcripts here")
    sentence = packages.explain_too_big(path.read_text())
    assert sentence is not None
    assert sentence.startswith("Error: Selected packages exceed device storage")
    assert expected in sentence


APK_DOWN = """WARNING: updating and opening https://downloads.example.org/x/packages.adb: network error
WARNING: opening https://downloads.example.org/y/packages.adb: temporary error (try again later)
WARNING: opening https://other.example.org/z/packages.adb: UNTRUSTED signature
WARNING: opening /builder/packages/packages.adb: No such file or directory
ERROR: unable to select packages:
  vim (no such package):
    required by: world[vim]
"""
OPKG_DOWN = "*** Failed to download the package list from https://downloads.example.org/x/Packages.gz\n"


def test_a_repository_that_does_not_answer_is_found_and_one_that_is_untrusted_is_not() -> None:
    assert packages.unreachable_repositories(APK_DOWN) == (
        "https://downloads.example.org/x/packages.adb",
        "https://downloads.example.org/y/packages.adb",
    )
    assert packages.unreachable_repositories(OPKG_DOWN) == ("https://downloads.example.org/x/Packages.gz",)


@pytest.mark.parametrize("folder", ["24.10-x86-64", "25.12-ath79-generic"])
def test_a_failed_install_script_is_named(folder: str) -> None:
    path = TRANSCRIPTS / folder / "image-postinst-fail.stderr"
    if not path.exists():
        pytest.skip("no recorded transcripts here")
    assert packages.explain_script(path.read_text()) == (
        "The install script of fixture-postinst-fail failed with exit code 3; leave that package out"
    )


def test_a_sentence_names_twenty_packages_at_most() -> None:
    stderr = "".join(f" * opkg_install_cmd: Cannot install package p{number}.\n" for number in range(3000))
    sentence = packages.explain_selection(stderr).sentence()
    assert sentence.startswith("Error: Impossible package selection: missing (p0, p1,")
    assert sentence.endswith("p19 and 2980 more)")
