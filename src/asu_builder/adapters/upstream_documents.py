"""Documents of the download server: remembered, revalidated behind, stale rather than none.

Nobody waits for upstream when anything usable was ever seen, and nobody waits long when not: the
document is fetched behind, and the asker is told to come back.

Ages are counted by a clock that never leaps. The clock on the wall serves only for what a former
life of this process has stored; there a document from the future is an old one.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from datetime import datetime, timedelta
from typing import Any, TypeVar

import msgspec
from msgspec.structs import replace

from asu_builder.adapters.database import Database
from asu_builder.adapters.upstream_memory import Document, DocumentMemory, size_of
from asu_builder.adapters.upstream_server import UpstreamServer
from asu_builder.domain.breaker import Breaker
from asu_builder.domain.errors import Unavailable, UpstreamUnavailable
from asu_builder.ports import Verdict

_log = logging.getLogger(__name__)

FRESH_FOR = timedelta(minutes=5)
MISSING_FOR = timedelta(minutes=1)
"""How long "upstream has no such document" is believed: a release appears without a restart."""
FIRST_PAUSE, LONGEST_PAUSE = timedelta(seconds=5), timedelta(seconds=60)
"""How long a document is not asked for after a failure, at first and at most: upstream is not hammered."""
_PATIENCE_SECONDS = 0.08
"""How long an asker waits for a document that was never seen: a near mirror answers in less."""
_THREADS = 4

Parsed = TypeVar("Parsed")
Parse = Callable[[bytes], Parsed]


class UpstreamDocuments:
    """Documents below one address; safe to use from any thread. What was seen survives restarts."""

    def __init__(
        self,
        url: str,
        database: Database,
        *,
        now: Callable[[], datetime],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`now` is the time on the wall, `clock` counts seconds and never leaps."""
        self._server = UpstreamServer(url, connections=_THREADS)
        self._memory = DocumentMemory(database, now=now, clock=clock)
        self._clock = clock
        self._lock = threading.Lock()
        self._fetching: dict[str, Future[Document]] = {}
        self._breakers: dict[str, Breaker] = {}
        """Of the paths that failed last time."""
        self._failed: tuple[str, Parse[Any]] | None = None
        """What failed last, to be asked for again when nobody else asks for anything."""
        self._work: queue.SimpleQueue[tuple[str, Parse[Any]] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []

    def get(self, path: str, parse: Parse[Parsed], *, wait: bool = True) -> Parsed | None:
        """The parsed document, or None when upstream has none.

        Raises `Unavailable` when it was never seen and does not come: within a tenth of a second,
        or at once without `wait`. It is `UpstreamUnavailable` when asking for it has failed.
        """
        document = self._memory.find(self._address(path), parse)
        if document is None:
            document = self._await_first(path, parse, _PATIENCE_SECONDS if wait else 0.0)
        elif self._is_old(document) and self._may_ask(path):
            self._fetch_behind(path, parse)
        parsed: Parsed | None = document.parsed
        return parsed

    def known(self, path: str, parse: Parse[Parsed]) -> Parsed | None:
        """The document as last seen, however old; None when it was never, or upstream has none."""
        document = self._memory.find(self._address(path), parse)
        parsed: Parsed | None = None if document is None else document.parsed
        return parsed

    def stored(self, path: str) -> bytes | None:
        """The bytes of a document as last seen; None when it was never, or upstream has none."""
        return self._memory.stored(self._address(path))

    def check(self) -> Verdict:
        """Whether upstream answered last time. If not, it is asked again, behind and not too often."""
        problem = self._server.problem
        if not problem:
            return Verdict("ok", "The download server has answered whenever it was asked of late.")
        if self._failed is not None and self._may_ask(self._failed[0]):
            self._fetch_behind(*self._failed)
        return Verdict("degraded", f"{problem} Answers come from what was seen before.")

    def close(self) -> None:
        """Ends background work; what is still on its way is dropped."""
        self._memory.close()
        for _ in self._threads:
            self._work.put(None)

    def _is_old(self, document: Document) -> bool:
        fresh_for = MISSING_FOR if document.parsed is None else FRESH_FOR
        return self._clock() - document.checked > fresh_for.total_seconds()

    def _may_ask(self, path: str) -> bool:
        breaker = self._breakers.get(path)
        return breaker is None or breaker.admits()

    def _await_first(self, path: str, parse: Parse[Any], patience: float) -> Document:
        breaker = self._breakers.get(path)
        if breaker is not None and not breaker.admits():
            raise UpstreamUnavailable(breaker.sentence, retry_after=breaker.retry_after)
        try:
            return self._fetch_behind(path, parse).result(timeout=patience)
        except TimeoutError:
            # Not a failure: upstream is as slow as it always is, or was never asked.
            raise Unavailable(
                f"{path} was never asked for before and is being fetched from the download server. "
                "Try again in a few seconds.",
                retry_after=3,
            ) from None

    def _fetch_behind(self, path: str, parse: Parse[Any]) -> "Future[Document]":
        with self._lock:
            fetch = self._fetching.get(path)
            if fetch is None:
                fetch = self._fetching[path] = Future()
                self._work.put((path, parse))
                if len(self._threads) < min(_THREADS, len(self._fetching)):
                    name = f"upstream-{len(self._threads) + 1}"
                    # Daemons: a slow download must not hold up the end of the process.
                    thread = threading.Thread(target=self._fetch_all, name=name, daemon=True)
                    self._threads.append(thread)
                    thread.start()
        return fetch

    def _fetch_all(self) -> None:
        while (work := self._work.get()) is not None:
            path, parse = work
            try:
                document = self._fetch(path, parse)
            except UpstreamUnavailable as error:
                self._note_failure(path, parse, error)
            except Exception as error:  # noqa: BLE001 - whoever waits must learn of it
                _log.exception("reading %s failed", path)
                self._end(path).set_exception(error)
            else:
                self._breakers.pop(path, None)
                self._end(path).set_result(document)

    def _end(self, path: str) -> "Future[Document]":
        with self._lock:
            return self._fetching.pop(path)

    def _note_failure(self, path: str, parse: Parse[Any], error: UpstreamUnavailable) -> None:
        breaker = self._breakers.get(path)
        if breaker is None:
            breaker = Breaker(clock=self._clock, first=FIRST_PAUSE, longest=LONGEST_PAUSE)
            self._breakers[path] = breaker
            if not self._server.problem:
                _log.warning("%s", error)
        breaker.failed(str(error))
        error.retry_after = breaker.retry_after
        self._failed = (path, parse)
        self._end(path).set_exception(error)

    def _fetch(self, path: str, parse: Parse[Any]) -> Document:
        known = self._memory.known(self._address(path))
        etag = known.etag if known is not None and known.parsed is not None else ""
        response = self._server.get(path, etag=etag)
        checked = self._clock()
        if response.status == 304 and known is not None:
            document = replace(known, checked=checked)
        elif response.status == 404:
            document = Document(checked, "", 0, None)
        else:
            try:
                parsed = parse(response.body)
                document = Document(checked, response.etag, size_of(response.body, parsed), parsed)
            except (msgspec.MsgspecError, ValueError) as error:
                raise UpstreamUnavailable(
                    f"{self._address(path)} is not what it should be: {error}."
                ) from error
        body = None if response.status == 404 else response.body
        self._memory.keep(self._address(path), document, body, renewed=response.status == 304)
        return document

    def _address(self, path: str) -> str:
        return f"{self._server.url}/{path}"
