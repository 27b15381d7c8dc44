"""The page of statistics: totals, and each chart of a report with its table and its CSV file."""

from collections import Counter
from collections.abc import Mapping, Sequence

from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from asu_builder.core.statistics import DAYS, PERIODS, Charts, StatisticsReport
from asu_builder.domain.access import Caller
from asu_builder.http.api.statistics import TABLES, Cell
from asu_builder.http.cache import Rendered
from asu_builder.http.openapi import one_of
from asu_builder.http.pages.charts import Row, Series, horizontal_bars, shares, stacked_bars
from asu_builder.http.pages.rendering import Rendering
from asu_builder.http.pages.words import STAGES, as_beginning, span
from asu_builder.http.threads import Threads

_MOST_ROWS = 12
_FRESH_SECONDS = 10.0


class Figure(Struct, frozen=True):
    """A chart with its table; `svg` is safe HTML, and empty where nothing was counted."""

    name: str
    title: str
    note: str
    svg: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]


class StatisticsView(Struct, frozen=True):
    """The whole page: totals as (name, number), the periods to choose from, and the charts."""

    days: int
    periods: Sequence[int]
    totals: Sequence[tuple[str, str]]
    figures: Sequence[Figure]


class StatisticsPage:
    """Charts of 7, 30 or 90 days."""

    def __init__(self, charts: Charts, *, threads: Threads, rendering: Rendering) -> None:
        self._charts = charts
        self._threads = threads
        self._rendering = rendering

    async def show(self, request: Request, caller: Caller) -> Response:
        """Raises `RequestRejected` for another number of days."""
        days = one_of(request, "days", PERIODS, otherwise=DAYS)

        def render() -> Rendered:
            view = draw_statistics(self._charts, days)
            return self._rendering.for_anybody(
                "statistics.html", path="/statistics", seconds=_FRESH_SECONDS, view=view
            )

        if caller.token is None:
            return await self._rendering.shared(request, f"statistics {days}", render)
        view = await self._threads.run(draw_statistics, self._charts, days)
        return self._rendering.page("statistics.html", request, caller=caller, view=view)


def draw_statistics(charts: Charts, days: int) -> StatisticsView:
    """The last `days` days, one of `PERIODS`. It reads the database: call it in a thread."""
    report = charts.report(days)
    figures = []
    for name, table in TABLES.items():
        rows = table.rows(report)
        counted = any(cell for row in rows for cell in row[1:])
        svg = _draw(name, report, f"{table.title}, {days} days") if counted else ""
        columns = [column.replace("_", " ") for column in table.columns]
        figures.append(Figure(name, table.title, _NOTES[name], svg, columns, rows))
    totals = [
        ("Requests", f"{report.requests:,}"),
        ("Built", f"{report.built:,}"),
        ("Reused results", _percent(report.cache_hits, report.requests)),
        ("Failed builds", _percent(report.failed, report.built + report.failed)),
        ("Refused before a build", f"{report.refused:,}"),
    ]
    return StatisticsView(days, PERIODS, totals, figures)


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "–"


def _rows(counts: Sequence[tuple[str, int, str]], what: str, *, of: int) -> list[Row]:
    """Rows of (name, count, kind) with their shares of `of`: the longest, and all others in one."""
    shown, rest = [*counts[:_MOST_ROWS]], counts[_MOST_ROWS:]
    if rest:
        shown.append((f"{len(rest)} other {what}", sum(count for _, count, _ in rest), "others"))
    rows = []
    for name, count, kind in shown:
        text = f"{count:,}" if of < count else f"{count:,} · {_percent(count, of)}"
        rows.append(Row(name, count, text, f"{name}: {text}", kind))
    return rows


def _draw(name: str, report: StatisticsReport, label: str) -> str:
    """The chart of one of the `TABLES`."""
    days = [day.day for day in report.days]
    if name == "builds-per-day":
        series = (
            Series("Built", "built", [day.built for day in report.days]),
            Series("Reused results", "cached", [day.cache_hits for day in report.days]),
            Series("Failed", "failed", [day.failed for day in report.days]),
        )
        return stacked_bars(label, days, series)
    if name == "diff-packages":
        percents = [day.diff_packages.percent for day in report.days]
        return shares(label, "New builds that list every package they want", days, percents)
    if name == "versions":
        counts = [(row.version, row.requests, "requests") for row in report.versions]
        return horizontal_bars(label, _rows(counts, "versions", of=report.requests))
    if name == "packages":
        counts = [(row.name, row.count, "requests") for row in report.packages[:_MOST_ROWS]]
        return horizontal_bars(label, _rows(counts, "packages", of=report.diff_packages.total))
    if name == "failures":
        sides = Counter(row.reason for row in report.failures)
        counts = [
            (
                as_beginning(row.reason) + (f" ({row.side})" if sides[row.reason] > 1 else ""),
                row.count,
                row.fault,
            )
            for row in report.failures
        ]
        legend = (("user", "The request"), ("world", "The infrastructure"), ("ours", "The server"))
        return horizontal_bars(label, _rows(counts, "reasons", of=report.failed), legend)
    words = {**dict(STAGES), "building": "The whole build"}
    rows = []
    for row in report.durations:
        stage, mean, p90 = words.get(row.stage, row.stage), span(row.mean), span(row.p90)
        title = (
            f"{stage}: {mean} on average, nine of ten at most {p90},"
            f" the longest {span(row.longest)}, {row.count:,} builds"
        )
        kind = "others" if row.stage == "pending" else "stage"
        rows.append(Row(stage, row.mean, f"{mean} · 9 of 10: {p90}", title, kind, row.p90))
    return horizontal_bars(label, rows, (("stage", "On average"), ("mark", "Nine of ten took at most")))


_NOTES: Mapping[str, str] = {
    "builds-per-day": "Builds by the day on which they ended.",
    "diff-packages": "Of the new builds of a day.",
    "versions": "New builds and reused results; shares of all requests.",
    "packages": "Shares of new builds.",
    "failures": "Shares of failed builds, by whose side it was on.",
    "durations": "Of builds that ended, with any outcome.",
}
"""By the names in `TABLES`: what the numbers are where the title does not say it all."""
