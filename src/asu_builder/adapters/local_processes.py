"""The processes of a local build, read from `/proc`: who belongs to it, what they use, their end."""

import os
import signal
from pathlib import Path
from time import monotonic, sleep

from msgspec import Struct

_PAGE = os.sysconf("SC_PAGE_SIZE")
_PROC = Path("/proc")
_DEAD_WITHIN = 2.0
_STATE, _PARENT, _SESSION = 0, 1, 3
"""Fields of `/proc/<pid>/stat` after the command's name."""


class Use(Struct, frozen=True):
    """What a build's processes use together; `memory` is resident bytes, shared pages counted twice."""

    processes: int
    memory: int


def members(leader: int, home: Path | None = None) -> set[int]:
    """The leader, its descendants, its session, and whoever works below `home`.

    The last two catch daemons that left their parents; inside bubblewrap nobody can.
    """
    parents, found = {}, set()
    for entry in _PROC.iterdir():
        if entry.name.isdigit() and (fields := _stat(entry)) and fields[_STATE] != "Z":
            process = int(entry.name)
            parents[process] = int(fields[_PARENT])
            if leader in (process, int(fields[_SESSION])) or _works_below(entry, home):
                found.add(process)
    while grown := {child for child, parent in parents.items() if parent in found} - found:
        found |= grown
    return found - {os.getpid()}


def use(processes: set[int]) -> Use:
    """Sums what the processes hold; one that is gone holds nothing."""
    return Use(len(processes), sum(_resident(process) for process in processes))


def kill_all(leader: int, home: Path | None = None) -> None:
    """Kills until nobody is left, since a process may fork while it is being looked for.

    The leader must not have been reaped: its number would be free for somebody else.
    """
    ends = monotonic() + _DEAD_WITHIN
    while (alive := members(leader, home)) and monotonic() < ends:
        for process in alive:
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:
                continue
        sleep(0.02)


def _stat(process: Path) -> list[str] | None:
    try:
        # The name in parentheses may itself hold spaces and parentheses, or be no text at all.
        return (process / "stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None


def _resident(process: int) -> int:
    try:
        return int((_PROC / str(process) / "statm").read_text().split()[1]) * _PAGE
    except (OSError, IndexError):
        return 0


def _works_below(process: Path, home: Path | None) -> bool:
    try:
        return home is not None and (process / "cwd").readlink().is_relative_to(home)
    except OSError:
        return False
