"""Statistics in memory and in the database: daily counts equal what counting the events gives."""

import contextlib
import logging
import os
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asu_builder.core.statistics import Charts, p90
from asu_builder.database import statistics
from asu_builder.database.connection import Database
from asu_builder.database.retention import SqlRetention
from asu_builder.database.schema import MIGRATIONS
from asu_builder.database.statistics import SqlStatistics
from asu_builder.domain.errors import Side, Unavailable
from asu_builder.domain.job import DURATION_CLASSES, EventKind, TallyBy
from factories import Clock, a_request
from postgresql import opened, unit_on_sqlite
from postgresql import unit_place as unit_place

DAY = timedelta(days=1)
MIDNIGHT = datetime(2026, 3, 1, tzinfo=UTC)
KINDS: tuple[EventKind, ...] = ("request", "cache_hit", "completed", "failed", "cancelled")
BYS: tuple[TallyBy, ...] = (
    "nothing", "version", "reason_and_side", "diff_packages", "version_with_diff_packages",
)  # fmt: skip


class Counted:
    """Statistics over a database, at times that the test chooses."""

    def __init__(self, place: str) -> None:
        self.clock = Clock(MIDNIGHT)
        self.database = opened(place, clock=self.clock)
        self.seconds = 0.0
        self.statistics = SqlStatistics(self.database, now=self.clock, clock=lambda: self.seconds)

    def ask(self, statement: str) -> list[tuple[object, ...]]:
        with self.database.reading() as connection:
            return [tuple(row) for row in connection.execute(statement)]

    def empty(self) -> None:
        with self.database.writing() as connection:
            for table in ("build_stats", "daily_events", "daily_durations", "daily_packages"):
                connection.execute(f"DELETE FROM {table}")


@pytest.fixture
def counted(unit_place: str) -> Iterator[Counted]:
    made = Counted(unit_place)
    yield made
    made.database.close()


events = st.lists(
    st.tuples(
        st.sampled_from(KINDS),
        st.integers(-3 * 86_400, 9 * 86_400),
        st.sampled_from(("24.10.5", "25.12.0", "SNAPSHOT")),
        st.sampled_from((("", None), ("too_big", Side.USER), ("deadline", None), ("deadline", Side.USER))),
        st.booleans(),
        st.booleans(),
    ),
    max_size=40,
)


@given(events, st.integers(1, 4), st.sets(st.sampled_from(KINDS), min_size=1))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_daily_counts_are_what_counting_the_events_gives(
    counted: Counted,
    happened: list[tuple[EventKind, int, str, tuple[str, Side | None], bool, bool]],
    width: int,
    kinds: set[EventKind],
) -> None:
    counted.empty()
    for kind, seconds, version, (reason, side), diff, flush in happened:
        counted.clock.at = MIDNIGHT + timedelta(seconds=seconds)
        request = a_request(version=version, diff_packages=diff)
        counted.statistics.record(kind, request, reason=reason, side=side)
        if flush:
            counted.statistics.flush_often()
    counted.statistics.flush()
    for by in BYS:
        expected: Counter[tuple[int, str]] = Counter()
        for kind, seconds, version, (reason, side), diff, _ in happened:
            chosen = {
                "nothing": "", "version": version, "reason_and_side": f"{reason} {side or ''}",
                "diff_packages": str(int(diff)),
                "version_with_diff_packages": version,
            }  # fmt: skip
            if kind in kinds and seconds >= 0 and (diff or by != "version_with_diff_packages"):
                expected[seconds // 86_400 // width, chosen[by]] += 1
        tallies = counted.statistics.tally(sorted(kinds), since=MIDNIGHT, width=width * DAY, by=by)
        assert {(tally.slot, tally.label): tally.count for tally in tallies} == expected


def test_a_batch_and_its_counts_are_written_together_or_not_at_all(counted: Counted) -> None:
    counted.statistics.record("request", a_request(packages=("vim",)))
    counted.statistics.record_duration("init", timedelta(seconds=1))
    with counted.database.writing() as connection:
        connection.execute("ALTER TABLE daily_packages RENAME TO gone")
    with pytest.raises(Unavailable):
        counted.statistics.flush()
    for table in ("build_stats", "daily_events", "daily_durations"):
        assert counted.ask(f"SELECT count(*) FROM {table}") == [(0,)]
    with counted.database.writing() as connection:
        connection.execute("ALTER TABLE gone RENAME TO daily_packages")
    assert counted.statistics.flush() == 1
    assert counted.ask("SELECT events FROM daily_events") == [(1,)]
    assert counted.ask("SELECT builds FROM daily_durations") == [(1,)]
    assert counted.statistics.top_packages(since=MIDNIGHT, branch="", limit=9) == [("vim", 1)]


def test_names_of_packages_are_gathered_for_a_minute_by_the_timer(counted: Counted) -> None:
    for seconds, written in ((1.0, 0), (59.0, 0), (61.0, 2)):
        counted.seconds = seconds
        counted.statistics.record("request", a_request(packages=("vim",)))
        assert counted.statistics.flush_often() == 1
        assert len(counted.ask("SELECT 1 FROM daily_packages")) == written
    assert counted.statistics.top_packages(since=MIDNIGHT, branch="24.10", limit=9) == [("vim", 3)]


@pytest.mark.process
def test_two_processes_count_into_the_same_days(counted: Counted, unit_place: str) -> None:
    other = (
        "import sys\nfrom pathlib import Path\nfrom datetime import UTC, datetime, timedelta\n"
        "sys.path[:0] = ['tests']\nfrom factories import a_request\n"
        "from postgresql import opened\n"
        "from asu_builder.database.statistics import SqlStatistics\n"
        "day = datetime(2026, 3, 1, tzinfo=UTC)\n"
        "statistics = SqlStatistics(opened(sys.argv[1]), now=lambda: day)\n"
        "for _ in range(50):\n"
        "    statistics.record('request', a_request(packages=('vim',)))\n"
        "    statistics.record_duration('init', timedelta(seconds=1))\n"
        "    statistics.flush()\n"
    )
    root = Path(__file__).resolve().parents[3]
    process = subprocess.Popen(
        [sys.executable, "-c", other, unit_place],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root / "src")},
    )
    for _ in range(50):
        counted.statistics.record("request", a_request(packages=("vim",)))
        counted.statistics.record_duration("init", timedelta(seconds=3))
        counted.statistics.flush()
    assert process.wait(timeout=60) == 0
    (tally,) = counted.statistics.tally(("request",), since=MIDNIGHT, width=DAY)
    assert tally.count == 100
    assert sum(found.count for found in counted.statistics.durations(since=MIDNIGHT)) == 100
    assert counted.statistics.top_packages(since=MIDNIGHT, branch="", limit=1) == [("vim", 100)]


def test_what_happened_before_the_upgrade_is_counted_by_it(tmp_path: Path) -> None:
    before = tmp_path / "scripts"
    before.mkdir()
    scripts = sorted(MIGRATIONS.glob("*.sql"))
    ours = next(number for number, script in enumerate(scripts) if "daily" in script.name)
    for script in scripts[:ours]:
        (before / script.name).write_text(script.read_text())
    Database(tmp_path / "a.db", migrations=before).close()
    micros = int(MIDNIGHT.timestamp()) * 1_000_000
    with contextlib.closing(sqlite3.connect(tmp_path / "a.db")) as connection, connection:
        connection.executemany(
            "INSERT INTO build_stats (at, kind, version, target, profile, diff_packages)"
            " VALUES (?, ?, ?, '', '', ?)",
            [
                (micros, "request", "24.10.5", 1),
                (micros + 5, "request", "24.10.5", 1),
                (micros - 1, "failed", "x", 0),
            ],
        )
        connection.executemany(
            "INSERT INTO build_requests (request_hash, request, first_asked_at) VALUES (?, ?, ?)",
            [
                ("a" * 64, '{"version":"24.10.5","packages":["vim","-ppp"],"packages_versions":{}}', micros),
                ("b" * 64, '{"version":"25.12.0","packages":[],"packages_versions":{"vim":"1"}}', micros),
            ],
        )
    database = Database(tmp_path / "a.db")
    statistics = SqlStatistics(database, now=lambda: MIDNIGHT)
    (tally,) = statistics.tally(("request",), since=MIDNIGHT, width=DAY, by="diff_packages")
    assert (tally.slot, tally.label, tally.count) == (0, "1", 2)
    assert len(statistics.tally(KINDS, since=MIDNIGHT - DAY, width=DAY)) == 2
    assert statistics.top_packages(since=MIDNIGHT, branch="", limit=9) == [("vim", 2)]
    assert statistics.top_packages(since=MIDNIGHT, branch="25", limit=9) == [("vim", 1)]
    database.close()


def test_old_days_go_and_past_days_keep_the_names_most_requested(counted: Counted) -> None:
    many = tuple(f"p{number}" for number in range(statistics.KEPT_NAMES + 5))
    for day in (0, 2, 3):
        counted.clock.at = MIDNIGHT + day * DAY
        counted.statistics.record("request", a_request(packages=many))
        counted.statistics.record("request", a_request(packages=many[-1:]))
        counted.statistics.record_duration("init", timedelta(seconds=1))
    counted.statistics.flush()
    retention = SqlRetention(counted.database)
    while retention.forget_statistics(older_than=counted.clock.at - (MIDNIGHT + DAY)):
        pass
    first = int(MIDNIGHT.timestamp()) // 86_400
    for table in ("daily_events", "daily_durations", "daily_packages"):
        days = counted.ask(f"SELECT DISTINCT day FROM {table} ORDER BY day")
        assert days == [(first + 2,), (first + 3,)], table
    lengths = counted.ask(
        "SELECT day, count(*) FROM daily_packages WHERE version = '' GROUP BY day ORDER BY day"
    )
    assert lengths == [(first + 2, statistics.KEPT_NAMES), (first + 3, len(many))]
    assert counted.statistics.top_packages(since=MIDNIGHT, branch="", limit=1) == [(many[-1], 4)]


@given(st.lists(st.integers(0, 8_000_000), min_size=1, max_size=60))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_durations_keep_sum_and_maximum_and_nearly_the_ninth_tenth(
    counted: Counted, millis: list[int]
) -> None:
    counted.empty()
    for span in millis:
        counted.statistics.record_duration("init", timedelta(milliseconds=span))
    counted.statistics.flush()
    found = counted.statistics.durations(since=MIDNIGHT)
    assert sum(tally.count for tally in found) == len(millis)
    assert sum((tally.total for tally in found), timedelta(0)) == timedelta(milliseconds=sum(millis))
    assert max(tally.longest for tally in found) == timedelta(milliseconds=max(millis))
    true = timedelta(milliseconds=sorted(millis)[-(-len(millis) * 9 // 10) - 1])
    ends = [timedelta(0), *DURATION_CLASSES]
    within = next(number for number, end in enumerate(ends) if true <= end) if true <= ends[-1] else -1
    assert ends[max(0, within - 1)] <= p90(found) <= max(ends[within], max(tally.longest for tally in found))
    # The last class has no end: it also holds what took longer.
    assert within in (-1, len(ends) - 1) or p90(found) <= ends[max(1, within)]


@unit_on_sqlite
def test_every_query_of_the_page_uses_an_index(counted: Counted) -> None:
    asked: list[tuple[str, object]] = []
    with counted.database.reading() as connection:
        assert isinstance(connection, sqlite3.Connection)
        connection.set_trace_callback(lambda statement: asked.append((statement, None)))
    Charts(counted.statistics, now=lambda: MIDNIGHT).report(90)
    counted.statistics.top_packages(since=MIDNIGHT, branch="24.10", limit=9)
    counted.statistics.failures(9)
    counted.statistics.tally(("failed",), since=MIDNIGHT, width=DAY, by="profile")
    counted.statistics.tally(("request",), since=MIDNIGHT + timedelta(hours=1), width=DAY)
    with counted.database.reading() as connection:
        assert isinstance(connection, sqlite3.Connection)
        connection.set_trace_callback(None)
        plans = [connection.execute(f"EXPLAIN QUERY PLAN {text}").fetchall() for text, _ in asked]
    assert len(plans) == 14
    for (text, _), plan in zip(asked, plans, strict=True):
        assert not [row[3] for row in plan if row[3].startswith("SCAN")], (text, plan)
        assert "USING PRIMARY KEY" in str(plan) or "INDEX build_stats_kind (" in str(plan), (text, plan)


def test_events_in_memory_are_bounded_and_a_warning_counts_the_dropped_ones(
    counted: Counted, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(statistics, "_MOST_WAITING", 100)
    monkeypatch.setattr(statistics, "_MOST_NAMES_WAITING", 100)
    for number in range(150):
        counted.statistics.record(
            "request", a_request(packages=tuple(f"p{number}-{name}" for name in range(10)))
        )
        counted.statistics.record_duration("all", Clock()() - Clock()())
    assert counted.statistics.waiting() == 100
    with caplog.at_level(logging.WARNING):
        counted.statistics.flush()
    # 50 events, 50 durations, and of 100 lists of ten names all but ten.
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("190 event(s) are missing in the statistics")
    assert counted.ask("SELECT count(*) FROM build_stats") == [(100,)]
    caplog.clear()
    counted.statistics.record("completed", a_request())
    counted.statistics.flush()
    assert not caplog.records
