"""Lists and counts read indexes, not the table of what has ended."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from asu_builder.database.connection import Database
from asu_builder.database.operator import LIVE, WAITS, SqlOperations, list_statement
from asu_builder.domain.job import JobFilter, JobState


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database(tmp_path / "a.db")
    yield opened
    opened.close()


def plan(database: Database, statement: str, values: Sequence[Any] = ()) -> list[str]:
    with database.reading() as connection:
        rows = connection.execute(f"EXPLAIN QUERY PLAN {statement}", values).fetchall()
    return [row[3] for row in rows]


def test_counting_live_jobs_reads_their_own_index(database: Database) -> None:
    assert plan(database, LIVE)[0] == "SCAN job USING INDEX build_jobs_live"


def test_the_latest_waits_come_from_the_index_of_ends_without_sorting(database: Database) -> None:
    assert plan(database, WAITS, (50,)) == ["SCAN build_jobs USING INDEX build_jobs_finished"]


@pytest.mark.parametrize("state", [JobState.PENDING, JobState.BUILDING])
@pytest.mark.parametrize("before", [None, 7])
def test_a_list_of_live_jobs_reads_their_own_index(
    database: Database, state: JobState, before: int | None
) -> None:
    found = plan(database, *list_statement(JobFilter(state=state, before=before, since=3)))
    # Each of them holds live jobs only.
    indexes = ("live", "lease", "order", "caller")
    assert found[0] in {f"SCAN job USING INDEX build_jobs_{index}" for index in indexes}


@pytest.mark.parametrize(
    "wanted",
    [
        JobFilter(since=3, state=JobState.FAILED),
        JobFilter(since=3, version="24.10.5"),
        JobFilter(since=3, caller="192.0.2.1", before=9),
    ],
)
def test_a_list_of_jobs_looks_no_further_back_than_it_says(database: Database, wanted: JobFilter) -> None:
    found = plan(database, *list_statement(wanted))
    assert found[0].startswith("SEARCH job USING INTEGER PRIMARY KEY (rowid>?")
    assert not any("TEMP B-TREE" in step for step in found)


def test_a_pause_shows_at_once_in_its_process_and_within_a_second_in_others(database: Database) -> None:
    seconds = 0.0
    here, elsewhere = (SqlOperations(database, clock=lambda: seconds) for _ in range(2))
    assert not here.were_paused() and not elsewhere.were_paused()
    here.pause("alice")
    assert here.were_paused() and not elsewhere.were_paused()
    seconds += 1
    assert elsewhere.were_paused()
    here.resume()
    assert not here.were_paused() and elsewhere.were_paused()
    seconds += 1
    assert not elsewhere.were_paused()
