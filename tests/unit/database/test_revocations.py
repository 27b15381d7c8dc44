"""What one process has taken back is known to every other one at once."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from asu_builder.database.connection import Database
from asu_builder.database.operator import SqlOperations
from asu_builder.database.retention import Revocations
from asu_builder.domain.errors import Unavailable

HASH = "0" * 64


def test_another_process_is_told(tmp_path: Path, database: Database) -> None:
    mine, other = (Revocations(tmp_path / "a.db") for _ in range(2))
    before = mine.current()
    assert (before, other.current()) == (bytes(8), bytes(8))
    other.note()
    assert mine.current() == other.current() != before
    assert Revocations(tmp_path / "a.db").current() == mine.current(), "who comes later takes nothing back"


@pytest.mark.process
def test_a_real_other_process_is_told(tmp_path: Path, database: Database) -> None:
    mine = Revocations(tmp_path / "a.db")
    program = (
        "import sys; from pathlib import Path; from asu_builder.database.retention import Revocations;"
        "Revocations(Path(sys.argv[1])).note()"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "a.db")], check=True)
    assert mine.current() != bytes(8)


def test_purge_and_requeue_say_so_and_looking_does_not(tmp_path: Path, database: Database) -> None:
    revocations = Revocations(tmp_path / "a.db")
    operations = SqlOperations(database, on_revoked=revocations.note)
    seen = [revocations.current()]
    operations.purge(HASH)
    seen.append(revocations.current())
    operations.requeue(HASH)
    seen.append(revocations.current())
    operations.pause("me")
    operations.load()
    assert len(set(seen)) == 3 and revocations.current() == seen[-1]


def test_it_is_readable_by_whom_the_database_is(tmp_path: Path, database: Database) -> None:
    (tmp_path / "a.db").chmod(0o640)
    if os.geteuid() == 0:
        os.chown(tmp_path / "a.db", 1234, 1234)
    Revocations(tmp_path / "a.db")
    facts, own = ((tmp_path / name).stat() for name in ("a.db-revoked", "a.db"))
    assert (facts.st_mode, facts.st_uid, facts.st_gid) == (own.st_mode, own.st_uid, own.st_gid)


def test_where_it_cannot_be_made_the_start_says_so(tmp_path: Path, database: Database) -> None:
    (tmp_path / "a.db-revoked").mkdir()
    with pytest.raises(Unavailable, match="-revoked cannot be written"):
        Revocations(tmp_path / "a.db")
