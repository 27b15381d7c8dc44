"""The overview: health, queue, activity, versions and latest failures."""

from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import Response

from asu_builder.core.catalog import BranchOffer
from asu_builder.core.health import STATES, HealthReport
from asu_builder.core.operator import QueueSummary
from asu_builder.core.statistics import DAYS, DayReport
from asu_builder.domain.access import Caller, Right
from asu_builder.domain.errors import TooManyRequests, Unavailable
from asu_builder.domain.health import worst
from asu_builder.domain.job import RecordedFailure
from asu_builder.http.pages.charts import Series, stacked_bars
from asu_builder.http.pages.rendering import Rendering
from asu_builder.http.parts import PageParts
from asu_builder.http.threads import SHORT_SECONDS

_ERRORS = 8
_DAYS = 7


class Overview:
    """The first page."""

    def __init__(self, parts: PageParts, rendering: Rendering) -> None:
        self._parts = parts
        self._rendering = rendering

    async def show(self, request: Request, caller: Caller) -> Response:
        """Renders it from counts."""
        report = self._parts.health.report()
        if not caller.may(Right.READ):
            report = report.for_everybody()
        crowd, days, offers, failures = await self._parts.waiting.ask(
            caller, "overview", self._look, patience=SHORT_SECONDS
        )
        return self._rendering.page(
            "overview.html",
            request,
            caller=caller,
            report=report,
            sentence=health_sentence(report),
            part_states=STATES,
            crowd=crowd,
            days=days,
            chart=_chart(days),
            offers=offers,
            failures=failures,
        )

    def _look(self) -> tuple[QueueSummary, list[DayReport], list[BranchOffer], list[RecordedFailure]]:
        failures = list(self._parts.charts.failures(_ERRORS))
        return (
            self._parts.queue_overview.summary(),
            self._parts.charts.days(DAYS)[-_DAYS:],
            self._offers(),
            failures,
        )

    def _offers(self) -> list[BranchOffer]:
        """Empty while upstream has not answered or may not be asked: the page works without it."""
        try:
            return [offer for offer in self._parts.catalog.offers() if offer.versions]
        except (Unavailable, TooManyRequests):
            return []


def _chart(days: Sequence[DayReport]) -> str:
    """The chart as HTML; empty when there is nothing to draw."""
    if not any(day.requests for day in days):
        return ""
    return stacked_bars(
        "Requests of the last seven days",
        [day.day for day in days],
        (
            Series("New builds", "built", [day.requests - day.cache_hits for day in days]),
            Series("Reused results", "cached", [day.cache_hits for day in days]),
        ),
    )


def health_sentence(report: HealthReport) -> str:
    """The most important fact of a health report, in one sentence."""
    if report.state == "ok":
        return "Everything works: requests are answered and images are built."
    return worst(list(report.parts.values())).sentence
