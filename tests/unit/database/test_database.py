import contextlib
import errno
import os
import resource
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from asu_builder.core.housekeeping import delete_with_files
from asu_builder.database.connection import Database, WorkerName
from asu_builder.database.queue import SqlJobQueue
from asu_builder.database.retention import SqlRetention
from asu_builder.database.schema import unusable
from asu_builder.database.statistics import SqlStatistics
from asu_builder.domain.errors import Unavailable
from factories import NOON, Clock, a_request, a_submission, removes
from schemas import restore

PAGE = 4096


def with_pages(path: Path) -> Path:
    """A database with a table of some hundred pages, which nothing else touches."""
    Database(path).close()
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE filler (id INTEGER PRIMARY KEY, bytes BLOB)")
        connection.executemany(
            "INSERT INTO filler (bytes) VALUES (?)", ((os.urandom(900),) for _ in range(1000))
        )
    return path


def damage(path: Path) -> None:
    """One page in the middle, overwritten."""
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // PAGE // 2 * PAGE)
        file.write(b"\xff" * PAGE)


def refuses_writes(database: Database) -> bool:
    """Whether everything that would write is told of the damage."""
    result = database.check()
    with pytest.raises(Unavailable, match=r"damaged.*backup"), database.writing():
        pytest.fail("a damaged database was written")
    return result.status == "error" and "damaged" in result.sentence and "backup" in result.sentence


def open_files(path: Path) -> int:
    """How often this process has the file open."""
    links = (os.path.realpath(entry) for entry in Path("/proc/self/fd").iterdir())
    return sum(link == str(path) for link in links)


def test_there_are_as_many_connections_for_reading_as_read_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    together = threading.Barrier(3)

    def read(*, meet: bool) -> None:
        with database.reading() as connection:
            connection.execute("SELECT 1 FROM installation").fetchall()
            if meet:
                together.wait(60)

    with contextlib.closing(Database(path)) as database:
        before = open_files(path)
        for _ in range(5):
            thread = threading.Thread(target=read, kwargs={"meet": False})
            thread.start()
            thread.join()
        assert open_files(path) == before + 1
        with ThreadPoolExecutor(3) as threads:
            for _ in threads.map(lambda _: read(meet=True), range(3)):
                pass
        assert open_files(path) == before + 3
        with pytest.raises(ZeroDivisionError), database.reading():
            raise ZeroDivisionError
        read(meet=False)
        assert open_files(path) == before + 3


def test_a_peek_waits_neither_for_a_writer_nor_for_another_thread(tmp_path: Path) -> None:
    with contextlib.closing(Database(tmp_path / "a.db")) as database:
        with database.writing() as writer:
            writer.execute("INSERT INTO installation (id) VALUES ('x')")
            assert database.peek("SELECT count(*) FROM installation") == (0,)
            assert database.peek("PRAGMA busy_timeout") == (0,)
        with database._peeking, pytest.raises(Unavailable, match="Another thread"):
            database.peek("SELECT 1")
        assert database.peek("SELECT count(*) FROM installation") == (1,)
        with pytest.raises(Unavailable, match="readonly"):
            database.peek("DELETE FROM installation")


def test_peeks_share_one_connection_and_one_that_fails_leaves_none(tmp_path: Path) -> None:
    path, away = tmp_path / "a.db", tmp_path / "away.db"
    with contextlib.closing(Database(path)) as database:
        before = open_files(path)
        path.rename(away)
        for _ in range(3):
            with pytest.raises(Unavailable):
                database.peek("SELECT 1")
        away.rename(path)
        assert open_files(path) == before
        for _ in range(3):
            database.peek("SELECT 1 FROM installation")
        assert open_files(path) == before + 1


@contextlib.contextmanager
def nobody() -> Iterator[None]:
    """Without the rights of root, which may open everything."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_readers_cannot_write(tmp_path: Path) -> None:
    database = Database(tmp_path / "a.db")
    with pytest.raises(Unavailable, match="readonly"), database.reading() as connection:
        connection.execute("DELETE FROM build_stats")
    database.close()


def test_a_failed_transaction_leaves_nothing(tmp_path: Path) -> None:
    database = Database(tmp_path / "a.db")
    with pytest.raises(ZeroDivisionError), database.writing() as connection:
        connection.execute("INSERT INTO installation (id) VALUES ('x')")
        raise ZeroDivisionError
    assert database.installation() != "x"
    database.close()


def test_the_installation_keeps_its_name(tmp_path: Path) -> None:
    first = Database(tmp_path / "a.db")
    name = first.installation()
    first.close()
    second = Database(tmp_path / "a.db")
    assert second.installation() == name
    second.close()


def test_a_database_of_a_newer_version_is_left_alone_with_a_sentence(tmp_path: Path) -> None:
    Database(tmp_path / "a.db").close()
    with sqlite3.connect(tmp_path / "a.db") as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(Unavailable, match="newer version of this program"):
        Database(tmp_path / "a.db")


def test_a_place_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Unavailable, match="database"):
        Database(tmp_path / "file" / "a.db")


def test_a_file_that_is_no_database_is_a_sentence_and_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    path.write_bytes(b"something else entirely\n" * 500)
    with pytest.raises(
        Unavailable, match=r"is no database, or it is damaged.*backup.*move it away"
    ) as refusal:
        Database(path)
    assert str(path) in str(refusal.value)
    assert path.read_bytes() == b"something else entirely\n" * 500


def test_an_empty_file_is_a_new_database(tmp_path: Path) -> None:
    (tmp_path / "a.db").touch()
    database = Database(tmp_path / "a.db")
    assert database.check().status == "ok"
    database.close()


def test_a_directory_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=r"is a directory.*database_path") as refusal:
        Database(tmp_path)
    assert str(tmp_path) in str(refusal.value)


@pytest.mark.parametrize("below", ["a.db", "deep/er/a.db"])
def test_a_file_in_place_of_a_directory_is_named(below: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Unavailable, match="Move it away") as refusal:
        Database(tmp_path / "file" / below)
    assert f"{tmp_path / 'file'} is a file where a directory is needed" in str(refusal.value)


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "is full. Make room"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "is full. Make room"),
        (OSError(errno.EROFS, "Read-only file system"), "can only be read. Mount it for writing"),
        (OSError(errno.EACCES, "Permission denied"), "own it"),
    ],
)
def test_the_remedy_is_for_what_the_disk_said(error: OSError, remedy: str, tmp_path: Path) -> None:
    assert remedy in str(unusable(tmp_path / "a.db", error))


@pytest.mark.parametrize("forbidden", ["the file", "its directory"])
def test_a_database_that_may_not_be_opened_is_a_sentence(forbidden: str) -> None:
    # Not below the directory of the tests: nobody else may enter that.
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        Database(folder / "a.db").close()
        (folder / "a.db").chmod(0o000 if forbidden == "the file" else 0o644)
        folder.chmod(0o777 if forbidden == "the file" else 0o555)
        with nobody(), pytest.raises(Unavailable, match=r"cannot be opened.*own it") as refusal:
            Database(folder / "a.db")
        assert str(folder / "a.db") in str(refusal.value)
        folder.chmod(0o755)


def test_a_sound_database_is_found_sound_while_it_is_written(tmp_path: Path) -> None:
    database = Database(with_pages(tmp_path / "a.db"))
    with ThreadPoolExecutor(1) as pool:
        written = pool.submit(lambda: [database.check() for _ in range(200)])
        assert [database.verify().status for _ in range(5)] == ["ok"] * 5
        assert {result.status for result in written.result()} == {"ok"}
    database.close()


def test_a_damaged_page_is_found_and_nothing_is_written_any_more(tmp_path: Path) -> None:
    path = with_pages(tmp_path / "a.db")
    damage(path)
    database = Database(path)  # a start does not look so far
    assert database.check().status == "ok"
    assert database.verify().status == "error"
    assert refuses_writes(database)
    with database.reading() as connection:  # what can be read still is
        assert connection.execute("SELECT count(*) FROM build_jobs").fetchone() == (0,)
    database.close()


def test_whether_the_last_process_closed_it_is_known(tmp_path: Path) -> None:
    path, copied = tmp_path / "a.db", tmp_path / "copied.db"
    first = Database(path)
    first.check()
    for end in ("", "-wal"):
        shutil.copy(f"{path}{end}", f"{copied}{end}")
    first.close()
    found = []
    for file in (path, copied, copied):
        database = Database(file)
        found.append(database.was_cut_off)
        database.close()
    assert (first.was_cut_off, found) == (False, [False, True, False])


def test_a_damaged_page_is_found_below_a_log_of_newer_ones(tmp_path: Path) -> None:
    path = with_pages(tmp_path / "a.db")
    copied = tmp_path / "copied.db"
    database = Database(path)
    with database.writing() as connection:
        connection.execute("UPDATE filler SET bytes = zeroblob(900) WHERE id < 100")
    for end in ("", "-wal"):
        shutil.copy(f"{path}{end}", f"{copied}{end}")
    assert database.verify().status == "ok"
    database.close()
    assert copied.with_name("copied.db-wal").stat().st_size > 10 * PAGE
    damage(copied)
    database = Database(copied)
    assert database.verify().status == "error"
    assert refuses_writes(database)
    database.close()


def test_a_file_that_was_cut_short_is_found(tmp_path: Path) -> None:
    path = with_pages(tmp_path / "a.db")
    os.truncate(path, path.stat().st_size // 2)
    with contextlib.suppress(Unavailable):  # already a start may see it
        database = Database(path)
        assert database.verify().status == "error"
        assert refuses_writes(database)
        database.close()


def test_whoever_meets_a_damaged_page_stops_the_writing_too(tmp_path: Path) -> None:
    path = with_pages(tmp_path / "a.db")
    damage(path)
    database = Database(path)
    with pytest.raises(Unavailable, match="damaged"), database.reading() as connection:
        connection.execute("SELECT sum(length(bytes)) FROM filler").fetchone()
    assert refuses_writes(database)
    database.close()


def test_closing_cuts_a_long_verification_off(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    Database(path).close()
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        # Checked row by row: a minute of work in a small file.
        slow = "length(replace(hex(zeroblob(1000000 + id)), '0', 'ab')) > 0"
        connection.execute(f"CREATE TABLE slow (id INTEGER PRIMARY KEY, CHECK ({slow}))")
        connection.execute("PRAGMA ignore_check_constraints = ON")
        connection.executemany("INSERT INTO slow (id) VALUES (?)", ((n,) for n in range(10_000)))
    database = Database(path)
    results = []
    verification = threading.Thread(target=lambda: results.append(database.verify()))
    verification.start()
    time.sleep(0.2)
    assert not results, "it should take long"
    database.close()
    verification.join()
    assert [result.status for result in results] == ["warning"]
    assert database.verify().status == "warning"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.db"]


def test_another_process_that_holds_a_file_of_the_other_format_is_waited_for(tmp_path: Path) -> None:
    path = restore(1, tmp_path / "a.db")
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")  # as whoever is about to change the format: SQLite waits for no such
    release = threading.Timer(0.3, other.close)
    release.start()
    database = Database(path)
    assert not release.is_alive()
    with database.reading() as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    database.close()


def test_the_database_itself_refuses_states_without_their_columns(tmp_path: Path) -> None:
    database = Database(tmp_path / "a.db")
    SqlJobQueue(database).submit(a_submission())
    for broken in (
        "state = 'building'",
        "state = 'completed'",
        "state = 'waiting'",
        "stage = 'init'",
        "worker = 'w', lease_until = 1",
    ):
        with pytest.raises(sqlite3.IntegrityError), database.writing() as connection:
            connection.execute(f"UPDATE build_jobs SET {broken}")
    database.close()


def test_submit_and_finish_are_synced_and_other_writes_need_not_be(tmp_path: Path) -> None:
    database = Database(tmp_path / "a.db")
    for durable, expected in ((True, 2), (False, 1)):
        with database.writing(durable=durable) as connection:
            assert connection.execute("PRAGMA synchronous").fetchone() == (expected,)
    database.close()


@pytest.mark.process
def test_nothing_is_locked_for_sixty_four_writers_and_a_second_process(tmp_path: Path) -> None:
    database = Database(tmp_path / "a.db")
    queue = SqlJobQueue(database)
    other = (
        "import sqlite3, sys\n"
        "c = sqlite3.connect(sys.argv[1], timeout=120, isolation_level=None)\n"
        "for n in range(100):\n"
        "    c.execute('BEGIN IMMEDIATE')\n"
        '    c.execute("INSERT INTO build_stats (at, kind, version, target, profile, diff_packages)'
        " VALUES (1, 'other', '', '', '', 0)\")\n"
        "    c.execute('COMMIT')\n"
    )
    process = subprocess.Popen([sys.executable, "-c", other, str(tmp_path / "a.db")])
    with ThreadPoolExecutor(64) as pool:
        jobs = list(pool.map(lambda n: queue.submit(a_submission(packages=(f"p{n}",))), range(300)))
    assert process.wait(timeout=60) == 0
    assert len({entry.job.id for entry in jobs}) == 300
    with database.reading() as connection:
        assert connection.execute("SELECT count(*) FROM build_stats").fetchone() == (100,)
    database.close()


def test_statistics_are_written_in_batches_and_survive_a_failing_write(tmp_path: Path) -> None:
    database = Database(tmp_path / "a.db")
    statistics = SqlStatistics(database, now=Clock())
    statistics.record("request", a_request(diff_packages=True), client="owut/1")
    statistics.record("failed", a_request(), reason="too_big")
    with database.reading() as connection:
        assert connection.execute("SELECT count(*) FROM build_stats").fetchone() == (0,)
    with database.writing() as connection:
        connection.execute("ALTER TABLE build_stats RENAME TO gone")
    with pytest.raises(Unavailable):
        statistics.flush()
    with database.writing() as connection:
        connection.execute("ALTER TABLE gone RENAME TO build_stats")
    assert statistics.flush() == 2
    assert statistics.flush() == 0
    with database.reading() as connection:
        rows = connection.execute(
            "SELECT kind, diff_packages, client, reason FROM build_stats ORDER BY id"
        ).fetchall()
    assert rows == [("request", 1, "owut/1", ""), ("failed", 0, "", "too_big")]
    database.close()


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A directory with the lock of a worker named host, which nobody may write."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        lock = Path(folder) / "worker-host.lock"
        lock.touch()
        lock.chmod(0o444)
        yield Path(folder)


@pytest.mark.process
def test_a_worker_name_is_held_by_one_process_and_free_when_it_ends(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, pathlib\nfrom asu_builder.database.connection import WorkerName\n"
            "print(WorkerName('host', pathlib.Path(sys.argv[1])).name, flush=True)\nsys.stdin.read()",
            str(tmp_path),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "host\n"
        second = WorkerName("host", tmp_path)
        assert second.name == "host-2"
        second.release()
        holder.kill()
    third = WorkerName("host", tmp_path)
    assert third.name == "host"
    third.release()


def test_a_worker_name_whose_file_root_has_made_can_be_held(open_folder: Path) -> None:
    with nobody():
        name = WorkerName("host", open_folder)
    assert name.name == "host"
    name.release()
    name.release()


def test_a_database_whose_disk_is_full_is_down(tmp_path: Path) -> None:
    database = Database(tmp_path / "a.db")
    database.installation()
    assert database.check().status == "ok"
    database.fold()
    former = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, former[1]))
    try:
        result = database.check()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, former)
    assert result.status == "error"
    assert database.check().status == "ok"
    database.close()


def test_nothing_is_written_to_a_database_that_was_moved_away(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    database = Database(path)
    queue = SqlJobQueue(database)
    assert database.check().status == "ok"
    for file in tmp_path.glob("a.db*"):
        file.rename(tmp_path / f"former-{file.name}")
    with pytest.raises(Unavailable), ThreadPoolExecutor(1) as other:
        other.submit(queue.pending).result()
    assert not path.exists()
    result = database.check()
    assert result.status == "error"
    assert "replaced while the service runs" in result.sentence
    with pytest.raises(Unavailable, match="replaced while the service runs"):
        queue.submit(a_submission())
    database.close()


def test_what_was_forgotten_of_a_first_boot_script_leaves_the_log_too(tmp_path: Path) -> None:
    database = Database(tmp_path / "a.db")
    queue, retention = SqlJobQueue(database), SqlRetention(database)
    request = msgspec.structs.replace(a_request(), defaults="echo hunter2hunter2")
    submission = msgspec.structs.replace(a_submission(), request=request)
    entry = queue.submit(submission)
    assert queue.cancel(entry.job.id, failure_ttl=timedelta(0))
    reader = sqlite3.connect(tmp_path / "a.db", isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM build_jobs").fetchone()
    assert delete_with_files(retention, submission.request_hash, remove=removes())
    reader.close()
    assert retention.expired() == []
    assert not any(b"hunter2" in path.read_bytes() for path in tmp_path.iterdir())
    database.close()


def test_times_come_back_to_the_microsecond(tmp_path: Path) -> None:
    moment = NOON + timedelta(microseconds=123457)
    database = Database(tmp_path / "a.db", clock=lambda: moment)
    job = SqlJobQueue(database).submit(a_submission()).job
    assert job.enqueued_at == moment
    database.close()


def test_a_full_disk_is_found_by_one_call_even_while_the_log_takes_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Database(tmp_path / "a.db")
    assert (database.disk_is_full(), database.check().status) == (False, "ok")
    facts = list(os.statvfs(tmp_path))
    facts[3] = facts[4] = 0  # free blocks, and those for ordinary users
    with monkeypatch.context() as patched:
        patched.setattr("os.statvfs", lambda _: os.statvfs_result(facts))
        assert database.disk_is_full()
        result = database.check()
    assert result.status == "error" and "full" in result.sentence
    assert database.check().status == "ok"
    database.close()
