"""How a PostgreSQL database is reached, whether this program may use it, and its way to the newest schema."""

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psycopg
from psycopg import errors

from asu_builder.domain.errors import Unavailable

MIGRATIONS = Path(__file__).parent / "migrations" / "postgresql"
APPLICATION = "asu-builder"
_CONNECT_SECONDS = 5
_KEEP_ALIVE: Mapping[str, int] = {
    "keepalives": 1,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
}


def connection_parameters(address: str) -> dict[str, Any]:
    """What psycopg is told: the operator's address, over our deadlines. Raises `Unavailable`."""
    try:
        given = psycopg.conninfo.conninfo_to_dict(address)
    except psycopg.ProgrammingError as error:
        raise Unavailable(f"database_url: {first_line(error)}") from error
    defaults = {"application_name": APPLICATION, "connect_timeout": _CONNECT_SECONDS, **_KEEP_ALIVE}
    return {**defaults, **given, "autocommit": True}


def require_usable(connection: psycopg.Connection[Any], name: str) -> str:
    """The schema that the tables lie in. Raises `Unavailable` for a server that does not serve."""
    schema, standby, encoding = row_of(
        connection.execute("SELECT current_schema(), pg_is_in_recovery(), getdatabaseencoding()")
    )
    if standby:
        raise Unavailable(
            f"{name} is a standby, which can only be read. Name the primary in database_url, or several "
            "hosts with ?target_session_attrs=read-write."
        )
    if schema is None:
        raise Unavailable(f"{name} has no schema in the search path. Make the one that it names.")
    if encoding != "UTF8":
        raise Unavailable(
            f"{name} is encoded in {encoding}. Make one with `CREATE DATABASE … ENCODING 'UTF8' "
            "TEMPLATE template0`."
        )
    return str(schema)


def known_schema(folder: Path = MIGRATIONS) -> int:
    """The number of the newest schema."""
    return max(int(path.name[:4]) for path in folder.glob("*.sql"))


def migrate(connection: psycopg.Connection[Any], name: str, key: int, *, folder: Path = MIGRATIONS) -> None:
    """Brings the schema to the newest that `folder` knows; of several processes at once one does it.

    A script is one transaction together with its number. Its first line says how old a program may be that
    still uses what it makes: `-- oldest program: schema N`. Raises `Unavailable` for a database that this
    program may not use, and when a script fails; then nothing is changed.
    """
    scripts = {int(path.name[:4]): path for path in sorted(folder.glob("*.sql"))}
    known = max(scripts)
    if _schema_number(connection, name, known=known) >= known:
        return
    connection.execute("BEGIN READ WRITE")
    try:
        connection.execute("SET LOCAL lock_timeout = '60s'; SET LOCAL statement_timeout = 0")
        connection.execute(f"SELECT pg_advisory_xact_lock({key})")
        have = _schema_number(connection, name, known=known)
        for number, path in scripts.items():
            if number > have:
                script = path.read_text(encoding="utf-8")
                connection.execute(script.encode())
                connection.execute(
                    "INSERT INTO schema_numbers (number, oldest_program) VALUES (%s, %s)",
                    (number, int(script.partition("\n")[0].rpartition(" ")[2])),
                )
        connection.execute("COMMIT")
    except psycopg.Error as error:
        raise Unavailable(
            f"{name} could not be brought to schema {known}, and is as it was before: {first_line(error)}."
        ) from error
    finally:
        roll_back(connection)


def _schema_number(connection: psycopg.Connection[Any], name: str, *, known: int) -> int:
    """The number of the schema, 0 where there is none; refuses what this program may not use."""
    (there,) = row_of(connection.execute("SELECT to_regclass('schema_numbers') IS NOT NULL"))
    if not there:
        return 0
    have, oldest = row_of(
        connection.execute("SELECT number, oldest_program FROM schema_numbers ORDER BY number DESC LIMIT 1")
    )
    if known < oldest:
        raise Unavailable(
            f"{name} was brought to schema {have} by a newer version of this program, and this one (schema "
            f"{known}) may not use it. Install that version here too."
        )
    return int(have)


def unusable(address: str, error: psycopg.Error | ValueError) -> Unavailable:
    """Why the database cannot be opened, with what to do, for the operator; without the password."""
    known: Sequence[tuple[type[Exception], str]] = (
        (errors.InvalidPassword, "The server does not take this user and password. Correct database_url."),
        (
            errors.InvalidAuthorizationSpecification,
            "Let this user in (pg_hba.conf), or correct database_url.",
        ),
        (
            errors.InvalidCatalogName,
            "Make the database with createdb, or correct database_url.",
        ),
        (errors.TooManyConnections, "Raise max_connections of the server."),
        (errors.CannotConnectNow, "The server is starting or stopping. Wait until it takes connections."),
        (
            errors.InsufficientPrivilege,
            "This user may not make tables. Let it own the database or its schema.",
        ),
    )
    remedy = next((text for kind, text in known if isinstance(error, kind)), "")
    said = first_line(error)
    if not remedy and "password" in said:
        remedy = known[0][1]
    with contextlib.suppress(psycopg.Error):
        if password := psycopg.conninfo.conninfo_to_dict(address).get("password"):
            said = said.replace(str(password), "…")
    return Unavailable(f"The database of database_url cannot be used: {said}. {remedy}".rstrip())


def row_of(cursor: psycopg.Cursor[Any]) -> tuple[Any, ...]:
    """The first row of what always has one."""
    row = cursor.fetchone()
    if row is None:
        raise psycopg.InternalError("The server has answered without a row.")
    return tuple(row)


def roll_back(connection: psycopg.Connection[Any]) -> None:
    """Ends the transaction that is open, if one is."""
    if not connection.closed and connection.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
        with contextlib.suppress(psycopg.Error):
            connection.execute("ROLLBACK")


def first_line(error: BaseException) -> str:
    """What an error says, without the statement and the hints behind it."""
    text = str(error).strip()
    return text.partition("\n")[0] if text else type(error).__name__
