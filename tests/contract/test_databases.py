"""Where the two databases differ without an error: each difference that statements must not show."""

import re
import sqlite3
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

from asu_builder.database import postgresql_schema, schema
from asu_builder.database.connection import Database
from asu_builder.database.dialect import SqlDatabase
from asu_builder.database.queue import SqlJobQueue
from asu_builder.database.statistics import SqlStatistics
from asu_builder.domain.errors import Unavailable
from asu_builder.domain.job import Retention
from database_clock import CLOCK
from factories import NOON, a_request, a_result, a_submission
from postgresql import empty_place, opened

DAY = timedelta(days=1)


def test_both_have_the_same_tables_columns_and_indexes(tmp_path: Path) -> None:
    Database(tmp_path / "queue.db").close()
    with closing(sqlite3.connect(tmp_path / "queue.db")) as connection:
        names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        tables = {name for (name,) in names if not name.startswith("sqlite_")}
        theirs = {
            (table, column, kind, bool(required))
            for table in tables
            for _, column, kind, required, *_ in connection.execute(f"PRAGMA table_info({table})")
        }
        indexes = {
            name
            for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'index'")
            if not name.startswith("sqlite_")
        }
    place = empty_place()
    with closing(opened(place)) as database, database.reading() as session:
        rows = session.execute(
            "SELECT table_name, column_name, data_type, is_nullable = 'NO', is_identity = 'YES'"
            " FROM information_schema.columns"
            " WHERE table_schema = current_schema() AND table_name <> 'schema_numbers'"
        ).fetchall()
        found = session.execute(
            "SELECT indexname FROM pg_indexes"
            " WHERE schemaname = current_schema() AND indexname NOT LIKE '%_pkey'"
        ).fetchall()
        wordy = session.execute(
            "SELECT table_name, column_name FROM information_schema.columns WHERE data_type = 'text'"
            " AND table_schema = current_schema() AND collation_name IS DISTINCT FROM 'C'"
        ).fetchall()
    kinds = {"bigint": "BIGINT", "integer": "INTEGER", "text": "TEXT", "boolean": "BOOLEAN", "bytea": "BLOB"}
    ours = {(table, column, kinds[kind], required) for table, column, kind, required, _ in rows}
    numbers = {(table, column) for table, column, *_, is_identity in rows if is_identity}
    assert {(table, column) for table, column, *_ in ours} == {
        (table, column) for table, column, *_ in theirs
    }
    # SQLite's own numbers of rows are INTEGER, whatever they hold, and are never NULL.
    same = {one for one in theirs if one[:2] not in numbers and one[1] != "job_id"}
    assert {one for one in ours if one[:2] not in numbers and one[1] != "job_id"} == same
    assert {name for (name,) in found} == indexes
    assert wordy == [], "text is compared by its bytes"


def test_both_are_at_the_same_schema() -> None:
    assert postgresql_schema.known_schema() == schema.known_schema()
    numbers = [path.name[:4] for path in postgresql_schema.MIGRATIONS.glob("*.sql")]
    assert sorted(numbers) == [f"{number:04}" for number in range(11, schema.known_schema() + 1)]
    for path in postgresql_schema.MIGRATIONS.glob("*.sql"):
        assert re.match(r"-- oldest program: schema \d+\n", path.read_text())


@pytest.mark.parametrize("name", ["min", "max"])
@pytest.mark.parametrize(("a", "b"), [(1, 2), (2, 1), (None, 1), (1, None), (None, None), (3, 3)])
def test_the_smaller_or_larger_of_two_is_nothing_where_either_is(
    database: SqlDatabase, name: str, a: int | None, b: int | None
) -> None:
    expected = None if a is None or b is None else {"min": min, "max": max}[name](a, b)
    with database.reading() as connection:
        assert connection.execute(f"SELECT {name}(?, ?)", (a, b)).fetchone()[0] == expected


def test_sums_and_means_are_plain_numbers(database: SqlDatabase) -> None:
    queue = SqlJobQueue(database)
    for number, seconds in enumerate((1, 2)):
        CLOCK.moment = NOON
        queue.submit(a_submission(packages=(f"p{number}",)))
        claimed = queue.claim("w/1", lease_for=DAY)
        assert claimed is not None
        CLOCK.moment = NOON + timedelta(seconds=seconds)
        queue.finish(claimed[1], a_result(), Retention(DAY))
    assert queue.typical_duration() == timedelta(seconds=1.5)
    with database.reading() as connection:
        row = connection.execute("SELECT sum(id), avg(id) FROM build_jobs").fetchone()
    assert row == (3, 1.5)
    assert [type(number) for number in row] == [int, float]


def test_a_truth_value_is_a_label_of_the_same_text(database: SqlDatabase) -> None:
    statistics = SqlStatistics(database, now=CLOCK)
    statistics.record("request", a_request(diff_packages=True))
    statistics.record("request", a_request(diff_packages=False))
    statistics.flush()
    for width in (DAY, timedelta(hours=1)):
        counted = statistics.tally(["request"], since=NOON - DAY / 2, width=width, by="diff_packages")
        assert sorted((tally.label, tally.count) for tally in counted) == [("0", 1), ("1", 1)]


def test_events_are_counted_by_version_and_target_together(database: SqlDatabase) -> None:
    statistics = SqlStatistics(database, now=CLOCK)
    for version, target in (("24.10.5", "x86/64"), ("24.10.5", "x86/64"), ("25.12.0", "ath79/generic")):
        statistics.record("request", a_request(version=version, target=target))
    statistics.record("cache_hit", a_request(version="24.10.5", target="x86/64"))
    statistics.flush()
    counted = statistics.tally(("request",), since=NOON - 7 * DAY, width=7 * DAY, by="version_and_target")
    assert {tally.label: tally.count for tally in counted} == {
        "24.10.5 x86/64": 2,
        "25.12.0 ath79/generic": 1,
    }


def test_text_is_compared_by_its_bytes(database: SqlDatabase) -> None:
    names = ("24.10.0", "24.10.0-rc1", "24.10.10", "24.10.2", "a", "B", "é", "Z")
    with database.writing() as connection:
        connection.executemany(
            "INSERT INTO upstream_documents (path, fetched_at) VALUES (?, 0)", [(name,) for name in names]
        )
        rows = connection.execute("SELECT path FROM upstream_documents ORDER BY path").fetchall()
        between = connection.execute(
            "SELECT count(*) FROM upstream_documents WHERE path >= ? AND path < ?", ("24.10.0", "24.10.0/")
        ).fetchone()
    assert [name for (name,) in rows] == sorted(names)
    assert between[0] == 2


def test_the_character_of_number_zero_does_no_harm(database: SqlDatabase) -> None:
    with database.writing() as connection:
        connection.execute("INSERT INTO audit_log (at, operator, action) VALUES (0, ?, 'x')", ("a\0b",))
        (operator,) = connection.execute("SELECT operator FROM audit_log").fetchone()
    assert operator in ("a\0b", "a\ufffdb")
    document = r'{"a": "\u0000", "b": "\\u0000", "c": "\\\u0000"}'
    with database.reading() as connection:
        values = [
            connection.execute(f"SELECT json_extract(?, '$.{name}')", (document,)).fetchone()[0]
            for name in "abc"
        ]
    assert values[1] == "\\u0000"
    assert values[2] in ("\\\0", "\\\ufffd", "\\")


def test_a_connection_for_reading_refuses_to_write(database: SqlDatabase) -> None:
    with pytest.raises(Unavailable), database.reading() as connection:
        connection.execute("DELETE FROM worker_pause")
