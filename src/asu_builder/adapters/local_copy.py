"""A build's own copy of an unpacked ImageBuilder, made as cheaply as is safe.

Where the file system can share blocks (btrfs, XFS) files are cloned; elsewhere they are copied.
Hard links would be cheaper, but a link is the same file: with foreign post-install scripts
running as our user, one build could rewrite the packages of all later ones.
"""

import errno
import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

_FICLONE = 0x40049409
_BLOCK = 512
"""What `st_blocks` counts in."""
_CANNOT_CLONE = {errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY, errno.ENOSYS, errno.EPERM}


class TreeCopy:
    """Copies directories, links, plain files, their modes and times (make compares those)."""

    def __init__(self, *, step: Callable[[], None]) -> None:
        """`step` is called before each file; it may raise to stop the copying."""
        self._step = step
        self._clones = True

    def copy(self, source: Path, to: Path) -> None:
        """`to` must not exist. Raises `OSError`; sockets, pipes and devices are left out."""
        to.mkdir()
        with os.scandir(source) as entries:
            for entry in entries:
                self._step()
                target = to / entry.name
                if entry.is_symlink():
                    target.symlink_to(Path(entry.path).readlink())
                elif entry.is_dir():
                    self.copy(Path(entry.path), target)
                elif entry.is_file():
                    self._copy_file(Path(entry.path), target)
        shutil.copystat(source, to)

    def _copy_file(self, source: Path, to: Path) -> None:
        if not (self._clones and self._clone(source, to)):
            shutil.copyfile(source, to)
        shutil.copystat(source, to)

    def _clone(self, source: Path, to: Path) -> bool:
        with source.open("rb") as original, to.open("wb") as copy:
            try:
                fcntl.ioctl(copy, _FICLONE, original.fileno())
            except OSError as error:
                if error.errno not in _CANNOT_CLONE:
                    raise
                self._clones = False
        return self._clones


def disk_use(directory: Path) -> int:
    """Bytes that a tree takes on disk; what vanishes while it is walked does not count."""
    total, waiting = 0, [directory]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    total += entry.stat(follow_symlinks=False).st_blocks * _BLOCK
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(Path(entry.path))
        except FileNotFoundError:
            continue
    return total


def remove_tree(directory: Path) -> None:
    """Removes a tree even where a build has taken away its own rights to it."""

    def retry(function: Callable[[str], object], path: str, _: object) -> None:
        if not os.path.lexists(path):
            return  # somebody was faster
        parent = Path(path).parent
        for place in (parent, Path(path)):
            if place.is_dir() and not place.is_symlink():
                place.chmod(0o700)
        function(path)

    shutil.rmtree(directory, onerror=retry)
