"""What is done again and again costs the same however many results are kept, and what is counted is exact."""

import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from asu_builder.core.housekeeping import delete_with_files
from asu_builder.database.clock import move_times
from asu_builder.database.connection import Database
from asu_builder.database.queue import SqlJobQueue
from asu_builder.database.retention import SqlRetention
from asu_builder.domain.job import Lease, Retention
from factories import NOON, Clock, a_failure, a_result, a_submission, removes
from postgresql import opened, unit_on_sqlite
from postgresql import unit_place as unit_place
from schemas import RELEASED, ask, restore

MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


class Kept:
    """A database with results, as one process has it."""

    def __init__(self, place: str, clock: Clock) -> None:
        self.clock = clock
        self.database = opened(place, clock=clock)
        self.queue = SqlJobQueue(self.database)
        self.retention = SqlRetention(self.database)

    def claim(self, name: str) -> tuple[str, Lease]:
        """A job for this package that is being built; its hash."""
        submission = a_submission(packages=(name,))
        self.queue.submit(submission)
        claimed = self.queue.claim("w/1", lease_for=MINUTE)
        assert claimed is not None
        return submission.request_hash, claimed[1]

    def build(self, name: str, *, size: int = 0, ttl: timedelta = DAY) -> str:
        """A result for this package; its hash."""
        request_hash, lease = self.claim(name)
        self.queue.finish(lease, a_result(stored_bytes=size), Retention(ttl))
        return request_hash

    def fill(self, count: int) -> None:
        """So many results, as rows only."""
        at, until = (int(moment.timestamp() * 1_000_000) for moment in (NOON, NOON + DAY))
        rows = [(f"{number:064x}", at, until) for number in range(count)]
        with self.database.writing() as connection:
            connection.executemany(
                "INSERT INTO build_requests (request_hash, request, first_requested_at)"
                " VALUES (?1, '{}', ?2)",
                [row[:2] for row in rows],
            )
            connection.executemany(
                "INSERT INTO build_jobs (request_hash, state, enqueued_at, last_accessed_at, started_at,"
                " finished_at, expires_at) VALUES (?1, 'completed', ?2, ?2, ?2, ?2, ?3)",
                rows,
            )

    def unused(self, span: timedelta) -> list[str]:
        """Results that nobody has used for longer than this."""
        return [name for name, _ in self.retention.least_used(unused_for=span)]

    def steps(self, act: Callable[["Kept"], object]) -> int:
        """How many steps of its machine SQLite takes for the act."""
        taken = 0

        def note() -> int:
            nonlocal taken
            taken += 1
            return 0

        connections = []
        for use in (self.database.reading(), self.database.writing(), self.database.writing(durable=True)):
            with use as connection:
                connections.append(connection)
        for connection in connections:
            assert isinstance(connection, sqlite3.Connection)
            connection.set_progress_handler(note, 1)
        act(self)
        for connection in connections:
            assert isinstance(connection, sqlite3.Connection)
            connection.set_progress_handler(None, 1)
        return taken


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def kept(unit_place: str, clock: Clock) -> Iterator[Kept]:
    made = Kept(unit_place, clock)
    yield made
    made.database.close()


@pytest.fixture
def other(kept: Kept, unit_place: str, clock: Clock) -> Iterator[Kept]:
    """The same database as another process has it."""
    made = Kept(unit_place, clock)
    yield made
    made.database.close()


@pytest.mark.parametrize(
    "act",
    [
        lambda kept: kept.retention.expired(grace=MINUTE),
        lambda kept: kept.retention.stored_bytes(),
        lambda kept: kept.retention.has_results(),
        lambda kept: kept.queue.recover(failure_ttl=DAY),
    ],
    ids=["expired results", "stored bytes", "whether there are results", "the first look after a downtime"],
)
def test_it_costs_the_same_however_many_results_are_kept(
    tmp_path: Path, clock: Clock, act: Callable[[Kept], object]
) -> None:
    taken = []
    for count in (10, 1000):
        kept = Kept(str(tmp_path / f"{count}.db"), clock)
        kept.queue.recover(failure_ttl=DAY)
        kept.fill(count)
        clock.forward(HOUR)
        taken.append(kept.steps(act))
        kept.database.close()
    assert taken[0] == taken[1] > 0


@unit_on_sqlite
def test_time_that_nobody_saw_moves_the_last_use_of_every_result_for_every_process(
    kept: Kept, other: Kept, clock: Clock
) -> None:
    first = kept.build("a")
    kept.queue.recover(failure_ttl=DAY)
    clock.forward(3 * HOUR)
    other.queue.recover(failure_ttl=DAY)
    kept.queue.recover(failure_ttl=DAY)
    second = other.build("b")
    for each in (kept, other):
        assert each.unused(timedelta(0)) == [], "both were used just now"
    clock.forward(MINUTE)
    kept.queue.touch([first])
    for each in (kept, other):
        assert each.unused(timedelta(0)) == [second]
    clock.at -= 9 * HOUR
    other.queue.recover(failure_ttl=DAY)
    for each in (kept, other):
        assert each.unused(timedelta(0)) == []
    clock.forward(2 * MINUTE)
    assert kept.unused(timedelta(0)) == other.unused(timedelta(0)) == [second, first]
    assert kept.unused(MINUTE) == [second]


def test_a_result_expires_when_it_was_said_to_whatever_time_nobody_saw(kept: Kept, clock: Clock) -> None:
    name = kept.build("a", ttl=DAY)
    kept.queue.recover(failure_ttl=DAY)
    clock.forward(DAY - MINUTE)
    kept.queue.recover(failure_ttl=DAY)
    kept.queue.touch([name])
    clock.forward(DAY - MINUTE)
    assert kept.retention.expired() == []
    clock.forward(MINUTE)
    assert kept.retention.expired() == [name]


@unit_on_sqlite
def test_a_transaction_that_fails_has_moved_nothing(kept: Kept, clock: Clock) -> None:
    kept.build("a")
    kept.queue.recover(failure_ttl=DAY)
    clock.forward(3 * HOUR)
    with pytest.raises(ZeroDivisionError), kept.database.timed(durable=True) as (connection, at):
        assert isinstance(connection, sqlite3.Connection)
        move_times(connection, at, polled=True)
        raise ZeroDivisionError
    assert kept.unused(2 * HOUR) != [], "nobody has looked yet"
    kept.queue.recover(failure_ttl=DAY)
    assert kept.unused(timedelta(0)) == []


@unit_on_sqlite
@pytest.mark.process
def test_a_process_that_is_killed_while_it_moves_times_has_moved_none(
    kept: Kept, unit_place: str, clock: Clock
) -> None:
    kept.build("a")
    kept.queue.recover(failure_ttl=DAY)
    clock.forward(3 * HOUR)
    program = (
        "import os, sys\nfrom datetime import datetime\nfrom pathlib import Path\n"
        "from asu_builder.database.clock import move_times\n"
        "from asu_builder.database.connection import Database\n"
        "database = Database(Path(sys.argv[1]), clock=lambda: datetime.fromisoformat(sys.argv[2]))\n"
        "with database.timed(durable=True) as (connection, at):\n"
        "    move_times(connection, at, polled=True)\n"
        "    print(connection.execute('SELECT unseen FROM queue_clock').fetchone()[0], flush=True)\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, unit_place, clock.at.isoformat()],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert (ended.returncode, int(ended.stdout)) == (-9, 3 * HOUR // timedelta(microseconds=1))
    kept.queue.recover(failure_ttl=DAY)
    assert kept.unused(timedelta(0)) == []
    clock.forward(MINUTE)
    assert len(kept.unused(timedelta(0))) == 1
    assert kept.unused(MINUTE) == []


def test_what_is_stored_is_counted_by_every_process_and_once_for_each_hash(kept: Kept, other: Kept) -> None:
    kept.build("a", size=700, ttl=MINUTE)
    other.build("b", size=50)
    _, lease = kept.claim("c")
    other.queue.finish(lease, a_failure(), Retention(DAY))
    assert kept.retention.stored_bytes() == other.retention.stored_bytes() == 750
    kept.clock.forward(HOUR)
    name = other.build("a", size=20)
    assert kept.retention.stored_bytes() == 70, "its images are replaced"
    (job,) = kept.retention.doomed(name).ids
    kept.retention.delete(kept.retention.doomed(name))
    assert kept.retention.stored_bytes() == 70, f"job {job} had no images of its own any more"
    assert delete_with_files(other.retention, name, remove=removes(), unexpired=True)
    assert kept.retention.stored_bytes() == 50
    with kept.database.writing() as connection:  # as an operator might by hand
        connection.execute("DELETE FROM build_jobs")
    assert kept.retention.stored_bytes() == 0


def test_a_result_that_could_not_be_written_is_not_counted(
    kept: Kept, other: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, lease = kept.claim("a")
    monkeypatch.setattr("asu_builder.database.queue._WRITE_OUTCOME", "INSERT INTO nowhere VALUES (?, ?, ?)")
    with pytest.raises(Exception, match="nowhere"):
        kept.queue.finish(lease, a_result(stored_bytes=9), Retention(DAY))
    assert kept.retention.stored_bytes() == other.retention.stored_bytes() == 0


@pytest.mark.parametrize("number", sorted(RELEASED))
def test_what_a_released_database_has_stored_is_summed_up_by_the_upgrade(number: int, tmp_path: Path) -> None:
    path = restore(number, tmp_path / "a.db")
    database = Database(path)
    stored = SqlRetention(database).stored_bytes()
    database.close()
    newest = "SELECT max(id), stored_bytes FROM build_jobs WHERE state = 'completed' GROUP BY request_hash"
    sizes = [row[1] for row in ask(path, newest)]
    assert sizes and stored == sum(size for size in sizes if isinstance(size, int))
