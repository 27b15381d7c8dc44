"""What must survive a power cut."""

import os
from pathlib import Path


def sync(path: Path) -> None:
    """Returns when the file or directory is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
