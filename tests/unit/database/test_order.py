"""Joining a job that waits looks things up in indexes, however many jobs there are."""

from pathlib import Path

from asu_builder.database.arrivals import TAKE_EARLIER_START
from asu_builder.database.connection import Database


def test_the_start_of_a_caller_who_joins_is_looked_up_in_indexes(tmp_path: Path) -> None:
    database = Database(tmp_path / "a.db")
    values = {"id": 1, "caller": "ann", "priority": 0}
    with database.reading() as connection:
        rows = connection.execute(f"EXPLAIN QUERY PLAN {TAKE_EARLIER_START}", values).fetchall()
    database.close()
    tables = ("build_jobs", "fair_queue")
    looked_at = [row[3] for row in rows if any(table in row[3] for table in tables)]
    assert sorted(looked_at) == [
        "SEARCH build_jobs USING INDEX build_jobs_caller (caller=? AND priority=?)",
        "SEARCH build_jobs USING INTEGER PRIMARY KEY (rowid=?)",
        "SEARCH fair_queue USING INTEGER PRIMARY KEY (rowid=?)",
    ]
