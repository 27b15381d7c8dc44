import contextlib
import os
import re
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from asu_builder.database.backup import backup
from asu_builder.database.connection import Database
from asu_builder.database.queue import SqlJobQueue
from asu_builder.domain.errors import Conflict, Unavailable
from factories import NOON
from schemas import PENDING, RELEASED, ask, restore, rows

DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "backup.md"
ACCOUNTS = 500
NEWEST = max(RELEASED)


def without_secrets(path: Path) -> Path:
    """The newest database at this path, without the row that only the key of who wrote it opens."""
    with contextlib.closing(sqlite3.connect(restore(NEWEST, path))) as connection, connection:
        connection.execute("DELETE FROM build_secrets")
        connection.execute("UPDATE build_requests SET sealed = FALSE")
    return path


def with_bulk(path: Path) -> Path:
    """Hundred megabytes more: a copy takes hundreds of steps."""
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE bulk (filler BLOB)")
        connection.executemany("INSERT INTO bulk VALUES (zeroblob(1000000))", [()] * 100)
    return path


def with_accounts(path: Path) -> Path:
    """A database with a table whose sum never changes, of some hundred pages."""
    Database(path).close()
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE accounts (id INTEGER PRIMARY KEY, amount BIGINT, filler BLOB)")
        connection.executemany(
            "INSERT INTO accounts VALUES (?, 1000, ?)", ((n, os.urandom(5000)) for n in range(ACCOUNTS))
        )
    return path


@contextlib.contextmanager
def transfers(path: Path, *, threads: int) -> Iterator[list[int]]:
    """Threads that move amounts between accounts all the while; how many moves each has made."""
    stop = threading.Event()
    made = [0] * threads

    def move(number: int) -> None:
        with contextlib.closing(sqlite3.connect(path, timeout=120, isolation_level=None)) as connection:
            while not stop.is_set():
                giver, taker = (made[number] * 7 + number) % ACCOUNTS, (made[number] * 13 + 1) % ACCOUNTS
                connection.execute("BEGIN IMMEDIATE")
                change = "UPDATE accounts SET amount = amount + ?, filler = randomblob(5000) WHERE id = ?"
                connection.execute(change, (-1, giver))
                connection.execute(change, (1, taker))
                connection.execute("COMMIT")
                made[number] += 1

    running = [threading.Thread(target=move, args=(number,)) for number in range(threads)]
    for thread in running:
        thread.start()
    try:
        yield made
    finally:
        stop.set()
        for thread in running:
            thread.join()


@pytest.mark.timeout(60)
def test_a_backup_beside_writers_is_one_moments_state_and_comes_to_an_end(tmp_path: Path) -> None:
    path = with_bulk(with_accounts(tmp_path / "a.db"))
    with transfers(path, threads=4) as made:
        for number in range(3):
            before = sum(made)
            size = backup(path, tmp_path / f"{number}.backup")
            assert sum(made) > before + 10, "the writers were held up"
            assert size == (tmp_path / f"{number}.backup").stat().st_size > ACCOUNTS * 5000
    for number in range(3):
        copy = tmp_path / f"{number}.backup"
        assert ask(copy, "SELECT sum(amount), count(*) FROM accounts") == [(ACCOUNTS * 1000, ACCOUNTS)]
        assert ask(copy, "PRAGMA integrity_check") == [("ok",)]


def test_a_backup_has_what_was_written_last_though_it_is_in_the_log_alone(tmp_path: Path) -> None:
    database = Database(tmp_path / "a.db")
    name = database.installation()
    assert (tmp_path / "a.db-wal").stat().st_size
    backup(tmp_path / "a.db", tmp_path / "backup")
    assert ask(tmp_path / "backup", "SELECT id FROM installation") == [(name,)]
    database.close()


def test_a_backup_is_one_file_without_a_log_and_leaves_nothing_beside(tmp_path: Path) -> None:
    database = Database(restore(NEWEST, tmp_path / "a.db"))
    (tmp_path / "there").mkdir()
    target = tmp_path / "there" / "backup"
    backup(tmp_path / "a.db", target)
    assert [entry.name for entry in target.parent.iterdir()] == ["backup"]
    assert target.read_bytes()[18:20] == b"\x01\x01"  # SQLite's format without a log
    assert ask(target, "PRAGMA journal_mode") == [("delete",)]
    database.close()
    assert rows(target) == rows(tmp_path / "a.db")


def test_a_backup_is_its_owners_alone(tmp_path: Path) -> None:
    Database(tmp_path / "a.db").close()
    if os.geteuid() == 0:
        os.chown(tmp_path / "a.db", 65534, 65534)
    backup(tmp_path / "a.db", tmp_path / "backup")
    copy, source = (tmp_path / "backup").stat(), (tmp_path / "a.db").stat()
    assert copy.st_mode & 0o777 == 0o600
    assert (copy.st_uid, copy.st_gid) == (source.st_uid, source.st_gid)


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("name", ["a.db", "a.db-wal", "a.db-shm", "link", "hard"])
def test_the_live_database_is_never_overwritten(name: str, force: bool, tmp_path: Path) -> None:
    database = Database(restore(NEWEST, tmp_path / "a.db"))
    before = rows(tmp_path / "a.db")
    (tmp_path / "link").symlink_to("a.db")
    (tmp_path / "hard").hardlink_to(tmp_path / "a.db")
    with pytest.raises(Conflict, match="is the database itself"):
        backup(tmp_path / "a.db", tmp_path / name, force=force)
    with pytest.raises(Conflict, match="is the database itself"):
        backup(tmp_path / "link", tmp_path / name, force=force)
    database.close()
    assert rows(tmp_path / "a.db") == before


def test_an_existing_file_is_replaced_by_force_alone(tmp_path: Path) -> None:
    Database(tmp_path / "a.db").close()
    target = tmp_path / "backup"
    target.write_text("precious")
    with pytest.raises(Conflict, match="--force"):
        backup(tmp_path / "a.db", target)
    assert target.read_text() == "precious"
    backup(tmp_path / "a.db", target, force=True)
    assert ask(target, "PRAGMA integrity_check") == [("ok",)]


@pytest.mark.parametrize("force", [False, True])
def test_what_is_no_plain_file_is_never_replaced(force: bool, tmp_path: Path) -> None:
    Database(tmp_path / "a.db").close()
    for target in (tmp_path, Path("/dev/null")):
        with pytest.raises(Conflict, match="no plain file"):
            backup(tmp_path / "a.db", target, force=force)


def test_a_database_that_is_not_there_is_a_sentence_and_none_is_made(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=r"no database .*nowhere\.db.*database_path"):
        backup(tmp_path / "nowhere.db", tmp_path / "backup")
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    Database(tmp_path / "a.db").close()
    with pytest.raises(Unavailable, match="cannot be written: No such file or directory"):
        backup(tmp_path / "a.db", tmp_path / "nowhere" / "backup")


def test_a_damaged_database_makes_no_backup_and_keeps_the_earlier_one(tmp_path: Path) -> None:
    path = with_accounts(tmp_path / "a.db")
    backup(path, tmp_path / "backup")
    former = (tmp_path / "backup").read_bytes()
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2 // 4096 * 4096)
        file.write(b"\xff" * 4096)
    with pytest.raises(Unavailable, match=r"damaged.*earlier backup"):
        backup(path, tmp_path / "backup", force=True)
    assert (tmp_path / "backup").read_bytes() == former
    path.write_bytes(b"no database at all" * 1000)
    with pytest.raises(Unavailable, match="not a database"):
        backup(path, tmp_path / "backup", force=True)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.db", "backup"]


@pytest.mark.process
def test_a_backup_that_is_killed_leaves_the_earlier_one_and_the_next_sweeps_up(tmp_path: Path) -> None:
    path = with_bulk(with_accounts(tmp_path / "a.db"))
    folder = tmp_path / "backups"
    folder.mkdir()
    target = folder / "backup"
    target.write_text("earlier")
    program = (
        "import sys\nfrom pathlib import Path\nfrom asu_builder.database.backup import backup\n"
        "backup(Path(sys.argv[1]), Path(sys.argv[2]), force=True)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program, str(path), str(target)])
    until = time.monotonic() + 120
    while not list(folder.glob(".backup.*.part/copy")):
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.001)
    process.kill()
    process.wait(timeout=60)
    assert target.read_text() == "earlier"
    assert len(list(folder.iterdir())) == 2
    backup(path, target, force=True)
    assert [entry.name for entry in folder.iterdir()] == ["backup"]
    assert ask(target, "SELECT count(*) FROM bulk") == [(100,)]


def test_a_restored_backup_goes_on_where_it_was_made(tmp_path: Path) -> None:
    path = without_secrets(tmp_path / "a.db")
    database = Database(path, clock=lambda: NOON)
    queue = SqlJobQueue(database)
    names = sorted({str(row["request_hash"]) for row in rows(path)["build_jobs"]})
    jobs = [queue.find(name) for name in names]
    positions = [queue.position(job_id) for job_id in PENDING]
    backup(path, tmp_path / "backup")
    installation = database.installation()
    with database.writing() as connection:
        connection.execute("DELETE FROM build_jobs")
    database.close()

    (tmp_path / "backup").replace(path)
    restored = Database(path, clock=lambda: NOON)
    queue = SqlJobQueue(restored)
    assert [queue.find(name) for name in names] == jobs
    assert any(job and job.outcome for job in jobs)
    assert [queue.position(job_id) for job_id in PENDING] == positions == [0, 1, 2, 3]
    assert queue.pending() == len(PENDING)
    assert restored.installation() == installation
    assert restored.verify().status == restored.check().status == "ok"
    restored.close()


@pytest.mark.process
def test_a_backup_is_not_opened_beside_the_log_of_the_database_before_it(tmp_path: Path) -> None:
    path = restore(NEWEST, tmp_path / "a.db")
    program = (
        "import os, sys\nfrom pathlib import Path\nfrom asu_builder.database.connection import Database\n"
        "database = Database(Path(sys.argv[1]))\n"
        "with database.writing(durable=True) as connection:\n"
        "    connection.execute('DELETE FROM build_jobs')\n"
        "os.kill(os.getpid(), 9)\n"
    )
    Database(path).close()
    backup(path, tmp_path / "backup")
    subprocess.run([sys.executable, "-c", program, str(path)], check=False)
    log = tmp_path / "a.db-wal"
    assert log.stat().st_size
    (tmp_path / "backup").replace(path)
    before = path.read_bytes()
    with pytest.raises(Unavailable, match="Remove") as refusal:
        Database(path)
    assert str(log) in str(refusal.value) and "a.db-shm" in str(refusal.value)
    assert path.read_bytes() == before
    log.unlink()
    path.with_name("a.db-shm").unlink()
    database = Database(path)
    assert SqlJobQueue(database).pending() == len(PENDING)
    database.close()


@pytest.mark.process
def test_every_command_of_the_document_does_what_it_says(tmp_path: Path) -> None:
    commands = "\n".join(re.findall(r"```sh\n(.*?)```", DOCUMENT.read_text(), re.DOTALL))
    assert commands.count("asu-builder ") == len(re.findall("asu-builder (?:backup|jobs) ", commands)) > 2
    commands = re.sub("(?=/(var|tmp)/)", str(tmp_path), commands)
    for folder in ("var/lib/asu-builder/data", "var/backups", "tmp", "bin"):
        (tmp_path / folder).mkdir(parents=True)
    program = tmp_path / "bin" / "asu-builder"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m asu_builder "$@"\n')
    program.chmod(0o755)
    path = without_secrets(tmp_path / "var/lib/asu-builder/data/asu-builder.db")
    before = rows(path)
    path.with_name("asu-builder.db-shm").touch()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ASU_")}
    environment |= {"PATH": f"{program.parent}:{environment['PATH']}", "ASU_DATABASE_PATH": str(path)}
    result = subprocess.run(
        ["sh", "-e", "-c", commands],
        cwd=tmp_path,
        env=environment,
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr
    assert len([line for line in result.stdout.splitlines() if " pending " in line]) == len(PENDING)
    assert rows(path) == before
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["asu-builder.db", "damaged"]
    assert len(list((tmp_path / "var/backups").iterdir())) == 2


def test_a_backup_may_be_named_from_where_one_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Database(tmp_path / "a.db").close()
    monkeypatch.chdir(tmp_path)
    size = backup(Path("a.db"), Path("copy.db"))
    assert (tmp_path / "copy.db").stat().st_size == size
