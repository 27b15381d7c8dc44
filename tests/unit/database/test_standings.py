"""Positions are exact, whoever has moved what, and none costs more in a longer queue."""

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from asu_builder.database import standings
from asu_builder.database.arrivals import COUNT_PENDING
from asu_builder.database.connection import Database
from asu_builder.database.operator import BUILDING, WAITING
from asu_builder.database.queue import SqlJobQueue
from asu_builder.database.standings import (
    AHEAD,
    KEPT_MOVES,
    MOVES,
    NEWEST,
    NEWEST_ID,
    OUTDATED,
    count_ahead,
)
from asu_builder.domain.errors import Unavailable
from asu_builder.domain.job import IdlePolicy
from factories import a_submission
from schemas import ask

DAY = timedelta(days=1)
_Job = tuple[bool, int, int, bool]
"""Deprioritized, priority, fair start, and whether it waits."""
_ORDER = "build_jobs USING COVERING INDEX build_jobs_order"
_COLUMNS = ("deprioritized", "priority", "fair_start", "id")
_BEFORE = "<><<"
"""How what is ahead compares in each of them."""


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    with closing(Database(tmp_path_factory.mktemp("standings") / "a.db")) as opened:
        yield opened


@pytest.fixture(scope="module")
def queue(database: Database) -> SqlJobQueue:
    return SqlJobQueue(database)


def explain(database: Database, statement: str) -> list[tuple[object, ...]]:
    """What SQLite answers about it, with any values."""
    values: Sequence[object] | dict[str, object] = ["[]"] * statement.count("?")
    named = {"hash": "", "hashes": "[]", "ids": "{}", "now": 1}
    with database.reading() as connection:
        return connection.execute(f"EXPLAIN {statement}", values or named).fetchall()


def plan(database: Database, statement: str) -> list[str]:
    """What is read for it, step by step, without its subqueries' names."""
    steps = [str(step[3]) for step in explain(database, f"QUERY PLAN {statement}")]
    return [step for step in steps if "SUBQUERY" not in step]


def reads_columns(database: Database, statement: str) -> bool:
    """Whether it reads any row, of an index or of a table, instead of only counting entries."""
    return any(step[1] in ("Column", "Rowid", "FinishSeek") for step in explain(database, statement))


def test_what_is_ahead_of_one_job_is_counted_in_four_ranges_of_the_index_alone(database: Database) -> None:
    mine, *ranges = plan(database, AHEAD)
    assert mine == "SEARCH mine USING INTEGER PRIMARY KEY (rowid=?)"
    equal = [f"{name}=?" for name in _COLUMNS]
    ends = [f"{name}{sign}?" for name, sign in zip(_COLUMNS, _BEFORE, strict=True)]
    assert ranges == [
        f"SEARCH {_ORDER} ({' AND '.join([*equal[:column], ends[column]])})" for column in range(4)
    ]


def test_what_answers_for_a_hash_is_searched_by_it(database: Database) -> None:
    by_hash = "SEARCH job USING INDEX build_jobs_hash (request_hash=?)"
    assert plan(database, NEWEST_ID) == [by_hash]
    assert plan(database, OUTDATED) == [
        "SCAN wanted VIRTUAL TABLE INDEX 1:",
        "SEARCH job USING INTEGER PRIMARY KEY (rowid=?) LEFT-JOIN",
        by_hash,
    ]
    assert plan(database, NEWEST) == [
        "SCAN wanted VIRTUAL TABLE INDEX 1:",
        "SEARCH job USING INTEGER PRIMARY KEY (rowid=?)",
        by_hash,
    ]


def test_what_has_moved_is_searched_by_its_number(database: Database) -> None:
    assert plan(database, MOVES) == [
        "SEARCH move USING INTEGER PRIMARY KEY (rowid>?)",
        "SEARCH job USING INTEGER PRIMARY KEY (rowid=?) LEFT-JOIN",
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
            connection.execute(
                "INSERT INTO build_requests (request_hash, request, first_requested_at) VALUES (?, '{}', 0)",
                (name,),
            )
            (job_id,) = connection.execute(
                "INSERT INTO build_jobs (request_hash, deprioritized, priority, fair_start, state,"
                " finished_at, expires_at, enqueued_at, last_accessed_at)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, 0, 0) RETURNING id",
                (name, deprioritized, priority, fair_start)
                + (("pending", None, None) if waits else ("cancelled", 1, 7_000_000_000_000_000)),
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
def test_positions_are_those_of_a_sorted_list(
    database: Database, queue: SqlJobQueue, jobs: list[_Job], chosen: set[int]
) -> None:
    written = write(database, jobs)
    order = sorted(
        (deprioritized, -priority, fair_start, job_id)
        for job_id, (deprioritized, priority, fair_start, waits) in written.values()
        if waits
    )
    place = {job_id: number for number, (*_, job_id) in enumerate(order)}
    asked = [name for number, name in enumerate(written) if number in chosen]
    found = queue.standings(asked)
    assert {name: standing.ahead for name, standing in found.items()} == {
        name: place.get(written[name][0]) for name in asked
    }
    assert queue.pending() == len(place)
    assert {job_id: queue.position(job_id) for job_id in place} == place
    with database.reading() as connection:
        assert {job_id: count_ahead(connection, job_id) for job_id in place} == place


def submit(queue: SqlJobQueue, numbers: range) -> list[str]:
    """Jobs that wait in this order; their hashes."""
    submissions = [a_submission(packages=(f"p{number}",)) for number in numbers]
    queue.submit_all(submissions)
    return [submission.request_hash for submission in submissions]


def ahead(queue: SqlJobQueue, names: Sequence[str]) -> list[int | None]:
    found = queue.standings(names)
    return [found[name].ahead for name in names]


@pytest.fixture
def sides(tmp_path: Path) -> Iterator[tuple[SqlJobQueue, SqlJobQueue]]:
    """A fresh queue as two processes have it."""
    with closing(Database(tmp_path / "a.db")) as one, closing(Database(tmp_path / "a.db")) as other:
        yield SqlJobQueue(one), SqlJobQueue(other)


@pytest.mark.parametrize("moves", [1, 499, 500, 501, KEPT_MOVES + 10])
def test_a_process_that_has_not_looked_for_any_number_of_moves_is_exact(
    sides: tuple[SqlJobQueue, SqlJobQueue], tmp_path: Path, moves: int
) -> None:
    queue, other = sides
    before = submit(queue, range(3))
    assert ahead(other, before) == [0, 1, 2]
    assert queue.cancel(other.standings(before)[before[0]].job_id, failure_ttl=DAY)
    names = before[1:] + submit(queue, range(3, 2 + moves))
    queue.expire_abandoned(IdlePolicy(DAY, DAY), failure_ttl=DAY)  # forgets old moves
    kept = (min(3 + moves, KEPT_MOVES), 3 + moves)
    assert ask(tmp_path / "a.db", "SELECT count(*), max(seq) FROM queue_moves") == [kept]
    assert ahead(other, names) == list(range(len(names)))
    assert other.pending() == len(names)


def test_after_a_look_that_fails_the_next_one_is_exact(
    sides: tuple[SqlJobQueue, SqlJobQueue], monkeypatch: pytest.MonkeyPatch
) -> None:
    queue, other = sides
    names = submit(queue, range(3))
    assert ahead(queue, names) == [0, 1, 2]
    assert other.cancel(queue.standings(names)[names[1]].job_id, failure_ttl=DAY)
    for statement, broken in (
        ("MOVES", "SELECT ? FROM nowhere LIMIT ?"),
        ("ALL_WAITING", "SELECT 1 FROM nowhere"),
    ):
        with monkeypatch.context() as patched:
            patched.setattr(standings, statement, broken)
            with pytest.raises(Unavailable, match="no such table"):
                queue.pending()
    names += submit(other, range(3, 5))
    del names[1]
    assert ahead(queue, names) == [0, 1, 2, 3]


def test_what_was_rolled_back_is_not_counted(sides: tuple[SqlJobQueue, SqlJobQueue]) -> None:
    queue, _ = sides
    names = submit(queue, range(2))
    with pytest.raises(ZeroDivisionError), queue._database.writing() as connection:
        connection.execute("UPDATE build_jobs SET deprioritized = 1 WHERE request_hash = ?", names[:1])
        assert ahead(queue, names) == [0, 1]
        raise ZeroDivisionError
    submit(queue, range(2, 3))
    assert ahead(queue, names) == [0, 1]


def test_a_position_costs_the_same_in_a_longer_queue(sides: tuple[SqlJobQueue, SqlJobQueue]) -> None:
    queue, _ = sides
    taken = []
    for numbers in (range(10), range(10, 1000)):
        names = submit(queue, numbers)
        assert ahead(queue, names[-1:]) == [numbers[-1]]
        steps = 0

        def count() -> None:
            nonlocal steps
            steps += 1

        with queue._database.reading() as connection:
            assert isinstance(connection, sqlite3.Connection)
            connection.set_progress_handler(count, 1)
        assert ahead(queue, names) == list(numbers)
        with queue._database.reading() as connection:
            assert isinstance(connection, sqlite3.Connection)
            connection.set_progress_handler(None, 1)
        taken.append(steps)
    assert taken[0] == taken[1] > 0


def test_looks_of_many_threads_are_each_of_one_moment(sides: tuple[SqlJobQueue, SqlJobQueue]) -> None:
    names = [a_submission(packages=(f"p{number}",)).request_hash for number in range(200)]
    done = threading.Event()

    def move(queue: SqlJobQueue, numbers: range) -> None:
        for number in numbers:
            submit(queue, range(number, number + 1))
            if number % 3 == 0:
                queue.claim("w/1", lease_for=DAY)
            elif number % 7 == 0:
                queue.cancel(queue.standings([names[number]])[names[number]].job_id, failure_ttl=DAY)

    def look(queue: SqlJobQueue) -> int:
        looks = 0
        while not done.is_set() or not looks:
            found = queue.standings(names)
            places = sorted(standing.ahead for standing in found.values() if standing.ahead is not None)
            assert places == list(range(len(places))), "somebody is missing, or told at two moments"
            looks += 1
        return looks

    with ThreadPoolExecutor(6) as threads:
        looking = [threads.submit(look, side) for side in (*sides, *sides)]
        moving = [threads.submit(move, side, range(part, 200, 2)) for part, side in enumerate(sides)]
        try:
            for mover in moving:
                mover.result()
        finally:
            done.set()
        assert all(looker.result() for looker in looking)
    waiting = sides[0].pending()
    assert waiting == sides[1].pending() > 0
    assert sides[0].standings(names) == sides[1].standings(names)
