"""The streams, loaded when somebody opens the first one: most starts need none of it."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.types import Receive, Scope, Send

if TYPE_CHECKING:
    from asu_builder.web.live_streams import LiveStreams


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
        from asu_builder.web.sockets import answer_socket

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
