"""The ASGI yardsticks: the service's server with nothing behind it, raw and through bare Starlette."""

import sys
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

_HELLO = b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 17\r\n\r\n{"hello":"world"}'


def raw(answer: bytes = _HELLO) -> ASGIApp:
    """The least an ASGI application can do: status, headers and body of this HTTP answer to every request."""
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.split(b"\r\n")
    status = int(first.split()[1])
    headers = [(name.lower(), value.strip()) for name, _, value in (line.partition(b":") for line in lines)]

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    return app


def bare_starlette() -> ASGIApp:
    """One route, no middleware of ours."""
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

    async def hello(_: Request) -> Response:
        return Response(b'{"hello":"world"}', media_type="application/json")

    return Starlette(routes=[Route("/", hello)])


def main(kind: str, port: int, file: str = "") -> None:
    """Serves with the options of the service, so that only the application differs.

    `kind` is `raw` or `starlette`; with a `file`, raw gives the HTTP answer in it.
    """
    app = bare_starlette() if kind == "starlette" else raw(Path(file).read_bytes()) if file else raw()
    uvicorn.run(
        app,
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
        backlog=2048,
        timeout_keep_alive=30,
    )


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), *sys.argv[3:])
