"""How the application meets the network, and systemd."""

import asyncio
import contextlib
import functools
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Generator, Mapping
from types import FrameType
from typing import TYPE_CHECKING, cast

import uvicorn

from asu_builder.http.door import Door
from asu_builder.http.protocol import HttpProtocol
from asu_builder.loading import Late

if TYPE_CHECKING:
    from starlette.types import ASGIApp

_FIRST_DESCRIPTOR = 3
_log = logging.getLogger(__name__)


def inherited_sockets(environment: Mapping[str, str] = os.environ) -> list[socket.socket]:
    """The listening socket that was passed to this process; none when there is none.

    systemd keeps it open over a restart, so that clients that connect meanwhile wait instead of being
    refused.
    """
    if environment.get("LISTEN_PID") != str(os.getpid()) or environment.get("LISTEN_FDS", "0") == "0":
        return []
    passed = socket.socket(fileno=_FIRST_DESCRIPTOR)
    passed.set_inheritable(False)
    _log.info("Serving on the socket that was passed, %s", passed.getsockname())
    return [passed]


class Supervisor:
    """Notifies systemd of our state; silent without `NOTIFY_SOCKET`."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._address = environment.get("NOTIFY_SOCKET", "")
        watched = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        microseconds = int(environment.get("WATCHDOG_USEC", "0")) if watched else 0
        self.seconds = max(1, microseconds // 3_000_000) if microseconds else 3600
        """How often it wants to hear: three times in the span after which it would restart us."""
        self._ready = False

    @property
    def listens(self) -> bool:
        """Whether anybody wants to be told."""
        return bool(self._address)

    async def alive(self) -> None:
        """The event loop turns; said first when the port answers."""
        self._notify("WATCHDOG=1" if self._ready else "READY=1\nWATCHDOG=1")
        self._ready = True

    def stopping(self) -> None:
        """Running builds end, then the process does."""
        self._notify("STOPPING=1")

    def _notify(self, text: str) -> None:
        if not self._address:
            return
        # An address that begins with @ is in the abstract namespace.
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
            out.sendto(text.encode(), address)


_LARGEST_MESSAGE = 4096
"""Bytes of what a WebSocket may send us; nothing that it says is looked at."""
_PING_SECONDS = 20.0
_LAST_REQUESTS_SECONDS = 0.2


def server_config(
    app: "ASGIApp",
    host: str,
    port: int,
    *,
    door: Door | None = None,
    supervisor: Supervisor | None = None,
) -> uvicorn.Config:
    """uvicorn's options: fast loop and parser, one process, nothing that costs without use.

    The port opens after the application has started, so every connected client is answered. When
    asked to stop, open requests get ten seconds. `door` says what a client may send.
    """
    return uvicorn.Config(
        app,
        host=host,
        port=port,
        loop="uvloop",
        # As with WebSockets below: uvicorn calls it with keywords and asks for no more.
        http=cast("type[asyncio.Protocol]", functools.partial(HttpProtocol, door=door or Door())),
        # A class would have to be loaded now, with the library for WebSockets.
        ws=cast("type[asyncio.Protocol]", lambda **parts: _socket_protocol()(**parts)),
        ws_max_size=_LARGEST_MESSAGE,
        ws_ping_interval=_PING_SECONDS,
        ws_ping_timeout=_PING_SECONDS,
        ws_per_message_deflate=False,
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        # Who came to a proxy is decided by http/callers.py alone.
        proxy_headers=False,
        backlog=2048,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=10,
        callback_notify=supervisor.alive if supervisor and supervisor.listens else None,
        timeout_notify=supervisor.seconds if supervisor else 3600,
    )


@Late
def _socket_protocol() -> type[asyncio.Protocol]:
    from asu_builder.http.socket_protocol import SocketProtocol

    return SocketProtocol


class DrainingServer(uvicorn.Server):
    """Answers on while running builds end: `drain` returns when they have, or may wait no longer.

    The first signal drains and then stops; a second one stops at once. `end_streams` ends the
    answers that would last.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        *,
        drain: Callable[[], None],
        end_streams: Callable[[], None],
        supervisor: Supervisor | None = None,
    ) -> None:
        super().__init__(config)
        self._drain = drain
        self._end_streams = end_streams
        self._draining = False
        self._supervisor = supervisor

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """uvicorn's hook; a terminal that is closed ends us no less gently than SIGTERM (unless `nohup`)."""
        hears = threading.current_thread() is threading.main_thread()
        if not hears or signal.getsignal(signal.SIGHUP) is not signal.SIG_DFL:
            with super().capture_signals():
                yield
            return
        signal.signal(signal.SIGHUP, self.handle_exit)
        try:
            with super().capture_signals():
                yield
        finally:
            signal.signal(signal.SIGHUP, signal.SIG_DFL)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """uvicorn's hook for SIGTERM, SIGINT and SIGHUP."""
        if self._draining:
            self.config.timeout_graceful_shutdown = 0
            self.should_exit = True
            return
        self._draining = True
        if self._supervisor is not None:
            self._supervisor.stopping()

        def drain_and_exit() -> None:
            try:
                self._drain()
            finally:
                self.should_exit = True

        threading.Thread(target=drain_and_exit, name="drain", daemon=True).start()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """uvicorn's hook for the end, which waits for every answer's.

        It closes idle connections at once, even one whose request is just arriving; so first it stops
        accepting, for a moment.
        """
        for server in self.servers:
            server.close()
        await asyncio.sleep(_LAST_REQUESTS_SECONDS)
        self._end_streams()
        await super().shutdown(sockets)
