"""SQLite in WAL mode behind `reading()` and `writing()`.

As many connections for reading, which cannot write, as threads read at once, and one for the event loop; two
for writing, under a lock, so that no thread of this process meets "database is locked". A second process is
waited for by SQLite's own busy timeout, but not by the event loop. `schema.py` brings a file to the newest
schema. A lock on a file beside the database gives each process another worker's name.
"""

import contextlib
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from asu_builder.database.clock import move_times
from asu_builder.database.dialect import make_installation
from asu_builder.database.rows import to_micros
from asu_builder.database.schema import DAMAGE, MIGRATIONS, migrate, open_header, result_code, unusable
from asu_builder.domain.errors import Unavailable
from asu_builder.domain.health import CheckResult
from asu_builder.files import lock_alone

T = TypeVar("T")
_log = logging.getLogger(__name__)

_BUSY_TIMEOUT_SECONDS = 30.0
_AGAIN_SECONDS = 0.01
_FOLD_MILLISECONDS = 100
_LOG_PAGES = 4000
"""Of the log, 16 MB, before it is brought into the file: new jobs write the same pages again and again."""
_DAMAGED = (
    "The database is damaged; nothing is built or taken on until the operator has stopped the service, "
    "put a backup in the place of the file, and started it again."
)
_REPLACED = (
    "The database file was moved away or replaced while the service runs; nothing is built or taken on until "
    "the operator has stopped the service, put the right file in its place, and started it again."
)
_FULL = "The disk of the database is full; nothing can be written before the operator has made room."
_LEAST_FREE = 1 << 20
_NAMES = 64
_CUT_OFF = CheckResult("warning", "The database was not looked through to its end; the service was stopped.")


class Wakeups:
    """Wakes the threads of this process that wait for a job; a server database reaches other processes."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._seen = threading.local()
        self.count = 0
        """How many there were."""

    def note_seen(self) -> None:
        """This thread asks for a job now; what is notified from now on ends its next `wait` at once."""
        self._seen.count = self.count

    def notify(self, jobs: int) -> None:
        """So many jobs may be claimed now; as many threads ask for one."""
        if jobs:
            with self._changed:
                self.count += jobs
                self._changed.notify(jobs)

    def notify_all(self, *, everywhere: bool = False) -> None:
        """Ends every `wait` of this process; `everywhere`: also of the others, where they can be told."""
        with self._changed:
            self.count += 1
            self._changed.notify_all()

    def wait(self, seconds: float) -> None:
        """Returns when this thread was notified since it last asked, or after so many seconds."""
        seen = getattr(self._seen, "count", 0)
        with self._changed:
            self._changed.wait_for(lambda: self.count != seen, seconds)
        self.note_seen()


class Database:
    """The embedded database; safe to use from any thread. `close()` ends all connections."""

    overwrites_deleted = True

    def __init__(
        self,
        path: Path,
        *,
        migrations: Path = MIGRATIONS,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Opens or makes it. Raises `Unavailable` with path and remedy; see `schema.migrate`.

        `clock` is the host's, because SQLite has none.
        """
        self._path = path
        self._clock = clock
        self.wakeups = Wakeups()
        # A reader takes the connection that came back last: two or three serve all threads, and each has
        # its own cache of pages.
        self._idle_readers: list[sqlite3.Connection] = []
        self._opened: list[sqlite3.Connection] = []
        self._connecting = threading.Lock()
        self._writing = threading.Lock()
        self._peeking = threading.Lock()
        self._peeker: sqlite3.Connection | None = None
        self._verifying = threading.Lock()
        self._verifier: sqlite3.Connection | None = None
        self._header: int | None = None
        self._closing = threading.Event()
        self._refusal = ""
        """Why nothing is written any more."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._header = open_header(path)
            self.was_cut_off = self._header is not None
            """Whether the last process did not close it, or has it open still: its log lies there."""
            self._relaxed = self._connect("NORMAL")
            # Submit and finish must survive a power cut; FULL makes their commit sync the log.
            self._durable = self._connect("FULL")
            migrate(self._durable, path, folder=migrations)
            self._file = _identity(path)
        except (sqlite3.DatabaseError, OSError) as error:
            self.close()
            raise unusable(path, error) from error
        except BaseException:
            self.close()
            raise

    def _connect(
        self, synchronous: str, *, read_only: bool = False, patience: float = _BUSY_TIMEOUT_SECONDS
    ) -> sqlite3.Connection:
        # A reader makes no file where one is gone.
        address = f"{self._path.absolute().as_uri()}?mode={'rw' if read_only else 'rwc'}"
        connection = sqlite3.connect(
            address, uri=True, timeout=patience, isolation_level=None, check_same_thread=False
        )
        try:
            # Of several processes that bring a new file into WAL mode at once SQLite refuses all but one, and
            # does not let them wait.
            until = time.monotonic() + patience
            while True:
                try:
                    connection.execute("PRAGMA journal_mode = WAL")
                    break
                except sqlite3.OperationalError as error:
                    if result_code(error) != sqlite3.SQLITE_BUSY or time.monotonic() >= until:
                        raise
                    time.sleep(_AGAIN_SECONDS)
            connection.execute(f"PRAGMA synchronous = {synchronous}")
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute("PRAGMA cache_size = -1024")
            connection.execute(f"PRAGMA wal_autocheckpoint = {_LOG_PAGES}")
            # What is forgotten may have been a Wi-Fi password: its bytes are overwritten, not only freed.
            connection.execute("PRAGMA secure_delete = ON")
            if read_only:
                connection.execute("PRAGMA query_only = ON")
        except BaseException:
            connection.close()
            raise
        with self._connecting:
            self._opened.append(connection)
        return connection

    @contextlib.contextmanager
    def reading(self, *, snapshot: bool = False) -> Iterator[sqlite3.Connection]:
        """A connection that refuses to write; one statement sees one state, with `snapshot` all see one."""
        with self._translated():
            try:
                connection = self._idle_readers.pop()
            except IndexError:
                connection = self._connect("NORMAL", read_only=True)
            try:
                if snapshot:
                    connection.execute("BEGIN")
                yield connection
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                self._idle_readers.append(connection)

    def peek(self, statement: str, values: Mapping[str, object] | None = None) -> Any:
        """The first row, or None, of one short look on the event loop, by a connection that refuses to write.

        Raises `Unavailable` instead of waiting for a lock of the file, or for a thread that peeks. Nothing is
        committed on it, so every commit changes its `data_version`.
        """
        if not self._peeking.acquire(blocking=False):
            raise Unavailable("Another thread peeks into the database at this moment.")
        try:
            if self._peeker is None:
                self._peeker = self._connect("NORMAL", read_only=True, patience=0)
            return self._peeker.execute(statement, values or {}).fetchone()
        except (sqlite3.DatabaseError, OSError):
            with self._translated():  # here only: entering it costs as much as the look
                raise
        finally:
            self._peeking.release()

    @contextlib.contextmanager
    def writing(self, *, durable: bool = False, own_rows: bool = False) -> Iterator[sqlite3.Connection]:
        """One transaction; committed at the end, rolled back on any exception.

        `durable` means that it is on disk when this returns. A database that is damaged, or no longer
        in its place, takes none. `own_rows` says that no other transaction's order depends on this one,
        which makes no difference here: there is one at a time.
        """
        if self._refusal:
            raise Unavailable(self._refusal)
        connection = self._durable if durable else self._relaxed
        try:
            with self._writing:
                connection.execute("BEGIN IMMEDIATE")
                try:
                    yield connection
                except BaseException:
                    connection.execute("ROLLBACK")
                    raise
                connection.execute("COMMIT")
        except (sqlite3.DatabaseError, OSError):
            with self._translated():  # here only, as above
                raise

    def now(self) -> int:
        """The database's time in microseconds since 1970; no other clock decides about jobs."""
        return to_micros(self._clock())

    @contextlib.contextmanager
    def timed(
        self, *, durable: bool = False, own_rows: bool = False, polled: bool = False
    ) -> Iterator[tuple[sqlite3.Connection, int]]:
        """A transaction of `writing` for what writes times, and the database's time in it.

        `polled` marks the transactions that poll the queue, at least every ten seconds: a longer gap between
        them is time in which no process ran.
        """
        with self.writing(durable=durable) as connection:
            at = self.now()
            move_times(connection, at, polled=polled)
            yield connection, at

    def repeated(self, body: Callable[[sqlite3.Connection, int], T], *, own_rows: bool = False) -> T:
        """A durable transaction of `timed` that may be run twice; here it is run once."""
        with self.timed(durable=True) as (connection, at):
            return body(connection, at)

    def changes(self) -> int:
        """Another number than before once any process has committed anything; never waits."""
        return int(self.peek("PRAGMA data_version")[0])

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.IntegrityError, sqlite3.ProgrammingError):
            raise  # a bug of ours
        except (sqlite3.DatabaseError, OSError) as error:
            # The path is for the operator's log, not for the client.
            _log.error("%s: %s", self._path, error)
            if result_code(error) in DAMAGE:
                self._refusal = _DAMAGED
                raise Unavailable(_DAMAGED) from error
            raise Unavailable(f"The database cannot be used: {error}") from error

    def installation(self) -> str:
        """The random name of this installation, made once; marks its containers."""
        return make_installation(self)

    def fold(self) -> bool:
        """Brings the log into the file and empties it; False while another connection reads it.

        What was forgotten stands in the log until other pages come over it, in a quiet hour for long.
        """
        with self._translated(), self._writing:
            self._relaxed.execute(f"PRAGMA busy_timeout = {_FOLD_MILLISECONDS}")
            try:
                busy, *_ = self._relaxed.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            finally:
                self._relaxed.execute(f"PRAGMA busy_timeout = {_BUSY_TIMEOUT_SECONDS * 1000:.0f}")
        return not busy

    def check(self) -> CheckResult:
        """Whether the database answers and takes writes, and is the file that it was.

        What would be written to a file without a name would be lost at the next start.
        """
        if _identity(self._path) != self._file:
            self._refusal = self._refusal or _REPLACED
        if self.disk_is_full():
            return CheckResult("error", _FULL)
        try:
            with self.writing() as connection:
                # Something is really written: a full disk lets a transaction pass that changes nothing.
                connection.execute("UPDATE installation SET id = id")
        except Unavailable as error:
            return CheckResult("error", str(error))
        return CheckResult("ok", "The database answers.")

    def disk_is_full(self) -> bool:
        """One system call: a log that was grown before takes writes for a while on a full disk."""
        try:
            facts = os.statvfs(self._path.parent)
        except OSError:
            return False  # the check itself tells
        free = facts.f_bfree if os.geteuid() == 0 else facts.f_bavail
        return free * facts.f_frsize < _LEAST_FREE

    def verify(self) -> CheckResult:
        """Whether every page of the file is sound; reads all of it, so seconds for a large one.

        Runs in its own thread; nothing waits for it, and `stop_verifying()` cuts it off. A file found
        damaged takes no writes from then on.
        """
        with self._verifying:
            if self._closing.is_set():
                return _CUT_OFF
            try:
                self._verifier = self._connect("NORMAL", read_only=True)
                try:
                    problems = [row[0] for row in self._verifier.execute("PRAGMA quick_check(10)")]
                finally:
                    self._verifier.close()
                    with self._connecting:
                        self._opened.remove(self._verifier)
            except sqlite3.DatabaseError as error:
                if self._closing.is_set():
                    return _CUT_OFF
                if result_code(error) not in DAMAGE:
                    return CheckResult("warning", f"The database could not be looked through: {error}")
                problems = [str(error)]
        if problems == ["ok"]:
            return CheckResult("ok", "Every page of the database is sound.")
        _log.error("%s is damaged: %s", self._path, "; ".join(problems))
        self._refusal = _DAMAGED
        return CheckResult("error", _DAMAGED)

    def stop_verifying(self) -> None:
        """Cuts a verification off and lets none begin any more, so that a stop need not wait for it."""
        self._closing.set()
        # Again and again: an interrupt between two statements is lost.
        while not self._verifying.acquire(timeout=_AGAIN_SECONDS):
            with contextlib.suppress(sqlite3.ProgrammingError):  # it has just been closed
                if self._verifier is not None:
                    self._verifier.interrupt()
        self._verifying.release()

    def close(self) -> None:
        """Ends every connection; the database is folded back into one file."""
        self.stop_verifying()
        with self._writing, self._connecting:
            for connection in self._opened:
                connection.close()
            self._opened.clear()
            if self._header is not None:
                os.close(self._header)
                self._header = None


def _identity(path: Path) -> tuple[int, int] | None:
    """Which file has this name now."""
    try:
        facts = path.stat()
    except OSError:
        return None
    return facts.st_dev, facts.st_ino


class WorkerName:
    """Holds `wanted`, or `wanted-2`, `wanted-3` … when a living process has it already.

    The lock ends with the process, however it ends; the next holder of the name knows that its
    former holder is dead and takes that one's jobs at once.
    """

    def __init__(self, wanted: str, directory: Path) -> None:
        for number in range(1, _NAMES + 1):
            self.name = wanted if number == 1 else f"{wanted}-{number}"
            path = directory / f"worker-{self.name}.lock"
            try:
                # To be locked it need not be written: root may have made it for a command beside the service.
                descriptor = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
            except OSError as error:
                raise Unavailable(f"{path} cannot be written: {error.strerror}") from error
            if lock_alone(descriptor):
                self._descriptor: int | None = descriptor
                return
            os.close(descriptor)
        raise Unavailable(f"{_NAMES} processes already work as {wanted}; set another worker_id")

    def release(self) -> None:
        """Lets another process take the name; may be called again."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)
