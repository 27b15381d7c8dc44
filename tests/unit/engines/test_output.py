"""Output on its way to disk."""

import errno
from pathlib import Path

import pytest

from asu_builder.domain.errors import Unavailable
from asu_builder.engines.transfer import CappedFile, disk_errors, ends_with_full_disk


def test_what_fits_is_kept_as_it_is(tmp_path: Path) -> None:
    with CappedFile(tmp_path / "out", 10) as file:
        file.write(b"01234")
        file.write(b"56789")
    assert (tmp_path / "out").read_bytes() == b"0123456789"


def test_the_rest_is_dropped_and_the_end_says_so(tmp_path: Path) -> None:
    with CappedFile(tmp_path / "out", 10) as file:
        for _ in range(1000):
            file.write(b"0123456")
    assert (tmp_path / "out").read_bytes() == b"0123456012\n[output cut after 10 bytes]\n"


def test_a_follower_sees_what_was_written_so_far(tmp_path: Path) -> None:
    with CappedFile(tmp_path / "out", 10) as file:
        file.write(b"so far")
        assert (tmp_path / "out").read_bytes() == b"so far"


def test_a_place_that_cannot_be_written_is_the_world_s_fault(tmp_path: Path) -> None:
    with pytest.raises(Unavailable):
        with CappedFile(tmp_path / "missing" / "out", 10):
            pass


def test_a_full_disk_is_told_to_the_operator() -> None:
    with pytest.raises(Unavailable, match="disk is full"), disk_errors():
        raise OSError(errno.ENOSPC, "No space left on device")


def test_only_the_last_lines_count_as_blaming_a_full_disk(tmp_path: Path) -> None:
    path = tmp_path / "stderr"
    path.write_bytes(b"cp: No space left on device\n")
    assert ends_with_full_disk(path)
    path.write_bytes(b"cp: No space left on device\n" + b"x" * 70_000)
    assert not ends_with_full_disk(path)
