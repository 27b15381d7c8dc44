"""How a PostgreSQL database is reached, whether this program may use it, and its way to the newest schema."""

import contextlib
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
from msgspec import Struct
from psycopg import errors

from asu_builder.database.nodes import ALL_NODES, to_nodes
from asu_builder.domain.errors import Unavailable
from asu_builder.domain.nodes import Node

MIGRATIONS = Path(__file__).parent / "migrations" / "postgresql"
APPLICATION = "asu-builder"
TIME = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
"""Not `now()`, which is the start of the transaction: seconds before the lock was got."""
FAR_OFF = timedelta(minutes=1)
"""How far this host's clock may be from the server's; results and documents are also judged by the host's."""
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
        remedy = " Let this user own the schema." if isinstance(error, errors.InsufficientPrivilege) else ""
        raise Unavailable(
            f"{name} could not be brought to schema {known}, and is as it was before: "
            f"{first_line(error)}.{remedy}"
        ) from error
    finally:
        roll_back(connection)


def _schema_number(connection: psycopg.Connection[Any], name: str, *, known: int) -> int:
    """The number of the schema, 0 where there is none; refuses what this program may not use."""
    # Not `to_regclass`: what it has once not found, it finds no sooner than in the next transaction.
    (there,) = row_of(
        connection.execute(
            "SELECT EXISTS (SELECT 1 FROM pg_tables"
            " WHERE schemaname = current_schema() AND tablename = 'schema_numbers')"
        )
    )
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


# While it connects psycopg tells no code, only the server's words.
_REMEDIES = (
    ("password", "Correct user and password in database_url."),
    ("pg_hba.conf", "Let this host and user in (pg_hba.conf), or correct database_url."),
    ("does not exist", "Make it (createdb, createuser), or correct database_url."),
    ("too many connections", "Raise max_connections of the server, or the limit of the role or database."),
    ("too many clients", "Raise max_connections of the server."),
    ("starting up", "Wait until the server takes connections."),
    ("shutting down", "Wait until the server takes connections."),
    ("permission denied", "Let this user own the schema, or the database."),
    *(
        (words, "Start the server or mend the way to it; if it is elsewhere, correct database_url.")
        for words in (
            "refused",
            "timeout",
            "timed out",
            "closed the connection",
            "No such file",
            "No route",
            "unreachable",
        )
    ),
)


def unusable(address: str, error: psycopg.Error) -> Unavailable:
    """Why the database cannot be opened, with what to do, for the operator; without the password."""
    said = first_line(error)
    remedy = next((text for words, text in _REMEDIES if words in said), "Correct database_url.")
    with contextlib.suppress(psycopg.Error):
        if password := psycopg.conninfo.conninfo_to_dict(address).get("password"):
            said = said.replace(str(password), "…")
    return Unavailable(f"The database of database_url cannot be used: {said.rstrip('.')}. {remedy}")


_WITH_NODES = 14
"""The first schema in which processes say that they live."""


class Found(Struct, frozen=True):
    """What `look_at` has found."""

    name: str
    have: int
    """The number of its schema; 0 where there is none."""
    known: int
    ahead: timedelta
    """How far this host's clock is ahead of the server's."""
    nodes: Sequence[Node] = ()
    """The processes that were seen on it within a day."""


def look_at(address: str) -> Found:
    """Looks at the database and changes nothing. Raises `Unavailable` where it cannot be used."""
    try:
        with psycopg.connect(**connection_parameters(address)) as connection:
            name, known = name_of(connection), known_schema()
            require_usable(connection, name)
            have = _schema_number(connection, name, known=known)
            nodes: Sequence[Node] = ()
            if have >= _WITH_NODES:
                (now,) = row_of(connection.execute(TIME))
                nodes = to_nodes(connection.execute(ALL_NODES).fetchall(), now)
            return Found(name, have, known, clock_ahead(connection), nodes)
    except psycopg.Error as error:
        raise unusable(address, error) from error


def name_of(connection: psycopg.Connection[Any]) -> str:
    """The database, as the operator knows it."""
    return f"PostgreSQL at {connection.info.host}, database {connection.info.dbname}"


def clock_ahead(connection: psycopg.Connection[Any]) -> timedelta:
    """How far this host's clock is ahead of the server's."""
    before = time.time()
    (at,) = row_of(connection.execute(TIME))
    return timedelta(seconds=(before + time.time()) / 2) - timedelta(microseconds=at)


def said_ahead(ahead: timedelta) -> str:
    """`3 seconds behind`."""
    seconds = abs(ahead).total_seconds()
    return f"{seconds:.1f} seconds {'behind' if ahead < timedelta(0) else 'ahead of'}"


def require_restorable(dump: Path) -> None:
    """Reads a dump of this database to its end. Raises `Unavailable` for one that is missing or not whole."""
    import shutil
    import subprocess

    if not dump.is_file():
        raise Unavailable(
            f"A PostgreSQL database is saved by its own program: pg_dump --format=custom --file={dump} "
            '"$ASU_DATABASE_URL". Run that, and this command again: it checks that the file can be restored.'
        )
    places = [path / "pg_restore" for path in sorted(Path("/usr/lib/postgresql").glob("*/bin"))]
    program = shutil.which("pg_restore") or next((str(path) for path in places[::-1] if path.exists()), None)
    if program is None:
        raise Unavailable(
            "pg_restore is not installed, so the file cannot be checked. Install postgresql-client."
        )
    # To no database, but through all of its rows.
    with subprocess.Popen(
        [program, "--exit-on-error", "--file=-", dump], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as restoring:
        assert restoring.stdout is not None
        ours = whole = False
        last = b""
        for last in restoring.stdout:
            ours |= last.startswith(b"COPY ") and b".schema_numbers " in last
            whole |= last.startswith(b"-- PostgreSQL database dump complete")
    if restoring.returncode:
        said = last.decode(errors="replace").strip()
        raise Unavailable(f"{dump} cannot be restored: {said}. Make it again with pg_dump --format=custom.")
    if not (ours and whole):
        raise Unavailable(f"{dump} is no dump of a whole database of this program. Make it with pg_dump.")


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
