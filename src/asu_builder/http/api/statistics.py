"""The statistics as documents and CSV files. Clients of the predecessor read most of them."""

import csv
import io
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date
from typing import Annotated, Any

import msgspec
from msgspec.structs import astuple
from starlette.requests import Request
from starlette.responses import Response

from asu_builder.core.statistics import DAYS, PERIODS, Chart, Charts, Interval, Named, Share, StatisticsReport
from asu_builder.core.submit import Builds
from asu_builder.domain.errors import BuildNotFound
from asu_builder.domain.job import EventKind, TallyBy
from asu_builder.http.api.wire import Problem
from asu_builder.http.cache import Rendered, TtlCache
from asu_builder.http.openapi import conditional_operation, number, one_of, says
from asu_builder.http.threads import Threads

_Days = Annotated[int, says("Number of days", 30)]
_NAMED = {"name": "luci", "count": 42}


class Summary(msgspec.Struct):
    """How many jobs wait, and how many builds were asked for in the last day."""

    queue_length: Annotated[int, says("Waiting jobs", 3, minimum=0)]
    builds_24h: Annotated[int, says("New builds of the last day", 250, minimum=0)]


class TopPackages(msgspec.Struct):
    """The packages most asked for, by how many different requests."""

    packages: Annotated[list[Named], says("Most requested first", [_NAMED])]
    branch: Annotated[str | None, says("The requested prefix", "24.10", None)]
    days: _Days


class Counts(msgspec.Struct):
    """How often something happened, the commonest names first."""

    counts: Annotated[list[Named], says("Most frequent first", [_NAMED])]
    days: _Days


class ShareByVersion(msgspec.Struct):
    """The share of diff_packages for each version."""

    versions: Annotated[Mapping[str, Share], says("Version to its share", {})]
    days: _Days


Cell = str | int | float | date
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""With one of these at its beginning a spreadsheet takes a cell for a formula."""


class Table(msgspec.Struct, frozen=True):
    """One chart of a report as a table, which stands under the chart and in a CSV file."""

    title: str
    columns: tuple[str, ...]
    rows: Callable[[StatisticsReport], Sequence[Sequence[Cell]]]


TABLES: Mapping[str, Table] = {
    "builds-per-day": Table(
        "Builds per day",
        ("day", "requests", "built", "cache_hits", "failed"),
        lambda report: [
            (row.day, row.requests, row.built, row.cache_hits, row.failed) for row in report.days
        ],
    ),
    "diff-packages": Table(
        "Share of diff_packages",
        ("day", "new_builds", "with_diff_packages", "percent"),
        lambda report: [
            (day, share.total, share.with_diff_packages, "" if share.percent is None else share.percent)
            for day, share in ((row.day, row.diff_packages) for row in report.days)
        ],
    ),
    "versions": Table(
        "Requests by version",
        ("version", "requests", "cache_hits"),
        lambda report: [astuple(row) for row in report.versions],
    ),
    "packages": Table(
        "Most wanted packages",
        ("package", "builds"),
        lambda report: [astuple(row) for row in report.packages],
    ),
    "failures": Table(
        "Failures by reason",
        ("reason", "fault", "builds", "side"),
        lambda report: [astuple(row) for row in report.failures],
    ),
    "durations": Table(
        "Durations by stage",
        ("stage", "builds", "mean_seconds", "p90_seconds", "longest_seconds"),
        lambda report: [astuple(row) for row in report.durations],
    ),
}
"""By the names of the charts in addresses."""


def render_csv(columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> str:
    """CSV (RFC 4180) with a row of names; no cell is a formula to a spreadsheet."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(columns)
    for row in rows:
        writer.writerow(
            f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else cell for cell in row
        )
    return text.getvalue()


_FRESH_SECONDS = 10.0
_LATEST_SECONDS = 1.0
_BYTES = 1 << 20
_A_CHART = {200: ("The chart", Chart)}
_FROM_CACHE = "requests answered by a stored result"
_NO_NUMBER = {400: ("n is no number", Problem)}
_NO_CHOICE = {400: ("days is none of the choices", Problem)}


def _counts(what: str, by: TallyBy, kind: EventKind, words: str) -> Callable[..., Any]:
    async def endpoint(self: "StatisticsEndpoints", request: Request) -> Response:
        limit = number(request, "n", otherwise=30, highest=100)
        return await self.cached(
            request, f"{kind} {by} {limit}", lambda: Counts(_named(self.charts.counts(kind, by, limit)), DAYS)
        )

    endpoint.__doc__ = f"Which {by}s had most {words} in 30 days."
    answers = {200: ("The commonest of 30 days", Counts), **_NO_NUMBER}
    return conditional_operation(f"/api/v1/{what}-by-{by}", answers=answers, query=("n",))(endpoint)


class StatisticsEndpoints:
    """Each document is counted at most once in some seconds."""

    def __init__(
        self, charts: Charts, builds: Builds, threads: Threads, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.charts = charts
        self._builds = builds
        self._cache = TtlCache(threads, budget=_BYTES, largest=_BYTES, clock=clock)

    @conditional_operation("/api/v1/stats/summary", answers={200: ("Both", Summary)})
    async def summary(self, request: Request) -> Response:
        """Jobs that wait, builds of the last day."""
        return await self.cached(
            request, "summary", lambda: Summary(self._builds.pending(), self.charts.builds_24h())
        )

    @conditional_operation(
        "/api/v1/statistics", answers={200: ("The numbers", StatisticsReport), **_NO_CHOICE}, query=("days",)
    )
    async def report(self, request: Request) -> Response:
        """What happened in the last days: builds by day and version, failures, durations, packages."""
        days = one_of(request, "days", PERIODS, otherwise=DAYS)
        return await self.cached(request, f"report {days}", lambda: self.charts.report(days))

    @conditional_operation(
        "/api/v1/statistics/{chart}.csv",
        answers={
            200: ("A row of names, then the numbers", None),
            **_NO_CHOICE,
            404: ("There is no such chart", Problem),
        },
        query=("days",),
        content_type="text/csv",
    )
    async def chart_csv(self, request: Request) -> Response:
        """The numbers of one chart as CSV."""
        chart = request.path_params["chart"]
        table = TABLES.get(chart)
        if table is None:
            raise BuildNotFound(f"There is no such chart. There are {', '.join(TABLES)}.")
        days = one_of(request, "days", PERIODS, otherwise=DAYS)

        def render() -> Rendered:
            text = render_csv(table.columns, table.rows(self.charts.report(days)))
            return Rendered(text.encode(), _FRESH_SECONDS, content_type=b"text/csv; charset=utf-8")

        name = f'attachment; filename="{chart}-{days}-days.csv"'
        return await self._cache.answer(
            request, f"csv {chart} {days}", render, ((b"content-disposition", name.encode()),)
        )

    @conditional_operation("/api/v1/builds-per-day", answers=_A_CHART)
    async def builds_per_day(self, request: Request) -> Response:
        """Requests, cache hits and failures of 30 days."""
        return await self.cached(request, "builds per day", self.charts.builds_per_day)

    @conditional_operation("/api/v1/builds-by-version", answers=_A_CHART, query=("branch",))
    async def builds_by_version(self, request: Request) -> Response:
        """Requests of 26 weeks, by branch or by the versions of one."""
        branch = request.query_params.get("branch", "")[:32]
        return await self.cached(
            request, f"by version {branch}", lambda: self.charts.builds_by_version(branch)
        )

    @conditional_operation(
        "/api/v1/top-packages",
        answers={200: ("The packages", TopPackages), **_NO_NUMBER},
        query=("branch", "n"),
    )
    async def top_packages(self, request: Request) -> Response:
        """The packages most asked for in 30 days."""
        branch = request.query_params.get("branch", "")[:32]
        limit = number(request, "n", otherwise=30, highest=100)
        return await self.cached(
            request,
            f"top packages {branch} {limit}",
            lambda: TopPackages(_named(self.charts.top_packages(branch, limit)), branch or None, DAYS),
        )

    @conditional_operation(
        "/api/v1/build-errors",
        answers={200: ("Time, version, target, profile and reason", None), **_NO_NUMBER},
        query=("n",),
        content_type="text/plain",
    )
    async def build_errors(self, request: Request) -> Response:
        """The latest failed builds, one a line."""
        limit = number(request, "n", otherwise=100, highest=500)

        def render() -> Rendered:
            lines = [
                f"{failure.at:%Y-%m-%d %H:%M:%S}Z {failure.version} {failure.target} {failure.profile}:"
                f" {failure.reason}\n"
                for failure in self.charts.failures(limit)
            ]
            text = "".join(lines) or "No build errors recorded.\n"
            return Rendered(text.encode(), _LATEST_SECONDS, content_type=b"text/plain; charset=utf-8")

        return await self._cache.answer(request, f"errors {limit}", render)

    failures_by_target = _counts("failures", "target", "failed", "failed builds")
    failures_by_profile = _counts("failures", "profile", "failed", "failed builds")
    cache_hits_by_target = _counts("cache-hits", "target", "cache_hit", _FROM_CACHE)
    cache_hits_by_profile = _counts("cache-hits", "profile", "cache_hit", _FROM_CACHE)

    @conditional_operation("/api/v1/diff-packages-stats", answers={200: ("The share", Share)})
    async def diff_packages(self, request: Request) -> Response:
        """The share of new builds that asked for diff_packages in 30 days."""
        return await self.cached(request, "diff", self.charts.diff_packages)

    @conditional_operation("/api/v1/diff-packages-by-version", answers={200: ("The shares", ShareByVersion)})
    async def diff_packages_by_version(self, request: Request) -> Response:
        """The share of diff_packages for each version."""
        return await self.cached(
            request, "diff by version", lambda: ShareByVersion(self.charts.diff_packages_by_version(), DAYS)
        )

    @conditional_operation("/api/v1/diff-packages-trend", answers=_A_CHART, query=("interval",))
    async def diff_packages_trend(self, request: Request) -> Response:
        """The share of diff_packages in percent over 30 days or 26 weeks."""
        interval: Interval = "week" if request.query_params.get("interval") == "week" else "day"
        return await self.cached(
            request, f"trend {interval}", lambda: self.charts.diff_packages_trend(interval)
        )

    async def cached(self, request: Request, key: str, make: Callable[[], object]) -> Response:
        """What `make` returns as JSON, made in a thread unless the last one is fresh."""

        def render() -> Rendered:
            return Rendered(msgspec.json.encode(make()), _FRESH_SECONDS)

        return await self._cache.answer(request, key, render)


def _named(counts: Iterable[tuple[str, int]]) -> list[Named]:
    return [Named(name, count) for name, count in counts]
