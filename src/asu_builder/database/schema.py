"""What a database file is, and how it comes to the newest schema.

The scripts in `migrations/` are numbered and only ever added; `user_version` says how many of them
a file has seen. Each runs in one transaction together with its number: after a crash at any point
the former schema is whole.
"""

import contextlib
import errno
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from asu_builder.domain.errors import AsuError, Unavailable
from asu_builder.files import DISK_FULL, in_the_way

# By path: importlib.resources costs more than opening the database.
MIGRATIONS = Path(__file__).parent / "migrations"

DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
"""Primary result codes that say that the file itself is broken."""

_NO_ROOM = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)
_BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
_FORMAT_AT = 18
_ROLLBACK_FORMAT = b"\x01"


def known_schema(folder: Path = MIGRATIONS) -> int:
    """The number of the newest schema."""
    return sum(name.endswith(".sql") for name in os.listdir(folder))  # noqa: PTH208


def migrate(connection: sqlite3.Connection, path: Path, *, folder: Path = MIGRATIONS) -> None:
    """Brings the database to the newest schema that `folder` knows, where it is not there yet.

    A database that had rows before is first copied to `<name>.schema-<n>.backup` beside it.
    `connection` must be in autocommit mode and keep foreign keys. Raises `Unavailable`, with the
    former schema and every row in place, for a newer or another program's database, and when a
    script fails or leaves references to nothing.
    """
    # No paths are made of what need not run: this is on the way to the first answer.
    scripts = sorted(name for name in os.listdir(folder) if name.endswith(".sql"))  # noqa: PTH208
    began = have = _schema_of(connection, path, known=len(scripts))
    if have == len(scripts):
        return
    # With them on, the DROP TABLE of a table that is made again would delete what refers to it.
    # Within a transaction the pragma does nothing.
    connection.execute("PRAGMA foreign_keys = OFF")
    try:
        while have < len(scripts):
            _step(connection, path, have, folder / scripts[have], copy_first=have == began > 0)
            have = _schema_of(connection, path, known=len(scripts))
    finally:
        connection.execute("PRAGMA foreign_keys = ON")


def _schema_of(connection: sqlite3.Connection, path: Path, *, known: int) -> int:
    """The number of the file's schema, 0 for a new file; refuses what this program cannot use."""
    # One transaction: between the two statements another process may make the tables.
    connection.execute("BEGIN")
    try:
        (have,) = connection.execute("PRAGMA user_version").fetchone()
        tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    finally:
        connection.execute("ROLLBACK")
    # Every schema has this table; a new file has none and no number.
    ours = "installation" in tables if have else not tables
    if not ours:
        raise Unavailable(
            f"The file {path} is a database of another program, and was left alone. "
            "Name another database_path."
        )
    if have > known:
        raise Unavailable(
            f"The database {path} was written by a newer version of this program (schema {have}, "
            f"known {known}). Install that version again, or name another database_path."
        )
    return int(have)


def _step(connection: sqlite3.Connection, path: Path, have: int, script: Path, *, copy_first: bool) -> None:
    """One migration, unless another process has made it meanwhile."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        if connection.execute("PRAGMA user_version").fetchone() != (have,):
            return
        if copy_first:
            _copy_aside(path, have)
        for statement in statements(script.read_text(encoding="utf-8")):
            connection.execute(statement)
        if dangling := connection.execute("PRAGMA foreign_key_check").fetchall():
            table, _, parent, _ = dangling[0]
            raise sqlite3.IntegrityError(
                f"{len(dangling)} rows would refer to nothing, the first of them in {table} to {parent}"
            )
        connection.execute(f"PRAGMA user_version = {have + 1}")
        connection.execute("COMMIT")
    except sqlite3.DatabaseError as error:
        remedy = (
            "Make room on its disk, or see what is wrong with it, and start again."
            if result_code(error) in _NO_ROOM
            else "Start the former version of this program again, and report this."
        )
        raise Unavailable(
            f"The database {path} could not be brought from schema {have} to {have + 1}, and is as it was "
            f"before: {error}. {remedy}"
        ) from error
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _copy_aside(path: Path, have: int) -> None:
    # Most starts need no copy, and none of what makes one.
    from asu_builder.database.backup import backup

    # The write lock is held: what is copied is the last state of the former schema. A copy from an
    # earlier upgrade that was taken back would be of no use any more.
    try:
        backup(path, path.with_name(f"{path.name}.schema-{have}.backup"), force=True)
    except AsuError as problem:
        raise Unavailable(
            f"The database {path} was left at schema {have}, because it could not be copied "
            f"before the upgrade: {problem}"
        ) from problem


def statements(script: str) -> Iterator[str]:
    """The statements of a script, one by one: `executescript` would commit the transaction around it."""
    *pieces, rest = script.split(";")
    statement = ""
    for piece in pieces:
        statement += f"{piece};"
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
    if (statement + rest).strip():
        yield statement + rest


def open_header(path: Path) -> int | None:
    """Refuses a restored backup beside which the log of the database before it still lies.

    SQLite would play that log into the backup and spoil it. A backup is in SQLite's format without
    a log, which a database of ours is only before it is opened for the first time. Returns the
    descriptor it looked through, to be closed after all connections to the file: closing it earlier
    would drop SQLite's own locks (POSIX). None where there is no log.
    """
    log = path.with_name(f"{path.name}-wal")
    try:
        # In this order: a database that is being opened by another process gets its format first.
        if log.stat().st_size == 0:
            return None
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    if os.pread(descriptor, 1, _FORMAT_AT) != _ROLLBACK_FORMAT:
        return descriptor
    os.close(descriptor)
    raise Unavailable(
        f"{log} belongs to the database that was at {path} before this one and would spoil it. "
        f"Remove {log} and {path.name}-shm, and start again."
    )


def unusable(path: Path, error: sqlite3.DatabaseError | OSError) -> Unavailable:
    """Why a database cannot be opened, with what to do, for the operator."""
    code = result_code(error)
    number = error.errno if isinstance(error, OSError) else None
    is_read_only = number == errno.EROFS
    with contextlib.suppress(OSError):
        is_read_only |= bool(os.statvfs(path.parent).f_flag & os.ST_RDONLY)
    if path.is_dir():
        sentence = f"The database {path} is a directory. Name a file in it as database_path."
    elif (obstacle := in_the_way(path.parent)) is not None:
        sentence = (
            f"The database {path} cannot be made: {obstacle} is a file where a directory is needed. "
            "Move it away, or name another database_path."
        )
    elif code == sqlite3.SQLITE_FULL or number in DISK_FULL:
        sentence = f"The disk of the database {path} is full. Make room on it, and start again."
    elif is_read_only:
        sentence = (
            f"The disk of the database {path} can only be read. Mount it for writing, or name another "
            "database_path."
        )
    elif code in DAMAGE:
        sentence = (
            f"The file {path} is no database, or it is damaged ({error}). Put a backup in its place, "
            "or move it away to begin with an empty one."
        )
    elif code in _BUSY:
        sentence = (
            f"The database {path} is held by another process, which may be bringing it to a newer schema. "
            "Wait until it is done, and start again."
        )
    else:
        sentence = (
            f"The database {path} cannot be opened for reading and writing: {error}. Let the user of this "
            "service own it, the files beside it and their directory, or name another database_path."
        )
    return Unavailable(sentence)


def result_code(error: BaseException) -> int:
    """SQLite's primary result code; 0 when the error has none."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF
