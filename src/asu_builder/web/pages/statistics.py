"""What was built in the last days, drawn."""

from starlette.requests import Request
from starlette.responses import Response

from asu_builder.domain.access import Asker
from asu_builder.services.charts import DAYS, PERIODS, Charts
from asu_builder.web.pages.rendering import Rendering
from asu_builder.web.queries import one_of
from asu_builder.web.statistics_page import StatisticsPage
from asu_builder.web.threads import Threads


class Statistics:
    """Charts of 7, 30 or 90 days."""

    def __init__(self, charts: Charts, *, threads: Threads, rendering: Rendering) -> None:
        self._page = StatisticsPage(charts)
        self._threads = threads
        self._rendering = rendering

    async def show(self, request: Request, asker: Asker) -> Response:
        """Raises `RequestRejected` for another number of days."""
        days = one_of(request, "days", PERIODS, otherwise=DAYS)
        view = await self._threads.run(self._page.view, days)
        return self._rendering.page("statistics.html", request, asker=asker, view=view)
