"""The state of an installation from SQLite to PostgreSQL and back, whatever ends it in between."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from asu_builder.app import assemble
from asu_builder.cli import main
from asu_builder.database import moving
from asu_builder.database.build_log import SqlBuildLog
from asu_builder.database.connection import Database
from asu_builder.database.dialect import SqlDatabase
from asu_builder.database.moving import LEFT, TABLES, Moved, cancel, move, require_here
from asu_builder.database.nodes import SqlNodes
from asu_builder.database.operator import SqlOperations
from asu_builder.database.postgresql import ServerDatabase
from asu_builder.database.queue import SqlJobQueue
from asu_builder.database.secrets import Secrets, make_key, write_keys
from asu_builder.database.statistics import SqlStatistics
from asu_builder.domain.errors import Conflict, FailureReason, Unavailable
from asu_builder.domain.job import PrintedLine, Retention, Stage
from asu_builder.domain.nodes import NodeFacts
from asu_builder.settings import Settings
from factories import NOON, a_failure, a_request, a_result, a_submission
from postgresql import empty_place

pytestmark = pytest.mark.long

DAY = timedelta(days=1)
SCRIPT = "echo ä\U0001f600"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "queue.db"


@pytest.fixture
def sqlite(file: Path) -> Iterator[Database]:
    with closing(Database(file)) as opened:
        yield opened


@pytest.fixture
def place() -> str:
    return empty_place()


@pytest.fixture
def server(place: str) -> Iterator[ServerDatabase]:
    with closing(ServerDatabase(place)) as opened:
        yield opened


@pytest.fixture
def secrets(tmp_path: Path) -> Secrets:
    write_keys(tmp_path / "key", [make_key()], new=True)
    return Secrets(tmp_path / "key")


def fill(database: SqlDatabase, secrets: Secrets) -> None:
    """Something in every table: jobs of each state, a script, odd text, documents, statistics."""
    queue = SqlJobQueue(database, secrets)
    for number in range(250):
        queue.submit(a_submission(packages=(f"p{number}",), defaults=SCRIPT if number == 3 else ""))
    for number in range(5):
        claimed = queue.claim(f"w/{number}", lease_for=DAY)
        assert claimed is not None
        job, lease = claimed
        queue.advance(lease, Stage.BUILDING_IMAGE)
        SqlBuildLog(database).append(lease, [PrintedLine(NOON, Stage.INIT, "ä")])
        if number == 0:
            queue.finish(lease, a_result(stdout="nul \0 ä\n" * 99), Retention(DAY))
        elif number == 1:
            queue.finish(lease, a_failure(FailureReason.IMPOSSIBLE_SELECTION), Retention(DAY))
        elif number == 2:
            queue.cancel(job.id, failure_ttl=DAY)
    operations = SqlOperations(database)
    operations.pause("ops")
    operations.record("ops", "pause", "")
    statistics = SqlStatistics(database, now=lambda: NOON)
    statistics.record("request", a_request(packages=("vim",)))
    statistics.record_duration("init", timedelta(seconds=1))
    statistics.flush()
    database.installation()
    with database.writing() as connection:
        connection.execute(
            "INSERT INTO upstream_documents (path, etag, fetched_at, body)"
            " VALUES (?, ?, ?, ?), ('b', '', 6, NULL)",
            ("http://a", "e", 5, bytes(range(256))),
        )
        connection.execute(
            "INSERT INTO preflight_targets (release_path, target, mode, since) VALUES ('r', 't', 'advise', 1)"
        )
        values = ("r", "t", "i", "r1", "apk", b"x", "[]", b"y", "{}", 1)
        connection.execute(f"INSERT INTO imagebuilders VALUES ({', '.join('?' * 10)})", values)


def contents(database: SqlDatabase) -> dict[str, list[list[Any]]]:
    """Every row of every table that is moved."""
    with database.reading(snapshot=True) as connection:
        return {
            table: sorted(
                moving._rows(connection, table, sorted(moving._columns(connection, table))), key=repr
            )
            for table in TABLES
        }


def tables(database: SqlDatabase, statement: str) -> set[str]:
    with database.reading() as connection:
        return {name for (name,) in connection.execute(statement)}


def test_every_table_is_moved_or_left_on_purpose(sqlite: Database, server: ServerDatabase) -> None:
    known = {*TABLES, *LEFT}
    assert tables(sqlite, "SELECT name FROM sqlite_master WHERE type = 'table'") == {
        *known,
        "sqlite_sequence",
    }
    ours = "SELECT tablename FROM pg_tables WHERE schemaname = current_schema()"
    assert tables(server, ours) == {*known, "schema_numbers"}


def test_there_and_back_again(file: Path, sqlite: Database, server: ServerDatabase, secrets: Secrets) -> None:
    fill(sqlite, secrets)
    before, told = contents(sqlite), list[Moved]()
    assert [table for table in TABLES if not before[table]] == [], "something is everywhere"
    assert move(sqlite, server, to="there", on_table=told.append)
    assert contents(server) == before
    assert [(moved.table, moved.rows) for moved in told] == [
        (name, len(rows)) for name, rows in before.items()
    ]
    with pytest.raises(Unavailable, match="was moved to there"):
        require_here(sqlite)
    require_here(server)
    # It goes on there, with numbers that were never given.
    queue = SqlJobQueue(server, secrets)
    SqlOperations(server).resume()
    scripted = queue.find(a_submission(packages=("p3",), defaults=SCRIPT).request_hash)
    assert scripted is not None and scripted.whole_request.defaults == SCRIPT
    claimed = queue.claim("w/9", lease_for=DAY)
    assert claimed is not None
    queue.finish(claimed[1], a_result(), Retention(DAY))
    new = queue.submit(a_submission(packages=("new",))).job
    assert new.id == 251
    after = contents(server)
    with closing(Database(file)) as again:
        assert move(server, again, to="back")
        assert contents(again) == after
        newer = SqlJobQueue(again, secrets).submit(a_submission(packages=("newer",))).job
        assert newer.id == 252
        require_here(again)
    with pytest.raises(Unavailable, match="was moved to back"):
        require_here(server)


def test_numbers_of_what_was_deleted_are_not_given_again(sqlite: Database, server: ServerDatabase) -> None:
    queue = SqlJobQueue(sqlite)
    for number in range(3):
        queue.submit(a_submission(packages=(f"p{number}",)))
    with sqlite.writing() as connection:
        connection.execute("DELETE FROM build_jobs")
        connection.execute("DELETE FROM build_requests")
    SqlOperations(sqlite).record("ops", "purge", "x")
    assert move(sqlite, server, to="there")
    assert SqlJobQueue(server).submit(a_submission()).job.id == 4


_KILLED = """
import os, signal, sys
from pathlib import Path
from asu_builder.database import moving
from asu_builder.database.connection import Database
from asu_builder.database.postgresql import ServerDatabase
ends = {"sqlite": lambda at: Database(Path(at)), "postgresql": ServerDatabase}
opened = [ends[at.partition(":")[0]](at.partition(" ")[2]) for at in sys.argv[1:3]]
hooked, left = sys.argv[3], int(sys.argv[4])
called = getattr(moving, hooked)
def counted(*given, **named):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return called(*given, **named)
setattr(moving, hooked, counted)
moving.move(*opened, to="there")
"""


def killed(source: str, target: str, hooked: str, call: int) -> None:
    """A move in another process that is killed at the so-manieth call of a function of its module."""
    command = [sys.executable, "-c", _KILLED, source, target, hooked, str(call)]
    done = subprocess.run(command, check=False, capture_output=True, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()


@pytest.mark.parametrize(
    ("hooked", "call"),
    [
        ("require_idle", 1),
        ("_rows", 3),
        ("_rows", 2 * len(TABLES)),
        ("require_idle", 3),
        ("_write_mark", 2),
    ],
)
def test_one_that_is_killed_keeps_both_from_being_used_and_ends_when_it_is_run_again(
    file: Path,
    place: str,
    sqlite: Database,
    server: ServerDatabase,
    secrets: Secrets,
    hooked: str,
    call: int,
) -> None:
    fill(sqlite, secrets)
    before = contents(sqlite)
    forth, back = (f"sqlite: {file}", f"postgresql: {place}"), (f"postgresql: {place}", f"sqlite: {file}")
    for source, target, ends in ((sqlite, server, forth), (server, sqlite, back)):
        killed(*ends, hooked, call)
        assert contents(source) == before
        with pytest.raises(Unavailable, match="is being moved to there"):
            require_here(_another(source, file, place))
        assert move(source, target, to="there") == (hooked != "_write_mark")
        assert contents(target) == before
        require_here(target)
        with pytest.raises(Unavailable, match="was moved to there"):
            require_here(_another(source, file, place))
        assert not move(source, target, to="there"), "it was done before"


def _another(like: SqlDatabase, file: Path, place: str) -> SqlDatabase:
    return Database(file) if isinstance(like, Database) else ServerDatabase(place)


def test_one_that_fails_leaves_the_source_as_it_was_and_the_target_empty(
    sqlite: Database, server: ServerDatabase, secrets: Secrets, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(sqlite, secrets)
    before = contents(sqlite)
    monkeypatch.setattr(moving, "_set_number", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        move(sqlite, server, to="there")
    assert contents(sqlite) == before and not contents(server)["build_jobs"]
    require_here(sqlite)


def test_a_row_that_arrives_as_another_is_noticed(
    sqlite: Database, server: ServerDatabase, secrets: Secrets
) -> None:
    fill(sqlite, secrets)
    with server.writing() as connection:
        connection.execute(
            "CREATE FUNCTION spoil() RETURNS trigger LANGUAGE plpgsql AS"
            " $$BEGIN IF NEW.id = 7 THEN NEW.client = 'other'; END IF; RETURN NEW; END$$"
        )
        connection.execute(
            "CREATE TRIGGER spoil BEFORE INSERT ON build_jobs FOR EACH ROW EXECUTE FUNCTION spoil()"
        )
    try:
        with pytest.raises(Unavailable, match="Of 250 rows of build_jobs others were read back"):
            move(sqlite, server, to="there")
    finally:
        with server.writing() as connection:
            connection.execute("DROP TRIGGER spoil ON build_jobs")
            connection.execute("DROP FUNCTION spoil")
    require_here(sqlite)


def test_what_cannot_be_moved_is_said(
    tmp_path: Path, sqlite: Database, server: ServerDatabase, secrets: Secrets
) -> None:
    with (
        closing(Database(tmp_path / "other.db")) as other,
        pytest.raises(Conflict, match="Between SQLite and"),
    ):
        move(sqlite, other, to="x")
    SqlJobQueue(sqlite).submit(a_submission(defaults="secret"))
    with pytest.raises(Conflict, match="1 requests have scripts"):
        move(sqlite, server, to="x")
    with sqlite.writing() as connection:
        connection.execute("DELETE FROM build_jobs")
        connection.execute("DELETE FROM build_requests")
    nodes = SqlNodes(sqlite)
    nodes.renew("here", "m", "l", NodeFacts("1", True, True, 1, 0))
    with pytest.raises(Conflict, match="here uses the database"):
        move(sqlite, server, to="x")
    nodes.leave("here", "l")
    SqlJobQueue(server, secrets).submit(a_submission())
    with pytest.raises(Conflict, match="another installation"):
        move(sqlite, server, to="x")
    require_here(sqlite)
    require_here(server)


def test_one_that_was_killed_can_be_given_up_and_one_that_has_ended_cannot(
    file: Path, place: str, sqlite: Database, server: ServerDatabase, secrets: Secrets
) -> None:
    fill(sqlite, secrets)
    killed(f"sqlite: {file}", f"postgresql: {place}", "_rows", 3)
    with pytest.raises(Conflict, match="is being moved to there, not to elsewhere"):
        move(sqlite, server, to="elsewhere")
    cancel(sqlite, server)
    require_here(sqlite)
    killed(f"sqlite: {file}", f"postgresql: {place}", "_write_mark", 2)
    for _ in range(2):
        with pytest.raises(Conflict, match="was moved to there already"):
            cancel(sqlite, server)
        assert not move(sqlite, server, to="there")


def test_the_command_moves_and_nothing_starts_on_the_file_any_more(
    tmp_path: Path, file: Path, place: str, sqlite: Database, secrets: Secrets
) -> None:
    fill(sqlite, secrets)
    forth = ["move", "--from", f"sqlite:///{file}", "--to", place]
    for sentence in ("The state is in postgresql://", "The state was already in postgresql://"):
        done = CliRunner().invoke(main, forth)
        assert done.exit_code == 0 and sentence in done.output, done.output
    settings = Settings(database_path=file, public_path=tmp_path / "public")
    with pytest.raises(Unavailable, match="was moved to postgresql://"):
        assemble(settings)
    given_up = CliRunner().invoke(main, [*forth, "--cancel"])
    assert given_up.exit_code != 0 and "move it back from there" in given_up.output
    for wrong in (["--from", "mysql://x", "--to", place], ["--from", f"sqlite:///{file}"], ["--from", "x"]):
        assert CliRunner().invoke(main, ["move", *wrong]).exit_code == 2
    missing = CliRunner().invoke(main, ["move", "--from", f"sqlite:///{tmp_path}/none.db", "--to", place])
    assert missing.exit_code != 0 and "There is no database" in missing.output
    assert not (tmp_path / "none.db").exists()
    done = CliRunner().invoke(main, ["move", "--from", place, "--to", f"sqlite:///{file}"])
    assert done.exit_code == 0 and "build_jobs: 250 rows, compared" in done.output, done.output
