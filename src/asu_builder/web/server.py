"""How the application meets the network."""

import threading
from collections.abc import Callable
from types import FrameType

import uvicorn
from starlette.types import ASGIApp


def server_config(app: ASGIApp, host: str, port: int) -> uvicorn.Config:
    """uvicorn's options: fast loop and parser, one process, nothing that costs without use.

    The port opens after the application has started, so whoever is connected is answered. When
    asked to stop, open requests get ten seconds.
    """
    return uvicorn.Config(
        app,
        host=host,
        port=port,
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        # Who came to a proxy is decided by web/asker.py alone.
        proxy_headers=False,
        backlog=2048,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=10,
    )


class DrainingServer(uvicorn.Server):
    """Answers on while running builds end: `drain` returns when they have, or may wait no longer.

    The first signal drains and then stops; a second one stops at once.
    """

    def __init__(self, config: uvicorn.Config, *, drain: Callable[[], None]) -> None:
        super().__init__(config)
        self._drain = drain
        self._draining = False

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """uvicorn's hook for SIGTERM and SIGINT."""
        if self._draining:
            self.config.timeout_graceful_shutdown = 0
            self.should_exit = True
            return
        self._draining = True
        threading.Thread(target=self._drain_and_exit, name="drain", daemon=True).start()

    def _drain_and_exit(self) -> None:
        try:
            self._drain()
        finally:
            self.should_exit = True
