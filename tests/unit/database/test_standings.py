"""Positions are exact, and counted in ranges of one index."""

from collections.abc import Iterator, Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from asu_builder.database.connection import Database
from asu_builder.database.operator import BUILDING, WAITING
from asu_builder.database.queue import COUNT_PENDING
from asu_builder.database.standings import (
    AHEAD,
    BETWEEN,
    NEWEST,
    NEWEST_ID,
    OUTDATED,
    count_ahead,
    find_standings,
)

_Job = tuple[bool, int, int, bool]
"""Deprioritized, priority, fair start, and whether it waits."""
_ORDER = "build_jobs USING COVERING INDEX build_jobs_order"
_EQUAL = ("deprioritized=?", "priority=?", "fair_start=?")
_COLUMNS = ("deprioritized", "priority", "fair_start", "id")
_BEFORE, _AFTER = "<><<", "><>>"
"""How what is before and after a place compares with it in each column."""


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    opened = Database(tmp_path_factory.mktemp("standings") / "a.db")
    yield opened
    opened.close()


def explain(database: Database, statement: str) -> list[tuple[object, ...]]:
    """What SQLite answers about it, with any values."""
    values: Sequence[object] | dict[str, object] = [1] * (8 if "?8" in statement else statement.count("?"))
    with database.reading() as connection:
        return connection.execute(
            f"EXPLAIN {statement}", values or {"hash": "", "hashes": "[]", "ids": "{}", "now": 1}
        ).fetchall()


def plan(database: Database, statement: str) -> list[str]:
    """What is read for it, step by step, without its subqueries' names."""
    steps = [str(step[3]) for step in explain(database, f"QUERY PLAN {statement}")]
    return [step for step in steps if "SUBQUERY" not in step]


def reads_columns(database: Database, statement: str) -> bool:
    """Whether it reads any row, of an index or of a table, instead of only counting entries."""
    return any(step[1] in ("Column", "Rowid", "FinishSeek") for step in explain(database, statement))


def searched(column: int, *signs: str) -> str:
    """How a plan names the range that fixes the columns before this one and has such ends in it."""
    bounds = [f"{_COLUMNS[column]}{sign}?" for sign in signs]
    return f"SEARCH {_ORDER} ({' AND '.join([*_EQUAL[:column], *bounds])})"


def test_the_position_of_one_job_is_four_ranges_of_the_index_alone(database: Database) -> None:
    mine, *ranges = plan(database, AHEAD)
    assert mine == "SEARCH mine USING INTEGER PRIMARY KEY (rowid=?)"
    assert ranges == [searched(column, sign) for column, sign in enumerate(_BEFORE)]


@pytest.mark.parametrize("column", range(4))
def test_what_lies_between_two_places_is_counted_in_ranges_of_the_index_alone(
    database: Database, column: int
) -> None:
    assert plan(database, BETWEEN[column]) == [
        "SCAN CONSTANT ROW",
        *(searched(behind, _AFTER[behind]) for behind in range(column + 1, 4)),
        searched(column, ">", "<"),
        *(searched(behind, _BEFORE[behind]) for behind in range(column + 1, 4)),
    ]
    assert not reads_columns(database, BETWEEN[column])


def test_what_answers_for_a_hash_is_searched_by_it(database: Database) -> None:
    by_hash = "SEARCH job USING INDEX build_jobs_hash (request_hash=?)"
    assert plan(database, NEWEST_ID) == [by_hash]
    assert plan(database, OUTDATED) == [
        "SCAN wanted VIRTUAL TABLE INDEX 1:",
        "SEARCH job USING INTEGER PRIMARY KEY (rowid=?) LEFT-JOIN",
        by_hash,
    ]
    assert plan(database, NEWEST)[:3] == [
        "SCAN wanted VIRTUAL TABLE INDEX 1:",
        "SEARCH job USING INTEGER PRIMARY KEY (rowid=?)",
        by_hash,
    ]


def test_counting_what_waits_and_what_is_built_reads_an_index_alone(database: Database) -> None:
    assert plan(database, COUNT_PENDING) == [f"SCAN {_ORDER}"]
    assert plan(database, BUILDING) == ["SCAN build_jobs USING INDEX build_jobs_lease"]
    for statement in (COUNT_PENDING, BUILDING):
        assert not reads_columns(database, statement)
    assert plan(database, WAITING) == [
        "MATERIALIZE counted",
        f"SCAN {_ORDER}",
        "SCAN counted",
        "SEARCH first USING INTEGER PRIMARY KEY (rowid=?)",
    ]


def write(database: Database, jobs: Sequence[_Job]) -> dict[str, tuple[int, _Job]]:
    """Makes these the only jobs; id and job of each hash."""
    written = {}
    with database.writing() as connection:
        connection.execute("DELETE FROM build_jobs")
        connection.execute("DELETE FROM build_requests")
        for number, job in enumerate(jobs):
            deprioritized, priority, fair_start, waits = job
            name = f"{number:064x}"
            connection.execute("INSERT INTO build_requests VALUES (?, '{}', 0, 0)", (name,))
            (job_id,) = connection.execute(
                "INSERT INTO build_jobs (request_hash, deprioritized, priority, fair_start, state,"
                " finished_at, expires_at, enqueued_at, last_accessed_at)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, 0, 0) RETURNING id",
                (name, deprioritized, priority, fair_start)
                + (("pending", None, None) if waits else ("cancelled", 1, 10)),
            ).fetchone()
            written[name] = (job_id, job)
    return written


_JOBS = st.lists(
    st.tuples(st.booleans(), st.integers(-1, 1), st.integers(0, 3), st.sampled_from([True, True, False])),
    max_size=60,
)


@given(_JOBS, st.sets(st.integers(0, 59)))
@example([(False, 0, 0, True)] * 3, {0, 1, 2})
@example([(True, -1, 3, True), (False, 1, 0, True), (True, 1, 0, True), (False, -1, 2, True)], {0, 1, 2, 3})
def test_positions_are_those_of_a_sorted_list(database: Database, jobs: list[_Job], chosen: set[int]) -> None:
    written = write(database, jobs)
    order = sorted(
        (deprioritized, -priority, fair_start, job_id)
        for job_id, (deprioritized, priority, fair_start, waits) in written.values()
        if waits
    )
    place = {job_id: number for number, (*_, job_id) in enumerate(order)}
    asked = [name for number, name in enumerate(written) if number in chosen]
    with database.reading() as connection:
        assert {job_id: count_ahead(connection, job_id) for job_id in place} == place
        found = find_standings(connection, asked, 5)
    assert {name: standing.ahead for name, standing in found.items()} == {
        name: place.get(written[name][0]) for name in asked
    }
