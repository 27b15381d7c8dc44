"""Files that survive a power cut, and locks on directories that end with their process."""

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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


class BadFile(Exception):
    """A file with a secret that cannot be used; the sentence says why, and never what is in it."""


def read_private_file(path: Path, most_bytes: int) -> bytes:
    """The beginning of a plain file that only its owner may read. Raises `BadFile`."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            content = file.read(most_bytes) if stat.S_ISREG(mode) else b""
    except OSError as error:
        raise BadFile(f"it cannot be read: {error.strerror}") from None
    if not stat.S_ISREG(mode):
        raise BadFile("it is no plain file")
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise BadFile(f"others may read it (mode {stat.S_IMODE(mode):04o}): chmod 600 {path}")
    return content


def in_the_way(directory: Path) -> Path | None:
    """What exists in place of a directory or of one above it, and is none; the nearest."""
    places = (directory, *directory.parents)
    return next((place for place in places if place.exists() and not place.is_dir()), None)


ABSENT = (FileNotFoundError, NotADirectoryError, PermissionError)
"""What opening a directory raises when there is none for us; a symbolic link to one is none."""

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_REPLACEMENTS = 20


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """A sweep skips directories in which an entry is being created: that entry has no lock yet.

    Replacing or removing an entry happens under this lock too. Held for moments only.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / ".lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def opened(directory: Path) -> Iterator[int]:
    """A descriptor of the directory itself; a lock on it ends here at the latest."""
    descriptor = os.open(directory, _DIRECTORY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def locked_with_others(directory: Path, *, wait: bool = True) -> Iterator[bool]:
    """Keeps others from locking the directory exclusively; False, and no lock, where there is none.

    It is the directory that still had the name when the lock was there. Raises `BlockingIOError` where it
    would have to wait and may not.
    """
    descriptor = _open_with_others(directory, wait=wait)
    try:
        yield descriptor is not None
    finally:
        if descriptor is not None:
            os.close(descriptor)


def lock_alone(descriptor: int) -> bool:
    """Takes the exclusive lock if it is free; whether it did. Never waits."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_abandoned(directory: Path) -> bool:
    """Whether a directory is there and no living process holds the lock on it."""
    try:
        with opened(directory) as descriptor:
            return lock_alone(descriptor)
    except OSError:
        return False


def _open_with_others(directory: Path, *, wait: bool) -> int | None:
    for _ in range(_REPLACEMENTS):
        try:
            descriptor = os.open(directory, _DIRECTORY)
        except ABSENT:
            return None
        try:
            # Waits for moments at most: an exclusive lock is held for one rename.
            fcntl.flock(descriptor, fcntl.LOCK_SH if wait else fcntl.LOCK_SH | fcntl.LOCK_NB)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), directory.lstat()):
                    return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # replaced or taken away between opening and locking
    raise OSError(errno.EBUSY, "a directory is replaced again and again")
