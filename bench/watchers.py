"""Five hundred WebSockets on one build: what they add to its time, and to the memory of the service."""

import contextlib
import os
import selectors
import socket
import sqlite3
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from asu_sample.distribution import Distribution
from bench.builds import ask_for_build
from bench.figures import Figure
from bench.process import cpu_seconds
from bench.worlds import TARGET, VERSION, World, unpacked

WATCHERS = 500
_BEHIND_ONE_ADDRESS = 50
_PAIRS = 5
_PAGE = os.sysconf("SC_PAGE_SIZE")
_MEMORY_MB, _TIMES = 30, 1.1
_LINES = 4000
_END = b"\x88\x02\x03\xe8"
"""The last frame of a stream that has ended in good order: closed, 1000."""
_RECIPE = "\t@PYTHONPATH=scripts"
# Each of the three goals: about two seconds, half of them work, and lines all the while.
_CHATTER = """
import sys, time
for step in range(44):
    until = time.thread_time() + 0.022
    while time.thread_time() < until:
        sum(range(500))
    for line in range(30):
        print(f"Package number-{step * 30 + line} is looked at, unpacked and configured.", file=sys.stderr)
    time.sleep(0.022)
"""


def watching(*, pairs: int = _PAIRS) -> Iterator[Figure]:
    """Builds without and with watchers in turn, in the local runtime."""
    with tempfile.TemporaryDirectory(prefix="asu-bench-") as name:
        with unpacked(Path(name), prepare=_make_talkative) as world:
            yield from _compare(world, pairs)


def _make_talkative(world: Distribution) -> None:
    builder = world.imagebuilder(VERSION, TARGET)
    (builder / "chatter.py").write_text(_CHATTER)
    makefile = builder / "Makefile"
    makefile.write_text(makefile.read_text().replace(_RECIPE, f"\t@python3 chatter.py; {_RECIPE[2:]}"))


def _compare(world: World, pairs: int) -> Iterator[Figure]:
    alone, watched = _Rounds(world), _Rounds(world)
    for number in range(2):
        _Rounds(world).add(f"warming-up-{number}", watchers=number)
    for number in range(pairs):
        alone.add(f"alone-{number}")
        watched.add(f"watched-{number}", watchers=WATCHERS)
    ratios = [many / none for many, none in zip(watched.seconds, alone.seconds, strict=True)]
    # What watchers have once taken is not all given back, so only the time before them is without.
    more = (max(watched.memory) - alone.memory[0]) / 1e6
    yield Figure("a build without watchers", "s", alone.seconds)
    yield Figure(f"a build with {WATCHERS} watchers", "s", watched.seconds)
    yield Figure(f"build time, {WATCHERS} watchers beside none", "×", ratios, _TIMES)
    yield Figure("CPU of the service and a build without watchers", "s", alone.cpu)
    yield Figure(f"CPU of the service and a build with {WATCHERS} watchers", "s", watched.cpu)
    yield Figure("memory without watchers, at most", "MB", [alone.memory[0] / 1e6])
    yield Figure(f"memory that {WATCHERS} watchers add, at most", "MB", [more], _MEMORY_MB)
    yield Figure("lines of a build", "", [_lines(world)])
    yield Figure("watchers that did not hear the end", "", [sum(watched.cut_off)], 0)


class _Rounds:
    """Builds of one kind: how long each took by the service's clock, its CPU, and the service's memory."""

    def __init__(self, world: World) -> None:
        self.seconds: list[float] = []
        self.cpu: list[float] = []
        self.memory: list[int] = []
        self.cut_off: list[int] = []
        self._world = world

    def add(self, script: str, *, watchers: int = 0) -> None:
        """One more."""
        server = self._world.server
        began = cpu_seconds(server.pid)
        with _Highest(server.pid) as highest:
            request_hash = _asked(server.port, script)
            with _Crowd(server.port, request_hash, watchers) as crowd:
                crowd.listen()
            self.seconds.append(_duration(self._world, request_hash))
        self.cpu.append(cpu_seconds(server.pid) - began)
        self.memory.append(highest.bytes)
        self.cut_off.append(crowd.cut_off)


def _asked(port: int, script: str) -> str:
    until = time.monotonic() + 30
    while time.monotonic() < until:
        status, document = ask_for_build(port, defaults=script)
        if status == 202:
            return document["request_hash"]
        time.sleep(0.2)  # upstream was never asked before
    raise SystemExit(f"a build was not taken: {document}")


def _duration(world: World, request_hash: str) -> float:
    until = time.monotonic() + 120
    while time.monotonic() < until:
        with contextlib.closing(sqlite3.connect(world.database)) as connection:
            found = connection.execute(
                "SELECT finished_at - started_at, state FROM build_jobs WHERE request_hash = ?",
                (request_hash,),
            ).fetchone()
        if found and found[0] is not None:
            if found[1] != "completed":
                raise SystemExit(f"a build ended as {found[1]}: {world.log.read_text()[-2000:]}")
            return float(found[0]) / 1e6
        time.sleep(0.05)
    raise SystemExit("a build did not end within two minutes")


def _lines(world: World) -> int:
    with contextlib.closing(sqlite3.connect(world.database)) as connection:
        (count,) = connection.execute("SELECT max(seq) FROM build_log").fetchone()
    if count < _LINES * 0.9:
        raise SystemExit(f"the build printed {count} lines only")
    return int(count)


class _Crowd:
    """Watchers that read whatever comes and look at its end only, so that they take little themselves."""

    def __init__(self, port: int, request_hash: str, count: int) -> None:
        self.cut_off = count
        self._sockets = [_opened(port, request_hash, number) for number in range(count)]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for each in self._sockets:
            each.close()

    def listen(self) -> None:
        """Returns when every stream has ended, or after two minutes."""
        until = time.monotonic() + 120
        ends = dict.fromkeys(self._sockets, b"")
        with selectors.DefaultSelector() as selector:
            for each in self._sockets:
                selector.register(each, selectors.EVENT_READ)
            while selector.get_map() and time.monotonic() < until:
                for key, _ in selector.select(1.0):
                    reader = key.fileobj
                    assert isinstance(reader, socket.socket)
                    chunk = reader.recv(1 << 18)
                    ends[reader] = (ends[reader] + chunk)[-len(_END) :]
                    if not chunk or ends[reader] == _END:
                        selector.unregister(reader)
                        self.cut_off -= ends[reader] == _END


def _opened(port: int, request_hash: str, number: int) -> socket.socket:
    """A WebSocket, of an address that the proxy's header names: many are behind each, none behind all."""
    connection = socket.create_connection(("127.0.0.1", port), 30)
    connection.sendall(
        f"GET /api/v1/build/{request_hash}/events HTTP/1.1\r\nHost: bench\r\nConnection: Upgrade\r\n"
        "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        f"X-Forwarded-For: 192.0.2.{number // _BEHIND_ONE_ADDRESS}\r\n\r\n".encode()
    )
    return connection


class _Highest:
    """The largest resident memory of a process alone, twenty looks a second."""

    def __init__(self, pid: int) -> None:
        self.bytes = 0
        self._pid = pid
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._ended.wait(0.05):
            self.bytes = max(self.bytes, _resident(self._pid))


def _resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * _PAGE
