"""What is handed out: one file, a wheel, a container image, each made by the project's own targets."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from asu_sample.distribution import Distribution
from asu_sample.server import DownloadServer
from packaging_rig import ROOT, run


@pytest.fixture(scope="session")
def single_file() -> Path:
    """The file for all versions of CPython, made as the README says."""
    run("make", "single-file", f"PYTHON={sys.executable}", cwd=ROOT, timeout=840)
    (made,) = (ROOT / "dist").glob("asu-builder-py*")
    return made


@pytest.fixture(scope="session")
def wheels(single_file: Path) -> Path:
    """The locked wheels and ours, from which the file was made."""
    return single_file.parent / "wheels"


@pytest.fixture
def bare_environment(tmp_path: Path) -> Callable[..., dict[str, str]]:
    """Variables of a user who has nothing: an empty home, and no Python path."""

    def make(**more: str) -> dict[str, str]:
        home = tmp_path / "home"
        home.mkdir(exist_ok=True)
        return {"HOME": str(home), "PATH": f"{Path(sys.executable).resolve().parent}:/usr/bin:/bin", **more}

    return make


@pytest.fixture(scope="session")
def upstream(sample_world: Distribution) -> Iterator[DownloadServer]:
    """A download server that always answers."""
    with DownloadServer(sample_world.downloads) as server:
        yield server
