"""The statistics: their documents, their addresses, and the answers. Shapes: facts on clients, §1.3."""

import csv
import io
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date
from typing import Annotated, Any

import msgspec
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from asu_builder.core.statistics import DAYS, PERIODS, Chart, Charts, Interval, Named, Share, StatisticsReport
from asu_builder.core.submit import Builds
from asu_builder.domain.errors import BuildNotFound
from asu_builder.http.api.documents import Problem
from asu_builder.http.api.wire import Answer
from asu_builder.http.cache import Rendered, TtlCache
from asu_builder.http.errors import respond
from asu_builder.http.openapi import Operation, number, one_of, says
from asu_builder.http.threads import Threads
from asu_builder.ports import EventKind, TallyBy

_Days = Annotated[int, says("How many days were counted", 30)]
_NAMED = {"name": "luci", "count": 42}


class Summary(msgspec.Struct):
    """How many jobs wait, and how many builds were asked for in the last day."""

    queue_length: Annotated[int, says("Jobs that wait", 3, minimum=0)]
    builds_24h: Annotated[int, says("New builds of the last day", 250, minimum=0)]


class TopPackages(msgspec.Struct):
    """The packages most asked for, by how many different requests."""

    packages: Annotated[list[Named], says("Most wanted first", [_NAMED])]
    branch: Annotated[str | None, says("The prefix asked for", "24.10", None)]
    days: _Days


class Counts(msgspec.Struct):
    """How often something happened, the commonest names first."""

    counts: Annotated[list[Named], says("Commonest first", [_NAMED])]
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
        lambda report: [msgspec.structs.astuple(row) for row in report.versions],
    ),
    "packages": Table(
        "Most wanted packages",
        ("package", "builds"),
        lambda report: [msgspec.structs.astuple(row) for row in report.packages],
    ),
    "failures": Table(
        "Failures by reason",
        ("reason", "fault", "builds", "side"),
        lambda report: [msgspec.structs.astuple(row) for row in report.failures],
    ),
    "durations": Table(
        "Durations by stage",
        ("stage", "builds", "mean_seconds", "p90_seconds", "longest_seconds"),
        lambda report: [msgspec.structs.astuple(row) for row in report.durations],
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


_READ = ("GET", "HEAD")
_COUNTED = {200: ("The commonest of 30 days", Counts), 400: ("n is no number", Problem)}
_MANY = ("n",)
_BRANCH = ("branch",)

STATISTICS = (
    Operation(
        "/api/v1/stats/summary", _READ, "Jobs that wait, builds of the last day.", {200: ("Both", Summary)}
    ),
    Operation(
        "/api/v1/statistics",
        _READ,
        "What happened in the last days: builds by day and version, failures, durations, packages.",
        {200: ("The numbers", StatisticsReport), 400: ("days is none of the choices", Problem)},
        query=("days",),
    ),
    Operation(
        "/api/v1/statistics/{chart}.csv",
        _READ,
        "The numbers of one chart as CSV.",
        {
            200: ("A row of names, then the numbers", None),
            400: ("days is none of the choices", Problem),
            404: ("There is no such chart", Problem),
        },
        query=("days",),
        content_type="text/csv",
    ),
    Operation(
        "/api/v1/builds-per-day",
        _READ,
        "Requests, cache hits and failures of 30 days.",
        {200: ("The chart", Chart)},
    ),
    Operation(
        "/api/v1/builds-by-version",
        _READ,
        "Requests of 26 weeks, by branch or by the versions of one.",
        {200: ("The chart", Chart)},
        query=_BRANCH,
    ),
    Operation(
        "/api/v1/top-packages",
        _READ,
        "The packages most asked for in 30 days.",
        {200: ("The packages", TopPackages), 400: ("n is no number", Problem)},
        query=(*_BRANCH, *_MANY),
    ),
    Operation(
        "/api/v1/build-errors",
        _READ,
        "The latest failed builds, one a line.",
        {200: ("Time, version, target, profile and reason", None), 400: ("n is no number", Problem)},
        query=_MANY,
        content_type="text/plain",
    ),
    *(
        Operation(
            f"/api/v1/{what}-by-{by}",
            _READ,
            f"Which {by}s had most {words} in 30 days.",
            _COUNTED,
            query=_MANY,
        )
        for what, words in (
            ("failures", "failed builds"),
            ("cache-hits", "requests answered by a kept result"),
        )
        for by in ("target", "profile")
    ),
    Operation(
        "/api/v1/diff-packages-stats",
        _READ,
        "The share of new builds that asked for diff_packages in 30 days.",
        {200: ("The share", Share)},
    ),
    Operation(
        "/api/v1/diff-packages-by-version",
        _READ,
        "The share of diff_packages for each version.",
        {200: ("The shares", ShareByVersion)},
    ),
    Operation(
        "/api/v1/diff-packages-trend",
        _READ,
        "The share of diff_packages in percent over 30 days or 26 weeks.",
        {200: ("The chart", Chart)},
        query=("interval",),
    ),
)


_FRESH_SECONDS = 10.0
_BYTES = 1 << 20
_TOP_PACKAGES = (30, 100)
_ERRORS = (100, 500)
_NO_ERRORS = "No build errors recorded.\n"


class StatisticsPages:
    """Endpoints; each document is counted at most every few seconds, whoever asks."""

    def __init__(
        self, charts: Charts, builds: Builds, threads: Threads, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._charts = charts
        self._builds = builds
        self._threads = threads
        self._remembered = TtlCache(threads, budget=_BYTES, largest=_BYTES, clock=clock)

    async def summary(self, _: Request) -> Response:
        """Jobs that wait, and builds of the last day."""
        return await self._json("summary", lambda: Summary(self._builds.pending(), self._charts.builds_24h()))

    async def report(self, request: Request) -> Response:
        """Everything that the page of statistics shows, of 7, 30 or 90 days."""
        days = one_of(request, "days", PERIODS, otherwise=DAYS)
        return await self._json(f"report {days}", lambda: self._charts.report(days))

    async def chart_csv(self, request: Request) -> Response:
        """One chart's numbers. Raises `BuildNotFound` for an unknown one."""
        chart = request.path_params["chart"]
        table = TABLES.get(chart)
        if table is None:
            raise BuildNotFound(f"There is no such chart. There are {', '.join(TABLES)}.")
        days = one_of(request, "days", PERIODS, otherwise=DAYS)

        def render() -> Rendered:
            text = render_csv(table.columns, table.rows(self._charts.report(days)))
            return Rendered(text.encode(), _FRESH_SECONDS)

        body = await self._remembered.get(f"csv {chart} {days}", render)
        name = f'attachment; filename="{chart}-{days}-days.csv"'
        return Response(body, media_type="text/csv", headers={"content-disposition": name})

    async def builds_per_day(self, _: Request) -> Response:
        """Requests, cache hits and failures of 30 days."""
        return await self._json("builds per day", self._charts.builds_per_day)

    async def builds_by_version(self, request: Request) -> Response:
        """Requests of 26 weeks by version; `branch` is how the versions' names begin."""
        branch = request.query_params.get("branch", "")[:32]
        return await self._json(f"by version {branch}", lambda: self._charts.builds_by_version(branch))

    async def top_packages(self, request: Request) -> Response:
        """The packages most asked for; `branch` as above, at most `n` of them."""
        branch = request.query_params.get("branch", "")[:32]
        limit = number(request, "n", otherwise=_TOP_PACKAGES[0], highest=_TOP_PACKAGES[1])
        return await self._json(
            f"top packages {branch} {limit}",
            lambda: TopPackages(_named(self._charts.top_packages(branch, limit)), branch or None, DAYS),
        )

    async def build_errors(self, request: Request) -> Response:
        """The latest failed builds as text, one a line, newest first."""
        limit = number(request, "n", otherwise=_ERRORS[0], highest=_ERRORS[1])
        text = await self._threads.run(self._render_errors, limit)
        return PlainTextResponse(text)

    def counts(self, kind: EventKind, by: TallyBy) -> Callable[[Request], Any]:
        """An endpoint that counts a kind of event by a label; at most `n` of them."""

        async def endpoint(request: Request) -> Response:
            limit = number(request, "n", otherwise=_TOP_PACKAGES[0], highest=_TOP_PACKAGES[1])
            return await self._json(
                f"{kind} {by} {limit}", lambda: Counts(_named(self._charts.counts(kind, by, limit)), DAYS)
            )

        return endpoint

    async def diff_packages(self, _: Request) -> Response:
        """The share of new builds with diff_packages in 30 days."""
        return await self._json("diff", self._charts.diff_packages)

    async def diff_packages_by_version(self, _: Request) -> Response:
        """The same for each version."""
        return await self._json(
            "diff by version", lambda: ShareByVersion(self._charts.diff_packages_by_version(), DAYS)
        )

    async def diff_packages_trend(self, request: Request) -> Response:
        """The same in percent over 30 days, or with `interval=week` over 26 weeks."""
        interval: Interval = "week" if request.query_params.get("interval") == "week" else "day"
        return await self._json(f"trend {interval}", lambda: self._charts.diff_packages_trend(interval))

    async def _json(self, key: str, make: Callable[[], object]) -> Response:
        def render() -> Rendered:
            return Rendered(msgspec.json.encode(make()), _FRESH_SECONDS)

        return respond(Answer(200, await self._remembered.get(key, render)))

    def _render_errors(self, limit: int) -> str:
        lines = [
            f"{failure.at:%Y-%m-%d %H:%M:%S}Z {failure.version} {failure.target} {failure.profile}:"
            f" {failure.reason}\n"
            for failure in self._charts.failures(limit)
        ]
        return "".join(lines) or _NO_ERRORS


def _named(counts: Any) -> list[Named]:
    return [Named(name, count) for name, count in counts]
