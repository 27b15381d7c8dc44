"""One made-up world for all tests of the sample, and fresh copies of its ImageBuilders."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from asu_sample.distribution import Distribution


@pytest.fixture(scope="session")
def world(sample_world: Distribution) -> Distribution:
    """Never changed: tests that build take a copy of a tree."""
    if shutil.which("make") is None:
        _missing("make")
    return sample_world


@pytest.fixture
def tree(world: Distribution, tmp_path: Path) -> Callable[..., Path]:
    """A fresh ImageBuilder directory for a version and a target."""

    def copy(version: str, target: str = "pico/nine") -> Path:
        source = world.imagebuilder(version, target)
        folder = tmp_path / f"{version}-{target.replace('/', '-')}"
        shutil.copytree(
            source, folder, copy_function=_copy, ignore=shutil.ignore_patterns("feeds", "scripts")
        )
        (folder / "scripts").symlink_to(source / "scripts")
        for feed in (source / "feeds").iterdir():
            place = folder / "feeds" / feed.name
            place.parent.mkdir(exist_ok=True)
            if feed.name == "packages":  # the one that tests spoil
                shutil.copytree(feed, place, copy_function=_copy)
            else:
                place.symlink_to(feed)
        return folder

    return copy


@pytest.fixture(scope="session")
def needs_mksquashfs() -> None:
    if shutil.which("mksquashfs") is None or shutil.which("unsquashfs") is None:
        _missing("mksquashfs")


@pytest.fixture(scope="session")
def needs_mke2fs() -> None:
    if shutil.which("mke2fs", path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None:
        _missing("mke2fs")


def _copy(source: str, target: str) -> None:
    """Package files are linked to save time: replace one, never write into it."""
    if source.endswith((".ipk", ".apk")):
        os.link(source, target)
    else:
        shutil.copyfile(source, target)


def _missing(tool: str) -> None:
    reason = f"{tool} is not installed"
    if tool in os.environ.get("REQUIRE_TOOLS", "").split(","):
        pytest.fail(reason)
    pytest.skip(reason)
