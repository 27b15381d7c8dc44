import pytest

from asu_builder.domain import packages
from asu_builder.domain.diagnosis import repository_problems, undelivered_packages
from factories import TRANSCRIPTS

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
        assert repository_problems(path.read_text()) == ()
        assert undelivered_packages(path.read_text()) == {}


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
    problem = packages.find_too_big(path.read_text())
    assert problem is not None
    sentence = packages.too_big_sentence(problem)
    assert sentence.startswith("Error: Selected packages exceed device storage")
    assert expected in sentence


@pytest.mark.parametrize("folder", ["24.10-x86-64", "25.12-ath79-generic"])
def test_a_failed_install_script_is_named(folder: str) -> None:
    path = TRANSCRIPTS / folder / "image-postinst-fail.stderr"
    if not path.exists():
        pytest.skip("no recorded transcripts here")
    assert packages.explain_script(path.read_text()) == (
        "fixture-postinst-fail",
        "The install script of fixture-postinst-fail failed with exit code 3; leave that package out",
    )


def test_a_sentence_names_twenty_packages_at_most() -> None:
    stderr = "".join(f" * opkg_install_cmd: Cannot install package p{number}.\n" for number in range(3000))
    sentence = packages.explain_selection(stderr).sentence()
    assert sentence.startswith("Error: Impossible package selection: missing (p0, p1,")
    assert sentence.endswith("p19 and 2980 more)")
