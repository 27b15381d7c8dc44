"""How `make image` fails: too big, out of space, and the traps that exit with 0."""

import json
import re
import shutil
import sys
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sample_make import Run, make, root_blob

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


def test_too_big_leaves_the_other_images_and_exit_0(tree: Trees, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run = image(tree(APK), out, "sample-big")
    assert run.status == 0
    line = r"^    WARNING: Image file /\S+/openwrt-\S+-squashfs-sysupgrade\.bin is too big: \d+ > 262144$"
    assert re.search(line, run.stderr, flags=re.MULTILINE)
    assert re.search(
        r"^Skip JSON creation for non existing file /\S+sysupgrade\.bin$", run.stdout, re.MULTILINE
    )
    assert not list(out.glob("*sysupgrade*"))
    types = {entry["type"] for entry in profiles(out)["profiles"]["acme_widget-5"]["images"]}
    assert types == {"factory", "preloader.bin"}


@pytest.mark.parametrize(
    ("profile", "wording"),
    [
        ("acme_small", r"^    WARNING: Image file /\S+ is too big: \d+ > \d+$"),
        ("acme_safe", r"^file-system partition too big \(more than \d+ bytes\): Success$"),
        ("acme_combined-v1.5", r"^\[mktplinkfw\] \*\*\* error: images are too big by \d+ bytes$"),
    ],
)
def test_too_big_can_leave_no_profiles_json_in_three_wordings(
    tree: Trees, tmp_path: Path, profile: str, wording: str
) -> None:
    out = tmp_path / "out"
    run = image(tree(OPKG), out, "sample-big", PROFILE=profile)
    assert run.status == 0
    assert re.search(wording, run.stderr, flags=re.MULTILINE)
    assert "JSON info file script could not find any JSON files for target\n" in run.stdout
    assert not (out / "profiles.json").exists()
    assert (out / "sha256sums").exists() and list(out.glob("*.manifest"))
    assert image(tree(APK), tmp_path / "fits", PROFILE=profile).status == 0
    assert (tmp_path / "fits" / "profiles.json").exists()


@BOTH
def test_a_full_root_partition_fails_and_leaves_partial_files(
    tree: Trees, tmp_path: Path, version: str
) -> None:
    folder, out = tree(version, "x86/64"), tmp_path / "out"
    run = image(folder, out, "sample-huge", ROOTFS_PARTSIZE="")
    assert run.status == 2
    line = r"^error: ext4_allocate_best_fit_partial: failed to allocate \d+ blocks, out of space\?$"
    assert re.search(line, run.stderr, flags=re.MULTILINE)
    assert [path.name for path in out.iterdir()] == [f"openwrt-{version}-x86-64-generic-rootfs.tar.gz"]


def test_a_larger_root_partition_makes_room(tree: Trees, tmp_path: Path) -> None:
    assert image(tree(APK, "x86/64"), tmp_path / "out", "sample-huge", ROOTFS_PARTSIZE="64").status == 0
    assert len(profiles(tmp_path / "out")["profiles"]["generic"]["images"]) == 6


@pytest.mark.usefixtures("needs_mke2fs")
def test_mke2fs_itself_running_out_of_space_is_reported_alike(tree: Trees, tmp_path: Path) -> None:
    # The files alone would fit, the file system around them does not.
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "filling").write_bytes(b"x" * 900_000)
    run = image(tree(APK, "x86/64"), tmp_path / "out", ROOTFS_PARTSIZE="1", FILES=str(tmp_path / "files"))
    assert run.status == 2
    assert "out of space?" in run.stderr


def test_files_that_are_no_directory_are_ignored(tree: Trees, tmp_path: Path) -> None:
    folder = tree(APK)
    assert image(folder, tmp_path / "none").status == 0
    for number, files in enumerate(["/no/such/folder", str(folder / "Makefile")]):
        out = tmp_path / str(number)
        assert image(folder, out, FILES=files).status == 0
        assert _differing(tmp_path / "none", out) == {
            "sha256sums",
            f"openwrt-{APK}-pico-nine-acme_widget-5.bom.cdx.json",
        }


def test_a_files_folder_is_not_picked_up_by_itself(tree: Trees, tmp_path: Path) -> None:
    folder = tree(APK, "x86/64")
    (folder / "files").mkdir()
    (folder / "files" / "surprise").write_text("x")
    image(folder, tmp_path / "out")
    assert not [name for name in _tarball(tmp_path / "out") if "surprise" in name]


def test_a_relative_bin_dir_tears_images_and_reports_apart(tree: Trees) -> None:
    folder = tree(APK)
    run = make(folder, "image", {"BIN_DIR": "out"})
    assert run.status == 0
    assert not list((folder / "out").glob("*sysupgrade*"))
    assert (folder / "out" / "profiles.json").exists()
    assert list((folder / "target/linux/pico/image/out").glob("*sysupgrade*"))


def test_without_bin_dir_files_go_where_the_target_says(tree: Trees) -> None:
    folder = tree(APK)
    assert make(folder, "image").status == 0
    assert (folder / "bin/targets/pico/nine/profiles.json").exists()


def test_a_title_with_an_apostrophe_cannot_be_built(tree: Trees) -> None:
    folder = tree(APK)
    run = make(folder, "image", {"PROFILE": "acme_tiny"})
    assert run.status == 2
    assert run.stderr.startswith("bash: -c: line 1: unexpected EOF while looking for matching")
    assert make(folder, "manifest", {"PROFILE": "acme_tiny"}).status == 0


def test_a_slash_in_the_extra_name_breaks_the_build_and_escapes_nowhere(tree: Trees, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert image(tree(APK), out, EXTRA_IMAGE_NAME="../../evil").status == 2
    assert not list(tmp_path.rglob("*evil*"))


def test_without_tools_images_carry_a_cpio_and_say_so(
    tree: Trees, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = tmp_path / "bin"
    bare.mkdir()
    for tool in ("make", "sh"):
        (bare / tool).symlink_to(shutil.which(tool) or "")
    (bare / "python3").symlink_to(sys.executable)
    monkeypatch.setenv("PATH", str(bare))
    monkeypatch.setattr(sys, "executable", str(bare / "python3"))
    run = image(tree(APK), tmp_path / "out")
    assert run.status == 0
    assert "sample: mksquashfs is not installed" in run.stderr
    blob = root_blob(next((tmp_path / "out").glob("*sysupgrade.bin")).read_bytes())
    assert zlib.decompressobj(wbits=31).decompress(blob).startswith(b"070701")


def _tarball(out: Path) -> list[str]:
    with tarfile.open(next(out.glob("*rootfs.tar.gz"))) as archive:
        return archive.getnames()


def _differing(first: Path, second: Path) -> set[str]:
    names = {path.name for path in first.iterdir()} | {path.name for path in second.iterdir()}
    return {name for name in names if (first / name).read_bytes() != (second / name).read_bytes()}
