"""How each package manager words its failures and answers questions."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from sample_make import Run, make

pytestmark = pytest.mark.process

Trees = Callable[..., Path]
OPKG, APK = "24.10.5", "25.12.0"
BOTH = pytest.mark.parametrize("version", [OPKG, APK])


def manifest(folder: Path, packages: str, **variables: str) -> Run:
    return make(folder, "manifest", {"PACKAGES": packages, **variables})


def names(run: Run) -> list[str]:
    assert run.status == 0, run.stderr
    return [line.split(" - ")[0] for line in run.stdout.splitlines()]


def test_opkg_names_every_missing_package(tree: Trees) -> None:
    run = manifest(tree(OPKG), "nosuch vim alsonot")
    assert (run.status, run.stdout) == (2, "")
    assert (
        "Collected errors:\n * opkg_install_cmd: Cannot install package nosuch.\n"
        " * opkg_install_cmd: Cannot install package alsonot.\nmake[2]: ***"
    ) in run.stderr


def test_opkg_says_unknown_package_on_the_stdout_of_image_only(tree: Trees) -> None:
    folder = tree(OPKG)
    assert "Unknown package 'nosuch'.\n" in make(folder, "image", {"PACKAGES": "nosuch"}).stdout
    assert manifest(folder, "nosuch").stdout == ""


def test_apk_names_every_missing_package(tree: Trees) -> None:
    run = manifest(tree(APK), "nosuch vim alsonot")
    assert (run.status, run.stdout) == (2, "")
    assert (
        "ERROR: unable to select packages:\n"
        "  alsonot (no such package):\n    required by: world[alsonot]\n"
        "  nosuch (no such package):\n    required by: world[nosuch]\n"
    ) in run.stderr


def test_opkg_blames_the_requested_name_for_a_missing_dependency(tree: Trees) -> None:
    run = manifest(tree(OPKG), "sample-needs-broken")
    assert run.status == 2
    found = "Packages for sample-needs-broken found, but incompatible with the architectures configured"
    assert (
        " * pkg_hash_check_unresolved: "
        "cannot find dependency this-package-does-not-exist for sample-broken-dep\n"
        f" * pkg_hash_fetch_best_installation_candidate: {found}\n"
        " * opkg_install_cmd: Cannot install package sample-needs-broken.\n"
    ) in run.stderr


def test_apk_names_who_required_a_missing_dependency(tree: Trees) -> None:
    run = manifest(tree(APK), "sample-needs-broken")
    assert run.status == 2
    required = "sample-broken-dep-1.0-r1[this-package-does-not-exist]"
    assert f"  this-package-does-not-exist (no such package):\n    required by: {required}\n" in run.stderr


def test_opkg_reports_a_conflict(tree: Trees) -> None:
    run = manifest(tree(OPKG), "sample-conflict-a sample-conflict-b")
    assert run.status == 2
    assert (
        " * check_conflicts_for: The following packages conflict with sample-conflict-b:\n"
        " * check_conflicts_for: \tsample-conflict-a * \n"
        " * opkg_install_cmd: Cannot install package sample-conflict-b.\n"
    ) in run.stderr


def test_apk_reports_a_conflict_in_mirrored_blocks(tree: Trees) -> None:
    run = manifest(tree(APK), "nftables-nojson")
    assert run.status == 2
    assert (
        "ERROR: unable to select packages:\n"
        "  nftables-json-1.1.6-r1:\n"
        "    conflicts: nftables-nojson-1.1.6-r1[nftables=1.1.6-r1]\n"
        "    satisfies: world[nftables]\n"
        "               firewall4-2025.03.17-r2[nftables-json]\n"
        "  nftables-nojson-1.1.6-r1:\n"
        "    conflicts: nftables-json-1.1.6-r1[nftables=1.1.6-r1]\n"
        "    satisfies: world[nftables]\n"
        "               world[nftables-nojson]\n"
    ) in run.stderr


def test_opkg_reports_a_file_clash_with_the_whole_path(tree: Trees) -> None:
    folder = tree(OPKG)
    run = manifest(folder, "sample-clash-a sample-clash-b")
    assert run.status == 2
    path = folder / "build_dir/target-pico_9kc_musl/root-pico/usr/share/sample/clash.txt"
    assert (
        f" * check_data_file_clashes: Package sample-clash-b wants to install file {path}\n"
        "\tBut that file is already provided by package  * sample-clash-a\n"
        " * opkg_install_cmd: Cannot install package sample-clash-b.\n"
    ) in run.stderr


def test_apk_reports_a_file_clash_with_versions(tree: Trees) -> None:
    run = manifest(tree(APK), "sample-clash-a sample-clash-b")
    assert run.status == 2
    owned = "usr/share/sample/clash.txt owned by sample-clash-a-1.0-r1."
    assert f"ERROR: sample-clash-b-1.0-r1: trying to overwrite {owned}\n" in run.stderr


@BOTH
def test_a_failing_postinst_passes_the_manifest_and_fails_the_image(tree: Trees, version: str) -> None:
    folder = tree(version)
    assert manifest(folder, "sample-postinst-fail").status == 0
    run = make(folder, "image", {"PACKAGES": "sample-postinst-fail"})
    assert run.status == 2
    assert re.search(
        r"^postinst script \./\S*sample-postinst-fail\S* has failed with exit code 3$", run.stderr, re.M
    )
    assert "Building images..." not in run.stdout


def test_package_depends_and_whatdepends_speak_each_manager_s_way(tree: Trees) -> None:
    opkg, apk = tree(OPKG), tree(APK)
    asked = {"PACKAGE": "ppp"}
    assert make(opkg, "package_depends", asked).stdout == "ppp depends on:\n\tlibc\n\tkmod-ppp\n"
    lines = make(apk, "package_depends", asked).stdout.splitlines()
    assert lines[0].startswith("OK: ") and lines[1:] == ["ppp-2.5.2-r3 depends on:", "libc", "kmod-ppp", ""]
    text = make(opkg, "package_depends", {"PACKAGE": "sample-needs-newer"}).stdout
    assert text == "sample-needs-newer depends on:\n\tlibc\n\tsample-note (>= 2)\n"
    text = make(opkg, "package_whatdepends", asked).stdout
    assert text == "Root set:\n  ppp\nWhat depends on root set\n\tppp-mod-pppoe 2.5.2-r2\tdepends on ppp\n"
    assert "ppp-mod-pppoe-2.5.2-r3 pico_9kc {" in make(apk, "package_whatdepends", asked).stdout


def test_an_unknown_package_is_nothing_to_opkg_and_an_error_to_apk(tree: Trees) -> None:
    opkg, apk = tree(OPKG), tree(APK)
    for goal in ("package_depends", "package_whatdepends"):
        run = make(opkg, goal, {"PACKAGE": "nosuch"})
        assert (run.status, run.stdout) == (0, "")
        assert make(apk, goal, {"PACKAGE": "nosuch"}).status == 2
        missing = make(opkg, goal)
        required = goal.removeprefix("package_") if goal.endswith("whatdepends") else goal
        assert (missing.status, missing.stdout) == (
            2,
            f"Variable `PACKAGE` is not set but required by `{required}`\n",
        )


def test_package_list_works_with_opkg_and_always_fails_with_apk(tree: Trees) -> None:
    run = make(tree(OPKG), "package_list")
    assert run.status == 0
    assert re.search(r"^vim - 9\.1\.1918-r1 - \d+$", run.stdout, flags=re.MULTILINE)
    assert make(tree(APK), "package_list").status == 2
