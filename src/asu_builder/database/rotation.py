"""Another secrets key: every data key is wrapped again, while the service runs and reads both."""

import fcntl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import astuple

from asu_builder.database.dialect import SqlDatabase
from asu_builder.database.operator import SqlOperations
from asu_builder.database.queue import SqlJobQueue
from asu_builder.database.rows import REQUEST
from asu_builder.database.secrets import (
    STORE_SECRET,
    Sealed,
    Secrets,
    SecretsKey,
    has_secrets,
    make_key,
    read_keys,
    without_secrets,
    write_keys,
)
from asu_builder.domain.errors import Conflict, SecretsUnavailable
from asu_builder.files import lock_alone, opened

_AT_ONCE = 500
_FOLDS = 20
_OTHERS = """
    SELECT request_hash, secrets_key, wrapped, sealed FROM build_secrets
     WHERE secrets_key <> ? AND request_hash > ? ORDER BY request_hash LIMIT ?
"""
_REWRAP = "UPDATE build_secrets SET secrets_key = ?, wrapped = ? WHERE request_hash = ? AND wrapped = ?"
_PLAIN = """
    SELECT request_hash, request FROM build_requests
     WHERE NOT sealed AND NOT scrubbed AND request_hash > ? ORDER BY request_hash LIMIT ?
"""
_SEAL = """
    UPDATE build_requests SET request = ?, sealed = TRUE
     WHERE request_hash = ? AND NOT scrubbed AND NOT sealed
"""


class Rotated(Struct, frozen=True):
    """What a rotation has done."""

    rewrapped: int
    sealed: int
    """Requests that had lain there as they came."""
    unreadable: Sequence[str]
    """Hashes of requests whose data key no key of the file opens."""


@contextmanager
def rotating(path: Path) -> Iterator[None]:
    """One rotation at a time. Raises `Conflict`."""
    with opened(path.resolve().parent) as directory:
        if not lock_alone(directory):
            raise Conflict("Another rotation is running. Wait until it is done.")
        try:
            yield
        finally:
            fcntl.flock(directory, fcntl.LOCK_UN)


def prepare(path: Path) -> SecretsKey:
    """Adds a key to the file that does not encrypt yet; the one of an earlier run, where that was cut off."""
    keys = read_keys(path)
    newest = max(keys, key=lambda key: key.number)
    if len(keys) == 1:
        newest = make_key(newest.number + 1)
        write_keys(path, [*keys, newest])
    return newest


def rewrap(path: Path, database: SqlDatabase, secrets: Secrets) -> Rotated:
    """Lets the newest key of the file encrypt, and wraps every data key with it.

    What was stored before there was a key is encrypted too. May be cut off and run again.
    """
    keys = sorted(read_keys(path), key=lambda key: -key.number)
    write_keys(path, keys)
    newest = keys[0]
    rewrapped = 0
    unreadable: list[str] = []
    for rows in _pages(database, _OTHERS, newest.name):
        with database.writing(durable=True) as connection:
            for name, *stored in rows:
                try:
                    fresh = secrets.rewrap(Sealed(stored[0], bytes(stored[1]), bytes(stored[2])), name)
                except SecretsUnavailable:
                    unreadable.append(name)
                    continue
                values = (fresh.secrets_key, fresh.wrapped, name, stored[1])
                rewrapped += connection.execute(_REWRAP, values).rowcount
    sealed = 0
    for rows in _pages(database, _PLAIN):
        asked = [(name, REQUEST.decode(text)) for name, text in rows]
        plain = [(name, request) for name, request in asked if has_secrets(request)]
        if not plain:
            continue
        with database.writing(durable=True) as connection:
            for name, request in plain:
                document = msgspec.json.encode(without_secrets(request)).decode()
                if connection.execute(_SEAL, (document, name)).rowcount:
                    connection.execute(STORE_SECRET, (name, *astuple(secrets.seal(request, name))))
                    sealed += 1
    if sealed:
        # The log beside the file holds what has just been encrypted. Readers end within moments.
        any(database.fold() for _ in range(_FOLDS))
    return Rotated(rewrapped, sealed, unreadable)


def finish(path: Path, database: SqlDatabase) -> Sequence[SecretsKey]:
    """Removes the former keys from the file. Raises `Conflict` while one of them is needed."""
    first, *former = read_keys(path)
    with database.writing() as connection:  # those that were writing under a former key have ended
        used = {row[0] for row in connection.execute("SELECT DISTINCT secrets_key FROM build_secrets")}
    if needed := [key.name for key in former if key.name in used]:
        raise Conflict(
            f"The former key {needed[0]} is still needed. Run `asu-builder keys rotate-secrets` again."
        )
    write_keys(path, [first])
    return former


def discard(database: SqlDatabase, request_hashes: Sequence[str], *, failure_ttl: timedelta) -> None:
    """Gives up scripts and keys that cannot be decrypted: ends their jobs, and forgets their data keys."""
    queue, operations = SqlJobQueue(database), SqlOperations(database)
    for name in request_hashes:
        job = queue.find(name)
        if job is not None:
            queue.cancel(job.id, failure_ttl=failure_ttl)
        operations.purge(name)
        with database.writing(durable=True) as connection:
            connection.execute("DELETE FROM build_secrets WHERE request_hash = ?", (name,))
            connection.execute("UPDATE build_requests SET scrubbed = TRUE WHERE request_hash = ?", (name,))


def _pages(database: SqlDatabase, statement: str, *values: object) -> Iterator[Sequence[Any]]:
    last = ""
    while True:
        with database.reading() as connection:
            rows = connection.execute(statement, (*values, last, _AT_ONCE)).fetchall()
        if not rows:
            return
        last = rows[-1][0]
        yield rows
