"""The pages, loaded when somebody first looks at one.

Their templates cost some 50 ms, which neither the start nor a poll should pay for.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from asu_builder.web.threads import Threads

Endpoint = Callable[[Request], Awaitable[Response]]

ADDRESSES = (
    "GET /",
    "GET /queue",
    "POST /queue/acts",
    "GET /statistics",
    "GET /stats",
    "GET /configuration",
    "GET /docs",
    "GET /static/{digest}/{name}",
    "GET /build",
    "POST /build",
    "GET /build/{request_hash}",
    "POST /build/{request_hash}/again",
    "POST /build/{request_hash}/cancel",
    "POST /session",
    "POST /session/end",
)
"""Every address of a page with its method; a page that is read answers HEAD too."""


class LatePages:
    """Endpoints that are there at once and know what they do a moment later."""

    def __init__(self, load: Callable[[], Mapping[str, Endpoint]], threads: Threads) -> None:
        """`load` makes the endpoints of all `ADDRESSES`; it is called once, in a thread."""
        self._load = load
        self._threads = threads
        self._loading = asyncio.Lock()
        self._pages: Mapping[str, Endpoint] | None = None

    def routes(self) -> list[Route]:
        """One for each of `ADDRESSES`."""
        return [
            Route(address.partition(" ")[2], self._endpoint(address), methods=[address.partition(" ")[0]])
            for address in ADDRESSES
        ]

    def _endpoint(self, address: str) -> Endpoint:
        async def endpoint(request: Request) -> Response:
            pages = self._pages or await self._loaded()
            return await pages[address](request)

        return endpoint

    async def _loaded(self) -> Mapping[str, Endpoint]:
        async with self._loading:
            if self._pages is None:
                self._pages = await self._threads.run(self._load)
        return self._pages
