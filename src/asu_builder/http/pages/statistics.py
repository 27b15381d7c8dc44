"""What the page of statistics shows: figures, charts, and each chart as a table and a file."""

from collections import Counter
from collections.abc import Callable, Sequence

from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from asu_builder.core.statistics import DAYS, PERIODS, Charts, StageReport, StatisticsReport
from asu_builder.domain.access import Caller
from asu_builder.domain.errors import Fault
from asu_builder.http.api.statistics import TABLES, Cell
from asu_builder.http.openapi import one_of
from asu_builder.http.pages import charts
from asu_builder.http.pages.charts import Row, Series
from asu_builder.http.pages.rendering import Rendering
from asu_builder.http.pages.words import as_beginning
from asu_builder.http.threads import Threads

_MOST_ROWS = 12
_FAULTS = {
    Fault.USER: "The request's",
    Fault.WORLD: "The world's",
    Fault.OURS: "The server's",
}
_NOTES = {
    "builds-per-day": "Builds by the day on which they ended.",
    "diff-packages": "Of the new builds of a day.",
    "versions": "New builds and kept results; shares of all requests.",
    "packages": "Shares of new builds.",
    "failures": "Shares of failed builds, by whose side it was on.",
    "durations": "Of builds that ended, whatever came of them.",
}
_STAGES = {
    "pending": "Waiting",
    "init": "Preparing",
    "container_setup": "Setting up the container",
    "validate_revision": "Checking the revision",
    "validate_manifest": "Resolving packages",
    "building_image": "Building the image",
    "building": "The whole build",
}


class Figure(Struct, frozen=True):
    """A chart. `svg` is HTML that is fit for the page as it is; everything else is text."""

    name: str
    title: str
    note: str
    """What the numbers are, where the title does not say it all."""
    svg: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    csv: str
    """The address of the file."""
    empty: bool
    """Whether nothing was counted; then `svg` is empty too."""


class StatisticsView(Struct, frozen=True):
    """The whole page: totals as (name, number), the periods to choose from, and the charts."""

    days: int
    periods: Sequence[int]
    totals: Sequence[tuple[str, str]]
    figures: Sequence[Figure]


class StatisticsPage:
    """Makes the page of statistics from what was counted."""

    def __init__(self, charts: Charts) -> None:
        self._charts = charts

    def view(self, days: int) -> StatisticsView:
        """The last `days` days, one of `PERIODS`. It reads the database: for a thread."""
        report = self._charts.report(days)
        return StatisticsView(
            days, PERIODS, _totals(report), [_figure(name, report, days) for name in TABLES]
        )


def _totals(report: StatisticsReport) -> list[tuple[str, str]]:
    ended = report.built + report.failed
    return [
        ("Requests", f"{report.requests:,}"),
        ("Built", f"{report.built:,}"),
        ("Answered from kept results", _percent(report.cache_hits, report.requests)),
        ("Failed builds", _percent(report.failed, ended)),
    ]


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "–"


def _figure(name: str, report: StatisticsReport, days: int) -> Figure:
    table = TABLES[name]
    rows = table.rows(report)
    counted = any(cell for row in rows for cell in row[1:])
    return Figure(
        name,
        table.title,
        _NOTES.get(name, ""),
        _DRAWN[name](report, f"{table.title}, {days} days") if counted else "",
        [column.replace("_", " ") for column in table.columns],
        rows,
        f"/api/v1/statistics/{name}.csv?days={days}",
        empty=not counted,
    )


def _days(report: StatisticsReport, label: str) -> str:
    return charts.stacked_bars(
        label,
        [day.day for day in report.days],
        (
            Series("Built", "built", [day.built for day in report.days]),
            Series("From kept results", "cached", [day.cache_hits for day in report.days]),
            Series("Failed", "failed", [day.failed for day in report.days]),
        ),
    )


def _versions(report: StatisticsReport, label: str) -> str:
    rows = [_row(row.version, row.requests, of=report.requests) for row in report.versions]
    return charts.horizontal_bars(label, _shortened(rows, "versions", of=report.requests))


def _packages(report: StatisticsReport, label: str) -> str:
    rows = [_row(row.name, row.count, of=report.diff_packages.total) for row in report.packages[:_MOST_ROWS]]
    return charts.horizontal_bars(label, rows)


def _failures(report: StatisticsReport, label: str) -> str:
    times = Counter(row.reason for row in report.failures)
    rows = [
        _row(
            as_beginning(row.reason) + (f" ({row.side})" if times[row.reason] > 1 else ""),
            row.count,
            of=report.failed,
            kind=row.fault,
        )
        for row in report.failures
    ]
    shown = _shortened(rows, "reasons", of=report.failed)
    return charts.horizontal_bars(label, shown, list(_FAULTS.items()))


def _row(name: str, count: int, *, of: int, kind: str = "requests") -> Row:
    text = f"{count:,}" if of < count else f"{count:,} · {_percent(count, of)}"
    return Row(name, count, text, f"{name}: {text}", kind)


def _shortened(rows: Sequence[Row], what: str, *, of: int) -> list[Row]:
    """The longest, and all others in one."""
    rest = rows[_MOST_ROWS:]
    others = [_row(f"{len(rest)} other {what}", int(sum(row.value for row in rest)), of=of, kind="others")]
    return [*rows[:_MOST_ROWS], *(others if rest else ())]


def _durations(report: StatisticsReport, label: str) -> str:
    legend = (("stage", "On average"), ("mark", "Nine of ten took at most"))
    return charts.horizontal_bars(label, [_stage(row) for row in report.durations], legend)


def _stage(row: StageReport) -> Row:
    name = _STAGES.get(row.stage, row.stage)
    return Row(
        name,
        row.mean,
        f"{_seconds(row.mean)} · 9 of 10: {_seconds(row.p90)}",
        f"{name}: {_seconds(row.mean)} on average, nine of ten at most {_seconds(row.p90)},"
        f" the longest {_seconds(row.longest)}, {row.count:,} builds",
        "others" if row.stage == "pending" else "stage",
        row.p90,
    )


def _seconds(seconds: float) -> str:
    """To two digits or so: nobody measures a build to the microsecond."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    if seconds < 3600:
        minutes, rest = divmod(round(seconds), 60)
        return f"{minutes} min {rest:02} s"
    return f"{seconds / 3600:.1f} h"


def _diff_packages(report: StatisticsReport, label: str) -> str:
    return charts.shares(
        label,
        "New builds that list every package they want",
        [day.day for day in report.days],
        [day.diff_packages.percent for day in report.days],
    )


_DRAWN: dict[str, Callable[[StatisticsReport, str], str]] = {
    "builds-per-day": _days,
    "versions": _versions,
    "failures": _failures,
    "durations": _durations,
    "packages": _packages,
    "diff-packages": _diff_packages,
}


class Statistics:
    """Charts of 7, 30 or 90 days."""

    def __init__(self, charts: Charts, *, threads: Threads, rendering: Rendering) -> None:
        self._page = StatisticsPage(charts)
        self._threads = threads
        self._rendering = rendering

    async def show(self, request: Request, caller: Caller) -> Response:
        """Raises `RequestRejected` for another number of days."""
        days = one_of(request, "days", PERIODS, otherwise=DAYS)
        view = await self._threads.run(self._page.view, days)
        return self._rendering.page("statistics.html", request, caller=caller, view=view)
