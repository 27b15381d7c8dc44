"""Which process holds a lock or a port, by what /proc tells this user."""

import contextlib
import fcntl
import os
import struct
from pathlib import Path

_LISTENING = "0A"
_FLOCK = "hhqqi4x"
"""struct flock of fcntl.h on 64-bit Linux: type, whence, start, length, pid."""


def lock_holder(path: Path, start: int, length: int) -> int | None:
    """The pid of a process that keeps others from reading these bytes; 0 when it cannot be told.

    Opens the file, so it is not for a process that has it locked itself: closing drops such locks.
    """
    with path.open("rb") as file:
        question = struct.pack(_FLOCK, fcntl.F_RDLCK, os.SEEK_SET, start, length, 0)
        kind, _, _, _, pid = struct.unpack(_FLOCK, fcntl.fcntl(file, fcntl.F_GETLK, question))
    return None if kind == fcntl.F_UNLCK else max(0, pid)


def listener(port: int) -> int | None:
    """The pid of the process that listens on a TCP port, where this user may see it."""
    inodes = set()
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in Path("/proc/net", table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                    inodes.add(f"socket:[{fields[9]}]")
    for entry in Path("/proc").glob("[0-9]*"):
        if _has_open(entry, inodes):
            return int(entry.name)
    return None


def _has_open(entry: Path, inodes: set[str]) -> bool:
    with contextlib.suppress(OSError):
        for descriptor in (entry / "fd").iterdir():
            with contextlib.suppress(OSError):
                if str(descriptor.readlink()) in inodes:
                    return True
    return False


def described(pid: int | None) -> str:
    """A process in words: its number and what it runs."""
    if not pid:
        return "another process"
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")
        line = b" ".join([Path(os.fsdecode(words[0])).name.encode(), *words[1:4]])
    except OSError:
        return f"process {pid}"
    return f"process {pid} ({line.decode(errors='replace')[:80]})"
