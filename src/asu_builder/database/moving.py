"""The state of an installation on its way from SQLite to PostgreSQL, or back.

All rows are copied in one transaction of the target, and compared in it: killed at any point, the target is
as it was or whole, and the same move again comes to its end. Before that the source is marked, in one row
that keeps every start away from it; so no two databases are in use, and nothing written meanwhile is lost.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any

import msgspec
from msgspec import Struct

from asu_builder.database.connection import Database
from asu_builder.database.dialect import Connection, SqlDatabase
from asu_builder.database.rows import REQUEST
from asu_builder.database.secrets import has_secrets
from asu_builder.domain.errors import Conflict, Unavailable
from asu_builder.domain.nodes import LOST

TABLES = (
    *(
        "installation",
        "build_requests",
        "build_secrets",
        "build_jobs",
        "build_results",
        "build_log",
        "fair_queue",
    ),
    *("worker_pause", "audit_log", "build_stats", "daily_events", "daily_durations", "daily_packages"),
    *("upstream_documents", "imagebuilders", "preflight_targets", "stored_images"),
)
"""What is moved; what a row refers to comes before it. What triggers count comes last."""
LEFT = ("nodes", "queue_moves", "queue_clock")
"""What each database has for itself: who lives, and what its clock and its triggers have noted."""
_NUMBERED = ("build_jobs", "audit_log", "build_stats")
"""Whose numbers are never given twice."""
_STATE = ("build_requests", "build_jobs", "audit_log")
"""A database without rows in these may be replaced."""
_MARK = "own:moved"
"""Among the documents of upstream, where notes of ours lie that are never pruned: so no schema is changed."""
_AT_ONCE = 50
"""Rows; of results and indexes each may take a megabyte."""
_DIGEST_BYTES = 16


class Moved(Struct, frozen=True):
    """Of one table, what was copied and found to be the same."""

    table: str
    rows: int


class _Mark(Struct, frozen=True):
    """Where the state of this database has gone, or is going."""

    to: str
    done: bool


_DECODE_MARK = msgspec.json.Decoder(_Mark).decode


class _Copied(Struct):
    """What tells whether two tables hold the same rows, in whatever order."""

    rows: int = 0
    digest: int = 0

    def add(self, row: Sequence[Any]) -> None:
        """Counts a row of plain values."""
        from hashlib import blake2b  # with OpenSSL, which a start does without

        self.rows += 1
        self.digest += int.from_bytes(blake2b(repr(tuple(row)).encode(), digest_size=_DIGEST_BYTES).digest())


def require_here(database: SqlDatabase) -> None:
    """Passes where the state is in this database; else closes it, and raises `Unavailable`."""
    mark = _read_mark(database)
    if mark is None:
        return
    database.close()
    if mark.done:
        raise Unavailable(
            f"This database was moved to {mark.to}. Set database_url to that one, or move it back with "
            "`asu-builder move`."
        )
    raise Unavailable(
        f"This database is being moved to {mark.to}. Run the same `asu-builder move` again until it ends, or "
        "go on here after the same with --cancel."
    )


def cancel(source: SqlDatabase, target: SqlDatabase) -> None:
    """Lets the source be used again after a move that did not end. Raises `Conflict` where it did."""
    mark = _read_mark(source)
    if mark is not None and (mark.done or _has_arrived(source, target)):
        raise Conflict(f"It was moved to {mark.to} already; move it back from there instead.")
    _write_mark(source, None)


def _has_arrived(source: SqlDatabase, target: SqlDatabase) -> bool:
    return _read_mark(target) is None and _installation(source) == _installation(target)


def move(
    source: SqlDatabase, target: SqlDatabase, *, to: str, on_table: Callable[[Moved], None] = lambda _: None
) -> bool:
    """Moves the state to the target, which is `to` in words; False where that was done before.

    Raises `Conflict` where either is in use, where the target holds another installation, or what is secret
    would come to a server as it is; and `Unavailable`, with both as they were.
    """
    if isinstance(source, Database) == isinstance(target, Database):
        raise Conflict(
            "Between SQLite and PostgreSQL only: `asu-builder backup` copies a file, and pg_dump a server's "
            "database."
        )
    source.installation()  # its name tells that it has arrived
    mark = _read_mark(source)
    if mark is not None and mark.to != to:
        raise Conflict(f"It {'was' if mark.done else 'is being'} moved to {mark.to}, not to {to}.")
    if mark is not None and _has_arrived(source, target):
        # It was killed after the last step but one, or somebody asks once more.
        _write_mark(source, _Mark(to, True))
        return False
    if mark is not None and mark.done:
        raise Conflict(f"It was moved to {mark.to} already; nothing newer is here.")
    _require_free(source, target)
    if not isinstance(target, Database):
        _require_sealed(source)
    _write_mark(source, _Mark(to, False))
    whole = False
    try:
        require_idle(source)
        require_idle(target)
        with _unhurried(source, write=False) as read, _unhurried(target, write=True) as write:
            _copy_all(source, target, read, write, on_table)
            require_idle(source)
            whole = True
    except BaseException:
        # Where the last step failed it may have taken place: the same move again finds out.
        if not whole:
            with contextlib.suppress(Unavailable):
                _write_mark(source, None)
        raise
    _write_mark(source, _Mark(to, True))
    return True


def _copy_all(
    source: SqlDatabase,
    target: SqlDatabase,
    read: Connection,
    write: Connection,
    on_table: Callable[[Moved], None],
) -> None:
    for table in reversed((*TABLES, *LEFT)):
        write.execute(f"DELETE FROM {table}")
    file = read if isinstance(source, Database) else write
    for table in TABLES:
        columns, others = (_columns(connection, table) for connection in (read, write))
        if sorted(columns) != sorted(others):
            raise Unavailable(f"The columns of {table} differ; both must have the schema of this version.")
        # A server tells true from 1.
        types = file.execute("SELECT name FROM pragma_table_info(?) WHERE type = 'BOOLEAN'", (table,))
        booleans = {columns.index(name) for (name,) in types.fetchall()}
        given, found = _Copied(), _Copied()
        names, places = ", ".join(columns), ", ".join("?" * len(columns))
        batch: list[list[Any]] = []
        insert = f"INSERT INTO {table} ({names}) VALUES ({places})"
        for row in _rows(read, table, columns):
            given.add(row)
            if not isinstance(target, Database):
                for place in booleans:
                    row[place] = None if row[place] is None else bool(row[place])
            batch.append(row)
            if len(batch) >= _AT_ONCE:
                write.executemany(insert, batch)
                batch.clear()
        write.executemany(insert, batch)
        for row in _rows(write, table, columns):
            found.add(row)
        if given != found:
            raise Unavailable(
                f"Of {given.rows} rows of {table} others were read back ({found.rows}); nothing was moved."
            )
        on_table(Moved(table, given.rows))
    for table in _NUMBERED:
        _set_number(target, write, table, _last_number(source, read, table))


def _rows(connection: Any, table: str, columns: Sequence[str]) -> Iterator[list[Any]]:
    """Every row as plain values that are the same in both databases, but for the mark."""
    chosen = f"SELECT {', '.join(columns)} FROM {table}"
    if table == "upstream_documents":
        chosen += f" WHERE path <> '{_MARK}'"
    with contextlib.ExitStack() as life:
        if hasattr(connection, "connection"):
            # A table may be larger than the memory.
            cursor = life.enter_context(connection.connection.cursor(name="moving"))
            cursor.itersize = _AT_ONCE
            rows = cursor.execute(chosen)
        else:
            rows = connection.execute(chosen)
        for row in rows:
            yield [_plain(value) for value in row]


def _plain(value: Any) -> Any:
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, str):
        return value.replace("\0", "\ufffd")  # which a server's text cannot hold
    return bytes(value) if isinstance(value, memoryview | bytearray) else value


def _columns(connection: Any, table: str) -> Sequence[str]:
    return [column[0] for column in connection.execute(f"SELECT * FROM {table} LIMIT 0").description]


def _last_number(database: SqlDatabase, connection: Connection, table: str) -> int:
    if isinstance(database, Database):
        row = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = ?", (table,)).fetchone()
    else:
        row = connection.execute(
            "SELECT last_value FROM pg_sequences WHERE schemaname = current_schema()"
            " AND sequencename = ? || '_id_seq'",
            (table,),
        ).fetchone()
    return int(row[0] or 0) if row else 0


def _set_number(database: SqlDatabase, connection: Connection, table: str, number: int) -> None:
    (most,) = connection.execute(f"SELECT coalesce(max(id), 0) FROM {table}").fetchone()
    number = max(number, most)
    if not isinstance(database, Database):
        if number:
            connection.execute("SELECT setval(pg_get_serial_sequence(?, 'id'), ?)", (table, number))
        return
    connection.execute("DELETE FROM sqlite_sequence WHERE name = ?", (table,))
    connection.execute("INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)", (table, number))


def _unhurried(database: Any, *, write: bool) -> contextlib.AbstractContextManager[Connection]:
    if isinstance(database, Database):
        return database.writing(durable=True) if write else database.reading(snapshot=True)
    session: contextlib.AbstractContextManager[Connection] = database.unhurried(write=write)
    return session


# What stands in the way.


def _require_free(source: SqlDatabase, target: SqlDatabase) -> None:
    """Passes where the target has nothing, or only what was moved from it to the source before."""
    mark = _read_mark(target)
    if mark is not None and mark.done and _installation(source) == _installation(target):
        return
    with target.reading() as connection:
        used = [name for name in _STATE if connection.execute(f"SELECT 1 FROM {name} LIMIT 1").fetchone()]
    if mark is not None or used:
        raise Conflict("The target holds another installation. Name an empty database.")


def _require_sealed(source: SqlDatabase) -> None:
    with source.reading() as connection:
        plain = sum(
            has_secrets(REQUEST.decode(text))
            for (text,) in connection.execute(
                "SELECT request FROM build_requests WHERE NOT sealed AND NOT scrubbed"
            )
        )
    if plain:
        raise Conflict(
            f"{plain} requests have scripts or keys that are not encrypted, and a server keeps what is "
            "deleted. Set secrets_key, and run `asu-builder keys rotate-secrets --step rewrap` before."
        )


def require_idle(database: SqlDatabase) -> None:
    """Raises `Conflict` while a process of the service uses the database."""
    since = database.now() - LOST // timedelta(microseconds=1)
    with database.reading() as connection:
        living = connection.execute(
            "SELECT name FROM nodes WHERE seen_at > ? ORDER BY name", (since,)
        ).fetchall()
    if living:
        names = ", ".join(name for (name,) in living)
        raise Conflict(
            f"{names} uses the database, or did half a minute ago. Stop all processes of the service first."
        )


def _installation(database: SqlDatabase) -> str:
    """Its random name; "" where it has none yet."""
    with database.reading() as connection:
        row = connection.execute("SELECT id FROM installation").fetchone()
    return str(row[0]) if row else ""


def _read_mark(database: SqlDatabase) -> _Mark | None:
    with database.reading() as connection:
        row = connection.execute("SELECT body FROM upstream_documents WHERE path = ?", (_MARK,)).fetchone()
    return None if row is None else _DECODE_MARK(bytes(row[0]))


def _write_mark(database: SqlDatabase, mark: _Mark | None) -> None:
    with database.writing(durable=True) as connection:
        connection.execute("DELETE FROM upstream_documents WHERE path = ?", (_MARK,))
        if mark is not None:
            connection.execute(
                "INSERT INTO upstream_documents (path, fetched_at, body) VALUES (?, ?, ?)",
                (_MARK, 0, msgspec.json.encode(mark)),
            )
