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

from asu_builder.domain.errors import StillRead, StoreFull, StoreUnavailable, Unavailable
from asu_builder.domain.health import CheckResult
from asu_builder.domain.request import REQUEST_HASH
from asu_builder.files import (
    ABSENT,
    DISK_FULL,
    in_the_way,
    is_abandoned,
    lock_alone,
    locked,
    locked_with_others,
    opened,
    sync,
)

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
_STAGING = ".staging"
_SCRATCH_PREFIX = ".scratch-"
_NO_DIRECTORY = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
_DISK = (*DISK_FULL, errno.EIO, errno.EROFS)


class LocalStore:
    """A store below one directory; a sweep lists only the one that scratch directories lie in.

    Locks (flock) work between processes of one machine and end with them: exclusive on a scratch
    directory while it is used, shared on a published one while it is read, and `.lock` for the
    moments in which entries get, change or lose their names.
    """

    def __init__(
        self,
        root: Path,
        *,
        installation: str,
        floor: int = 512 << 20,
        expects_results: Callable[[], bool] = lambda: False,
    ) -> None:
        """`installation` is the name that the store and published directories are marked with.

        `floor` is how many bytes of disk must be free before new builds may be taken.
        `expects_results` tells whether results are known that must lie here; see `Marks`.
        """
        self._root = root
        self._staging = root / _STAGING
        self._root_is_swept = False
        """Whether this process has looked for scratch directories outside of the one for them."""
        self._marks = Marks(root, installation=installation, expects_results=expects_results)
        self._floor = floor
        if (obstacle := in_the_way(root)) is not None:
            raise StoreUnavailable(
                f"The store {root} cannot be made: {obstacle} is a file where a directory is needed. "
                "Move it away, or name another public_path."
            )
        with _disk_errors(
            f"The store {root} cannot be made; let the user of this service own its directory, or name "
            "another public_path"
        ):
            root.mkdir(parents=True, exist_ok=True)

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        # What the disk refuses within it is `StoreUnavailable` too.
        with contextlib.ExitStack() as life:
            # Nothing is built into a mount point whose disk is not there.
            self.require_root()
            with _disk_errors("The store cannot be written"), locked(self._root):
                self._make_staging()
                path = self._new_scratch()
                path.mkdir(mode=0o700)
                # The lock ends with its process; a directory without one is left over.
                fcntl.flock(life.enter_context(opened(path)), fcntl.LOCK_EX)
                life.callback(shutil.rmtree, path, ignore_errors=True)
            with _disk_errors("The store cannot be written", only=_DISK):
                yield path

    def publish(self, request_hash: str, scratch: Path) -> int:
        # Files, then their directory, are synced before the rename, and the store after it: a client that
        # reads *completed* after a power cut still finds the images. A former directory is replaced
        # even while it is read: an open file stays readable.
        former = self._new_scratch()
        with _disk_errors("Images could not be stored"):
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
        return size

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
        with _disk_errors("The store cannot be read"):
            return [name for name in request_hashes if not _is_directory(folder + name)]

    def owns(self, request_hash: str) -> bool:
        if not REQUEST_HASH.fullmatch(request_hash):
            return False
        with _disk_errors("The store cannot be read"):
            return self._marks.is_on(self._root / request_hash)

    @contextlib.contextmanager
    def hold(self, request_hash: str, *, wait: bool = True) -> Iterator[None]:
        with contextlib.ExitStack() as held:
            if REQUEST_HASH.fullmatch(request_hash):
                with _disk_errors("The store cannot be read"):
                    held.enter_context(locked_with_others(self._root / request_hash, wait=wait))
            yield

    def remove(self, request_hash: str, *, confirm: Callable[[], bool] = lambda: True) -> bool:
        # Renamed first, so that no half directory is ever served; the rename makes it a scratch
        # directory, locked already, without a byte of new disk, which there may not be.
        if not REQUEST_HASH.fullmatch(request_hash):
            return confirm()
        self.require_root()
        path, away = self._root / request_hash, self._new_scratch()
        with contextlib.ExitStack() as life, _disk_errors("Images cannot be removed"):
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
        with _disk_errors("The store cannot be listed"), os.scandir(self._root) as entries:
            for entry in entries:
                if REQUEST_HASH.fullmatch(entry.name):
                    yield entry.name

    def require_root(self) -> None:
        with _disk_errors("The store cannot be read"):
            self._marks.require_root()

    def missing(self) -> str:
        return self._marks.missing

    def adopt(self) -> None:
        with _disk_errors("The store cannot be written"), locked(self._root):
            self._marks.put_on_root()
            sync(self._root)

    def room(self) -> int:
        with _disk_errors("The store cannot be read"):
            return self._free() - self._floor

    def sweep(self) -> int:
        # Listing the root costs as much as there are results. Scratch directories of a former version, or of
        # a disk that was too full for the directory of their own, are looked for once.
        places = [self._staging] if self._root_is_swept else [self._staging, self._root]
        with _disk_errors("The store cannot be swept"):
            if left := [path for place in places for path in _scratches(place)]:
                with locked(self._root):
                    left = [path for path in left if is_abandoned(path)]
            # Names are random and never used again, so the lock is not needed for this.
            for path in left:
                shutil.rmtree(path, ignore_errors=True)
        self._root_is_swept = True
        return len(left)

    def check(self) -> CheckResult:
        try:
            with self.scratch() as path, _disk_errors("The store cannot be written"):
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

    def _new_scratch(self) -> Path:
        place = self._staging if self._staging.is_dir() else self._root
        return place / f"{_SCRATCH_PREFIX}{os.urandom(8).hex()}"

    def _free(self) -> int:
        facts = os.statvfs(self._root)
        return facts.f_bavail * facts.f_frsize


def _is_directory(path: str) -> bool:
    try:
        return stat.S_ISDIR(os.stat(path).st_mode)  # noqa: PTH116 - see `absent`
    except OSError as error:
        if error.errno in _NO_DIRECTORY:
            return False
        raise


def _scratches(folder: Path) -> Iterator[Path]:
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(_SCRATCH_PREFIX):
                yield folder / entry.name


@contextlib.contextmanager
def _disk_errors(failed: str, *, only: tuple[int, ...] = ()) -> Iterator[None]:
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
