"""Ports of loopback that no other test, worker or run takes."""

import fcntl
import os
import socket
from functools import cache
from itertools import cycle
from pathlib import Path
from typing import TextIO

_FIRST, _PER_PROCESS, _PROCESSES = 10_000, 100, 220
"""Below 32768, from where Linux takes the ports of outgoing connections."""


def free_port() -> int:
    """A port that nothing listens on, out of a range that belongs to this process while it lives.

    A port that the kernel chooses and that is closed again may be taken by anybody before the test
    listens on it.
    """
    ports = _ports()
    for _ in range(_PER_PROCESS):
        port = next(ports)
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError("Every port of this process is in use.")


_held: list[TextIO] = []


@cache
def _ports() -> "cycle[int]":
    """The ports of the first range that no living process holds."""
    folder = Path(f"/tmp/asu-test-ports-{os.getuid()}")
    folder.mkdir(exist_ok=True)
    for number in range(_PROCESSES):
        lock = (folder / str(number)).open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            continue
        _held.append(lock)
        first = _FIRST + number * _PER_PROCESS
        return cycle(range(first, first + _PER_PROCESS))
    raise RuntimeError("Too many runs of the tests at the same time.")
