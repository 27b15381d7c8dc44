"""uvicorn's WebSocket protocol, as this service wants it; imports the `websockets` library."""

import logging
from typing import Any, cast

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.http11 import Request

from asu_builder.http.door import ABORT, CLIENT, Client, Door

_quiet = logging.getLogger("asu_builder.websocket")
_quiet.setLevel(logging.WARNING)
_INVALID_DATA = 1007


class _Departure(Client):
    """In the place of uvicorn's queue: of what it is told, only the end is of interest."""

    def put_nowait(self, message: Any) -> None:
        """The next message for the application."""
        if message["type"] == "websocket.disconnect" and not self.gone:
            self.leave()


class SocketProtocol(WebSocketsSansIOProtocol):
    """Keeps little for a connection that is open, because hundreds are, and most of them idle.

    Says in each scope how the connection is broken off, and whether its client is still there; what the
    client sends is not looked at. The door's rounds send the pings. No address is written into the log,
    because the hash in it is a key.
    """

    def __init__(self, **parts: Any) -> None:
        super().__init__(**parts)
        self.logger = self.conn.logger = _quiet
        self.door: Door | None = None
        """Told when the connection is gone."""
        self.ping_timeout = None  # uvicorn would begin a timer
        self._client = _Departure()
        self.queue = cast("Any", self._client)

    # Called by the event loop and by the door.

    def connection_lost(self, exc: Exception | None) -> None:
        """The event loop's word that the connection is gone."""
        if self.door is not None:
            self.door.leave(self)
        super().connection_lost(exc)

    def abort(self) -> None:
        """Breaks the connection off; what was not sent stays unsent."""
        self.transport.abort()

    def check_deadlines(self, now: float) -> None:
        """Pings a client that was silent for long, and ends the connection of one that does not answer."""
        if not self.handshake_complete or self.close_sent:
            return
        silent = now - self.ping_sent_at
        if self.pending_ping_payload is None:
            if silent >= cast("float", self.ping_interval):
                self.send_keepalive_ping()
        elif silent >= cast("float", self.config.ws_ping_timeout):
            self.keepalive_timeout()

    # Called by uvicorn.

    def handle_connect(self, event: Request) -> None:
        """The request to open one is here; the application begins after this has returned."""
        super().handle_connect(event)
        if not self.close_sent:
            scope = cast("dict[str, Any]", self.scope)
            scope[ABORT], scope[CLIENT] = self.transport.abort, self._client

    def schedule_ping(self) -> None:
        """The time to the next ping, or to the end of the wait for its pong, begins."""
        self.ping_sent_at = self.loop.time()

    def send_receive_event_to_app(self) -> None:
        """A whole message is here."""
        message, self.frames = b"".join(self.frames), []
        if self.curr_msg_data_type == "text" and not self.close_sent:
            try:
                message.decode()
            except UnicodeDecodeError:
                self.conn.send_close(_INVALID_DATA)
                self.handle_parser_exception()

    # ASGI.

    async def receive(self) -> Any:
        """The first message; the others are not kept, and the end is told by the scope's client."""
        return {"type": "websocket.connect"}

    async def send(self, message: Any) -> None:
        """ASGI's way out."""
        await super().send(message)
        if message["type"] == "websocket.accept":
            self.request.headers.clear()
            self.response.headers.clear()
        elif message["type"] == "websocket.http.response.body":
            # A refusal is whole with it; uvicorn would wait for more, and log an error.
            self.handshake_complete = True
