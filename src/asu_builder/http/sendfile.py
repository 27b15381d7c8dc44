"""Sends parts of files: from the page cache by sendfile(2) on the event loop, from the disk in threads.

A page that is not in memory is a wait for the disk, which the event loop never does. Before each piece
`preadv2` with `RWF_NOWAIT` tells how much of it is in memory. It reads into one small buffer again and
again, which costs less than to send what was read.
"""

import asyncio
import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from starlette.types import Message, Send

from asu_builder.http.door import Client, ClientGone
from asu_builder.http.threads import while_client_stays

if TYPE_CHECKING:
    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

PIECE = 1 << 20
"""Bytes that a download sends before polls and other downloads have their turn: a fifth of a millisecond."""
REST = 16 << 10
"""Bytes that the transport gets when the socket takes no more: it tells when they have left."""
DISK_THREADS = 8
_PROBED_AT_ONCE = 64 << 10

T = TypeVar("T")


class FileSender:
    """One for all downloads of a server; lives on the event loop."""

    def __init__(self) -> None:
        self._sending = asyncio.Lock()
        self._has_sent = False
        """Whether a piece was sent since the event loop last looked at its sockets."""
        self._probe: list[memoryview] = []
        self._threads: ThreadPoolExecutor | None = None
        self._users = 0
        """How many downloads need the threads."""

    async def send(
        self, head: Message, file: int, start: int, end: int, *, client: Client | None, send: Send
    ) -> None:
        """Sends the head of an answer, and the bytes of a file from `start` to before `end`.

        Returns when the client goes away. A file that has become shorter raises `RuntimeError`, and a disk
        that fails `OSError`: then the server ends the connection. `client` is None where another server
        than ours has brought the request.
        """
        cycle = client.cycle if client else None
        with (
            contextlib.suppress(ClientGone),
            while_client_stays(client),
            contextlib.ExitStack() as life,
        ):
            if cycle is None or end - start <= REST:
                await self._write(head, file, start, end, send=send, life=life)
                return
            with _pushing(cycle.transport):
                await send(head)
                await self._push(cycle, file, start, end, send=send, life=life)
            await send({"type": "http.response.body", "body": b""})

    async def _write(
        self, head: Message, file: int, start: int, end: int, *, send: Send, life: contextlib.ExitStack
    ) -> None:
        """By way of the server, which copies."""
        threads, body = None, b""
        await send(head)
        while start < end:
            count = min(end - start, PIECE)
            body = read_cached(file, start, count)
            if not body:
                threads = threads or life.enter_context(self._disk_threads())
                body = await asyncio.wrap_future(_submit(threads, os.pread, (file,), count, start))
            if not body:
                raise _shortened(start, end)
            start += len(body)
            if start < end:
                await send({"type": "http.response.body", "body": body, "more_body": True})
        await send({"type": "http.response.body", "body": body})

    async def _push(
        self,
        cycle: "RequestResponseCycle",
        file: int,
        start: int,
        end: int,
        *,
        send: Send,
        life: contextlib.ExitStack,
    ) -> None:
        """Into the socket, past the server's transport, whenever that holds nothing."""
        transport, flow = cycle.transport, cycle.flow
        connection = transport.get_extra_info("socket").fileno()
        loop, threads = asyncio.get_running_loop(), None
        while True:
            await flow.drain()
            async with self._sending:
                while self._has_sent:
                    await asyncio.sleep(0)  # polls that have arrived are answered first
                # The number of a closed socket may be another connection's by now.
                closing = transport.is_closing()
                cached = 0 if closing else self._cached(file, start, min(end - start, PIECE))
                if cached:
                    sent, rest = _send_some(connection, file, start, cached)
                    self._has_sent = True
                    loop.call_soon(self._let_send)
            if closing:
                await loop.create_future()  # ends here when the client is gone
            if not cached:
                threads = threads or life.enter_context(self._disk_threads())
                count = min(end - start, PIECE)
                call = _submit(threads, _send_some, (connection, file), start, count)
                sent, rest = await asyncio.wrap_future(call)
            if not (sent or rest):
                raise _shortened(start, end)
            start += sent + len(rest)
            cycle.expected_content_length -= sent
            if rest:
                await send({"type": "http.response.body", "body": rest, "more_body": True})
            if start == end:
                return

    def _let_send(self) -> None:
        self._has_sent = False

    def _cached(self, file: int, start: int, count: int) -> int:
        """How many bytes from `start` on are in memory; 0 also where the file system does not tell."""
        if not self._probe:
            self._probe = [memoryview(bytearray(_PROBED_AT_ONCE))] * (PIECE // _PROBED_AT_ONCE)
        buffers = self._probe[: -(-count // _PROBED_AT_ONCE)]
        try:
            return min(os.preadv(file, buffers, start, os.RWF_NOWAIT), count)
        except OSError:
            return 0  # of whatever this is, the thread that reads will tell

    @contextlib.contextmanager
    def _disk_threads(self) -> Iterator[ThreadPoolExecutor]:
        """The threads, which end with the last download that needs them."""
        if self._threads is None:
            self._threads = ThreadPoolExecutor(DISK_THREADS, thread_name_prefix="web-disk")
        self._users += 1
        try:
            yield self._threads
        finally:
            self._users -= 1
            if not self._users:
                self._threads.shutdown(wait=False)
                self._threads = None


@contextlib.contextmanager
def _pushing(transport: asyncio.Transport) -> Iterator[None]:
    """What the transport gets leaves at once, and it tells when it holds nothing any more."""
    transport.set_write_buffer_limits(0)
    try:
        yield
    finally:
        if not transport.is_closing():
            transport.set_write_buffer_limits()


def _send_some(connection: int, file: int, start: int, count: int) -> tuple[int, bytes]:
    """How many bytes the socket took, and what comes behind them when it took less than `count`."""
    try:
        sent = os.sendfile(connection, file, start, count)
    except OSError:
        sent = 0  # full, or broken, or not for such files: the transport finds out with what it gets
    return sent, b"" if sent == count else os.pread(file, min(count - sent, REST), start + sent)


def read_cached(file: int, start: int, count: int) -> bytes:
    """Bytes from `start` on that are in memory; none also where the file system does not tell."""
    buffer = bytearray(count)
    try:
        return bytes(buffer[: os.preadv(file, [buffer], start, os.RWF_NOWAIT)])
    except OSError:
        return b""


def _submit(
    threads: ThreadPoolExecutor, function: Callable[..., T], files: Sequence[int], *arguments: int
) -> Future[T]:
    """Calls the function in a thread with separate descriptors: a client may leave meanwhile."""
    with contextlib.ExitStack() as opened:
        copies = []
        for file in files:
            copies.append(os.dup(file))
            opened.callback(os.close, copies[-1])
        call = threads.submit(function, *copies, *arguments)
        copied = opened.pop_all()
    call.add_done_callback(lambda _: copied.close())
    return call


def _shortened(start: int, end: int) -> RuntimeError:
    return RuntimeError(f"a file that is being sent has ended at {start} instead of {end} bytes")
