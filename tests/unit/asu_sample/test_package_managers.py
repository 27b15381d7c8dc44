"""Installing: what is selected and what is listed."""

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


@BOTH
def test_dependencies_are_installed(tree: Trees, version: str) -> None:
    assert {"luci", "luci-base", "rpcd", "ubus", "uhttpd"} <= set(names(manifest(tree(version), "luci")))


@BOTH
def test_a_removed_package_leaves_unless_something_depends_on_it(tree: Trees, version: str) -> None:
    folder = tree(version)
    assert "dropbear" not in names(manifest(folder, "-dropbear"))
    # The profile removes ppp, ppp-mod-pppoe brings it back without a word.
    assert "ppp" in names(manifest(folder, ""))
    assert "ppp" not in names(manifest(folder, "-ppp-mod-pppoe"))


@BOTH
def test_a_name_and_its_removal_cancel_out(tree: Trees, version: str) -> None:
    folder = tree(version)
    assert manifest(folder, "vim -vim").stdout == manifest(folder, "").stdout


@BOTH
def test_requested_names_come_first_in_their_order_then_the_rest_sorted(tree: Trees, version: str) -> None:
    run = make(tree(version), "image", {"PACKAGES": "vim curl -dropbear"})
    found = re.search(r"^Packages: (.*)$", run.stdout, flags=re.MULTILINE)
    assert found
    words = [word for word in found.group(1).split() if not word.startswith('"')]
    assert words[:2] == ["vim", "curl"]
    assert words[2:] == sorted(words[2:])
    assert {"kernel", "libc"} <= set(words)
    assert not {"ppp", "-ppp", "dropbear", "-dropbear"} & set(words)
    assert ('"kernel=' in found.group(1)) == (version == APK)


@BOTH
def test_the_manifest_is_sorted_lines_and_nothing_else(tree: Trees, version: str) -> None:
    run = manifest(tree(version), "vim")
    lines = run.stdout.splitlines()
    assert all(re.fullmatch(r"[a-z0-9.+-]+ - \S+", line) for line in lines)
    assert lines == sorted(lines)
    assert {"kernel", "libc", "base-files", "vim"} <= set(names(run))


@BOTH
@pytest.mark.parametrize(("strip", "name"), [({}, "libsample20240101"), ({"STRIP_ABI": "0"}, "libsample")])
def test_abi_suffixes_are_stripped_for_any_value_of_strip_abi(
    tree: Trees, version: str, strip: dict[str, str], name: str
) -> None:
    assert f"{name} - 2024.01.01~abc123-r1\n" in manifest(tree(version), "sample-uses-lib", **strip).stdout


@BOTH
def test_a_library_is_found_under_its_name_without_abi_suffix(tree: Trees, version: str) -> None:
    assert "libsample20240101" in names(manifest(tree(version), "libsample"))


def test_one_version_prints_name_and_version_with_one_space(tree: Trees) -> None:
    lines = make(tree("25.12.0-rc1"), "manifest").stdout.splitlines()
    assert lines and all(re.fullmatch(r"\S+ \S+", line) for line in lines)


def test_opkg_is_chatty_on_stderr_even_when_all_is_well(tree: Trees) -> None:
    folder = tree(OPKG)
    first = manifest(folder, "").stderr
    assert first.startswith(
        "Generate local signing keys...\nGenerate local certificate...\nPackage list missing"
    )
    assert first.count("Signature check passed.") == 6
    assert "Generate" not in manifest(folder, "").stderr


def test_an_image_build_is_noisy_on_stderr_even_when_all_is_well(tree: Trees) -> None:
    assert "records in\n" in make(tree(OPKG), "image").stderr


def test_a_virtual_name_is_met_by_a_provider(tree: Trees) -> None:
    for version in (OPKG, APK):
        installed = names(manifest(tree(version), "dnsmasq-full -dnsmasq"))
        assert "dnsmasq-full" in installed and "dnsmasq" not in installed
