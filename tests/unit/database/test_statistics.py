"""Statistics in memory while the database takes none."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from asu_builder.database import statistics as module
from asu_builder.database.connection import Database
from asu_builder.database.statistics import SqlStatistics
from factories import Clock, a_request


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    made = Database(tmp_path / "a.db")
    yield made
    made.close()


def test_what_waits_in_memory_has_a_bound_and_it_is_said_what_is_missing(
    database: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "_MOST_WAITING", 100)
    monkeypatch.setattr(module, "_MOST_NAMES_WAITING", 100)
    statistics = SqlStatistics(database, now=Clock())
    for number in range(150):
        statistics.record("request", a_request(packages=tuple(f"p{number}-{name}" for name in range(10))))
        statistics.record_duration("all", Clock()() - Clock()())
    assert statistics.waiting() == 100
    with caplog.at_level(logging.WARNING):
        statistics.flush()
    # 50 events, 50 durations, and of 100 lists of ten names all but ten.
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("190 event(s) are missing in the statistics")
    with database.reading() as connection:
        assert connection.execute("SELECT count(*) FROM build_stats").fetchone() == (100,)
    caplog.clear()
    statistics.record("completed", a_request())
    statistics.flush()
    assert not caplog.records
