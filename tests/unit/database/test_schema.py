import contextlib
import os
import re
import sqlite3
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest

from asu_builder.database.connection import Database
from asu_builder.database.operator import SqlOperations
from asu_builder.database.queue import SqlJobQueue
from asu_builder.database.rows import SELECT_JOB, to_job
from asu_builder.database.schema import MIGRATIONS, statements
from asu_builder.domain.errors import Unavailable
from asu_builder.domain.job import BuildFailure, BuildResult, IdlePolicy, JobState, Lease
from database_clock import CLOCK, at_time
from factories import NOON
from schemas import EXPIRED, LAPSED, LEASED, PENDING, RELEASED, ask, restore, rows

SCRIPTS = sorted(MIGRATIONS.glob("*.sql"))
NEWEST = len(SCRIPTS)
RENAMED_TABLES = {"queue_turns": "fair_queue", "operator_acts": "audit_log"}
RENAMED = {
    ("build_requests", "first_asked_at"): "first_requested_at",
    ("build_jobs", "asker"): "caller",
    ("build_jobs", "sunk"): "deprioritized",
    ("build_jobs", "turn"): "fair_start",
    ("build_jobs", "asked_at"): "last_accessed_at",
    ("build_jobs", "keep_for"): "ttl",
    ("build_jobs", "keep_until"): "max_expires_at",
    ("queue_turns", "turn"): "reached",
    ("worker_pause", "who"): "operator",
    ("operator_acts", "who"): "operator",
    ("operator_acts", "act"): "action",
}
"""What a later schema calls a table, and the column of a table."""
released = pytest.mark.parametrize("number", sorted(RELEASED))

ANEW = """
-- Made anew; a DROP TABLE takes what refers to it along, unless that is prevented.
CREATE TABLE anew AS SELECT * FROM build_jobs WHERE 0;
DROP TABLE anew;
CREATE TABLE build_jobs_anew (
    id INTEGER PRIMARY KEY, request_hash TEXT NOT NULL REFERENCES build_requests (request_hash),
    state TEXT NOT NULL CHECK (state <> 'none;'), note TEXT NOT NULL DEFAULT ';'
);
INSERT INTO build_jobs_anew (id, request_hash, state) SELECT id, request_hash, state FROM build_jobs;
DROP TABLE build_jobs;
ALTER TABLE build_jobs_anew RENAME TO build_jobs;
"""


def scripts(folder: Path, *following: str) -> Path:
    """A folder with the first schema's script and others after it."""
    folder.mkdir(exist_ok=True)
    texts = (SCRIPTS[0].read_text(), *following)
    for number, text in enumerate(texts, start=1):
        (folder / f"{number:04}_step.sql").write_text(text)
    return folder


def version(path: Path) -> object:
    """The number of a file's schema."""
    ((number,),) = ask(path, "PRAGMA user_version")
    return number


def open_and_close(path: Path, folder: Path = MIGRATIONS) -> None:
    """A whole life of the program, as far as the schema is concerned."""
    Database(path, migrations=folder).close()


def shape(path: Path) -> list[tuple[object, ...]]:
    """All tables and indexes, word for word."""
    return ask(path, "SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY type, name")


@released
def test_a_released_database_comes_to_the_newest_schema_sound(number: int, tmp_path: Path) -> None:
    path = restore(number, tmp_path / "a.db")
    open_and_close(path)
    open_and_close(tmp_path / "new.db")
    assert version(path) == NEWEST
    assert ask(path, "PRAGMA integrity_check") == [("ok",)]
    assert ask(path, "PRAGMA foreign_key_check") == []
    assert shape(path) == shape(tmp_path / "new.db")


@released
def test_a_released_database_keeps_every_row_and_what_it_says(number: int, tmp_path: Path) -> None:
    path = restore(number, tmp_path / "a.db")
    before = rows(path)
    open_and_close(path)
    after = rows(path)
    for table, former in before.items():
        names = {name: RENAMED.get((table, name), name) for name in former[0]}
        kept = [
            {name: row[now] for name, now in names.items() if now in row}
            for row in after[RENAMED_TABLES.get(table, table)]
        ]
        still = [{name: row[name] for name in kept[0]} for row in former]
        assert kept == still, table
        assert set(kept[0]) == set(former[0]), f"{table} has lost a column"


@released
def test_every_job_of_a_released_database_is_read_by_the_queue(number: int, tmp_path: Path) -> None:
    path = restore(number, tmp_path / "a.db")
    before = {row["id"]: row for row in rows(path)["build_jobs"]}
    database = Database(path, clock=CLOCK)
    with database.reading() as connection:
        jobs = [to_job(row) for row in connection.execute(SELECT_JOB)]
    assert {job.id: job.state for job in jobs} == {id: row["state"] for id, row in before.items()}
    for job in jobs:
        assert job.request_hash == before[job.id]["request_hash"]
        assert isinstance(job.outcome, BuildResult) == (job.state is JobState.COMPLETED)
        assert isinstance(job.outcome, BuildFailure) == (job.state is JobState.FAILED)
    newest = {job.request_hash: job.id for job in jobs}
    queue = SqlJobQueue(database)
    found = {name: queue.find(name) for name in newest}
    assert {name: job and job.id for name, job in found.items()} == newest
    (expired,) = [job for job in jobs if job.id == EXPIRED]
    assert newest[expired.request_hash] != EXPIRED
    database.close()


@released
def test_the_queue_of_a_released_database_goes_on_where_it_was(number: int, tmp_path: Path) -> None:
    database = Database(restore(number, tmp_path / "a.db"), clock=CLOCK)
    queue = SqlJobQueue(database)
    assert queue.pending() == len(PENDING)
    assert [queue.position(job_id) for job_id in PENDING] == [0, 1, 2, 3]
    queue.renew(Lease(LEASED, "asu/1", 1), lease_for=timedelta(minutes=1))
    SqlOperations(database).resume()
    turns = []
    # The first of them waits for its retry.
    while claim := queue.claim("asu/4", lease_for=timedelta(minutes=1)):
        turns.append(claim[0].id)
    assert tuple(turns) == PENDING[1:]
    retried = at_time(queue, NOON + timedelta(minutes=1)).claim("asu/4", lease_for=timedelta(minutes=1))
    assert retried is not None and retried[0].id == PENDING[0] and retried[0].retries == 1
    database.close()


@released
def test_jobs_that_lived_through_an_upgrade_are_not_given_up_for_their_age(
    number: int, tmp_path: Path
) -> None:
    database = Database(restore(number, tmp_path / "a.db"))
    queue = SqlJobQueue(database)
    hour = timedelta(hours=1)
    queue.recover(worker="asu", failure_ttl=hour)
    # Nobody could poll while the service was down; whoever waits has an hour from now on.
    assert list(queue.expire_abandoned(IdlePolicy(hour / 2, hour), failure_ttl=hour)) == []
    assert [queue.position(job_id) for job_id in (LEASED, LAPSED, *PENDING)] == [0, 2, 3, 4, 5, 6]
    database.close()


def test_every_schema_before_the_newest_has_its_dump() -> None:
    """Fails for a migration without the dump of the schema before it."""
    assert set(RELEASED) >= set(range(1, NEWEST))
    assert max(RELEASED) <= NEWEST


@released
def test_a_dump_is_what_its_program_would_have_written(number: int, tmp_path: Path) -> None:
    path = restore(number, tmp_path / "a.db")
    folder = tmp_path / "scripts"
    folder.mkdir()
    for script in SCRIPTS[:number]:
        (folder / script.name).write_text(script.read_text())
    open_and_close(tmp_path / "new.db", folder)
    assert version(path) == number
    assert shape(path) == shape(tmp_path / "new.db")


@released
def test_a_dump_has_rows_in_every_table_and_state(number: int, tmp_path: Path) -> None:
    path = restore(number, tmp_path / "a.db")
    assert all(rows(path).values())
    ((sql,),) = ask(path, "SELECT sql FROM sqlite_master WHERE name = 'build_jobs'")
    check = re.search(r"CHECK \(state IN \(([^)]*)\)", str(sql))
    assert check
    states = {row["state"] for row in rows(path)["build_jobs"]}
    assert states == set(re.findall(r"'(\w+)'", check[1]))


def test_scripts_are_numbered_without_a_gap_and_leave_transactions_to_the_program() -> None:
    assert [script.name[:5] for script in SCRIPTS] == [f"{number:04}_" for number in range(1, NEWEST + 1)]
    for script in SCRIPTS:
        words = {re.sub(r"--.*", "", text).split()[0].upper() for text in statements(script.read_text())}
        assert words <= {"CREATE", "INSERT", "UPDATE", "DELETE", "DROP", "ALTER"}, script


def test_a_table_made_anew_keeps_what_refers_to_it(tmp_path: Path) -> None:
    path = restore(1, tmp_path / "a.db")
    results = rows(path)["build_results"]
    assert results
    database = Database(path, migrations=scripts(tmp_path / "scripts", ANEW))
    with database.reading() as connection:
        assert connection.execute("SELECT count(*) FROM build_results").fetchone() == (len(results),)
    with database.writing() as connection:
        assert connection.execute("PRAGMA foreign_keys").fetchone() == (1,)
    with database.writing(durable=True) as connection:  # the one that has migrated
        assert connection.execute("PRAGMA foreign_keys").fetchone() == (1,)
        connection.execute("DELETE FROM build_jobs WHERE id = ?", (EXPIRED,))
    database.close()
    assert len(rows(path)["build_results"]) == len(results) - 1


@pytest.mark.parametrize(
    ("spoilt", "why"),
    [
        (f"{ANEW} DELETE FROM build_requests;", "would refer to nothing"),
        (f"{ANEW} INSERT INTO build_jobs (id, request_hash, state) VALUES (99, 'x', 'none;');", "CHECK"),
        (f"{ANEW} INSERT INTO nowhere VALUES (1);", "no such table: nowhere"),
        (f"{ANEW} INSERT INTO build_jobs VALUES (99, 'x", "unrecognized token"),
    ],
)
def test_a_migration_that_fails_leaves_everything_and_says_so(spoilt: str, why: str, tmp_path: Path) -> None:
    path = restore(1, tmp_path / "a.db")
    before, former = rows(path), shape(path)
    with pytest.raises(Unavailable, match=why) as refusal:
        open_and_close(path, scripts(tmp_path / "scripts", spoilt))
    assert str(path) in str(refusal.value) and "former version" in str(refusal.value)
    assert (rows(path), shape(path), version(path)) == (before, former, 1)
    open_and_close(path, scripts(tmp_path / "scripts", ANEW))
    assert version(path) == 2


def test_a_step_that_fails_leaves_the_steps_before_it(tmp_path: Path) -> None:
    path = restore(1, tmp_path / "a.db")
    with pytest.raises(Unavailable, match="from schema 2 to 3"):
        open_and_close(path, scripts(tmp_path / "scripts", ANEW, "DROP TABLE nowhere;"))
    assert version(path) == 2


def test_before_the_first_step_the_database_is_copied_beside_itself(tmp_path: Path) -> None:
    path = restore(1, tmp_path / "a.db")
    before = rows(path)
    folder = scripts(tmp_path / "scripts", ANEW, "CREATE TABLE third (id INTEGER PRIMARY KEY);")
    open_and_close(path, folder)
    open_and_close(path, folder)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.db", "a.db.schema-1.backup", "scripts"]
    copy = tmp_path / "a.db.schema-1.backup"
    assert (rows(copy), version(copy), version(path)) == (before, 1, 3)


def test_a_new_database_needs_no_copy(tmp_path: Path) -> None:
    open_and_close(tmp_path / "a.db")
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.db"]


def test_nothing_is_brought_forward_that_cannot_be_copied_before(tmp_path: Path) -> None:
    path = restore(1, tmp_path / "a.db")
    (tmp_path / "a.db.schema-1.backup").mkdir()
    with pytest.raises(Unavailable, match=r"left at schema 1.*no plain file"):
        open_and_close(path, scripts(tmp_path / "scripts", ANEW))
    assert version(path) == 1


@pytest.mark.parametrize("number", [0, 1, 99])
def test_a_database_of_another_program_is_left_alone_with_a_sentence(number: int, tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    ask(path, "CREATE TABLE bookmarks (url TEXT)")
    ask(path, f"PRAGMA user_version = {number}")
    with pytest.raises(Unavailable, match="another program") as refusal:
        Database(path)
    assert str(path) in str(refusal.value) and "database_path" in str(refusal.value)
    assert [row[1] for row in shape(path)] == ["bookmarks"]


@pytest.mark.process
def test_processes_that_start_at_once_migrate_once(tmp_path: Path) -> None:
    path = restore(1, tmp_path / "a.db")
    # Not fit to be run twice, and long enough for the others to meet it.
    step = (
        "CREATE TABLE runs (id INTEGER PRIMARY KEY); INSERT INTO runs SELECT NULL FROM (WITH RECURSIVE n(i)"
        " AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000000) SELECT max(i) FROM n);"
    )
    folder = scripts(tmp_path / "scripts", step)
    program = (
        "import sys, time\nfrom pathlib import Path\nfrom asu_builder.database.connection import Database\n"
        "print('ready', flush=True)\nsys.stdin.readline()\n"
        "Database(Path(sys.argv[1]), migrations=Path(sys.argv[2])).close()\n"
    )
    command = [sys.executable, "-c", program, str(path), str(folder)]
    with contextlib.ExitStack() as stack:
        starts = [
            stack.enter_context(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            )
            for _ in range(3)
        ]
        for start in starts:
            assert start.stdout is not None and start.stdout.readline() == "ready\n"
        for start in starts:
            assert start.stdin is not None
            start.stdin.write("\n")
            start.stdin.flush()
        assert [start.wait(timeout=60) for start in starts] == [0, 0, 0]
    assert rows(path)["runs"] == [{"id": 1}]
    assert version(path) == 2
    assert version(tmp_path / "a.db.schema-1.backup") == 1


@pytest.mark.process
def test_a_kill_in_the_middle_of_a_migration_leaves_the_former_schema_whole(tmp_path: Path) -> None:
    path = restore(1, tmp_path / "a.db")
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.executemany(
            "INSERT INTO build_stats (at, kind, version, target, profile, diff_packages)"
            " VALUES (?, ?, '', '', '', 0)",
            ((n, os.urandom(100).hex()) for n in range(30_000)),
        )
    before, former = rows(path), shape(path)
    bulk = (
        f"{ANEW} CREATE TABLE stats_anew (id INTEGER PRIMARY KEY, at BIGINT NOT NULL, kind TEXT NOT NULL);"
        "INSERT INTO stats_anew SELECT id, at, kind FROM build_stats; DROP TABLE build_stats;"
        "ALTER TABLE stats_anew RENAME TO build_stats; CREATE INDEX by_kind ON build_stats (kind);"
    )
    endless = (
        "DELETE FROM build_stats WHERE id = (WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n"
        " WHERE i < 1000000000) SELECT -max(i) FROM n);"
    )
    folder = scripts(tmp_path / "scripts", bulk + endless)
    program = (
        "import sys\nfrom pathlib import Path\nfrom asu_builder.database.connection import Database\n"
        "Database(Path(sys.argv[1]), migrations=Path(sys.argv[2]))\n"
    )
    spilled = 0
    for delay in (0.0, 0.02, 0.05, 0.1, 0.2, 0.6):
        copy = tmp_path / "a.db.schema-1.backup"
        copy.unlink(missing_ok=True)
        process = subprocess.Popen([sys.executable, "-c", program, str(path), str(folder)])
        until = time.monotonic() + 120
        while not copy.exists():  # the migration begins when its copy is there
            assert process.poll() is None and time.monotonic() < until
            time.sleep(0.001)
        time.sleep(delay)
        process.kill()
        process.wait(timeout=60)
        spilled += path.with_name("a.db-wal").stat().st_size > 1_000_000
        assert (version(path), rows(path), shape(path)) == (1, before, former)
        assert ask(path, "PRAGMA integrity_check") == [("ok",)]
    assert spilled, "no kill came when half of the migration was on disk"
    open_and_close(path, scripts(tmp_path / "scripts", bulk))
    assert version(path) == 2
    assert [row["kind"] for row in rows(path)["build_stats"]] == [
        row["kind"] for row in before["build_stats"]
    ]


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("", []),
        ("\n", []),
        ("DROP TABLE a", ["DROP TABLE a"]),
        ("DROP TABLE a;\n", ["DROP TABLE a;"]),
        ("-- One; two.\nDROP TABLE a; DROP TABLE b;", ["-- One; two.\nDROP TABLE a;", " DROP TABLE b;"]),
        ("INSERT INTO a VALUES (';');", ["INSERT INTO a VALUES (';');"]),
        (
            "CREATE TRIGGER t AFTER DELETE ON a BEGIN DELETE FROM b; END;",
            ["CREATE TRIGGER t AFTER DELETE ON a BEGIN DELETE FROM b; END;"],
        ),
    ],
)
def test_a_script_is_taken_apart_where_statements_end(script: str, expected: list[str]) -> None:
    assert list(statements(script)) == expected
