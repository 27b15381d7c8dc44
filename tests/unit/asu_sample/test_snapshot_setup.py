"""How a container of the snapshot flavour gets its ImageBuilder."""

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from asu_sample.distribution import Distribution, snapshot_builder
from asu_sample.server import DownloadServer
from sample_make import make

pytestmark = pytest.mark.process


@pytest.mark.parametrize("version", ["SNAPSHOT", "24.10-SNAPSHOT"])
def test_a_snapshot_container_starts_empty_and_sets_itself_up(
    world: Distribution, tmp_path: Path, version: str
) -> None:
    folder = snapshot_builder(tmp_path / "builder", version=version)
    assert {path.name for path in folder.iterdir()} == {"setup.sh", "keys"}
    with DownloadServer(world.downloads) as server:
        vp = world.version_path(version)
        run = _setup(folder, UPSTREAM_URL=server.url, TARGET="pico/nine", VERSION_PATH=vp)
    assert run.returncode == 0, run.stderr
    assert (
        (folder / "Makefile").exists()
        and not list(folder.glob("*.tar.xz"))
        and not (folder / ".setup").exists()
    )
    assert make(folder, "image", {"PACKAGES": "vim"}).status == 0


def test_a_bare_host_name_means_plain_http(world: Distribution, tmp_path: Path) -> None:
    folder = snapshot_builder(tmp_path / "builder")
    with DownloadServer(world.downloads) as server:
        host = server.url.removeprefix("http://")
        run = _setup(folder, FILE_HOST=host, TARGET="x86/64", VERSION_PATH="snapshots")
    assert run.returncode == 0, run.stderr
    assert 'Target: "x86/64"' in make(folder, "info").stdout


def test_setup_fails_when_verification_fails(world: Distribution, tmp_path: Path) -> None:
    with DownloadServer(tmp_path / "mirror") as server:
        target = server.root / "snapshots/targets/pico/nine"
        target.mkdir(parents=True)
        source = world.downloads / "snapshots/targets/pico/nine"
        for path in (p for p in source.iterdir() if p.is_file()):
            (target / path.name).write_bytes(path.read_bytes())
        archive = next(target.glob("*.tar.xz"))

        def status(name: str) -> int:
            folder = snapshot_builder(tmp_path / name)
            run = _setup(folder, UPSTREAM_URL=server.url, TARGET="pico/nine", VERSION_PATH="snapshots")
            assert run.returncode == 0 or not (folder / "Makefile").exists()
            return run.returncode

        assert status("good") == 0
        good = archive.read_bytes()
        archive.write_bytes(good + b"x")
        assert status("changed archive") != 0
        digest = hashlib.sha256(archive.read_bytes()).hexdigest()
        sums = (target / "sha256sums").read_text()
        (target / "sha256sums").write_text(re.sub(r"[0-9a-f]+ \*openwrt", f"{digest} *openwrt", sums))
        assert status("changed archive and checksum") != 0
        (target / "sha256sums.sig").unlink()
        assert status("no signature") != 0
    assert status("server gone") != 0


def _setup(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        ["sh", "setup.sh"],
        cwd=folder,
        env={"PATH": path, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
