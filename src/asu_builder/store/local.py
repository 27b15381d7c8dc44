"""Published images on the local disk: one directory per request hash, never rewritten."""

import contextlib
import errno
import fcntl
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from asu_builder.domain.errors import StillRead, StoreUnavailable, Unavailable
from asu_builder.domain.health import CheckResult
from asu_builder.domain.job import Published
from asu_builder.domain.request import REQUEST_HASH
from asu_builder.files import ABSENT, lock_alone, locked, locked_with_others, opened, sync
from asu_builder.store.scratch import ScratchSpace, disk_errors

_MARK = ".installation"
"""In each published directory: which installation published it."""
_ROOT_MARK = ".store-of-"
"""In the store itself, with the installation's name behind it: several may share one store."""
_GONE = (FileNotFoundError, NotADirectoryError)
_MISSING = (
    "The store's directory is not the one that results were put into; is its disk mounted? Nothing is built "
    "and nothing is forgotten until it is there again. If the results are really gone, "
    "`asu-builder gc --adopt-store` begins a new store."
)


class Marks:
    """Of one installation in one store. A disk that refuses raises `OSError`.

    A directory without the mark of the root is still the store where no result is known, or where this
    installation has published something: then the mark is only not there yet.
    """

    def __init__(self, root: Path, *, installation: str, expects_results: Callable[[], bool]) -> None:
        """`expects_results` tells whether any result was ever put into the store and is not forgotten."""
        self._root = root
        self._name = installation
        self.text = f"{installation}\n".encode()
        """What each mark holds."""
        self._expects_results = expects_results
        self.missing = ""
        """Why the directory is not the store, as last seen; "" while it is."""

    def is_on(self, directory: Path) -> bool:
        """Whether this installation has published the directory."""
        try:
            return not directory.is_symlink() and (directory / _MARK).read_bytes() == self.text
        except (*ABSENT, IsADirectoryError):
            return False

    def require_root(self) -> None:
        """Raises `StoreUnavailable` where results were put into another directory than this one.

        One system call where the mark is there. The root is marked only when something is published,
        never in passing: a mount point that was seen without its disk must not bear the mark.
        """
        if not self._root_is_marked() and self._expects_results():
            has_published = False
            with contextlib.suppress(*_GONE), os.scandir(self._root) as entries:
                has_published = any(
                    REQUEST_HASH.fullmatch(entry.name) and self.is_on(Path(entry.path)) for entry in entries
                )
            if not has_published:
                self.missing = _MISSING
                raise StoreUnavailable(_MISSING)
            self.put_on_root()
        self.missing = ""

    def put_on_root(self) -> None:
        """Says that the results of this installation lie here; synced but for the root's own entry."""
        if not self._root_is_marked():
            self._root_mark.write_bytes(self.text)
            self._root_mark.chmod(0o644)
            sync(self._root_mark)

    @property
    def _root_mark(self) -> Path:
        return self._root / f"{_ROOT_MARK}{self._name}"

    def _root_is_marked(self) -> bool:
        try:
            self._root_mark.lstat()
        except _GONE:
            return False
        return True


_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,254}")
"""Refuses marks and scratch directories, so they are never served."""
_NO_DIRECTORY = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


class LocalStore:
    """A store below one directory.

    Locks (flock) work between processes of one machine and end with them: shared on a published directory
    while it is read, else as in `ScratchSpace`.
    """

    keeps_on_disk = True

    def __init__(
        self,
        root: Path,
        *,
        installation: str,
        floor: int = 512 << 20,
        expects_results: Callable[[], bool] = lambda: False,
        names_handed_over: Callable[[str, str], bool] = lambda request_hash, folder: False,
    ) -> None:
        """`installation` is the name that the store and published directories are marked with.

        `floor` is how many bytes of disk must be free before new builds may be taken.
        `expects_results` tells whether results are known that must lie here; see `Marks`.
        `names_handed_over` tells whether a job names files that were handed over.
        """
        self._names_handed_over = names_handed_over
        self._root = root
        self._scratch = ScratchSpace(root, floor=floor)
        self._marks = Marks(root, installation=installation, expects_results=expects_results)

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        # Nothing is built into a mount point whose disk is not there.
        self.require_root()
        with self._scratch.directory() as path:
            yield path

    def publish(
        self, request_hash: str, scratch: Path, *, require_time: Callable[[], None] = lambda: None
    ) -> Published:
        # Files, then their directory, are synced before the rename, and the store after it: a client that
        # reads *completed* after a power cut still finds the images. A former directory is replaced
        # even while it is read: an open file stays readable.
        former = self._scratch.new_name()
        with disk_errors("Images could not be stored"):
            size = sum(entry.stat().st_size for entry in scratch.iterdir())
            (scratch / _MARK).write_bytes(self._marks.text)
            scratch.chmod(0o755)
            for entry in sorted(scratch.iterdir()):
                entry.chmod(0o644)
                sync(entry)
            sync(scratch)
            with locked(self._root):
                with contextlib.suppress(FileNotFoundError):
                    (self._root / request_hash).rename(former)
                scratch.rename(self._root / request_hash)
                self._marks.put_on_root()
            sync(self._root)
        shutil.rmtree(former, ignore_errors=True)
        return Published(size)

    def hand_over(
        self, request_hash: str, scratch: Path, *, require_time: Callable[[], None] = lambda: None
    ) -> str:
        return self._scratch.hand_over(request_hash, scratch)

    def take_over(
        self, request_hash: str, folder: str, into: Path, *, require_time: Callable[[], None] = lambda: None
    ) -> None:
        self._scratch.take_over(request_hash, folder, into)

    def discard(self, request_hash: str, folder: str) -> None:
        self._scratch.discard(request_hash, folder)

    def locate(self, request_hash: str, name: str) -> Path | None:
        if not (REQUEST_HASH.fullmatch(request_hash) and _NAME.fullmatch(name)):
            return None
        path = self._root / request_hash / name
        try:
            mode = path.lstat().st_mode
        except OSError:
            return None
        return path if stat.S_ISREG(mode) and not path.parent.is_symlink() else None

    def holds(self, request_hash: str) -> bool:
        return REQUEST_HASH.fullmatch(request_hash) is not None and not self.absent([request_hash])

    def absent(self, request_hashes: Sequence[str]) -> Sequence[str]:
        # By text: a path object for each of a hundred thousand costs four times the look.
        folder = f"{self._root}{os.sep}"
        with disk_errors("The store cannot be read"):
            return [name for name in request_hashes if not _is_directory(folder + name)]

    def owns(self, request_hash: str) -> bool:
        if not REQUEST_HASH.fullmatch(request_hash):
            return False
        with disk_errors("The store cannot be read"):
            return self._marks.is_on(self._root / request_hash)

    @contextlib.contextmanager
    def hold(self, request_hash: str, *, wait: bool = True) -> Iterator[None]:
        with contextlib.ExitStack() as held:
            if REQUEST_HASH.fullmatch(request_hash):
                with disk_errors("The store cannot be read"):
                    held.enter_context(locked_with_others(self._root / request_hash, wait=wait))
            yield

    def remove(self, request_hash: str, *, confirm: Callable[[], bool] = lambda: True) -> bool:
        # Renamed first, so that no half directory is ever served; the rename makes it a scratch
        # directory, locked already, without a byte of new disk, which there may not be.
        if not REQUEST_HASH.fullmatch(request_hash):
            return confirm()
        self.require_root()
        path, away = self._root / request_hash, self._scratch.new_name()
        with contextlib.ExitStack() as life, disk_errors("Images cannot be removed"):
            with locked(self._root):
                if not self._marks.is_on(path):
                    self._marks.require_root()  # gone, or with the whole disk, a moment ago?
                    return confirm()
                lock = life.enter_context(opened(path))
                if not lock_alone(lock):
                    raise StillRead("These images are being downloaded; they can be taken away afterwards.")
                if not confirm():
                    return False
                path.rename(away)
                # A waiting reader gets the lock and sees that it is gone; a sweep stays out.
                fcntl.flock(lock, fcntl.LOCK_SH)
            shutil.rmtree(away, ignore_errors=True)
            return True

    def published(self) -> Iterator[str]:
        with disk_errors("The store cannot be listed"), os.scandir(self._root) as entries:
            for entry in entries:
                if REQUEST_HASH.fullmatch(entry.name):
                    yield entry.name

    def require_root(self) -> None:
        with disk_errors("The store cannot be read"):
            self._marks.require_root()

    def missing(self) -> str:
        return self._marks.missing

    def adopt(self) -> None:
        with disk_errors("The store cannot be written"), locked(self._root):
            self._marks.put_on_root()
            sync(self._root)

    def room(self) -> int:
        return self._scratch.room()

    def sweep(self) -> int:
        with disk_errors("The store cannot be swept"):
            return self._scratch.sweep() + self._scratch.sweep_unsigned(self._names_handed_over)

    def check(self) -> CheckResult:
        try:
            self.require_root()
        except Unavailable as error:
            return CheckResult("error", str(error))
        return self._scratch.check()


def _is_directory(path: str) -> bool:
    try:
        return stat.S_ISDIR(os.stat(path).st_mode)  # noqa: PTH116 - see `absent`
    except OSError as error:
        if error.errno in _NO_DIRECTORY:
            return False
        raise
