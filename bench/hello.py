"""The two yardsticks: the same server with nothing behind it, raw and through bare Starlette."""

import sys

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

_BODY = b'{"hello":"world"}'
_HEADERS = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(_BODY))]


async def raw(scope: Scope, receive: Receive, send: Send) -> None:
    """The least an ASGI application can do."""
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
    await send({"type": "http.response.body", "body": _BODY})


def bare_starlette() -> ASGIApp:
    """One route, no middleware of ours."""
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

    async def hello(_: Request) -> Response:
        return Response(_BODY, media_type="application/json")

    return Starlette(routes=[Route("/", hello)])


def main(kind: str, port: int) -> None:
    """Serves with the options of the service, so that only the application differs."""
    uvicorn.run(
        raw if kind == "raw" else bare_starlette(),
        host="127.0.0.1",
        port=port,
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
    )


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
