"""Repositories: which are trusted, which are dropped, and that builds go on without them."""

import base64
import gzip
import re
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from asu_sample.distribution import Distribution, write_distribution
from asu_sample.server import DownloadServer
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


def test_opkg_warns_about_a_repository_declared_twice_and_succeeds(tree: Trees) -> None:
    folder = tree(OPKG)
    with (folder / "repositories.conf").open("a") as file:
        file.write("src/gz openwrt_base http://127.0.0.1:9/elsewhere\n")
    run = manifest(folder, "")
    assert run.status == 0
    declared = "Duplicate src declaration (openwrt_base http://127.0.0.1:9/elsewhere). Skipping."
    assert run.stderr.endswith(f"Collected errors:\n * opkg_conf_parse_file: {declared}\n")


def test_opkg_goes_on_without_an_unreachable_repository(tree: Trees) -> None:
    folder = tree(OPKG)
    _replace(folder / "repositories.conf", "file:feeds/luci", "http://127.0.0.1:9/luci")
    run = manifest(folder, "vim")
    assert run.status == 0
    assert "*** Failed to download the package list from http://127.0.0.1:9/luci/Packages.gz\n" in run.stderr
    assert manifest(folder, "luci").status == 2


def test_apk_goes_on_without_an_unreachable_repository_and_repeats_itself(tree: Trees) -> None:
    folder = tree(APK)
    _replace(folder / "repositories", "feeds/luci/", "http://127.0.0.1:9/luci/")
    run = manifest(folder, "vim")
    assert run.status == 0
    assert "WARNING: updating and opening http://127.0.0.1:9/luci/packages.adb: " in run.stderr
    assert run.stderr.count("WARNING: opening http://127.0.0.1:9/luci/packages.adb: ") > 20
    missing = manifest(folder, "luci")
    assert missing.status == 2
    assert "  luci (no such package):\n" in missing.stderr


def test_opkg_drops_a_repository_whose_signer_is_not_in_keys(tree: Trees, world: Distribution) -> None:
    folder = tree(OPKG)
    for key in (folder / "keys").iterdir():
        key.rename(key.with_name("0" * 16))  # the name is the fingerprint, and only the name counts
    run = manifest(folder, "vim")
    assert run.status == 2
    assert "Signature check failed.\nRemove wrong Signature file.\n" in run.stderr
    assert "Cannot install package vim." in run.stderr
    assert world.imagebuilder(OPKG, "pico/nine").joinpath("keys").exists()


def test_opkg_checks_signatures_only_while_the_option_is_there(tree: Trees) -> None:
    folder = tree(OPKG)
    index = folder / "feeds/packages/Packages.gz"
    index.write_bytes(gzip.compress(gzip.decompress(index.read_bytes()) + b"\n"))
    assert "Signature check failed." in manifest(folder, "").stderr
    assert manifest(folder, "vim").status == 2
    _replace(folder / "repositories.conf", "option check_signature", "")
    run = manifest(folder, "vim")
    assert run.status == 0
    assert "Signature" not in run.stderr


def test_opkg_says_when_there_is_no_signature(tree: Trees) -> None:
    folder = tree(OPKG)
    (folder / "feeds/packages/Packages.sig").unlink()
    assert "Signature file download failed.\nRemove wrong Signature file.\n" in manifest(folder, "").stderr


def test_apk_trusts_keys_by_content_whatever_their_name(tree: Trees) -> None:
    folder = tree(APK)
    key = folder / "keys" / "sample-release.pem"
    key.rename(folder / "keys" / "renamed.whatever")
    assert manifest(folder, "vim").status == 0
    (folder / "keys" / "renamed.whatever").unlink()
    run = manifest(folder, "vim")
    assert run.status == 2
    assert re.search(
        r"^WARNING: opening \S+/feeds/base/packages\.adb: UNTRUSTED signature$", run.stderr, re.M
    )
    assert "  vim (no such package):\n" in run.stderr


def test_apk_distrusts_a_changed_index(tree: Trees) -> None:
    folder = tree(APK)
    index = folder / "feeds/packages/packages.adb"
    unpacked = zlib.decompress(index.read_bytes()[4:], -15)
    assert unpacked.count(b"\x03vim") == 1
    packer = zlib.compressobj(wbits=-15)
    changed = packer.compress(unpacked.replace(b"\x03vim", b"\x03vin")) + packer.flush()
    index.write_bytes(b"ADBd" + changed)
    assert "UNTRUSTED signature" in manifest(folder, "").stderr


@BOTH
def test_a_changed_package_file_is_not_installed(tree: Trees, version: str) -> None:
    folder = tree(version)
    path = next((folder / "feeds/packages").glob("vim[-_]*"))
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data + b"x")
    assert manifest(folder, "vim").status == 2


def test_an_extra_repository_with_its_key_is_used(tree: Trees, world: Distribution) -> None:
    """What a server does to offer a third-party repository: add a line and a key."""
    with DownloadServer(world.downloads) as server:
        folder = tree(OPKG)
        text = (folder / "repositories.conf").read_text()
        (folder / "repositories.conf").write_text(re.sub(r"src/gz openwrt_packages .*\n", "", text))
        assert manifest(folder, "vim").status == 2
        line = f"src/gz custom {server.url}/releases/24.10.4/packages/pico_9kc/packages\n"
        with (folder / "repositories.conf").open("a") as file:
            file.write(line)
        assert manifest(folder, "vim").status == 2
        key = next(world.imagebuilder("24.10.4", "pico/nine").joinpath("keys").iterdir())
        (folder / "keys" / key.name).write_bytes(key.read_bytes())
        assert "vim" in names(manifest(folder, "vim"))
        assert server.requests["/releases/24.10.4/packages/pico_9kc/packages/Packages.sig"] == 2


def test_the_networked_form_installs_from_the_download_server(tmp_path: Path) -> None:
    root = tmp_path / "networked"
    (root / "downloads").mkdir(parents=True)
    with DownloadServer(root / "downloads") as server:
        networked = write_distribution(root, repositories_url=server.url, archives=False)
        assert not list(networked.downloads.rglob("*.tar.xz"))
        for version, suffix in ((OPKG, ".ipk"), (APK, ".apk")):
            folder = networked.imagebuilder(version, "pico/nine")
            assert not (folder / "feeds").exists()
            assert "vim" in names(manifest(folder, "vim"))
            assert any(path.endswith(suffix) for path in server.requests)


@BOTH
def test_local_keys_are_made_at_first_use_and_kept(tree: Trees, version: str) -> None:
    folder = tree(version)
    before = {path.name for path in (folder / "keys").iterdir()}
    manifest(folder, "")
    made = {path.name for path in (folder / "keys").iterdir()} - before
    if version == APK:
        assert made == {"local-private-key.pem", "local-public-key.pem"}
        assert not list(folder.glob("key-build*"))
    else:
        text = (folder / "key-build.pub").read_text()
        assert made == {base64.b64decode(text.splitlines()[1])[2:10].hex()}
        assert {path.name for path in folder.glob("key-build*")} == {
            "key-build",
            "key-build.pub",
            "key-build.ucert",
            "key-build.ucert.revoke",
        }
    key = next(folder.glob("key-build"), folder / "keys/local-private-key.pem")
    text = key.read_text()
    manifest(folder, "")
    assert key.read_text() == text


def _replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
