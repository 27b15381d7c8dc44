"""The clock of the server's process, and of no other: libfaketime reads how far it is off from a file."""

from pathlib import Path

_LIBRARIES = ("/usr/lib/*/faketime/libfaketime.so.1", "/usr/lib/faketime/libfaketime.so.1")


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
            "FAKETIME_NO_CACHE=1",
            "FAKETIME_DONT_FAKE_MONOTONIC=1",
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
