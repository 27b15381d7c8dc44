"""Misbehaviour on request: what `make image` suffers when a package with a `Sample-Fault` is installed.

Every fault ends by itself, so that a build without limits does not harm the machine.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from .console import out

_MIB = 1024 * 1024
MEMORY_LIMIT = 4096
"""MiB that `hog-memory` takes at most."""
DISK_LIMIT = 2048
"""MiB that `fill-disk` writes at most."""
PROCESS_LIMIT = 2000
"""Children that `fork` starts at most."""


class Stopped(Exception):
    """A limit of the machine or the container ended a fault; the text says which."""


def suffer(fault: str, tree: Path) -> None:
    """Run the fault `name` or `name number`; unknown ones are ignored.

    Raises Stopped when a limit did.
    """
    name, _, number = fault.partition(" ")
    action = _FAULTS.get(name)
    if action:
        action(int(number or "0"), tree)


def _sleep(seconds: int, _tree: Path) -> None:
    for second in range(seconds):
        time.sleep(1)
        out(f"sample: slept {second + 1} of {seconds} seconds")


def _hang(seconds: int, _tree: Path) -> None:
    time.sleep(seconds)


def _chatter(megabytes: int, _tree: Path) -> None:
    line = (
        "sample: a chatty package fills the log with lines like this one, again and again".ljust(127, ".")
        + "\n"
    )
    for _ in range(megabytes):
        sys.stdout.write(line * (_MIB // len(line)))
    sys.stdout.flush()


def _hog_memory(_number: int, _tree: Path) -> None:
    hoard: list[bytes] = []
    try:
        while len(hoard) * 64 < MEMORY_LIMIT:
            hoard.append(b"\1" * (64 * _MIB))
            out(f"sample: holding {len(hoard) * 64} MiB")
    except MemoryError:
        hoard.clear()
        raise Stopped("out of memory") from None


def _fill_disk(_number: int, tree: Path) -> None:
    path = tree / "build_dir" / "fill"
    path.parent.mkdir(exist_ok=True)
    try:
        with path.open("wb") as file:
            for written in range(DISK_LIMIT // 16):
                file.write(os.urandom(4096) * (16 * _MIB // 4096))
                out(f"sample: wrote {(written + 1) * 16} MiB")
    except OSError as error:
        raise Stopped(f"{path}: {error.strerror}") from error
    finally:
        path.unlink(missing_ok=True)


def _fork(_number: int, _tree: Path) -> None:
    children: list[int] = []
    try:
        while len(children) < PROCESS_LIMIT:
            child = os.fork()
            if child == 0:
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                time.sleep(60)
                os._exit(0)
            children.append(child)
        out(f"sample: started {len(children)} processes")
        time.sleep(5)
    except OSError as error:
        raise Stopped(f"fork: {error.strerror} after {len(children)} processes") from error
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
        for child in children:
            os.waitpid(child, 0)


_FAULTS: dict[str, Callable[[int, Path], None]] = {
    "sleep": _sleep,
    "hang": _hang,
    "chatter": _chatter,
    "hog-memory": _hog_memory,
    "fill-disk": _fill_disk,
    "fork": _fork,
}
