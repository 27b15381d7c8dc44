"""A copy of the database in one file, taken while the service runs."""

import contextlib
import fcntl
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path

from asu_builder.domain.errors import Conflict, Unavailable
from asu_builder.files import is_abandoned, opened, sync

_PAGES_AT_ONCE = 128
_BUSY_TIMEOUT_SECONDS = 30.0
_PART = ".part"


def backup(source: Path, target: Path, *, force: bool = False) -> int:
    """Copies the database `source` to the file `target`; its size in bytes.

    The copy is one moment's state, checked page by page, on disk when this returns, in one file
    without a log beside it, and readable by the database's owner alone: it holds first-boot
    scripts. Writers of the source are not blocked. Raises `Conflict` when `target` may not be
    replaced, and `Unavailable` when the source or the disk does not serve; an earlier backup is
    then still there.
    """
    _require_replaceable(source, target, force=force)
    try:
        with _scratch(target) as scratch:
            copy = scratch / "copy"
            _copy(source, copy)
            # The user of the service, and no other, reads what root has saved.
            copy.chmod(0o600)
            owner = source.stat()
            with contextlib.suppress(PermissionError):
                os.chown(copy, owner.st_uid, owner.st_gid)
            sync(copy)
            size = copy.stat().st_size
            copy.rename(target)
            sync(target.parent)
    except OSError as error:
        raise Unavailable(
            f"The backup {target} cannot be written: {error.strerror}. Name a file in a directory that is "
            "there and has room."
        ) from error
    return size


def _require_replaceable(source: Path, target: Path, *, force: bool) -> None:
    if not source.is_file():
        raise Unavailable(f"There is no database {source}. Name it by database_path, as for the service.")
    real = source.resolve()
    live = {real.with_name(real.name + end) for end in ("", "-wal", "-shm", "-journal")}
    if target.resolve() in live or (target.exists() and target.samefile(source)):
        raise Conflict(f"{target} is the database itself. Name another file for the backup.")
    if target.exists() and not target.is_file():
        raise Conflict(f"{target} is no plain file. Name another file for the backup.")
    if target.exists() and not force:
        raise Conflict(f"{target} is there already. Name another file for the backup, or use --force.")


@contextlib.contextmanager
def _scratch(target: Path) -> Iterator[Path]:
    """A directory beside the target, on the same disk; what backups that were killed left is swept."""
    prefix = f".{target.name}."
    with contextlib.ExitStack() as held:
        with opened(target.parent.resolve()) as parent:
            fcntl.flock(parent, fcntl.LOCK_EX)
            for path in target.parent.iterdir():
                if path.name.startswith(prefix) and path.suffix == _PART and is_abandoned(path):
                    shutil.rmtree(path, ignore_errors=True)
            scratch = Path(tempfile.mkdtemp(prefix=prefix, suffix=_PART, dir=target.parent))
            held.callback(shutil.rmtree, scratch, ignore_errors=True)
            fcntl.flock(held.enter_context(opened(scratch)), fcntl.LOCK_EX)
        yield scratch


def _copy(source: Path, copy: Path) -> None:
    """One moment's state of the source, in a file without a log, found sound."""
    try:
        with (
            contextlib.closing(_connect(source.resolve().as_uri() + "?mode=rw")) as live,
            contextlib.closing(_connect(copy.resolve().as_uri() + "?mode=rwc")) as target,
        ):
            live.execute("PRAGMA query_only = ON")
            # Within a read transaction all steps see one state. Without it each write of another
            # process starts the copy again, and beside a busy service it never ends.
            live.execute("BEGIN")
            live.execute("SELECT count(*) FROM sqlite_master").fetchone()
            target.execute("PRAGMA synchronous = OFF")  # it is synced once, when it is whole
            live.backup(target, pages=_PAGES_AT_ONCE, progress=_let_signals_in)
            target.execute("PRAGMA journal_mode = DELETE")
            (found,) = target.execute("PRAGMA integrity_check(1)").fetchone()
    except sqlite3.DatabaseError as error:
        raise Unavailable(
            f"The database {source} could not be copied: {error}. No backup was made."
        ) from error
    if found != "ok":
        raise Unavailable(
            f"The database {source} is damaged, and so no backup was made: {' '.join(found.split())}. "
            "Stop the service and put an earlier backup in its place."
        )


def _connect(uri: str) -> sqlite3.Connection:
    return sqlite3.connect(uri, uri=True, timeout=_BUSY_TIMEOUT_SECONDS, isolation_level=None)


def _let_signals_in(_status: int, _remaining: int, _total: int) -> None:
    """Between two steps Ctrl-C ends the copying, because this is Python."""
