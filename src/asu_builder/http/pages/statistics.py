"""The page of statistics: totals, and each chart of a report with its table and its CSV file."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import date

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
from asu_builder.http.pages.words import STAGES, as_beginning, day, decimal, number, percent, span
from asu_builder.http.texts import current, gettext, marked, ngettext
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
    rows: Sequence[Sequence[str]]


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
            return await self._rendering.shared(request, f"statistics {days} {current().code}", render)
        view = await self._threads.run(draw_statistics, self._charts, days)
        return self._rendering.page("statistics.html", request, caller=caller, view=view)


def _other_versions(count: int) -> str:
    return ngettext("%(count)s other version", "%(count)s other versions", count, count=count)


def _other_reasons(count: int) -> str:
    return ngettext("%(count)s other reason", "%(count)s other reasons", count, count=count)


_COLUMNS: Mapping[str, str] = {
    "day": marked("day"),
    "requests": marked("requests"),
    "built": marked("built"),
    "cache_hits": marked("cache hits"),
    "failed": marked("failed"),
    "new_builds": marked("new builds"),
    "with_diff_packages": marked("with diff_packages"),
    "percent": marked("percent"),
    "version": marked("version"),
    "package": marked("package"),
    "builds": marked("builds"),
    "reason": marked("reason"),
    "fault": marked("fault"),
    "side": marked("side"),
    "stage": marked("stage"),
    "mean_seconds": marked("mean seconds"),
    "p90_seconds": marked("p90 seconds"),
    "longest_seconds": marked("longest seconds"),
}
"""The columns of `TABLES` by their names in CSV files."""


def _shown(cell: Cell) -> str:
    """A cell as people read it."""
    if isinstance(cell, date):
        return day(cell)
    if isinstance(cell, float):
        return decimal(cell, 1)
    return number(cell) if isinstance(cell, int) else cell


def draw_statistics(charts: Charts, days: int) -> StatisticsView:
    """The last `days` days, one of `PERIODS`. It reads the database: call it in a thread."""
    report = charts.report(days)
    figures = []
    for name, table in TABLES.items():
        rows = table.rows(report)
        counted = any(cell for row in rows for cell in row[1:])
        title = gettext(table.title)
        label = ngettext("%(title)s, %(days)s day", "%(title)s, %(days)s days", days, title=title, days=days)
        svg = _draw(name, report, label) if counted else ""
        columns = [gettext(_COLUMNS[column]) for column in table.columns]
        shown = [[_shown(cell) for cell in row] for row in rows]
        figures.append(Figure(name, title, gettext(_NOTES[name]), svg, columns, shown))
    totals = [
        (gettext("Requests"), number(report.requests)),
        (gettext("Built"), number(report.built)),
        (gettext("Reused results"), percent(report.cache_hits, report.requests)),
        (gettext("Failed builds"), percent(report.failed, report.built + report.failed)),
        (gettext("Refused before a build"), number(report.refused)),
    ]
    return StatisticsView(days, PERIODS, totals, figures)


def _rows(counts: Sequence[tuple[str, int, str]], others: Callable[[int], str], *, of: int) -> list[Row]:
    """Rows of (name, count, kind) with their shares of `of`: the longest, and all others in one.

    `others` names so many of them.
    """
    shown, rest = [*counts[:_MOST_ROWS]], counts[_MOST_ROWS:]
    if rest:
        shown.append((others(len(rest)), sum(count for _, count, _ in rest), "others"))
    rows = []
    for name, count, kind in shown:
        text = number(count) if of < count else f"{number(count)} · {percent(count, of)}"
        rows.append(Row(name, count, text, f"{name}: {text}", kind))
    return rows


def _draw(name: str, report: StatisticsReport, label: str) -> str:
    """The chart of one of the `TABLES`."""
    days = [day.day for day in report.days]
    if name == "builds-per-day":
        series = (
            Series(gettext("Built"), "built", [day.built for day in report.days]),
            Series(gettext("Reused results"), "cached", [day.cache_hits for day in report.days]),
            Series(gettext("Failed"), "failed", [day.failed for day in report.days]),
        )
        return stacked_bars(label, days, series)
    if name == "diff-packages":
        percents = [day.diff_packages.percent for day in report.days]
        return shares(label, gettext("New builds that list every package they want"), days, percents)
    if name == "versions":
        counts = [(row.version, row.requests, "requests") for row in report.versions]
        return horizontal_bars(label, _rows(counts, _other_versions, of=report.requests))
    if name == "packages":
        counts = [(row.name, row.count, "requests") for row in report.packages[:_MOST_ROWS]]
        return horizontal_bars(label, _rows(counts, str, of=report.diff_packages.total))
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
        legend = (
            ("user", gettext("The request")),
            ("world", gettext("The infrastructure")),
            ("ours", gettext("The server")),
        )
        return horizontal_bars(label, _rows(counts, _other_reasons, of=report.failed), legend)
    words = {**dict(STAGES), "building": marked("The whole build")}
    rows = []
    for row in report.durations:
        stage, mean, p90 = gettext(words.get(row.stage, row.stage)), span(row.mean), span(row.p90)
        title = ngettext(
            "%(stage)s: %(mean)s on average, 9 of 10 at most %(most)s, longest %(longest)s, %(count)s build",
            "%(stage)s: %(mean)s on average, 9 of 10 at most %(most)s, longest %(longest)s, %(count)s builds",
            row.count,
            stage=stage,
            mean=mean,
            most=p90,
            longest=span(row.longest),
            count=number(row.count),
        )
        kind = "others" if row.stage == "pending" else "stage"
        text = gettext("%(mean)s · 9 of 10: %(most)s", mean=mean, most=p90)
        rows.append(Row(stage, row.mean, text, title, kind, row.p90))
    return horizontal_bars(
        label, rows, (("stage", gettext("On average")), ("mark", gettext("Nine of ten took at most")))
    )


_NOTES: Mapping[str, str] = {
    "builds-per-day": marked("Builds by the day on which they ended."),
    "diff-packages": marked("Of the new builds of a day."),
    "versions": marked("New builds and reused results; shares of all requests."),
    "packages": marked("Shares of new builds."),
    "failures": marked("Shares of failed builds, by whose side it was on."),
    "durations": marked("Of builds that ended, with any outcome."),
}
"""By the names in `TABLES`: what the numbers are where the title does not say it all."""
