"""SQLite in WAL mode behind `reading()` and `writing()`, and its migrations.

One connection per thread for reading, which cannot write; two for writing, one at a time under a
lock, so that "database is locked" never reaches anybody in this process. A second process is
waited for by SQLite's own busy timeout.
"""

import contextlib
import logging
import secrets
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

from asu_builder.domain.errors import Unavailable
from asu_builder.ports import Verdict

_log = logging.getLogger(__name__)

# By path: importlib.resources costs more than opening the database.
_MIGRATIONS = Path(__file__).parent / "migrations"
_BUSY_TIMEOUT_SECONDS = 30.0


class Database:
    """The embedded database; safe to use from any thread. `close()` ends all connections."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._readers = threading.local()
        self._opened: list[sqlite3.Connection] = []
        self._opening = threading.Lock()
        self._writing = threading.Lock()
        with self._translated():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._relaxed = self._connect("NORMAL")
            # Submit and finish must survive a power cut; FULL makes their commit sync the log.
            self._durable = self._connect("FULL")
            self._migrate()

    def _connect(self, synchronous: str, *, read_only: bool = False) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._path, timeout=_BUSY_TIMEOUT_SECONDS, isolation_level=None, check_same_thread=False
        )
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA synchronous = {synchronous}")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA cache_size = -1024")
        if read_only:
            connection.execute("PRAGMA query_only = ON")
        with self._opening:
            self._opened.append(connection)
        return connection

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A connection that refuses to write; one statement sees one state."""
        with self._translated():
            connection = getattr(self._readers, "connection", None)
            if connection is None:
                connection = self._readers.connection = self._connect("NORMAL", read_only=True)
            yield connection

    @contextlib.contextmanager
    def writing(self, *, durable: bool = False) -> Iterator[sqlite3.Connection]:
        """One transaction; committed at the end, rolled back on any exception.

        `durable` means that it is on disk when this returns.
        """
        connection = self._durable if durable else self._relaxed
        with self._translated(), self._writing:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.IntegrityError, sqlite3.ProgrammingError):
            raise  # a bug of ours
        except (sqlite3.DatabaseError, OSError) as error:
            # The path is for the operator's log, not for whoever reads the answer.
            _log.error("%s: %s", self._path, error)
            raise Unavailable(f"The database cannot be used: {error}") from error

    def _migrate(self) -> None:
        scripts = sorted(_MIGRATIONS.glob("*.sql"))
        (have,) = self._durable.execute("PRAGMA user_version").fetchone()
        if have > len(scripts):
            raise Unavailable(
                f"The database {self._path} was written by a newer version of this program (schema {have}, "
                f"known {len(scripts)}). Install that version again, or name another database_path."
            )
        for number, script in enumerate(scripts[have:], start=have + 1):
            text = script.read_text(encoding="utf-8")
            self._durable.executescript(f"BEGIN IMMEDIATE;\n{text}\nPRAGMA user_version = {number};\nCOMMIT;")

    def installation(self) -> str:
        """The random name of this installation, made once; marks its containers."""
        with self.writing() as connection:
            row = connection.execute("SELECT id FROM installation").fetchone()
            if row is None:
                row = (secrets.token_hex(16),)
                connection.execute("INSERT INTO installation (id) VALUES (?)", row)
        return str(row[0])

    def check(self) -> Verdict:
        """Whether the database answers and takes writes."""
        try:
            with self.writing() as connection:
                connection.execute("DELETE FROM upstream_documents WHERE path = ''")
        except Unavailable as error:
            return Verdict("down", str(error))
        return Verdict("ok", "The database answers.")

    def close(self) -> None:
        """Ends every connection; the database is folded back into one file."""
        with self._writing, self._opening:
            for connection in self._opened:
                connection.close()
            self._opened.clear()
