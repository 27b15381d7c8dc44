"""What one hostile caller costs the others: memory, and polls beside it (docs/performance.md)."""

import contextlib
import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterator

from bench import load
from bench.figures import Figure
from bench.process import Server, resident_bytes
from bench.sample import download_server
from bench.scenarios import POLL, seeded, service

_SILENT = 1100
_HOSTS = tuple(f"127.0.1.{number}" for number in range(1, 9))
"""Addresses of this machine, so that no one of them has too many connections."""
_GONE_SECONDS = 30.0
_POLLS = 400
_PIECE = b"x" * 65536

Attack = Callable[[int], None]


def attacking() -> Iterator[Figure]:
    """Each attack against a fresh service, with polls of another caller beside it."""
    yield from _silence()
    for name, attack in _ATTACKS.items():
        yield from _measured(name, attack)


@contextlib.contextmanager
def _served() -> Iterator[Server]:
    with seeded() as folder, download_server() as upstream, service(folder, upstream=upstream) as server:
        load.run(server.port, itertools.repeat(load.get(POLL), 50), connections=2)
        time.sleep(2)  # what is loaded after the start is loaded by now
        yield server


def _measured(name: str, attack: Attack) -> Iterator[Figure]:
    with _served() as server:
        before = resident_bytes(server.pid)
        highest = before
        attacker = threading.Thread(target=_quietly, args=(attack, server.port))
        attacker.start()
        slowest = []
        while attacker.is_alive():
            slowest.append(_poll(server))
            highest = max(highest, resident_bytes(server.pid))
        attacker.join()
    yield Figure(f"{name}: memory it adds", "MB", [(highest - before) / 1e6], 40)
    yield Figure(f"{name}: p99 of polls beside it", "ms", [max(slowest)], 100)


def _silence() -> Iterator[Figure]:
    with _served() as server, contextlib.ExitStack() as opened:
        began = time.monotonic()
        silent = []
        for number in range(_SILENT):
            with contextlib.suppress(OSError):
                host = _HOSTS[number % len(_HOSTS)]
                connection = socket.create_connection(("127.0.0.1", server.port), 5, (host, 0))
                silent.append(opened.enter_context(connection))
        slowest = [_poll(server)]
        while time.monotonic() - began < _GONE_SECONDS and (left := sum(map(_is_open, silent))):
            slowest.append(_poll(server))
        left = sum(map(_is_open, silent))
    yield Figure(f"{_SILENT} silent connections: left after {_GONE_SECONDS:.0f} s", "", [left], 0)
    yield Figure(f"{_SILENT} silent connections: p99 of polls beside them", "ms", [max(slowest)], 100)


def _poll(server: Server) -> float:
    report = load.run(server.port, itertools.repeat(load.get(POLL), _POLLS), connections=8)
    if report.statuses != {200: _POLLS}:
        raise SystemExit(f"polls were not answered: {dict(report.statuses)} {report.broken}")
    return report.p99 * 1e3


def _is_open(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        while connection.recv(4096):
            pass
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _quietly(attack: Attack, port: int) -> None:
    with contextlib.suppress(OSError):
        attack(port)


def _send(port: int, head: bytes, pieces: Iterator[bytes]) -> None:
    with socket.create_connection(("127.0.0.1", port), 5) as connection:
        connection.sendall(head)
        for piece in pieces:
            connection.sendall(piece)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65536):
            pass


def _body(path: str, *, size: int, piece: bytes = _PIECE) -> Attack:
    head = f"POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/x-www-form-urlencoded\r\n"
    whole = head.encode() + b"Content-Length: %d\r\n\r\n" % size

    def attack(port: int) -> None:
        _send(port, whole, itertools.repeat(piece, size // len(piece)))

    return attack


def _request(packages: str) -> Attack:
    """A build request that is whole, and as large as one may be."""
    start = b'{"version":"24.10.4","target":"ath79/generic","profile":"acme",'
    document = start + packages.encode() + b"}"
    head = b"POST /api/v1/build HTTP/1.1\r\nHost: bench\r\nContent-Length: %d\r\n\r\n" % len(document)

    def attack(port: int) -> None:
        _send(port, head, iter([document]))

    return attack


def _head(line: bytes, *, size: int, start: bytes = b"GET /health HTTP/1.1\r\n") -> Attack:
    def attack(port: int) -> None:
        _send(port, start, itertools.repeat(line, size // len(line)))

    return attack


_MIB = 1 << 20
_ATTACKS: dict[str, Attack] = {
    "a body of 200 MB": _body("/api/v1/packages/preview", size=200 * _MIB),
    "a body of 1 MiB in fields": _body("/session", size=_MIB, piece=b"a=&" * 16384 + b"a=&&" * 4096),
    "a body of 1 MiB of lists": _body("/api/v1/packages/preview", size=_MIB, piece=b"[" * 65536),
    "100,000 package names": _request(
        '"packages":[' + ",".join(f'"p{number}"' for number in range(100_000)) + "]"
    ),
    "70,000 packages with versions": _request(
        '"packages_versions":{' + ",".join(f'"p{number}":"1"' for number in range(70_000)) + "}"
    ),
    "headers of 100 MB": _head(b"X-Name: value of it\r\n" * 3000, size=100 * _MIB),
    "one header of 100 MB": _head(_PIECE, size=100 * _MIB, start=b"GET /health HTTP/1.1\r\nX: "),
    "an address of 100 MB": _head(_PIECE, size=100 * _MIB, start=b"GET /health?"),
}
