"""Where builds put their files: scratch directories on a disk of this host, each locked by its process."""

import contextlib
import errno
import fcntl
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

from asu_builder.domain.errors import HandedOverGone, StoreFull, StoreUnavailable, Unavailable
from asu_builder.domain.health import CheckResult
from asu_builder.files import DISK_FULL, in_the_way, is_abandoned, locked, opened, sync

_STAGING = ".staging"
_PREFIX = ".scratch-"
_UNSIGNED = ".unsigned-"
HANDED_OVER = re.compile(r"[0-9a-f]{16}")
"""What files are called that were handed over; nothing else is looked for."""
UNNAMED_FOR = timedelta(hours=1)
"""How long files may lie there that no job names: each is named a moment after it was written."""
_DISK = (*DISK_FULL, errno.EIO, errno.EROFS)


class ScratchSpace:
    """Scratch directories below the store's root; a sweep lists only the one that they lie in.

    Locks (flock) work between processes of one machine and end with them: exclusive on a scratch
    directory while it is used, and `.lock` for the moments in which entries get, change or lose their names.
    """

    def __init__(self, root: Path, *, floor: int) -> None:
        """`floor` is how many bytes of disk must be free before new builds may be taken."""
        self._root = root
        self._staging = root / _STAGING
        self._root_is_swept = False
        """Whether this process has looked for scratch directories outside of the one for them."""
        self._floor = floor
        if (obstacle := in_the_way(root)) is not None:
            raise StoreUnavailable(
                f"The store {root} cannot be made: {obstacle} is a file where a directory is needed. "
                "Move it away, or name another public_path."
            )
        with disk_errors(
            f"The store {root} cannot be made; let the user of this service own its directory, or name "
            "another public_path"
        ):
            root.mkdir(parents=True, exist_ok=True)

    @contextlib.contextmanager
    def directory(self) -> Iterator[Path]:
        """A fresh one, gone later unless it was renamed. What the disk refuses is `StoreUnavailable`."""
        with contextlib.ExitStack() as life:
            with disk_errors("The store cannot be written"), locked(self._root):
                self._make_staging()
                path = self.new_name()
                path.mkdir(mode=0o700)
                # The lock ends with its process; a directory without one is left over.
                fcntl.flock(life.enter_context(opened(path)), fcntl.LOCK_EX)
                life.callback(shutil.rmtree, path, ignore_errors=True)
            with disk_errors("The store cannot be written", only=_DISK):
                yield path

    def new_name(self) -> Path:
        """What no other scratch directory is called; a sweep takes what has such a name and no lock."""
        place = self._staging if self._staging.is_dir() else self._root
        return place / f"{_PREFIX}{os.urandom(8).hex()}"

    def hand_over(self, request_hash: str, directory: Path) -> str:
        """Keeps a directory in one step, durably; what it is called from then on."""
        folder = os.urandom(8).hex()
        with disk_errors("Images could not be handed over"):
            for entry in directory.iterdir():
                sync(entry)
            sync(directory)
            path = self._unsigned(request_hash, folder)
            directory.rename(path)
            os.utime(path)
            sync(path.parent)
        return folder

    def take_over(self, request_hash: str, folder: str, into: Path) -> None:
        """Copies what was handed over. Raises `HandedOverGone`."""
        path = self._unsigned(request_hash, folder)
        with disk_errors("Images cannot be signed"):
            if not (HANDED_OVER.fullmatch(folder) and path.is_dir()):
                raise HandedOverGone("What was handed over to be signed is not in this store.")
            try:
                for entry in path.iterdir():
                    shutil.copyfile(entry, into / entry.name, follow_symlinks=False)
            except FileNotFoundError as error:
                raise HandedOverGone("What was handed over to be signed has just been removed.") from error

    def discard(self, request_hash: str, folder: str) -> None:
        """Removes what was handed over, if it is there."""
        if HANDED_OVER.fullmatch(folder):
            shutil.rmtree(self._unsigned(request_hash, folder), ignore_errors=True)

    def sweep_unsigned(self, is_named: Callable[[str, str], bool]) -> int:
        """Removes what was handed over a while ago and is named by no job any more; how many."""
        swept = 0
        with contextlib.suppress(FileNotFoundError), os.scandir(self._staging) as entries:
            for entry in entries:
                request_hash, _, folder = entry.name.removeprefix(_UNSIGNED).partition(".")
                if not entry.name.startswith(_UNSIGNED):
                    continue
                age = time.time() - entry.stat(follow_symlinks=False).st_mtime
                if abs(age) > UNNAMED_FOR.total_seconds() and not is_named(request_hash, folder):
                    shutil.rmtree(entry.path, ignore_errors=True)
                    swept += 1
        return swept

    def _unsigned(self, request_hash: str, folder: str) -> Path:
        return self._staging / f"{_UNSIGNED}{request_hash}.{folder}"

    def room(self) -> int:
        """Bytes of free disk above the floor."""
        with disk_errors("The store cannot be read"):
            return self._free() - self._floor

    def sweep(self) -> int:
        """Removes scratch directories that no living process holds; how many."""
        # Listing the root costs as much as there are results. Scratch directories of a former version, or of
        # a disk that was too full for the directory of their own, are looked for once.
        places = [self._staging] if self._root_is_swept else [self._staging, self._root]
        with disk_errors("The store cannot be swept"):
            if left := [path for place in places for path in _scratches(place)]:
                with locked(self._root):
                    left = [path for path in left if is_abandoned(path)]
            # Names are random and never used again, so the lock is not needed for this.
            for path in left:
                shutil.rmtree(path, ignore_errors=True)
        self._root_is_swept = True
        return len(left)

    def check(self) -> CheckResult:
        """Whether a build could put its files here now."""
        try:
            with self.directory() as path, disk_errors("The store cannot be written"):
                (path / "probe").write_bytes(b"x")
                free = self._free()
        except Unavailable as error:
            return CheckResult("error", str(error))
        if free <= self._floor:
            return CheckResult(
                "warning",
                f"The store's disk has {free >> 20} MiB left; new builds are refused until more than "
                f"{self._floor >> 20} MiB are free. Downloads and cleaning go on. Make room on the disk, "
                "let results expire earlier, or lower disk_floor.",
            )
        return CheckResult("ok", "Images can be stored.")

    def _make_staging(self) -> None:
        with contextlib.suppress(FileExistsError, PermissionError):
            self._staging.mkdir(mode=0o700)
            if os.geteuid() == 0:  # a command of root's beside the service
                facts = self._root.stat()
                os.chown(self._staging, facts.st_uid, facts.st_gid)

    def _free(self) -> int:
        facts = os.statvfs(self._root)
        return facts.f_bavail * facts.f_frsize


def _scratches(folder: Path) -> Iterator[Path]:
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(_PREFIX):
                yield folder / entry.name


@contextlib.contextmanager
def disk_errors(failed: str, *, only: tuple[int, ...] = ()) -> Iterator[None]:
    """What the disk refuses is `StoreUnavailable` or `StoreFull`; if wished, other numbers pass."""
    try:
        yield
    except BlockingIOError:
        raise  # of who may not wait
    except OSError as error:
        if only and error.errno not in only:
            raise
        if error.errno in DISK_FULL:
            raise StoreFull(
                "The disk of the store is full; no image can be stored before the operator has made room."
            ) from error
        # Not the whole text: it names paths.
        raise StoreUnavailable(f"{failed}: {error.strerror or type(error).__name__}.") from error
