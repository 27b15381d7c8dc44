"""The database file, looked at and never opened for writing: a start would migrate it."""

import contextlib
import os
import sqlite3
import time
from pathlib import Path

from asu_builder.adapters.schema import DAMAGE, known_schema, open_header, result_code
from asu_builder.doctor.holders import described, lock_holder
from asu_builder.doctor.scene import Scene
from asu_builder.domain.diagnosis import Finding, doubtful, well, wrong
from asu_builder.domain.errors import AsuError

_MAGIC = b"SQLite format 3\0"
_HEADER = 100
_SHARED_AT, _SHARED_LENGTH = 0x40000000 + 2, 510
"""SQLite's bytes for readers: held against others by whoever has the file to himself."""
_WRITING_AT = 120
"""In the -shm file: held by whoever writes (SQLite's WAL format)."""
_LOG_HEADER, _FRAME_HEADER = 32, 24
_LOOKS, _LOOK_EVERY_SECONDS = 5, 0.2
_BACKUP = "Put a backup in its place (docs/backup.md), or move it away to begin with an empty one."


def check_database(scene: Scene) -> Finding:
    """Header, schema, and whether somebody keeps it to himself."""
    path = scene.settings.database_path
    try:
        if not path.exists():
            return well(f"There is no {path} yet; the first start makes it.")
        if path.is_dir():
            return wrong(f"The database {path} is a directory.", "Name a file in it as database_path.")
        with path.open("rb") as file:
            header = file.read(_HEADER)
        size = path.stat().st_size
    except OSError as error:
        return wrong(
            f"The database {path} cannot be read by user {scene.user}: {error.strerror}.",
            f"chown {scene.user} {path}*",
        )
    if not header:
        return well(f"{path} is empty; the first start fills it.")
    return _damage(path, header, size) or _held(path) or _rights(scene, path) or _schema(path, header)


def _damage(path: Path, header: bytes, size: int) -> Finding | None:
    if len(header) < _HEADER or not header.startswith(_MAGIC):
        return wrong(f"The file {path} is no database, or its beginning is damaged.", _BACKUP)
    page = int.from_bytes(header[16:18]) or 1
    page = 65536 if page == 1 else page
    pages, counts_agree = int.from_bytes(header[28:32]), header[24:28] == header[92:96]
    if page & (page - 1) or page < 512 or (counts_agree and size < pages * page):
        return wrong(f"The database {path} is cut off: {size} bytes of {pages * page}.", _BACKUP)
    try:
        descriptor = open_header(path)
    except AsuError as problem:
        log = path.with_name(f"{path.name}-wal")
        return wrong(f"{problem}", f"rm {log} {path}-shm")
    if descriptor is not None:
        os.close(descriptor)
    return None


def _held(path: Path) -> Finding | None:
    """Waits a second for a writer, since writing takes milliseconds."""
    holder: int | None = None
    for _ in range(_LOOKS):
        holder = _holder(path)
        if holder is None:
            return None
        time.sleep(_LOOK_EVERY_SECONDS)
    return wrong(
        f"The database {path} is held by {described(holder)}; every start and every write waits for it.",
        f"Wait until it is done, or end it: kill {holder or 'PID'}",
    )


def _holder(path: Path) -> int | None:
    with contextlib.suppress(OSError):
        holder = lock_holder(path, _SHARED_AT, _SHARED_LENGTH)
        if holder is not None:
            return holder
    with contextlib.suppress(OSError):
        return lock_holder(path.with_name(f"{path.name}-shm"), _WRITING_AT, 1)
    return None


def _rights(scene: Scene, path: Path) -> Finding | None:
    closed = [
        beside
        for beside in (path, path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm"))
        if beside.exists() and not os.access(beside, os.R_OK | os.W_OK)
    ]
    if not closed:
        return None
    return wrong(
        f"{closed[0]} may not be written by user {scene.user}.",
        f"chown {scene.user} {path}* && chmod u+rw {path}*",
    )


def _schema(path: Path, header: bytes) -> Finding:
    try:
        have, tables = _read(path, header)
    except sqlite3.DatabaseError as error:
        if result_code(error) in DAMAGE:
            return wrong(f"The database {path} is damaged: {error}.", _BACKUP)
        return doubtful(f"The database {path} cannot be looked into: {error}.", f"sqlite3 {path} .tables")
    known = known_schema()
    if tables is not None and "installation" not in tables and (have or tables):
        return wrong(f"{path} is a database of another program.", "Name another database_path.")
    if have > known:
        return wrong(
            f"The database {path} was written by a newer version of this program (schema {have}; this one "
            f"knows {known}).",
            "Install that version again, or name another database_path.",
        )
    if have < known:
        return doubtful(
            f"The database {path} has schema {have}; the next start of this version brings it to {known}, "
            f"and leaves a copy in {path.name}.schema-{have}.backup.",
            f"Make a backup of your own before that start: asu-builder backup asu-builder-schema-{have}.db",
        )
    return well(f"The database {path} has schema {have}, the newest.")


def _read(path: Path, header: bytes) -> tuple[int, set[str] | None]:
    """The number of the schema and the tables, without making or changing any file beside the database.

    Beside a log with content SQLite would write into the memory it shares, so the log is read here,
    and the tables are unknown.
    """
    log = path.with_name(f"{path.name}-wal")
    if log.exists() and log.stat().st_size > 0:
        return int.from_bytes((newest_header(log) or header)[60:64]), None
    uri = f"{path.absolute().as_uri()}?mode=ro&immutable=1"
    with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=2)) as connection:
        (have,) = connection.execute("PRAGMA user_version").fetchone()
        names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        return int(have), {str(name) for (name,) in names}


def newest_header(log: Path) -> bytes | None:
    """The database's first bytes as the last committed transaction in a log left them, if any did.

    Source: "The WAL File Format" in https://sqlite.org/fileformat2.html. Checksums are left to SQLite.
    """
    committed = found = None
    with log.open("rb") as file:
        head = file.read(_LOG_HEADER)
        page, salts = int.from_bytes(head[8:12]), head[16:24]
        while len(frame := file.read(_FRAME_HEADER)) == _FRAME_HEADER and frame[8:16] == salts:
            first = file.read(_HEADER)
            if int.from_bytes(frame[:4]) == 1:
                found = first
            if any(frame[4:8]):
                committed = found
            file.seek(page - len(first), os.SEEK_CUR)
    return committed
