"""The clock of the server's process, and of no other: libfaketime reads how far it is off from a file."""

from pathlib import Path

_LIBRARIES = ("/usr/lib/*/faketime/libfaketime.so.1", "/usr/lib/faketime/libfaketime.so.1")


SEEN_WITHIN = 1.0
"""Seconds until a process that looks at its clock sees a leap, at most."""


class FaketimeMissing(Exception):
    """The library is not installed; on Debian the package is `faketime`."""


class Clock:
    """How far the server's wall clock is off, in seconds; its monotonic clock stays right."""

    def __init__(self, directory: Path) -> None:
        self._library = find_library()
        self._file = directory / "clock"
        self.offset = 0.0
        self.set(0.0)

    def set(self, offset: float) -> None:
        """Leaps to this offset from the true time."""
        self.offset = offset
        new = self._file.with_suffix(".new")
        new.write_text(f"{offset:+.0f}\n")
        new.rename(self._file)

    def below(self) -> list[str]:
        """What stands before the command of a process that is to have this clock."""
        return [
            "env",
            f"LD_PRELOAD={self._library}",
            f"FAKETIME_TIMESTAMP_FILE={self._file}",
            # Else it opens its file at each look at the clock, one thread at a time.
            f"FAKETIME_CACHE_DURATION={SEEN_WITHIN:.0f}",
            "FAKETIME_DONT_FAKE_MONOTONIC=1",
            # Else it takes over how threads wait for the interpreter, twenty times as dear.
            "FAKETIME_FORCE_MONOTONIC_FIX=0",
            "NO_FAKE_STAT=1",
        ]


def find_library() -> Path:
    """Where libfaketime lies. Raises `FaketimeMissing`."""
    for pattern in _LIBRARIES:
        for found in Path("/").glob(pattern.lstrip("/")):
            return found
    raise FaketimeMissing("libfaketime is not installed. Type: apt-get install faketime")


def forget_process(pid: int) -> None:
    """Takes away the shared memory that libfaketime leaves behind when its process is killed."""
    for left in Path("/dev/shm").glob(f"*faketime*_{pid}"):
        left.unlink(missing_ok=True)
