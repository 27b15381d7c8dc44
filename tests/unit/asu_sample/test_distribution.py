"""The written world: layout, signatures, determinism, speed."""

import hashlib
import json
import re
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from asu_sample.distribution import Distribution, write_distribution
from asu_sample.miniature import usign
from asu_sample.miniature.packages import parse_paragraphs
from sample_make import make
from yardstick import yardstick

pytestmark = pytest.mark.process


def snapshot_key(world: Distribution, version: str) -> bytes:
    """The public key an ImageBuilder of `version` carries."""
    (path,) = (world.imagebuilder(version, "pico/nine") / "keys").iterdir()
    text = path.read_text()
    return usign.parse_pem(text) if "BEGIN" in text else usign.parse_public(text)[1]


def test_versions_and_targets_are_announced_and_there(world: Distribution) -> None:
    announced = _json(world.downloads / ".versions.json")
    assert announced["stable_version"] == "25.12.0"
    assert announced["oldstable_version"] == "24.10.5"
    assert set(announced["versions_list"]) == {v for v in world.versions if not v.endswith("SNAPSHOT")}
    for version in world.versions:
        folder = world.downloads / world.version_path(version)
        assert set(_json(folder / ".targets.json")) == set(world.targets[version])
        for target in world.targets[version]:
            assert Path(
                world.template.format(
                    version=version, target=target.split("/")[0], subtarget=target.split("/")[1]
                )
            ).is_dir()
            assert (folder / "targets" / target / "profiles.json").exists()
    assert [version for version in world.versions if "nano/tiny" in world.targets[version]] == ["24.10.4"]
    assert world.version_path("SNAPSHOT") == "snapshots"
    assert world.version_path("24.10-SNAPSHOT") == "releases/24.10-SNAPSHOT"


def test_an_unknown_imagebuilder_is_an_error(world: Distribution) -> None:
    with pytest.raises(KeyError):
        world.imagebuilder("24.10.5", "nano/tiny")
    with pytest.raises(KeyError):
        world.imagebuilder("1.0", "pico/nine")


def test_profiles_json_has_all_profiles_and_the_overview_knows_them(world: Distribution) -> None:
    folder = world.downloads / "releases/25.12.0"
    document = _json(folder / "targets/pico/nine/profiles.json")
    assert set(document["profiles"]) == set(world.profiles_of("pico/nine"))
    overview = _json(folder / ".overview.json")
    assert {entry["id"] for entry in overview["profiles"] if entry["target"] == "pico/nine"} == set(
        document["profiles"]
    )
    widget = document["profiles"]["acme_widget-5"]
    assert widget["supported_devices"][0] == "acme,widget-5"
    assert widget["file_size_limits"] == {"image": 262144}
    assert {image.get("filesystem") for image in widget["images"]} == {"squashfs", "initramfs", None}


def test_the_revision_of_info_is_the_version_code_of_profiles_json(world: Distribution) -> None:
    for version in world.versions:
        folder = world.downloads / world.version_path(version) / "targets/x86/64"
        info = make(world.imagebuilder(version, "x86/64"), "info").stdout
        assert f'Current Revision: "{_json(folder / "profiles.json")["version_code"]}"' in info


def test_checksums_cover_the_target_folder_and_are_signed(world: Distribution) -> None:
    for version in ("24.10.5", "25.12.0"):
        folder = world.downloads / "releases" / version / "targets/pico/nine"
        sums = (folder / "sha256sums").read_bytes()
        pairs = [line.split(" *") for line in sums.decode().splitlines()]
        listed = {name: digest for digest, name in pairs}
        assert listed["profiles.json"] == hashlib.sha256((folder / "profiles.json").read_bytes()).hexdigest()
        assert any(name.startswith("packages/") for name in listed)
        assert any(name.startswith("kmods/") for name in listed)
        assert f"openwrt-imagebuilder-{version}-pico-nine.Linux-x86_64.tar.xz" in listed
        key = snapshot_key(world, version)
        assert usign.verify(key, sums, (folder / "sha256sums.sig").read_text())


def test_opkg_folders_have_paragraphs_and_an_index_of_version_1(world: Distribution) -> None:
    folder = world.downloads / "releases/24.10.5/packages/pico_9kc/packages"
    packages = parse_paragraphs((folder / "Packages").read_text())
    library = next(package for package in packages if package.name == "libsample20240101")
    assert (library.abi_version, library.base_name) == ("20240101", "libsample")
    for package in packages:
        data = (folder / package.filename).read_bytes()
        assert (package.size, package.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    document = _json(folder / "index.json")
    assert set(document) == {"architecture", "packages"}
    assert document["packages"]["libsample20240101"] == "2024.01.01~abc123-r1"
    assert "\n" not in (folder / "index.json").read_text()
    assert {path.name for path in folder.glob("Packages*")} == {
        "Packages",
        "Packages.gz",
        "Packages.manifest",
        "Packages.sig",
    }


def test_an_ipk_is_a_gzipped_tar_that_plain_tar_can_read(world: Distribution, tmp_path: Path) -> None:
    package = next((world.downloads / "releases/24.10.5/packages/pico_9kc/packages").glob("vim_*.ipk"))
    subprocess.run(["tar", "-xzf", str(package), "-C", str(tmp_path)], check=True)
    assert (tmp_path / "debian-binary").read_text() == "2.0\n"
    listing = subprocess.run(
        ["tar", "-tzf", str(tmp_path / "control.tar.gz")], capture_output=True, text=True, check=True
    )
    assert listing.stdout == "./control\n"


def test_apk_folders_have_an_index_of_version_2_without_abi_suffixes(world: Distribution) -> None:
    folder = world.downloads / "releases/25.12.0/packages/pico_9kc/packages"
    document = _json(folder / "index.json")
    assert document["version"] == 2
    assert "libsample" in document["packages"] and "libsample20240101" not in document["packages"]
    assert (folder / "index.json").read_text().startswith('{\n  "version": 2,\n')
    assert (folder / "packages.adb").exists()


def test_libc_and_kernel_are_never_listed_and_kmods_have_their_own_folder(world: Distribution) -> None:
    for version in ("24.10.5", "25.12.0"):
        folder = world.downloads / "releases" / version
        names = {name for path in folder.rglob("index.json") for name in _json(path)["packages"]}
        assert not {"libc", "kernel"} & names
        kernel = _json(folder / "targets/pico/nine/profiles.json")["linux_kernel"]
        kmods = f"{kernel['version']}-{kernel['release']}-{kernel['vermagic']}"
        listed = _json(folder / "targets/pico/nine/kmods" / kmods / "index.json")["packages"]
        assert listed and all(name.startswith("kmod-") for name in listed)
        assert not any(
            "kmod" in name for name in _json(folder / "targets/pico/nine/packages/index.json")["packages"]
        )


def test_feeds_conf_has_three_words_a_line_and_each_feed_has_a_folder(world: Distribution) -> None:
    folder = world.downloads / "releases/25.12.0/packages/x86_64"
    lines = (folder / "feeds.conf").read_text().splitlines()
    assert all(re.fullmatch(r"src-git \w+ https://\S+\^[0-9a-f]{40}", line) for line in lines)
    assert {line.split()[1] for line in lines} == {"base", "luci", "packages"}
    assert all((folder / line.split()[1]).is_dir() for line in lines)


@pytest.mark.timed
def test_a_world_takes_seconds_only_and_one_epoch_gives_the_same_bytes(
    world: Distribution, tmp_path: Path
) -> None:
    began = time.process_time()  # of this process: other work on the machine does not count
    again = write_distribution(tmp_path / "again")
    # About five seconds on a quick machine.
    assert time.process_time() - began < 600 * yardstick()
    assert _digests(again.downloads) == _digests(world.downloads)


def _json(path: Path) -> Any:
    return json.loads(path.read_text())


def _digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }
