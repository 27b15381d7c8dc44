"""PostgreSQL behind the methods of `connection.Database`: for an installation of many hosts.

Connections come from psycopg's pool and refuse to write outside of a transaction of `writing`. That one
begins with one message: the transaction, how it commits, the lock of all that orders, and the server's time.
What the server ends meanwhile (a restart, a failover, a session that was idle for too long) is `Unavailable`;
a transaction that has done nothing yet, or that may be run twice, is begun again instead.
"""

import contextlib
import hashlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import psycopg
import psycopg_pool
from psycopg import errors
from psycopg.types.string import StrDumper

from asu_builder.database.connection import Wakeups
from asu_builder.database.dialect import Values, make_installation, translate
from asu_builder.database.postgresql_schema import (
    APPLICATION,
    FAR_OFF,
    MIGRATIONS,
    TIME,
    clock_ahead,
    connection_parameters,
    first_line,
    migrate,
    name_of,
    require_usable,
    roll_back,
    row_of,
    said_ahead,
    unusable,
)
from asu_builder.database.rows import to_micros
from asu_builder.domain.errors import Unavailable
from asu_builder.domain.health import CheckResult

T = TypeVar("T")
_log = logging.getLogger(__name__)

_WAIT_SECONDS = 5.0
"""For a connection of the pool; who asks is told that the database is unavailable."""
_MOST_CONNECTIONS = 16
IDLE_IN_TRANSACTION_SECONDS = 5
"""After which the server ends the transaction of a process that has stopped: it may hold the lock of all."""
_LOCK_SECONDS = 8
"""More than the above, so that those who wait outlast it."""
_STATEMENT_SECONDS = 20
_TURN_SECONDS = 0.1
"""How often a wait sees what Python was told meanwhile, as psycopg does."""
SILENT_SECONDS = 25.0
"""How long an answer is waited for where the server keeps none of the deadlines above: it stands still, while
its machine confirms what it is sent, so that nothing of TCP fails."""
_MEASURE_AGAIN_SECONDS = 60.0
_TRIES = 3
# Others are bugs of ours. A table that is not there was taken away by hand.
_NOT_OURS = (
    *(psycopg.OperationalError, psycopg.InterfaceError, psycopg.InternalError),
    *(errors.UndefinedTable, errors.InsufficientPrivilege),
)
_MICROS = 1_000_000


class _TextDumper(StrDumper):
    """PostgreSQL's text holds every character but U+0000, which SQLite's may."""

    def dump(self, obj: str) -> Any:
        return super().dump(obj.replace("\0", "\ufffd") if "\0" in obj else obj)


class _NumberLoader(psycopg.adapt.Loader):
    """Sums of whole numbers are whole numbers, and means are floats: no `Decimal` leaves this module."""

    def load(self, data: Any) -> int | float:
        text = bytes(data).decode()
        return int(text) if text.lstrip("-").isdigit() else float(text)


class _Silent(psycopg.OperationalError):
    """The server has not answered in time: it may still do what it was asked."""

    def __init__(self) -> None:
        super().__init__("the server does not answer")


class _Connection(psycopg.Connection[Any]):
    """A connection that is closed when its server stands still."""

    is_patient = False
    """Whether a statement may take any time."""

    def wait(self, gen: Any, interval: float = _TURN_SECONDS, timeout: float | None = None) -> Any:
        if self.is_patient or timeout is not None:  # who listens need not hear anything
            return super().wait(gen, interval, timeout)
        began = time.monotonic()
        try:
            return super().wait(gen, interval, SILENT_SECONDS)
        except psycopg.OperationalError:
            if self.closed or time.monotonic() - began < SILENT_SECONDS:
                raise
            self.pgconn.finish()
            raise _Silent from None


class Session:
    """A connection as statements know one."""

    def __init__(self, connection: _Connection) -> None:
        self.connection = connection
        self.used = False
        """Whether anything was asked of it."""

    def execute(self, statement: str, values: Values = ()) -> psycopg.Cursor[Any]:
        """Runs one statement."""
        cursor = self.connection.execute(translate(statement), values)
        self.used = True
        return cursor

    def executemany(self, statement: str, values: Iterable[Values]) -> psycopg.Cursor[Any]:
        """Runs it once for each."""
        cursor = self.connection.cursor()
        cursor.executemany(translate(statement), values)
        self.used = True
        return cursor


class _Reading(Session):
    """Takes another connection where the first statement finds that the one from the pool is dead."""

    def __init__(self, database: "ServerDatabase", *, snapshot: bool) -> None:
        super().__init__(database.take())
        self._database = database
        self._snapshot = snapshot

    def execute(self, statement: str, values: Values = ()) -> psycopg.Cursor[Any]:
        while True:
            try:
                if self._snapshot and not self.used:
                    self.connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
                return super().execute(statement, values)
            except (psycopg.OperationalError, psycopg.InterfaceError) as error:
                if self.used or not self.connection.closed or isinstance(error, _Silent):
                    raise
                self._database.give_back(self.connection)
                self.connection = self._database.take()


class ServerWakeups(Wakeups):
    """Wakes the threads that wait for a job, in the processes of all hosts."""

    def __init__(self, tell: Callable[..., None]) -> None:
        super().__init__()
        self._notify = tell

    def notify(self, jobs: int) -> None:
        super().notify(jobs)
        if jobs:
            self._notify("jobs", str(jobs))

    def notify_all(self, *, everywhere: bool = False) -> None:
        super().notify_all()
        if everywhere:
            self._notify("all")


class ServerDatabase:
    """Fulfils `dialect.SqlDatabase` on PostgreSQL; safe to use from any thread."""

    was_cut_off = False
    overwrites_deleted = False

    def __init__(
        self,
        address: str,
        *,
        migrations: Path = MIGRATIONS,
        clock: Callable[[], datetime] | None = None,
    ) -> None:
        """Connects, and brings the schema up to date. Raises `Unavailable` with a sentence for the operator.

        `clock` stands in for the server's, in tests.
        """
        self.wakeups: Wakeups = ServerWakeups(self.tell)
        self.node = os.urandom(8).hex()
        """This process, among those that tell each other something."""
        self._clock = clock
        self._measured = threading.Lock()
        self._offset = 0
        """The server's time in microseconds, less that of this machine's clock since it was started."""
        self._measured_at = -_MEASURE_AGAIN_SECONDS
        self._changes = 0
        self._parameters = connection_parameters(address)
        try:
            with self.connect() as connection:
                self._name = name_of(connection)
                connection.is_patient = True  # a large table may have to be copied
                schema = require_usable(connection, self._name)
                digest = hashlib.sha256(f"{APPLICATION} {schema}".encode()).digest()
                # Room for the lock of the process that leads, beside it.
                self.key = int.from_bytes(digest[:8], signed=True) & ~1
                self.channel = f"asu_{digest[:8].hex()}"
                migrate(connection, self._name, self.key, folder=migrations)
                off = clock_ahead(connection)
        except psycopg.Error as error:
            raise unusable(address, error) from error
        if clock is None and abs(off) > FAR_OFF:
            raise Unavailable(
                f"The clock of this host is {said_ahead(off)} that of {self._name}. Set it "
                "(timedatectl set-ntp true), and start again."
            )
        self._pool = psycopg_pool.ConnectionPool(
            connection_class=_Connection,
            kwargs=self._parameters,
            min_size=1,
            max_size=_MOST_CONNECTIONS,
            timeout=_WAIT_SECONDS,
            reconnect_timeout=2.0,
            configure=_configure,
            name=APPLICATION,
            open=True,
        )
        # It tells each attempt; the check of the database tells what the operator needs.
        logging.getLogger("psycopg.pool").setLevel(logging.ERROR)

    # Connections.

    def connect(self) -> _Connection:
        """A separate connection, not of the pool."""
        connection = _Connection.connect(**self._parameters)
        _configure(connection)
        return connection

    def tell(self, kind: str, detail: str = "") -> None:
        """Tells the processes of all hosts; where it cannot be told, they find it by looking."""
        try:
            with self.reading() as session:
                session.execute(
                    "SELECT pg_notify(?, ?)", (self.channel, f"{self.node} {kind} {detail}".rstrip())
                )
        except Unavailable as error:
            _log.debug("%s was not told: %s", kind, error)

    def take(self) -> _Connection:
        """A connection of the pool, to be given back."""
        return self._pool.getconn()

    def give_back(self, connection: _Connection) -> None:
        """Lets others use it; a dead one is forgotten."""
        self._pool.putconn(connection)

    @contextlib.contextmanager
    def reading(self, *, snapshot: bool = False) -> Iterator[Session]:
        """A connection that refuses to write; one statement sees one state, with `snapshot` all see one."""
        with self._translated():
            session = _Reading(self, snapshot=snapshot)
            try:
                yield session
            finally:
                roll_back(session.connection)
                self.give_back(session.connection)

    @contextlib.contextmanager
    def _transaction(self, *, durable: bool, own_rows: bool) -> Iterator[tuple[Session, int]]:
        connection, at = self._begin(durable=durable, own_rows=own_rows)
        try:
            yield Session(connection), at
            connection.execute("COMMIT")
            self._changes += 1
        finally:
            roll_back(connection)
            self.give_back(connection)

    def _begin(self, *, durable: bool, own_rows: bool) -> tuple[_Connection, int]:
        """A transaction, begun by one message, and the server's time in it."""
        relaxed = "" if durable else "SET LOCAL synchronous_commit = off;"
        lock = "" if own_rows else f"SELECT pg_advisory_xact_lock({self.key});"
        message = f"BEGIN READ WRITE;{relaxed}{lock}{TIME}"
        for _ in range(_MOST_CONNECTIONS + 1):
            connection = self.take()
            try:
                cursor = connection.execute(message)
                while cursor.nextset():
                    pass
                (at,) = row_of(cursor)
            except BaseException as error:
                roll_back(connection)
                closed = connection.closed
                self.give_back(connection)
                is_lost = isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
                if closed and is_lost and not isinstance(error, _Silent):
                    continue  # it was dead before: the server was restarted, or has ended it
                raise
            self._offset, self._measured_at = at - _machine_micros(), time.monotonic()
            return connection, at if self._clock is None else to_micros(self._clock())
        raise Unavailable("The database has ended every connection.")

    @contextlib.contextmanager
    def writing(self, *, durable: bool = False, own_rows: bool = False) -> Iterator[Session]:
        """One transaction; committed at the end, rolled back on any exception."""
        with self._translated(), self._transaction(durable=durable, own_rows=own_rows) as (session, _):
            yield session

    @contextlib.contextmanager
    def unhurried(self, *, write: bool) -> Iterator[Session]:
        """One transaction that may take any time, under the lock of all that orders if it is to write."""
        with self._translated(), self.connect() as connection:
            connection.is_patient = True
            connection.execute("SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0")
            connection.execute(
                "BEGIN READ WRITE" if write else "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
            )
            try:
                if write:
                    connection.execute(f"SELECT pg_advisory_xact_lock({self.key})")
                yield Session(connection)
                connection.execute("COMMIT")
            finally:
                roll_back(connection)

    @contextlib.contextmanager
    def timed(
        self, *, durable: bool = False, own_rows: bool = False, polled: bool = False
    ) -> Iterator[tuple[Session, int]]:
        """The same, and the server's time in it; there is no leap to be looked for when `polled`."""
        with self._translated(), self._transaction(durable=durable, own_rows=own_rows) as begun:
            yield begun

    def repeated(self, body: Callable[[Session, int], T], *, own_rows: bool = False) -> T:
        """A durable transaction; begun again where the connection was lost, even while it was committed."""
        with self._translated():
            for number in range(1, _TRIES + 1):
                try:
                    with self._transaction(durable=True, own_rows=own_rows) as (session, at):
                        return body(session, at)
                except _NOT_OURS as error:
                    if number == _TRIES or not _may_repeat(error):
                        raise
                    _log.warning("%s: %s; the transaction is begun again", self._name, first_line(error))
        raise AssertionError("unreachable")

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except _NOT_OURS as error:
            # The server's words are for the operator's log, not for the client.
            _log.error("%s: %s", getattr(self, "_name", "PostgreSQL"), first_line(error))
            raise Unavailable(f"The database cannot be used: {said_of(error)}") from error

    def peek(self, statement: str, values: Mapping[str, object] | None = None) -> Any:
        """Always raises `Unavailable`: who asks a server waits for it."""
        raise Unavailable("A database server is not asked on the event loop.")

    def changes(self) -> int:
        """Always another number: what other processes commit is not told here."""
        self._changes += 1
        return self._changes

    def now(self) -> int:
        """The server's time in microseconds since 1970, reckoned from the last time that it was told."""
        if self._clock is not None:
            return to_micros(self._clock())
        if time.monotonic() - self._measured_at >= _MEASURE_AGAIN_SECONDS:
            with self.reading() as session:
                (at,) = row_of(session.execute(TIME))
            self._offset, self._measured_at = at - _machine_micros(), time.monotonic()
        return self._offset + _machine_micros()

    def installation(self) -> str:
        """The random name of this installation, made once, by whichever host is first."""
        return make_installation(self)

    def fold(self) -> bool:
        """True: what was deleted stays in the server's log and its backups, whatever is done here."""
        return True

    def check(self) -> CheckResult:
        """Whether the server answers and takes writes."""
        try:
            with self.writing(own_rows=True) as session:
                session.execute("UPDATE installation SET id = id")
        except Unavailable as error:
            return CheckResult("error", str(error))
        return CheckResult("ok", "The database answers.")

    def disk_is_full(self) -> bool:
        """False: the server's disk is its own; its answers tell."""
        return False

    def verify(self) -> CheckResult:
        """The server's own tools look for damage: pg_amcheck, and data checksums."""
        return CheckResult("ok", "PostgreSQL looks after its pages itself.")

    def stop_verifying(self) -> None:
        """There is nothing to be cut off."""

    def close(self) -> None:
        """Ends every connection."""
        self._pool.close()


def _machine_micros() -> int:
    """A clock that does not leap, and that runs while the machine sleeps."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000


def _configure(connection: psycopg.Connection[Any]) -> None:
    """Each session: its deadlines, and that only a transaction of `writing` writes."""
    connection.execute(
        f"SET lock_timeout = '{_LOCK_SECONDS}s'; SET statement_timeout = '{_STATEMENT_SECONDS}s';"
        f"SET idle_in_transaction_session_timeout = '{IDLE_IN_TRANSACTION_SECONDS}s';"
        "SET default_transaction_read_only = on; SET client_encoding = 'UTF8'"
    )
    connection.adapters.register_dumper(str, _TextDumper)
    connection.adapters.register_loader("numeric", _NumberLoader)


def said_of(error: psycopg.Error) -> str:
    """What is wrong, in words for the one who has to mend it."""
    match error:
        case errors.TooManyConnections():
            return "the server takes no more connections"
        case errors.DiskFull():
            return "the disk of the server is full"
        case errors.ReadOnlySqlTransaction():
            return "the server can only be read, as after a failover"
        case errors.LockNotAvailable() | errors.QueryCanceled():
            return "it took too long"
        case psycopg_pool.PoolTimeout():
            return "no connection came in time"
    return first_line(error)


def _may_repeat(error: psycopg.Error) -> bool:
    """Whether another try may succeed at once: a lost connection, or two transactions in each other's way."""
    lost = (
        errors.SerializationFailure,
        errors.DeadlockDetected,
        errors.AdminShutdown,
        errors.CrashShutdown,
        errors.CannotConnectNow,
        errors.IdleInTransactionSessionTimeout,
    )
    return isinstance(error, lost) or (
        error.sqlstate is None and not isinstance(error, psycopg_pool.PoolTimeout | _Silent)
    )
