"""Where Prometheus asks; what it is told is made by `metrics.py`, which only a scrape imports."""

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response

from asu_builder.core.metrics import Gauges
from asu_builder.http.late import LateStreams
from asu_builder.http.threads import Threads
from asu_builder.loading import LOADING

if TYPE_CHECKING:
    from asu_builder.http.api.metrics import Exposition

Requests = Counter[tuple[str, str, int]]
"""How often (method, route, status) was answered since the start."""


class Scrapes:
    """`/metrics`."""

    def __init__(
        self, gauges: Gauges, threads: Threads, requests: Requests, streams: LateStreams, *, version: str
    ) -> None:
        self._gauges = gauges
        self._threads = threads
        self._requests = requests
        self._streams = streams
        self._version = version
        self._exposition: Exposition | None = None

    async def metrics(self, _: Request) -> Response:
        """The numbers of this moment."""
        # Copied here, because the event loop counts on.
        body, content_type = await self._threads.run(
            self._render, dict(self._requests), self._streams.watchers
        )
        return Response(body, media_type=content_type)

    def _render(self, requests: Mapping[tuple[str, str, int], int], watchers: int) -> tuple[bytes, str]:
        with LOADING:
            from asu_builder.http.api.metrics import CONTENT_TYPE, Exposition

        if self._exposition is None:
            self._exposition = Exposition(self._gauges, version=self._version)
        return self._exposition.render(requests, watchers), CONTENT_TYPE
