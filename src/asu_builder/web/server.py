"""How the application meets the network."""

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
        # Nothing of ours trusts an address, so nobody may claim one.
        proxy_headers=False,
        backlog=2048,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=10,
    )
