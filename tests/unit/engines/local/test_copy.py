"""A build's own copy of a directory."""

import os
from pathlib import Path

import pytest

from asu_builder.domain.errors import BuildInterrupted
from asu_builder.engines.local.container import copy_tree, disk_use
from asu_builder.engines.local.runtime import remove_tree


def nothing() -> None:
    """A step that never stops the copying."""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    directory = tmp_path / "source"
    (directory / "packages").mkdir(parents=True)
    (directory / "Makefile").write_text("all:\n")
    (directory / "packages/a.ipk").write_bytes(b"package")
    (directory / "tool").write_text("#!/bin/sh\n")
    (directory / "tool").chmod(0o755)
    (directory / "link").symlink_to("packages/a.ipk")
    (directory / "dangling").symlink_to("/no/such/place")
    os.utime(directory / "Makefile", (1_000_000_000, 1_000_000_000))
    return directory


def test_a_copy_has_the_same_content_modes_times_and_links(source: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy_tree(source, copy, step=nothing)
    assert (copy / "packages/a.ipk").read_bytes() == b"package"
    assert (copy / "tool").stat().st_mode == (source / "tool").stat().st_mode
    assert (copy / "Makefile").stat().st_mtime == 1_000_000_000
    assert (copy / "link").readlink() == Path("packages/a.ipk")
    assert (copy / "dangling").is_symlink()


def test_no_file_is_shared_with_the_original(source: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy_tree(source, copy, step=nothing)
    (copy / "packages/a.ipk").write_bytes(b"poison!")
    with (copy / "Makefile").open("a") as file:
        file.write("more")
    assert (source / "packages/a.ipk").read_bytes() == b"package"
    assert (source / "Makefile").read_text() == "all:\n"


def test_sockets_and_pipes_are_left_out(source: Path, tmp_path: Path) -> None:
    os.mkfifo(source / "pipe")
    copy_tree(source, tmp_path / "copy", step=nothing)
    assert not (tmp_path / "copy/pipe").exists()


def test_copying_stops_in_the_middle_when_it_has_to(source: Path, tmp_path: Path) -> None:
    steps: list[None] = []

    def step() -> None:
        steps.append(None)
        if len(steps) == 4:
            raise BuildInterrupted("stop")

    with pytest.raises(BuildInterrupted):
        copy_tree(source, tmp_path / "copy", step=step)
    assert len(list((tmp_path / "copy").rglob("*"))) == 3


def test_disk_use_counts_what_is_on_disk_and_follows_no_link(tmp_path: Path) -> None:
    directory = tmp_path / "directory"
    (directory / "inner").mkdir(parents=True)
    before = disk_use(directory)
    (directory / "inner/big").write_bytes(os.urandom(3 << 20))
    (tmp_path / "elsewhere").write_bytes(os.urandom(3 << 20))
    (directory / "link").symlink_to(tmp_path)
    with (directory / "sparse").open("wb") as file:
        file.truncate(1 << 30)
    assert 3 << 20 <= disk_use(directory) - before < 4 << 20


def test_a_tree_goes_even_when_its_directories_are_locked(tmp_path: Path) -> None:
    locked = tmp_path / "tree/locked"
    locked.mkdir(parents=True)
    (locked / "file").touch()
    locked.chmod(0)
    (tmp_path / "kept").mkdir()
    (tmp_path / "tree/link").symlink_to(tmp_path / "kept")
    remove_tree(tmp_path / "tree")
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
