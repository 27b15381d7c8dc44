"""What processes of several hosts tell each other through PostgreSQL: LISTEN and NOTIFY, and who leads.

Telling only makes things quicker: what was not told is found by looking, seconds later. The listener has a
separate connection, past any pooler. Every ten seconds it asks something on it, because one that is half open
never fails, and after each new one it looks once, because something may have been missed.
"""

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import psycopg

from asu_builder.database.connection import Wakeups
from asu_builder.database.postgresql import ServerDatabase
from asu_builder.database.postgresql_schema import first_line, row_of

_log = logging.getLogger(__name__)

_PROBE_SECONDS = 10.0
_TURN_SECONDS = 0.5
"""How long one wait for news takes; a stop and a wish to lead are seen between two."""
_AGAIN_SECONDS = (0.1, 0.5, 1.0, 2.0, 5.0)
"""Before each next try to connect; the last one stays."""
_LEAD = 1
"""Added to the key of what orders: the lock of the process that leads."""


class Listener:
    """One thread with one connection; fulfils `ports.Lead` by a lock of the session, which ends with it.

    From the thread `on_news` is called with the hash of a build that has news, `on_end` with one whose answer
    was withdrawn or expires sooner, by this or another process, and `on_refused` with a line of another that
    says what it has refused before a build.
    """

    def __init__(
        self,
        database: ServerDatabase,
        *,
        on_news: Callable[[str], None] = lambda _: None,
        on_end: Callable[[str], None] = lambda _: None,
        on_refused: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._database = database
        self._on_news = on_news
        self._on_end = on_end
        self._on_refused = on_refused
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._wants_lead = self._leads = False
        self._revoked = self._times = 0
        self._hears = False
        self.probed_at = float("-inf")
        """By the monotonic clock: when the connection was last known to be whole."""
        self.pid = 0
        """Of the server's process for the connection."""

    def start(self) -> None:
        """Returns at once."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="listener", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Returns when the connection is closed."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()

    # What it is asked.

    def held(self) -> bool:
        """Whether this process leads; it tries from now on. Each step is guarded by its rows, too."""
        self._wants_lead = True
        return self._leads and time.monotonic() - self.probed_at < 2 * _PROBE_SECONDS

    def release(self) -> None:
        """Leads no more."""
        self.stop()

    def generation(self) -> int | None:
        """The same number as before if no end was missed since; None while ends may be missed."""
        whole = self._hears and time.monotonic() - self.probed_at < 2 * _PROBE_SECONDS
        return self._times if whole else None

    def current(self) -> object:
        """Another value than before means that an operator has taken an answer back in this process since."""
        return self._revoked

    def note(self) -> None:
        """An answer was taken back by this process; the database tells the others, and which one."""
        self._revoked += 1

    def tell_news(self, request_hash: str) -> None:
        """There is something new of this build, from this process."""
        self._database.tell("news", request_hash)

    def tell_refused(self, line: str) -> None:
        """This process has refused a request, as `line` says."""
        self._database.tell("refused", line)

    def tell_end(self, request_hash: str) -> None:
        """This process has taken back an answer that no row stands for."""
        self._database.tell("ended", request_hash)

    # The thread.

    def _run(self) -> None:
        failures = 0
        while not self._stopping.is_set():
            try:
                with self._database.connect() as connection:
                    connection.execute(f"LISTEN {self._database.channel}")
                    failures, self.pid = 0, connection.info.backend_pid
                    self._look_once()
                    self._listen(connection)
            except psycopg.Error as error:
                if not failures:
                    _log.warning("Other hosts cannot be listened to for now: %s", first_line(error))
            self._leads = self._hears = False
            self._stopping.wait(_AGAIN_SECONDS[min(failures, len(_AGAIN_SECONDS) - 1)])
            failures += 1

    def _listen(self, connection: psycopg.Connection[Any]) -> None:
        while not self._stopping.is_set():
            for notification in connection.notifies(timeout=_TURN_SECONDS, stop_after=1):
                self.probed_at = time.monotonic()
                self._hear(notification.payload)
            is_due = time.monotonic() - self.probed_at >= _PROBE_SECONDS
            if is_due or (self._wants_lead and not self._leads):
                key = self._database.key + _LEAD
                lead = f"pg_try_advisory_lock({key})" if self._wants_lead and not self._leads else "NULL"
                (got,) = row_of(connection.execute(f"SELECT {lead}"))
                self._leads = self._leads or bool(got)
                self.probed_at = time.monotonic()

    def _hear(self, payload: str) -> None:
        node, _, rest = payload.partition(" ")
        if node == self._database.node:
            return
        kind, _, detail = rest.partition(" ")
        wakeups = self._database.wakeups
        match kind:
            case "jobs" if detail.isdigit():
                Wakeups.notify(wakeups, int(detail))
            case "all":
                Wakeups.notify_all(wakeups)
            case "ended":
                self._on_end(detail)
            case "refused":
                self._on_refused(detail)
            case "news":
                self._on_news(detail)

    def _look_once(self) -> None:
        """What was told while it did not listen is found by looking."""
        self.probed_at = time.monotonic()
        self._times += 1
        self._hears = True
        Wakeups.notify_all(self._database.wakeups)
