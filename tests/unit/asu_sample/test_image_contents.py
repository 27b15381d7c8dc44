"""What is inside an image: trailers, signatures, the root file system."""

import gzip
import hashlib
import json
import re
import struct
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from asu_sample.miniature import usign
from asu_sample.miniature.images import METADATA, SIGNATURE, SIGNATURE_LIMIT, last_chunk
from sample_make import Run, make, root_blob, split_trailers, unsquash

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
def test_a_sysupgrade_image_ends_with_metadata_and_with_opkg_also_a_signature(
    tree: Trees, tmp_path: Path, version: str
) -> None:
    folder, out = tree(version), tmp_path / "out"
    image(folder, out)
    data = next(out.glob("*sysupgrade.bin")).read_bytes()
    chunks = dict(split_trailers(data)[1])
    metadata = json.loads(chunks[METADATA][8:])
    assert metadata["supported_devices"] == ["acme,widget-5", "widget5", "acme,widget-5-eu"]
    assert metadata["version"]["board"] == "acme_widget-5"
    assert metadata["metadata_version"] == "1.1"
    if version == APK:
        assert SIGNATURE not in chunks
        return
    ucert = chunks[SIGNATURE]
    signature = ucert[-152:].rstrip(b"\0").decode()
    fingerprint, key = usign.parse_public((folder / "key-build.pub").read_text())
    assert usign.signer(signature) == fingerprint
    assert usign.verify(key, _without_signature(data), signature)
    assert len(ucert) < SIGNATURE_LIMIT


def test_factory_images_have_no_trailers(tree: Trees, tmp_path: Path) -> None:
    image(tree(OPKG), tmp_path / "out")
    assert split_trailers(next((tmp_path / "out").glob("*factory.bin")).read_bytes())[1] == []


@BOTH
@pytest.mark.usefixtures("needs_mksquashfs")
def test_the_root_file_system_holds_packages_overlay_and_enabled_services(
    tree: Trees, tmp_path: Path, version: str
) -> None:
    files = tmp_path / "files"
    (files / "etc/uci-defaults").mkdir(parents=True)
    (files / "etc/uci-defaults/99-asu-defaults").write_text("echo first boot\n")
    (files / "tmp").mkdir()
    (files / "tmp/lost").write_text("x")
    (files / "boot").mkdir()
    (files / "etc/init.d").mkdir()
    (files / "etc/init.d/mine").write_text("#!/bin/sh /etc/rc.common\nSTART=77\n")
    (files / "etc/init.d/mine").chmod(0o755)
    (files / "etc/init.d/notes").write_text("no script\n")
    (files / "etc/link").symlink_to("banner")
    out = tmp_path / "out"
    run = image(tree(version), out, "sample-service", FILES=str(files), DISABLED_SERVICES="dropbear dnsmasq")
    assert run.status == 0
    root = unsquash(root_blob(next(out.glob("*sysupgrade.bin")).read_bytes()), tmp_path / "unpacked")
    assert (root / "etc/uci-defaults/99-asu-defaults").read_text() == "echo first boot\n"
    assert (root / "usr/share/sample/sample-service").exists()
    assert (root / "etc/rc.d/S50sample-service").readlink() == Path("../init.d/sample-service")
    assert (root / "etc/rc.d/S77mine").is_symlink()
    assert (root / "etc/link").readlink() == Path("banner")
    assert not list(root.glob("etc/rc.d/*dropbear")) and (root / "etc/init.d/dropbear").exists()
    assert not (root / "boot").exists() and not (root / "tmp/lost").exists()
    assert "Enabling mine\n" in run.stdout and "Disabling dropbear\n" in run.stdout
    assert "notes" not in run.stdout
    database = "usr/lib/opkg/status" if version == OPKG else "lib/apk/db/installed"
    assert "sample-service" in (root / database).read_text()


def test_the_postinst_script_of_a_package_runs_at_build_time(tree: Trees, tmp_path: Path) -> None:
    run = image(tree(APK), tmp_path / "out", "sample-service")
    assert re.search(r"^sample-service: postinst root=/\S+/root-pico$", run.stderr, flags=re.MULTILINE)


@BOTH
def test_the_local_key_is_added_when_asked(tree: Trees, tmp_path: Path, version: str) -> None:
    folder = tree(version, "x86/64")
    image(folder, tmp_path / "without")
    image(folder, tmp_path / "with", ADD_LOCAL_KEY="0")
    keys = "etc/opkg/keys/" if version == OPKG else "etc/apk/keys/"
    assert not [name for name in _tarball(tmp_path / "without") if keys in name]
    assert [name for name in _tarball(tmp_path / "with") if keys in name]


@pytest.mark.usefixtures("needs_mke2fs")
def test_an_ext4_image_is_a_file_system_of_the_asked_size_owned_by_root(tree: Trees, tmp_path: Path) -> None:
    image(tree(APK, "x86/64"), tmp_path / "out", ROOTFS_PARTSIZE="16")
    blob = gzip.decompress(next((tmp_path / "out").glob("*ext4-rootfs.img.gz")).read_bytes())
    assert len(blob) == 16 << 20
    assert struct.unpack_from("<H", blob, 1024 + 0x38) == (0xEF53,)
    path = tmp_path / "root.ext4"
    path.write_bytes(blob)
    check = ["/usr/sbin/e2fsck", "-fn", str(path)]
    if Path(check[0]).exists():
        assert subprocess.run(check, capture_output=True, check=False).returncode == 0


def test_the_gzip_trap_lists_the_file_before_compression(tree: Trees, tmp_path: Path) -> None:
    out = tmp_path / "out"
    image(tree(APK), out, PROFILE="acme_sdcard", ROOTFS_PARTSIZE="8")
    entries = {entry["type"]: entry for entry in profiles(out)["profiles"]["acme_sdcard"]["images"]}
    name = entries["sdcard"]["name"]
    assert not (out / name).exists()
    data = gzip.decompress((out / f"{name}.gz").read_bytes())
    assert entries["sdcard"]["sha256"] == hashlib.sha256(data).hexdigest()
    assert f" *{name}.gz\n" in (out / "sha256sums").read_text()


def _without_signature(data: bytes) -> bytes:
    found = last_chunk(data)
    return found[0] if found and found[1] == SIGNATURE else data


def _tarball(out: Path) -> list[str]:
    with tarfile.open(next(out.glob("*rootfs.tar.gz"))) as archive:
        return archive.getnames()
