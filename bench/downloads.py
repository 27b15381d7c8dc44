"""Images: what a megabyte costs beside nginx with the same file, and whether polls notice downloads."""

import contextlib
import multiprocessing
import os
import selectors
import socket
import time
from collections.abc import Iterator
from functools import partial
from itertools import repeat
from multiprocessing.synchronize import Event

from bench import load
from bench.figures import Figure, Yardstick, alternate
from bench.process import Server, cpu_seconds, settle
from bench.sample import FINISHED
from bench.scenarios import POLL, seeded, service
from bench.yardsticks import nginx

MB = 1_000_000
SIZE = 10 * MB
_TIMES, _TIMES_IN_PARTS = 4, 5
NAME = f"{FINISHED}/openwrt-sysupgrade.bin"
_DOWNLOADS = 30
"""In one round: 300 MB."""
_AT_ONCE = 64
_POLL_CONNECTIONS, _POLLS = 4, 4000
_LINE = 100 * MB
"""Bytes a second that those who download get together: a line of one gigabit."""
_PAUSE = 0.005
_RECEIVED_AT_ONCE = 256 << 10


def downloading(*, rounds: int) -> Iterator[Figure]:
    """CPU a megabyte, whole and in parts, and p99 of polls beside many downloads."""
    with seeded() as folder, service(folder) as server:
        store = folder / "public" / "store"
        (store / NAME).write_bytes(os.urandom(SIZE))
        settle(server)
        whole, parts = range(0, SIZE, SIZE), range(0, SIZE, MB)
        measures = {
            "whole": partial(spend, server, f"/store/{NAME}", whole),
            "parts": partial(spend, server, f"/store/{NAME}", parts),
        }
        with contextlib.ExitStack() as opened:
            try:
                known = opened.enter_context(nginx(store))
            except FileNotFoundError as error:
                print(f"downloads: no yardstick, because {error}", flush=True)
            else:
                measures |= {
                    "nginx": partial(spend, known, f"/{NAME}", whole),
                    "nginx, parts": partial(spend, known, f"/{NAME}", parts),
                }
            spent = alternate(rounds, measures)
        yield _beside("10 MB image, CPU a MB", spent, "whole", "nginx", _TIMES)
        yield _beside(
            "10 MB image in parts of 1 MB, CPU a MB", spent, "parts", "nginx, parts", _TIMES_IN_PARTS
        )
        yield from _polling(server, rounds=rounds)


def _beside(name: str, spent: dict[str, list[float]], ours: str, known: str, times: float) -> Figure:
    if known not in spent:
        return Figure(name, "ms", spent[ours])
    return Figure(name, "ms", spent[ours], times, Yardstick("nginx, sendfile", spent[known]))


def spend(server: Server, path: str, starts: range) -> float:
    """Milliseconds of CPU a megabyte; a range of one step asks for the whole file."""
    before = cpu_seconds(server.pid)
    with socket.create_connection(("127.0.0.1", server.port), 60) as connection:
        for _ in range(_DOWNLOADS):
            for start in starts:
                stop = min(start + starts.step, SIZE)
                asked = "" if len(starts) == 1 else f"Range: bytes={start}-{stop - 1}\r\n"
                connection.sendall(f"GET {path} HTTP/1.1\r\nHost: bench\r\n{asked}\r\n".encode())
                _receive(connection, stop - start)
    return (cpu_seconds(server.pid) - before) * 1e3 / (_DOWNLOADS * SIZE / MB)


def _receive(connection: socket.socket, size: int) -> None:
    """One answer with so many bytes, thrown away by the kernel. Raises `SystemExit` for another."""
    peeked = b""
    while b"\r\n\r\n" not in peeked:
        before, peeked = len(peeked), connection.recv(4096, socket.MSG_PEEK)
        if not peeked:
            raise SystemExit("The connection ended before its answer.")
        if len(peeked) == before:
            time.sleep(0.0001)
    head = peeked.partition(b"\r\n\r\n")[0]
    if f"\r\ncontent-length: {size}".encode() not in head.lower() or head[9:12] not in (b"200", b"206"):
        raise SystemExit(f"unexpected answer: {head.decode()}")
    left = len(head) + 4 + size
    room = memoryview(bytearray(_RECEIVED_AT_ONCE))
    while left:
        got = connection.recv_into(room, min(left, len(room)), socket.MSG_TRUNC)
        if not got:
            raise SystemExit("The connection ended within its answer.")
        left -= got


def _polling(server: Server, *, rounds: int) -> Iterator[Figure]:
    alone, beside = [], []
    for _ in range(rounds):
        alone.append(_slowest_poll(server))
        with _downloads(server):
            beside.append(_slowest_poll(server))
    name = f"polls beside {_AT_ONCE} downloads over a gigabit, p99"
    yield Figure(name, "ms", beside, 1.5, Yardstick("alone", alone))


def _slowest_poll(server: Server) -> float:
    report = load.run(server.port, repeat(load.get(POLL), _POLLS), connections=_POLL_CONNECTIONS)
    if report.statuses != {200: _POLLS}:
        raise SystemExit(f"unexpected answers: {dict(report.statuses)} {report.refused}")
    return report.p99 * 1e3


@contextlib.contextmanager
def _downloads(server: Server) -> Iterator[None]:
    """Many clients in another process, which download again and again as fast as their line lets them."""
    context = multiprocessing.get_context("spawn")
    began, end = context.Event(), context.Event()
    process = context.Process(target=_download, args=(server.port, began, end))
    process.start()
    try:
        if not began.wait(60):
            raise SystemExit("The downloads did not begin.")
        yield
    finally:
        end.set()
        process.join(60)


def _download(port: int, began: Event, end: Event) -> None:
    request = f"GET /store/{NAME} HTTP/1.1\r\nHost: bench\r\n\r\n".encode()
    room = memoryview(bytearray(_RECEIVED_AT_ONCE))
    allowed = 0.0
    with contextlib.ExitStack() as opened, selectors.DefaultSelector() as ready:
        for _ in range(_AT_ONCE):
            connection = opened.enter_context(socket.create_connection(("127.0.0.1", port), 60))
            ready.register(connection, selectors.EVENT_READ)
            # So many behind each other that the line never falls idle.
            connection.sendall(request * 20)
        at = time.monotonic()
        while not end.is_set():
            now = time.monotonic()
            allowed, at = min(allowed + (now - at) * _LINE, _LINE / 10), now
            for key, _ in ready.select(0):
                if allowed > 0:
                    got = key.fileobj.recv_into(room, 0, socket.MSG_TRUNC)  # type: ignore[union-attr]
                    allowed -= got
                    if not got:
                        raise SystemExit("A download ended early.")
            began.set()
            if allowed <= 0:
                time.sleep(_PAUSE)
