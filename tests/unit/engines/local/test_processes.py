"""Who belongs to a local build, and how it all ends."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from asu_builder.engines.local.container import kill_all, members
from factories import eventually


@pytest.fixture
def family(tmp_path: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A shell, a child of it, and a daemon that has left both but works in `tmp_path`."""
    # Where its child is killed first, the shell does not end by itself before it is killed too.
    script = "sleep 60 & setsid -f sleep 61; touch ready; wait; while :; do sleep 62; done"
    with subprocess.Popen(["sh", "-c", script], cwd=tmp_path, start_new_session=True) as leader:
        try:
            # The process that makes the file may be on its way out, and the daemon still on its way.
            assert eventually(lambda: (tmp_path / "ready").exists() and len(members(leader.pid)) == 2)
            yield leader
        finally:
            kill_all(leader.pid, tmp_path)


@pytest.mark.process
def test_children_belong_and_daemons_do_by_where_they_work(
    family: "subprocess.Popen[bytes]", tmp_path: Path
) -> None:
    assert len(members(family.pid)) == 2
    assert len(members(family.pid, tmp_path)) == 3


@pytest.mark.process
def test_use_is_summed(family: "subprocess.Popen[bytes]", tmp_path: Path) -> None:
    found = members(family.pid, tmp_path)
    assert len(found) == 3
    assert 100_000 < sum(found.values()) < 100_000_000


@pytest.mark.process
def test_everybody_is_killed(family: "subprocess.Popen[bytes]", tmp_path: Path) -> None:
    kill_all(family.pid, tmp_path)
    assert members(family.pid, tmp_path) == {}
    assert family.wait(timeout=60) == -9


def test_who_is_gone_uses_nothing() -> None:
    assert members(2**22 + 1) == {}
