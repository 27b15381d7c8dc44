"""The statistics as documents. Shapes: facts on clients, §1.3; those about diff_packages are ours."""

import time
from collections.abc import Callable
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from asu_builder.domain.errors import BuildNotFound
from asu_builder.ports import EventKind, TallyBy
from asu_builder.services.builds import Builds
from asu_builder.services.charts import DAYS, PERIODS, Chart, Charts, Interval
from asu_builder.services.shares import Share
from asu_builder.web.errors import respond
from asu_builder.web.queries import number, one_of
from asu_builder.web.remembered import Remembered, Rendered
from asu_builder.web.statistics_documents import (
    ChartDocument,
    Counts,
    DatasetDocument,
    Named,
    ShareByVersion,
    ShareDocument,
    Summary,
    TopPackages,
)
from asu_builder.web.threads import Threads
from asu_builder.web.wire import Answer

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
        self._remembered = Remembered(threads, budget=_BYTES, largest=_BYTES, clock=clock)

    async def summary(self, _: Request) -> Response:
        """Jobs that wait, and builds of the last day."""
        return await self._json("summary", lambda: Summary(self._builds.pending(), self._charts.builds_24h()))

    async def report(self, request: Request) -> Response:
        """Everything that the page of statistics shows, of 7, 30 or 90 days."""
        from asu_builder.web.statistics_files import render_report  # the start needs none of it

        days = one_of(request, "days", PERIODS, otherwise=DAYS)
        return await self._json(f"report {days}", lambda: render_report(self._charts.report(days)))

    async def chart_csv(self, request: Request) -> Response:
        """One chart's numbers. Raises `BuildNotFound` for an unknown one."""
        from asu_builder.web.statistics_files import TABLES, render_csv  # as above

        chart = request.path_params["chart"]
        if chart not in TABLES:
            raise BuildNotFound(f"There is no such chart. There are {', '.join(TABLES)}.")
        days = one_of(request, "days", PERIODS, otherwise=DAYS)

        def render() -> Rendered:
            text = render_csv(TABLES[chart](self._charts.report(days)))
            return Rendered(text.encode(), _FRESH_SECONDS)

        body = await self._remembered.get(f"csv {chart} {days}", render)
        name = f'attachment; filename="{chart}-{days}-days.csv"'
        return Response(body, media_type="text/csv", headers={"content-disposition": name})

    async def builds_per_day(self, _: Request) -> Response:
        """Requests, cache hits and failures of 30 days."""
        return await self._json("builds per day", lambda: _chart(self._charts.builds_per_day()))

    async def builds_by_version(self, request: Request) -> Response:
        """Requests of 26 weeks by version; `branch` is how the versions' names begin."""
        branch = request.query_params.get("branch", "")[:32]
        return await self._json(
            f"by version {branch}", lambda: _chart(self._charts.builds_by_version(branch))
        )

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
        return await self._json("diff", lambda: _share(self._charts.diff_packages()))

    async def diff_packages_by_version(self, _: Request) -> Response:
        """The same for each version."""
        return await self._json("diff by version", self._share_by_version)

    async def diff_packages_trend(self, request: Request) -> Response:
        """The same in percent over 30 days, or with `interval=week` over 26 weeks."""
        interval: Interval = "week" if request.query_params.get("interval") == "week" else "day"
        return await self._json(
            f"trend {interval}", lambda: _chart(self._charts.diff_packages_trend(interval))
        )

    async def _json(self, key: str, make: Callable[[], object]) -> Response:
        def render() -> Rendered:
            return Rendered(msgspec.json.encode(make()), _FRESH_SECONDS)

        return respond(Answer(200, await self._remembered.get(key, render)))

    def _share_by_version(self) -> ShareByVersion:
        shares = self._charts.diff_packages_by_version()
        return ShareByVersion({version: _share(share) for version, share in shares.items()}, DAYS)

    def _render_errors(self, limit: int) -> str:
        lines = [
            f"{failure.at:%Y-%m-%d %H:%M:%S}Z {failure.version} {failure.target} {failure.profile}:"
            f" {failure.reason}\n"
            for failure in self._charts.failures(limit)
        ]
        return "".join(lines) or _NO_ERRORS


def _chart(chart: Chart) -> ChartDocument:
    lines = [DatasetDocument(line.label, line.data, line.color or msgspec.UNSET) for line in chart.datasets]
    return ChartDocument(chart.labels, lines)


def _share(share: Share) -> ShareDocument:
    return ShareDocument(share.total, share.with_diff_packages, share.share)


def _named(counts: Any) -> list[Named]:
    return [Named(name, count) for name, count in counts]
