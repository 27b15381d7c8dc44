"""uvicorn's WebSocket protocol, as this service wants it; imports the `websockets` library."""

import logging
from collections.abc import Callable
from typing import Any, cast

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.http11 import Request

from asu_builder.http.door import ABORT

_quiet = logging.getLogger("asu_builder.websocket")
_quiet.setLevel(logging.WARNING)


class SocketProtocol(WebSocketsSansIOProtocol):
    """Writes no address into the log, because the hash in it is a key; says how it is broken off."""

    def __init__(self, **parts: Any) -> None:
        super().__init__(**parts)
        self.logger = self.conn.logger = _quiet
        self.on_lost: Callable[[], None] = lambda: None
        """Called once, when the connection is gone."""

    def connection_lost(self, exc: Exception | None) -> None:
        """The event loop's word that the connection is gone."""
        self.on_lost()
        super().connection_lost(exc)

    def handle_connect(self, event: Request) -> None:
        """uvicorn's hook for the request to open one; the application begins after it has returned."""
        super().handle_connect(event)
        if not self.close_sent:
            cast("dict[str, Any]", self.scope)[ABORT] = self.transport.abort

    async def send(self, message: Any) -> None:
        """ASGI's way out."""
        await super().send(message)
        if message["type"] == "websocket.http.response.body":
            # A refusal is whole with it; uvicorn would wait for more, and log an error.
            self.handshake_complete = True
