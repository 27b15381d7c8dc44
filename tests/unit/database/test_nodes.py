"""The processes on one database."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from asu_builder.database.nodes import FileLead, machine_of
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


def test_a_machine_has_one_name_whoever_asks_first(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    with ThreadPoolExecutor(16) as processes:
        names = set(processes.map(machine_of, [folder] * 64))
    assert names == {machine_of(folder)} and len(names.pop()) == 32
    assert [path.name for path in folder.iterdir()] == ["machine"]
    assert (folder / "machine").stat().st_mode & 0o777 == 0o644


def test_while_it_is_written_the_name_of_a_machine_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "first").mkdir()

    def random(count: int) -> bytes:
        assert not (tmp_path / "first" / "machine").exists()
        return b"x" * count

    monkeypatch.setattr("asu_builder.database.nodes.os.urandom", random)
    assert machine_of(tmp_path / "first") == (b"x" * 16).hex()
    (tmp_path / "file").write_text("")
    with pytest.raises(Unavailable, match="cannot be written"):
        machine_of(tmp_path / "file")
