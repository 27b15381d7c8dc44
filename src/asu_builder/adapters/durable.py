"""What must survive a power cut, and why a disk takes nothing."""

import errno
import os
from pathlib import Path

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
"""Numbers of the error that says that a disk, or what its owner may have of it, is full."""


def sync(path: Path) -> None:
    """Returns when the file or directory is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def in_the_way(directory: Path) -> Path | None:
    """What exists in place of a directory or of one above it, and is none; the nearest."""
    places = (directory, *directory.parents)
    return next((place for place in places if place.exists() and not place.is_dir()), None)
