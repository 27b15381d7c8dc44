"""What `make image` leaves: names, reports, checksums, the same every time."""

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from asu_sample.miniature.images import SIGNATURE, last_chunk
from sample_make import Run, make

pytestmark = pytest.mark.process

Trees = Callable[..., Path]
OPKG, APK = "24.10.5", "25.12.0"
BOTH = pytest.mark.parametrize("version", [OPKG, APK])


def image(folder: Path, out: Path, packages: str = "", **variables: str) -> Run:
    """Build with a small root partition unless told otherwise; an empty size means the default."""
    chosen = {"BIN_DIR": str(out), "PACKAGES": packages, "ROOTFS_PARTSIZE": "4", **variables}
    return make(folder, "image", chosen)


def profiles(out: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((out / "profiles.json").read_text())
    return document


@BOTH
def test_files_are_named_as_openwrt_names_them(tree: Trees, tmp_path: Path, version: str) -> None:
    run = image(tree(version), tmp_path / "out", EXTRA_IMAGE_NAME="My Extra_Name.1")
    assert run.status == 0
    prefix = f"openwrt-{version}-my-extra-name.1-pico-nine-acme_widget-5"
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        f"{prefix}-squashfs-sysupgrade.bin",
        f"{prefix}-squashfs-factory.bin",
        f"{prefix}-preloader.bin",
        f"{prefix}-kernel.bin",
        f"{prefix}.manifest",
        f"{prefix}.bom.cdx.json",
        "profiles.json",
        "sha256sums",
    }


def test_the_profile_stays_raw_in_image_names_and_is_lowered_in_reports(tree: Trees, tmp_path: Path) -> None:
    assert image(tree(APK), tmp_path / "out", PROFILE="Acme_OLD-board").status == 0
    present = {path.name for path in (tmp_path / "out").iterdir()}
    assert f"openwrt-{APK}-pico-nine-Acme_OLD-board-squashfs-factory.bin" in present
    assert f"openwrt-{APK}-pico-nine-acme_old-board.manifest" in present


def test_snapshots_have_no_version_in_names_and_branch_snapshots_have_their_revision(
    tree: Trees, tmp_path: Path
) -> None:
    image(tree("SNAPSHOT"), tmp_path / "main")
    assert (tmp_path / "main" / "openwrt-pico-nine-acme_widget-5-kernel.bin").exists()
    image(tree("24.10-SNAPSHOT"), tmp_path / "branch")
    names = [path.name for path in (tmp_path / "branch").glob("*kernel.bin")]
    assert re.fullmatch(
        r"openwrt-24\.10-snapshot-r\d+-[0-9a-f]{10}-pico-nine-acme_widget-5-kernel\.bin", names[0]
    )


@BOTH
def test_profiles_json_is_one_sorted_line_with_true_hashes_and_sizes(
    tree: Trees, tmp_path: Path, version: str
) -> None:
    out = tmp_path / "out"
    image(tree(version), out)
    text = (out / "profiles.json").read_text()
    document = json.loads(text)
    assert text == json.dumps(document, sort_keys=True, separators=(",", ":"))
    listed = document["profiles"]["acme_widget-5"]["images"]
    for entry in listed:
        data = (out / entry["name"]).read_bytes()
        assert entry["sha256"] == hashlib.sha256(data).hexdigest()
        unsigned = _without_signature(data)
        assert entry["sha256_unsigned"] == hashlib.sha256(unsigned).hexdigest()
        # Image sizes came after 24.10.
        assert entry.get("size") == (len(data) if version == APK else None)
    assert {entry["type"] for entry in listed} == {"sysupgrade", "factory", "preloader.bin"}
    assert [entry["type"] for entry in listed if "filesystem" not in entry] == ["preloader.bin"]
    assert not any("kernel" in entry["name"] for entry in listed)
    assert (document["target"], document["version_number"]) == ("pico/nine", version)


def test_images_are_listed_in_an_arbitrary_order(tree: Trees, tmp_path: Path) -> None:
    image(tree(APK, "x86/64"), tmp_path / "out")
    names = [entry["name"] for entry in profiles(tmp_path / "out")["profiles"]["generic"]["images"]]
    assert len(names) == 6
    assert names != sorted(names)


def test_one_profile_has_a_title_and_nothing_else(tree: Trees, tmp_path: Path) -> None:
    image(tree(APK), tmp_path / "out", PROFILE="acme_sdcard")
    assert profiles(tmp_path / "out")["profiles"]["acme_sdcard"]["titles"] == [
        {"title": "Acme SD card player"}
    ]


def test_a_second_profile_joins_the_profiles_json_of_the_first(tree: Trees, tmp_path: Path) -> None:
    folder, out = tree(APK), tmp_path / "out"
    image(folder, out, PROFILE="acme_small")
    image(folder, out, PROFILE="acme_safe")
    assert set(profiles(out)["profiles"]) == {"acme_small", "acme_safe"}


@BOTH
def test_checksums_cover_every_file_but_themselves(tree: Trees, tmp_path: Path, version: str) -> None:
    out = tmp_path / "out"
    image(tree(version), out)
    lines = (out / "sha256sums").read_text().splitlines()
    assert [line.split(" *")[1] for line in lines] == sorted(
        path.name for path in out.iterdir() if path.name != "sha256sums"
    )
    for line in lines:
        digest, name = line.split(" *")
        assert digest == hashlib.sha256((out / name).read_bytes()).hexdigest()


@BOTH
def test_the_manifest_file_keeps_abi_suffixes(tree: Trees, tmp_path: Path, version: str) -> None:
    image(tree(version), tmp_path / "out", "sample-uses-lib", STRIP_ABI="1")
    text = next((tmp_path / "out").glob("*.manifest")).read_text()
    assert "libsample20240101 - 2024.01.01~abc123-r1\n" in text


def test_the_same_inputs_give_the_same_files_in_two_directories(tree: Trees, tmp_path: Path) -> None:
    # The work files of both runs were made at different times and in different places.
    files = tmp_path / "files"
    files.mkdir()
    (files / "note").write_text("x")
    first, second = tmp_path / "one", tmp_path / "two"
    for out in (first, second):
        assert image(tree(APK, "x86/64"), out, "vim", FILES=str(files)).status == 0
        (tmp_path / f"{APK}-x86-64").rename(tmp_path / f"was-{out.name}")
        (files / "note").touch()
    assert {path.name for path in first.iterdir()} == {path.name for path in second.iterdir()}
    assert _differing(first, second) == {"sha256sums", f"openwrt-{APK}-x86-64-generic.bom.cdx.json"}


def test_with_opkg_only_the_throw_away_signature_differs(tree: Trees, tmp_path: Path) -> None:
    first, second = tmp_path / "one", tmp_path / "two"
    for out in (first, second):
        assert image(tree(OPKG), out).status == 0
        (tmp_path / f"{OPKG}-pico-nine").rename(tmp_path / f"was-{out.name}")
    name = f"openwrt-{OPKG}-pico-nine-acme_widget-5-squashfs-sysupgrade.bin"
    assert name in _differing(first, second)
    assert _without_signature((first / name).read_bytes()) == _without_signature((second / name).read_bytes())


def test_different_packages_give_different_images(tree: Trees, tmp_path: Path) -> None:
    folder = tree(APK)
    image(folder, tmp_path / "one")
    image(folder, tmp_path / "two", "vim")
    assert any(name.endswith("sysupgrade.bin") for name in _differing(tmp_path / "one", tmp_path / "two"))


def _without_signature(data: bytes) -> bytes:
    found = last_chunk(data)
    return found[0] if found and found[1] == SIGNATURE else data


def _differing(first: Path, second: Path) -> set[str]:
    names = {path.name for path in first.iterdir()} | {path.name for path in second.iterdir()}
    return {name for name in names if (first / name).read_bytes() != (second / name).read_bytes()}
