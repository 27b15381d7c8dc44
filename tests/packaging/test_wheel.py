"""The installed wheel builds an image too."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from packaging_rig import run

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]


def test_the_installed_wheel_builds_a_real_image(
    wheels: Path, bare_environment: Callable[..., dict[str, str]], tmp_path: Path
) -> None:
    venv = tmp_path / "venv"
    run(sys.executable, "-m", "venv", venv)
    run(venv / "bin/pip", "install", "--quiet", "--no-index", "--find-links", wheels, "asu-builder")
    environment = bare_environment(XDG_RUNTIME_DIR=str(tmp_path))
    done = run(venv / "bin/asu-builder", "demo", env=environment, cwd=tmp_path)
    assert "squashfs-sysupgrade" in done.stdout and "SHA-256 verified" in done.stdout
    assert "PACKAGE_CHANGES" in run(venv / "bin/asu-package-changes", "--help", env=environment).stdout
