"""The processes on one database."""

import subprocess
import sys
from pathlib import Path

import pytest

from asu_builder.database.nodes import FileLead
from asu_builder.domain.errors import Unavailable


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "a.db"


def test_one_has_the_lead_until_it_lets_go(database: Path) -> None:
    first, second = FileLead(database), FileLead(database)
    assert first.held() and first.held() and not second.held()
    second.release()
    assert first.held() and not second.held(), "who has it not lets go of nothing"
    first.release()
    first.release()
    assert second.held() and not first.held()
    second.release()


@pytest.mark.process
def test_the_lead_of_a_process_that_is_killed_is_free(database: Path) -> None:
    program = (
        "import sys, pathlib\nfrom asu_builder.database.nodes import FileLead\n"
        "print(FileLead(pathlib.Path(sys.argv[1])).held(), flush=True)\nsys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(database)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout and other.stdout.readline() == "True\n"
        mine = FileLead(database)
        assert not mine.held()
        other.kill()
        other.wait()
    assert mine.held()
    mine.release()


def test_a_directory_that_is_gone_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="cannot be opened"):
        FileLead(tmp_path / "gone" / "a.db").held()
