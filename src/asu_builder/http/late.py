"""Pages and streams, loaded when somebody first asks for them: most starts need neither."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from asu_builder.http.threads import Threads

if TYPE_CHECKING:
    from asu_builder.http.api.live import LiveStreams


class LateStreams:
    """Stands for `LiveStreams` in the route table; to be used on the event loop."""

    def __init__(self, load: Callable[[], "LiveStreams"]) -> None:
        """`load` makes them; it is called once."""
        self._load = load
        self._streams: LiveStreams | None = None

    async def events(self, request: Request) -> Any:
        """See `LiveStreams.events`."""
        return await self._loaded().events(request)

    async def log(self, request: Request) -> Any:
        """See `LiveStreams.log`."""
        return await self._loaded().log(request)

    async def socket(self, scope: Scope, receive: Receive, send: Send, request_id: bytes) -> tuple[str, int]:
        """See `sockets.answer_socket`."""
        from asu_builder.http.api.live import answer_socket

        return await answer_socket(self._loaded(), scope, receive, send, request_id)

    @property
    def watchers(self) -> int:
        """How many watch a build."""
        return 0 if self._streams is None else self._streams.watchers

    def stop(self) -> None:
        """Ends what is open."""
        if self._streams is not None:
            self._streams.stop()

    def _loaded(self) -> "LiveStreams":
        if self._streams is None:
            self._streams = self._load()
        return self._streams


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
