"""A bounded load over keep-alive connections, from one thread, with every answer checked."""

import asyncio
import functools
import itertools
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import cast

import uvloop

from bench.process import Server, cpu_seconds

_POLL_SECONDS = (2.0, 5.0)
"""How long a real client waits between two polls, at least and at most."""
_CLIENTS_PER_ADDRESS = 50
"""A service lets an address hold a limited number of connections."""
_LAST_ANSWERS_SECONDS = 10.0
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


def post(path: str, body: bytes, *, token: str = "") -> bytes:
    """A request with a JSON body, by the holder of a token if there is one."""
    shown = f"Authorization: Bearer {token}\r\n" if token else ""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: bench\r\nUser-Agent: bench/1\r\nContent-Type: application/json\r\n"
        f"{shown}Content-Length: {len(body)}\r\n\r\n"
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


def run_paced(
    server: Server,
    requests: Sequence[bytes],
    *,
    clients: int,
    seconds: float,
    lead: float = 0.0,
    pauses: tuple[float, float] = _POLL_SECONDS,
    seed: int = 0,
) -> tuple[float, Report]:
    """Clients that wait between their requests, as real ones do; CPU seconds of the server, and the report.

    The requests are sent in turn, whichever client sends the next one. Each client has its own connection,
    opened before time and CPU are taken, and waits between the shortest and the longest of the `pauses`
    (seconds) after each answer; the same seed gives the same pauses. The first `lead` seconds do not count:
    the server gets to know what is polled. Nothing is sent `seconds` later; a client that has no answer after
    ten more counts as broken.
    """
    report = Report()
    in_turn = itertools.cycle(requests)

    async def main() -> float:
        loop = asyncio.get_running_loop()
        opened = []
        for number in range(clients):
            chance = random.Random(f"{seed}/{number}")
            client = _PacedConnection(in_turn, report, loop.create_future(), chance=chance, pauses=pauses)
            address = f"127.0.1.{1 + number // _CLIENTS_PER_ADDRESS}"
            made = functools.partial(_itself, client)
            await loop.create_connection(made, "127.0.0.1", server.port, local_addr=(address, 0))
            opened.append(client)
        began = loop.time() + lead
        for client in opened:
            client.start(until=began + seconds)
        await asyncio.sleep(lead)
        report.latencies.clear()
        report.statuses.clear()
        spent = cpu_seconds(server.pid)
        await asyncio.wait([client.end for client in opened], timeout=seconds + _LAST_ANSWERS_SECONDS)
        report.seconds = loop.time() - began
        spent = cpu_seconds(server.pid) - spent
        for client in opened:
            client.close()
        return spent

    return uvloop.run(main()), report


def _itself(connection: asyncio.Protocol) -> asyncio.Protocol:
    return connection


class _Connection(asyncio.Protocol):
    def __init__(
        self,
        requests: Iterator[bytes],
        report: Report,
        end: asyncio.Future[None],
        *,
        heard: Heard | None = None,
    ) -> None:
        self._requests = requests
        self._report = report
        self.end = end
        self._heard = heard
        self._request = b""
        self._received: list[bytes] = []
        self._missing = 0
        """Bytes of the answer that have not arrived; 0 while its head has not."""
        self._status = self._body_at = 0
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
        self._sent_at = time.perf_counter()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._received.append(data)
        if self._missing:
            self._missing -= len(data)
        else:
            head = data if len(self._received) == 1 else b"".join(self._received)
            ends = head.find(b"\r\n\r\n")
            if ends < 0:
                return
            length = _LENGTH.search(head, 0, ends)
            body = 0 if length is None or self._request.startswith(b"HEAD") else int(length[1])
            self._status, self._body_at = int(head[9:12]), ends + 4
            self._missing = self._body_at + body - len(head)
        if self._missing > 0:
            return
        self._missing = 0
        report = self._report
        report.latencies.append(time.perf_counter() - self._sent_at)
        status = self._status
        report.statuses[status] += 1
        if self._heard is not None or status >= 500:
            answer = b"".join(self._received)[self._body_at :]
            if status >= 500 and len(report.refused) < 5:
                report.refused.append(answer)
            if self._heard is not None:
                self._heard(self._request, status, answer)
        self._received.clear()
        self._answered()

    def _answered(self) -> None:
        self._next()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.end.done():
            self._report.broken += 1
            self.end.set_result(None)


class _PacedConnection(_Connection):
    """Sends nothing before `start`, and waits after each answer."""

    def __init__(
        self,
        requests: Iterator[bytes],
        report: Report,
        end: asyncio.Future[None],
        *,
        chance: random.Random,
        pauses: tuple[float, float],
    ) -> None:
        super().__init__(requests, report, end)
        self._chance = chance
        self._pauses = pauses
        self._until = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def start(self, *, until: float) -> None:
        """Begins somewhere within a pause, as clients that came at different times do."""
        self._until = until
        if not self.end.done():
            self._wait(self._chance.uniform(0, sum(self._pauses) / 2))

    def close(self) -> None:
        if not self.end.done():
            self._report.broken += 1
            self.end.set_result(None)
        self._transport.close()

    def _answered(self) -> None:
        self._wait(self._chance.uniform(*self._pauses))

    def _wait(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        if loop.time() + seconds > self._until:
            self.end.set_result(None)
        else:
            self._timer = loop.call_later(seconds, self._next)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)
