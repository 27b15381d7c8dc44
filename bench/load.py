"""A bounded load over keep-alive connections, from one thread, with every answer checked."""

import asyncio
import functools
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import cast

import uvloop

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


@dataclass
class Report:
    """What a load saw; times in seconds."""

    statuses: Counter[int] = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)
    refused: list[bytes] = field(default_factory=list)
    """The first bodies of answers of 500 and above."""
    seconds: float = 0.0
    broken: int = 0
    """Connections that ended before their answer."""

    @property
    def p99(self) -> float:
        """The latency that one answer in a hundred exceeds."""
        return sorted(self.latencies)[int(len(self.latencies) * 0.99)]


def get(path: str, *, method: str = "GET") -> bytes:
    """A request without a body."""
    return f"{method} {path} HTTP/1.1\r\nHost: bench\r\nUser-Agent: bench/1\r\nAccept: */*\r\n\r\n".encode()


def post(path: str, body: bytes) -> bytes:
    """A request with a JSON body."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: bench\r\nUser-Agent: bench/1\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


Heard = Callable[[bytes, int, bytes], None]
"""Told of each request, the status and the body that answered it."""


def run(
    port: int,
    requests: Iterator[bytes],
    *,
    connections: int,
    heard: Heard | None = None,
    source: str = "127.0.0.1",
) -> Report:
    """Sends every request once from this address, each connection its next one when it has an answer.

    `heard` is called before the connection asks for its next request, which may depend on it.
    """
    report = Report()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        ends = []
        for _ in range(connections):
            connection = _Connection(requests, report, loop.create_future(), heard=heard)
            made = functools.partial(_itself, connection)
            await loop.create_connection(made, "127.0.0.1", port, local_addr=(source, 0))
            ends.append(connection.end)
        await asyncio.gather(*ends)

    began = time.perf_counter()
    uvloop.run(main())
    report.seconds = time.perf_counter() - began
    return report


def _itself(connection: asyncio.Protocol) -> asyncio.Protocol:
    return connection


class _Connection(asyncio.Protocol):
    def __init__(
        self, requests: Iterator[bytes], report: Report, end: asyncio.Future[None], *, heard: Heard | None
    ) -> None:
        self._requests = requests
        self._report = report
        self.end = end
        self._heard = heard
        self._request = b""
        self._received = b""
        self._head = False
        self._sent_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's does not inherit from it
        self._next()

    def _next(self) -> None:
        request = next(self._requests, None)
        if request is None:
            self.end.set_result(None)
            self._transport.close()
            return
        self._request = request
        self._head = request.startswith(b"HEAD")
        self._sent_at = time.perf_counter()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._received = received = self._received + data if self._received else data
        ends = received.find(b"\r\n\r\n")
        if ends < 0:
            return
        length = _LENGTH.search(received, 0, ends)
        body = 0 if self._head or length is None else int(length[1])
        if len(received) < ends + 4 + body:
            return
        report = self._report
        report.latencies.append(time.perf_counter() - self._sent_at)
        status = int(received[9:12])
        report.statuses[status] += 1
        if status >= 500 and len(report.refused) < 5:
            report.refused.append(received[ends + 4 :])
        if self._heard is not None:
            self._heard(self._request, status, received[ends + 4 :])
        self._received = b""
        self._next()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.end.done():
            self._report.broken += 1
            self.end.set_result(None)
