"""A small disk of its own, which can be filled and freed."""

import os
import subprocess
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self


class SmallDisk:
    """A tmpfs while the `with` block lasts. Mounting needs root."""

    def __init__(self, place: Path, *, mebibytes: int) -> None:
        self.place = place
        self._size = mebibytes
        self._ballast = place / ".ballast"

    def __enter__(self) -> Self:
        self.place.mkdir(parents=True)
        options = f"size={self._size}m,mode=0755"
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", self.place], check=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Lazily: a process that is just ending may still have a file open.
        subprocess.run(["umount", "--lazy", self.place], check=False)

    def fill(self, *, leave: int = 0) -> None:
        """Takes all room but `leave` bytes; what others free meanwhile stays free."""
        with self._ballast.open("ab") as file:
            for _ in range(3):
                free = self.free() - leave
                if free < 4096:
                    return
                with suppress(OSError):
                    os.posix_fallocate(file.fileno(), file.seek(0, os.SEEK_END), free)

    def release(self) -> None:
        """Gives the room back."""
        self._ballast.unlink(missing_ok=True)

    def free(self) -> int:
        """Bytes that are left."""
        found = os.statvfs(self.place)
        return found.f_bavail * found.f_frsize
