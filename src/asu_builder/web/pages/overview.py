"""The first page: how the service is, what it does, and where to go."""

from starlette.requests import Request
from starlette.responses import Response

from asu_builder.domain.access import Asker
from asu_builder.services.builds import Builds
from asu_builder.services.charts import Charts
from asu_builder.services.health import Health, HealthReport
from asu_builder.web.pages.rendering import Rendering
from asu_builder.web.threads import Threads


class Overview:
    """The first page."""

    def __init__(
        self, health: Health, builds: Builds, charts: Charts, *, threads: Threads, rendering: Rendering
    ) -> None:
        self._health = health
        self._builds = builds
        self._charts = charts
        self._threads = threads
        self._rendering = rendering

    async def show(self, request: Request, asker: Asker) -> Response:
        """Renders it from counts."""
        report = self._health.report()
        waiting = await self._threads.run(self._builds.pending)
        day = await self._threads.run(self._charts.builds_24h)
        return self._rendering.page(
            "overview.html",
            request,
            asker=asker,
            report=report,
            sentence=health_sentence(report),
            waiting=waiting,
            builds_24h=day,
        )


def health_sentence(report: HealthReport) -> str:
    """What an operator or asker should know first, in one sentence."""
    if report.status == "ok":
        return "Everything works: requests are answered and images are built."
    worse = [
        verdict.sentence
        for word in ("down", "degraded")
        for verdict in report.verdicts.values()
        if verdict.status == word
    ]
    return worse[0]
