"""Published images on the local disk: one directory per request hash, never rewritten."""

import contextlib
import fcntl
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from asu_builder.adapters.locks import is_abandoned, locked
from asu_builder.domain.errors import Unavailable
from asu_builder.ports import Verdict

_HASH = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,254}")
_SCRATCH_PREFIX = ".scratch-"
_LOW_SPACE_BYTES = 1 << 30


class LocalStore:
    """A store below one directory; scratch directories lie beside the published ones."""

    def __init__(self, root: Path) -> None:
        self._root = root
        try:
            root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise Unavailable(f"The store {root} cannot be made: {error.strerror}") from error

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """See `ports.Store.scratch`."""
        try:
            with locked(self._root):
                path = Path(tempfile.mkdtemp(prefix=_SCRATCH_PREFIX, dir=self._root))
                lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
                # It ends with its process: what nobody holds is left over from a former life.
                fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as error:
            raise Unavailable(f"The store cannot be written: {error.strerror}") from error
        try:
            yield path
        finally:
            os.close(lock)
            shutil.rmtree(path, ignore_errors=True)

    def publish(self, request_hash: str, scratch: Path) -> None:
        """See `ports.Store.publish`.

        Files, then their directory, are synced before the rename, and the store after it: whoever
        reads *completed* after a power cut still finds the images.
        """
        try:
            scratch.chmod(0o755)
            for entry in sorted(scratch.iterdir()):
                entry.chmod(0o644)
                _sync(entry)
            _sync(scratch)
            self.remove(request_hash)
            scratch.rename(self._root / request_hash)
            _sync(self._root)
        except OSError as error:
            raise Unavailable(f"Images could not be stored: {error.strerror}") from error

    def locate(self, request_hash: str, name: str) -> Path | None:
        """See `ports.Store.locate`."""
        if not (_HASH.fullmatch(request_hash) and _NAME.fullmatch(name)):
            return None
        path = self._root / request_hash / name
        try:
            mode = path.lstat().st_mode
        except OSError:
            return None
        return path if stat.S_ISREG(mode) and not path.parent.is_symlink() else None

    def holds(self, request_hash: str) -> bool:
        """See `ports.Store.holds`."""
        return _HASH.fullmatch(request_hash) is not None and (self._root / request_hash).is_dir()

    def remove(self, request_hash: str) -> None:
        """See `ports.Store.remove`. Renamed away first, so that no half directory is ever served."""
        if self.holds(request_hash):
            with self.scratch() as away:
                (self._root / request_hash).rename(away / request_hash)

    def sweep(self) -> int:
        """See `ports.Store.sweep`."""
        try:
            with locked(self._root):
                abandoned = [path for path in self._root.glob(f"{_SCRATCH_PREFIX}*") if is_abandoned(path)]
                for path in abandoned:
                    shutil.rmtree(path, ignore_errors=True)
        except OSError as error:
            raise Unavailable(f"The store cannot be swept: {error.strerror}") from error
        return len(abandoned)

    def check(self) -> Verdict:
        """See `ports.Store.check`."""
        try:
            with self.scratch() as path:
                (path / "probe").write_bytes(b"x")
            free = shutil.disk_usage(self._root).free
        except (OSError, Unavailable) as error:
            return Verdict("down", f"Images cannot be stored: {error}")
        if free < _LOW_SPACE_BYTES:
            return Verdict("degraded", f"The store has only {free >> 20} MiB left.")
        return Verdict("ok", "Images can be stored.")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
