"""A faulty line: a TCP proxy before a server, whose manners change while it runs."""

import asyncio
import ssl
import threading
from collections.abc import Coroutine
from contextlib import suppress
from types import TracebackType
from typing import Literal, Self, TypeVar

Result = TypeVar("Result")
Manner = Literal["fine", "dead", "hanging", "slow", "truncated", "broken", "busy", "held"]
"""`busy` answers 503 as S3 does. `held` keeps every connection open and lets no byte pass, as a network that
loses packets; nothing is cut when it begins or ends."""
FAULTY: tuple[Manner, ...] = ("dead", "hanging", "slow", "truncated", "broken")

_CHUNK = 16 << 10
_SLOW_SECONDS = 0.15
"""Between two chunks of a slow line: about 100 KiB each second."""
_REFUSALS = {
    "broken": b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 7\r\nConnection: close\r\n\r\nbroken\n",
    "busy": b"HTTP/1.1 503 Slow Down\r\nContent-Type: application/xml\r\nContent-Length: 41\r\n"
    b"Connection: close\r\n\r\n<Error><Code>SlowDown</Code></Error>     ",
}


class Link:
    """Passes connections on to `port` of loopback; answers are spoilt as `manner` says.

    With `certificate` (certificate and key in one PEM file) clients speak TLS to it, and it speaks plainly
    to what lies behind.
    """

    def __init__(self, port: int, *, certificate: str = "") -> None:
        self.manner: Manner = "fine"
        self.connections = 0
        """How many were accepted so far; one connection may carry many requests."""
        self.truncate_after = 1500
        """Bytes of answers that a truncated connection lets pass."""
        self.port = 0
        self._behind = port
        self._context: ssl.SSLContext | None = None
        if certificate:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._context.load_cert_chain(certificate)
        self._loop = asyncio.new_event_loop()
        self._open: set[asyncio.StreamWriter] = set()
        self._flows = asyncio.Event()
        self._flows.set()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = self._wait(
            asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._context, backlog=256)
        )
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._wait(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def become(self, manner: Manner) -> None:
        """Changes manners; connections that are open are cut, so that the change is felt at once."""
        cuts = "held" not in (manner, self.manner)
        self.manner = manner
        self._loop.call_soon_threadsafe(self._change, manner == "held", cuts)

    def _wait(self, work: Coroutine[object, object, Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _end(self) -> None:
        self._server.close()  # in the loop's own thread: it is not made for any other
        self._cut()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _change(self, holds: bool, cuts: bool) -> None:
        if holds:
            self._flows.clear()
        else:
            self._flows.set()
        if cuts:
            self._cut()

    def _cut(self) -> None:
        for writer in list(self._open):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._open.add(writer)
        try:
            with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await self._treat(reader, writer)
        finally:
            self._open.discard(writer)
            writer.transport.abort()

    async def _treat(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        match self.manner:
            case "dead":
                return
            case "hanging":
                while await reader.read(_CHUNK):
                    pass
            case "broken" | "busy":
                await reader.readuntil(b"\r\n\r\n")
                writer.write(_REFUSALS[self.manner])
                await writer.drain()
                writer.close()
                await writer.wait_closed()
            case _:
                await self._pass_on(reader, writer)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind_reader, behind_writer = await asyncio.open_connection("127.0.0.1", self._behind)
        self._open.add(behind_writer)
        try:
            asking = asyncio.ensure_future(self._pump(reader, behind_writer))
            try:
                await self._answer(behind_reader, writer)
            finally:
                asking.cancel()
        finally:
            self._open.discard(behind_writer)
            behind_writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        left = self.truncate_after
        while chunk := await reader.read(_CHUNK):
            if self.manner == "slow":
                await asyncio.sleep(_SLOW_SECONDS)
            await self._flows.wait()
            if self.manner == "truncated":
                chunk, left = chunk[:left], left - len(chunk)
            writer.write(chunk)
            await writer.drain()
            if left <= 0:
                return
        writer.close()
        await writer.wait_closed()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while chunk := await reader.read(_CHUNK):
                await self._flows.wait()
                writer.write(chunk)
                await writer.drain()
