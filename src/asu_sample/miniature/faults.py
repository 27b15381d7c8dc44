"""Misbehaviour on request: what `make image` suffers when a package with a `Sample-Fault` is installed.

Every fault ends by itself, so that a build without limits does not harm the machine.
"""

from __future__ import annotations

import os
import signal
import sys
import time
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
    count = int(number or "0")
    if name == "sleep":
        for second in range(count):
            time.sleep(1)
            out(f"sample: slept {second + 1} of {count} seconds")
    elif name == "hang":
        time.sleep(count)
    elif name == "chatter":
        line = "sample: a chatty package fills the log with lines like this one, again and again"
        line = line.ljust(127, ".") + "\n"
        for _ in range(count):
            sys.stdout.write(line * (_MIB // len(line)))
        sys.stdout.flush()
    elif name == "hog-memory":
        _hog_memory()
    elif name == "fill-disk":
        _fill_disk(tree / "build_dir" / "fill")
    elif name == "fork":
        _fork()


def _hog_memory() -> None:
    hoard: list[bytes] = []
    try:
        while len(hoard) * 64 < MEMORY_LIMIT:
            hoard.append(b"\1" * (64 * _MIB))
            out(f"sample: holding {len(hoard) * 64} MiB")
    except MemoryError:
        hoard.clear()
        raise Stopped("out of memory") from None


def _fill_disk(path: Path) -> None:
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


def _fork() -> None:
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
