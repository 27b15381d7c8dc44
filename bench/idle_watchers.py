"""Watchers to whom nothing is told: the memory that each adds to the service, and what hundreds cost.

`python -m bench.idle_watchers PORT` serves the yardstick: uvicorn, and an application that says one thing.
"""

import contextlib
import itertools
import json
import selectors
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Self

import uvicorn
from starlette.types import Receive, Scope, Send

from bench import load
from bench.figures import Figure, Yardstick, alternate
from bench.process import Server, cpu_seconds, free_port, resident_bytes, serving, settle
from bench.sample import download_server, request_body
from bench.scenarios import seeded, service

WATCHERS = 500
_KB_EACH = 20
_BEHIND_ONE_ADDRESS = 50
_REST_SECONDS = 2.0
_IDLE_SECONDS = 45.0
"""Longer than a connection lives that answers no ping."""
_FORMS = {
    "WebSocket": (
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    ),
    "server-sent events": "Accept: text/event-stream\r\n",
}
_FIRST_WORD = b'"type":"state"'
_PING, _PONG = b"\x89\x04", b"\x8a\x84\0\0\0\0"
"""Of four bytes, which a mask of zeros leaves as they are."""


def idling(*, rounds: int, cpu: bool = True) -> Iterator[Figure]:
    """Each measurement in a fresh process, because memory that was used once is not given back.

    That of `cpu` takes five minutes a round.
    """
    with seeded() as folder, download_server() as upstream:
        with service(folder, workers=0, upstream=upstream) as server:
            hashes = _waiting_builds(server)
        paths = [f"/api/v1/build/{each}/events" for each in hashes]

        def ours(measure: "_Measure", form: str, paths: Sequence[str]) -> Callable[[], float]:
            def measured() -> float:
                with service(folder, workers=0, upstream=upstream) as server:
                    return measure(server, form, paths)

            return measured

        for form in _FORMS:
            memory = alternate(
                rounds,
                {
                    "bare uvicorn": partial(_beside, _memory_of_each, form),
                    "one build": ours(_memory_of_each, form, paths[:1]),
                    f"{WATCHERS} builds": ours(_memory_of_each, form, paths),
                },
            )
            for what, values in memory.items():
                budget = None if what == "bare uvicorn" else _KB_EACH
                yield Figure(f"memory of an idle {form}, {what}", "KB", values, budget)
        for form in _FORMS if cpu else ():
            spent = alternate(
                rounds,
                {
                    "bare": partial(_beside, _cpu, form),
                    "none": ours(_cpu, form, []),
                    "one build": ours(_cpu, form, paths[:1]),
                    f"{WATCHERS} builds": ours(_cpu, form, paths),
                },
            )
            bare = Yardstick("bare uvicorn", spent.pop("bare"))
            yield Figure("CPU in a second without watchers", "ms", spent.pop("none"))
            for what, values in spent.items():
                yield Figure(f"CPU in a second, {WATCHERS} idle {form}, {what}", "ms", values, None, bare)


def _waiting_builds(server: Server) -> list[str]:
    hashes: list[str] = []
    bodies = (load.post("/api/v1/build", request_body(number, packages=20)) for number in range(WATCHERS))
    load.run(
        server.port,
        bodies,
        connections=8,
        heard=lambda _, status, body: hashes.append(json.loads(body)["request_hash"]),
    )
    return hashes


def _memory_of_each(server: Server, form: str, paths: Sequence[str]) -> float:
    settle(server)
    with _Idle(server.port, form, paths, count=1):
        pass  # loads what the first one loads
    before = resident_bytes(server.pid)
    with _Idle(server.port, form, paths, count=WATCHERS) as idle:
        idle.rest(_REST_SECONDS)
        return (resident_bytes(server.pid) - before) / WATCHERS / 1e3


def _cpu(server: Server, form: str, paths: Sequence[str]) -> float:
    settle(server)
    with _Idle(server.port, form, paths, count=WATCHERS if paths else 0) as idle:
        idle.rest(_REST_SECONDS)
        before = cpu_seconds(server.pid)
        idle.rest(_IDLE_SECONDS)
        return (cpu_seconds(server.pid) - before) / _IDLE_SECONDS * 1e3


_Measure = Callable[[Server, str, Sequence[str]], float]


class _Idle:
    """Connections that were told one thing, and then answer pings alone."""

    def __init__(self, port: int, form: str, paths: Sequence[str], *, count: int) -> None:
        self._selector = selectors.DefaultSelector()
        self._opened = contextlib.ExitStack()
        for number, path in zip(range(count), itertools.cycle(paths), strict=False):
            source = f"127.0.0.{2 + number // _BEHIND_ONE_ADDRESS}"
            connection = socket.create_connection(("127.0.0.1", port), 30, (source, 0))
            self._opened.enter_context(connection)
            self._selector.register(connection, selectors.EVENT_READ)
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: bench\r\n{_FORMS[form]}\r\n".encode())
            received = b""
            while _FIRST_WORD not in received:
                more = connection.recv(65536)
                if not more:
                    raise SystemExit(f"A watcher was refused: {received!r}")
                received += more

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()
        self._selector.close()

    def rest(self, seconds: float) -> None:
        """Reads for so long; a connection that ends meanwhile is an error."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            for key, _ in self._selector.select(left):
                connection = key.fileobj
                assert isinstance(connection, socket.socket)
                received = connection.recv(65536)
                if not received:
                    raise SystemExit("An idle watcher was sent away.")
                if received[:2] == _PING:
                    connection.sendall(_PONG + received[2:6])


def _beside(measure: _Measure, form: str) -> float:
    """The same of the yardstick."""
    port = free_port()
    with serving(["bench.idle_watchers", str(port)], port) as server:
        return measure(server, form, ["/"])


async def _say_one_thing(scope: Scope, receive: Receive, send: Send) -> None:
    """The least that an application does for a connection that stays open."""
    if scope["type"] == "lifespan":
        return
    await receive()
    word = b"{" + _FIRST_WORD + b"}"
    if scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": word.decode()})
    else:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": word, "more_body": True})
    while not (await receive())["type"].endswith("disconnect"):
        pass


def main(port: int) -> None:
    """Serves with the options of the service, so that only the application differs."""
    uvicorn.run(
        _say_one_thing,
        host="127.0.0.1",
        port=port,
        loop="uvloop",
        http="httptools",
        ws="websockets-sansio",
        ws_per_message_deflate=False,
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
    )


if __name__ == "__main__":
    main(int(sys.argv[1]))
