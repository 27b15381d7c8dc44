import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest

from asu_builder.adapters.database import Database
from asu_builder.adapters.jobs import SqlJobQueue
from asu_builder.adapters.statistics import SqlStatistics
from asu_builder.adapters.worker_name import WorkerName
from asu_builder.domain.errors import Unavailable
from factories import NOON, Clock, a_request, a_submission


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


def test_the_database_itself_refuses_states_without_their_columns(tmp_path: Path) -> None:
    database = Database(tmp_path / "a.db")
    SqlJobQueue(database).submit(a_submission(), capacity=1, now=NOON)
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


def test_nothing_is_locked_for_sixty_four_writers_and_a_second_process(tmp_path: Path) -> None:
    database = Database(tmp_path / "a.db")
    queue = SqlJobQueue(database)
    other = (
        "import sqlite3, sys\n"
        "c = sqlite3.connect(sys.argv[1], timeout=30, isolation_level=None)\n"
        "for n in range(100):\n"
        "    c.execute('BEGIN IMMEDIATE')\n"
        '    c.execute("INSERT INTO build_stats (at, kind, version, target, profile, diff_packages)'
        " VALUES (1, 'other', '', '', '', 0)\")\n"
        "    c.execute('COMMIT')\n"
    )
    process = subprocess.Popen([sys.executable, "-c", other, str(tmp_path / "a.db")])
    with ThreadPoolExecutor(64) as pool:
        jobs = list(
            pool.map(
                lambda n: queue.submit(a_submission(packages=(f"p{n}",)), capacity=1000, now=NOON), range(300)
            )
        )
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


def test_a_worker_name_is_held_by_one_process_and_free_when_it_ends(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, pathlib\nfrom asu_builder.adapters.worker_name import WorkerName\n"
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


def test_times_come_back_to_the_microsecond(tmp_path: Path) -> None:
    database = Database(tmp_path / "a.db")
    moment = NOON + timedelta(microseconds=123457)
    job = SqlJobQueue(database).submit(a_submission(), capacity=1, now=moment).job
    assert job.enqueued_at == moment
    database.close()
