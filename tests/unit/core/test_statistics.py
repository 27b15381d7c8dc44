from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from asu_builder.core.statistics import Charts
from asu_builder.database.connection import Database
from asu_builder.database.statistics import SqlStatistics
from asu_builder.domain.job import EventKind
from factories import Clock, a_request

DAY = timedelta(days=1)
NOW = datetime(2026, 3, 10, 18, 30, tzinfo=UTC)


class Desk:
    """Charts over a real database, with events at chosen times."""

    def __init__(self, root: Path) -> None:
        self.database = Database(root / "a.db")
        self.clock = Clock(NOW)
        self.statistics = SqlStatistics(self.database, now=self.clock)
        self.charts = Charts(self.statistics, now=self.clock)

    def note(
        self, kind: EventKind, *, ago: timedelta = timedelta(0), reason: str = "", **changes: object
    ) -> None:
        self.clock.at = NOW - ago
        self.statistics.record(kind, a_request(**changes), client="owut/1", reason=reason)
        self.clock.at = NOW
        self.statistics.flush()


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    made.database.close()


def test_a_day_counts_new_requests_and_kept_answers_and_failures_apart(desk: Desk) -> None:
    desk.note("request")
    desk.note("cache_hit")
    desk.note("failed", reason="too_big", ago=DAY)
    desk.note("completed")
    desk.note("request", ago=40 * DAY)
    chart = desk.charts.builds_per_day()
    assert chart.labels[0] == "2026-02-09Z"
    assert chart.labels[-1] == "2026-03-10Z"
    lines = {line.label: line.data for line in chart.datasets}
    assert lines["Requests"][-2:] == (0, 2)
    assert sum(lines["Requests"]) == 2
    assert lines["Cache-Hits"][-1] == 1
    assert lines["Failures"][-2:] == (1, 0)
    assert desk.charts.builds_24h() == 2


def test_days_begin_at_midnight_utc(desk: Desk) -> None:
    desk.note("request", ago=timedelta(hours=18, minutes=29))
    desk.note("request", ago=timedelta(hours=18, minutes=31))
    assert desk.charts.builds_per_day().datasets[0].data[-2:] == (1, 1)


def test_versions_are_grouped_by_branch_unless_one_is_asked_for(desk: Desk) -> None:
    for version in ("24.10.4", "24.10.5", "24.10.5", "SNAPSHOT"):
        desk.note("request", version=version)
    desk.note("request", version="24.10.4", ago=8 * DAY)
    by_branch = desk.charts.builds_by_version()
    assert [(line.label, line.data[-2:]) for line in by_branch.datasets] == [
        ("24.10", (1, 3)),
        ("SNAPS", (0, 1)),
    ]
    by_version = desk.charts.builds_by_version("24.10")
    assert [(line.label, line.data[-1]) for line in by_version.datasets] == [("24.10.4", 1), ("24.10.5", 2)]
    assert len(by_version.labels) == 26


def test_packages_are_counted_by_new_builds_of_thirty_days(desk: Desk) -> None:
    asked: tuple[tuple[dict[str, Any], timedelta], ...] = (
        ({"packages": ("vim", "luci", "vim", "-ppp")}, timedelta(0)),
        ({"packages": ("vim",)}, DAY),
        ({"packages_versions": {"vim": "1", "tmux": "2"}, "version": "25.12.0"}, DAY),
        ({"packages": ("vim", "old")}, 31 * DAY),
    )
    for changes, ago in asked:
        desk.note("request", ago=ago, **changes)
    desk.note("cache_hit", packages=("kept",))
    assert desk.charts.top_packages() == [("vim", 3), ("luci", 1), ("tmux", 1)]
    assert desk.charts.top_packages(limit=1) == [("vim", 3)]
    assert desk.charts.top_packages("25.12") == [("tmux", 1), ("vim", 1)]
    assert desk.charts.top_packages("2") == [("vim", 3), ("luci", 1), ("tmux", 1)]


def test_failures_and_cache_hits_are_counted_by_target_and_profile(desk: Desk) -> None:
    desk.note("failed", reason="too_big")
    desk.note("failed", reason="too_big", profile="acme_tiny")
    desk.note("failed", reason="deadline", target="x86/64")
    desk.note("cache_hit", ago=31 * DAY)
    assert desk.charts.counts("failed", "target", 9) == [("pico/nine", 2), ("x86/64", 1)]
    assert desk.charts.counts("failed", "profile", 1) == [("acme_widget-5", 2)]
    assert desk.charts.counts("cache_hit", "target", 9) == []


def test_the_latest_failures_come_first_without_anything_private(desk: Desk) -> None:
    desk.note("failed", reason="too_big", ago=DAY)
    desk.note("failed", reason="deadline", defaults="wifi password")
    failures = desk.charts.failures(9)
    assert [(failure.reason, failure.at) for failure in failures] == [
        ("deadline", NOW),
        ("too_big", NOW - DAY),
    ]
    assert "password" not in repr(failures)
    assert len(desk.charts.failures(1)) == 1


def test_the_share_of_diff_packages_is_of_new_builds(desk: Desk) -> None:
    assert desk.charts.diff_packages().share == 0.0
    for wanted, version in ((True, "24.10.5"), (True, "25.12.0"), (False, "24.10.5")):
        desk.note("request", diff_packages=wanted, version=version)
    desk.note("cache_hit", diff_packages=True)
    desk.note("request", diff_packages=True, ago=DAY)
    share = desk.charts.diff_packages()
    assert (share.total, share.with_diff_packages, share.share) == (4, 3, 0.75)
    by_version = desk.charts.diff_packages_by_version()
    assert {version: found.share for version, found in by_version.items()} == {
        "24.10.5": 0.6667,
        "25.12.0": 1.0,
    }
    assert desk.charts.diff_packages_trend("day").datasets[0].data[-2:] == (100.0, 66.7)
    assert desk.charts.diff_packages_trend("week").datasets[0].data[-1] == 75.0


def test_charts_use_indexes(desk: Desk) -> None:
    with desk.database.reading() as connection:
        plan = connection.execute(
            "EXPLAIN QUERY PLAN SELECT count(*) FROM build_stats WHERE kind IN ('failed') AND at >= 1"
        ).fetchall()
    assert "build_stats_kind" in str(plan)
