"""Asking the download server: in threads, each document once at a time, less and less while it fails."""

import logging
import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import Future
from datetime import timedelta
from functools import partial
from typing import Any

import msgspec
from msgspec import Struct

from asu_builder.domain.errors import AsuError, Unavailable, UpstreamUnavailable
from asu_builder.domain.health import Breaker, CheckResult
from asu_builder.domain.reading import FIRST_SECONDS, current_reading
from asu_builder.upstream.memory import Document, DocumentMemory
from asu_builder.upstream.server import UpstreamServer

_log = logging.getLogger(__name__)

MOST = 160
"""Fetches at the same time."""
_IDLE_SECONDS = 20.0
"""How long a thread with nothing to do is kept."""


class Fetches:
    """Runs calls in threads, made when they are needed.

    One caller may have as many running as places are left free: alone half of all, two of them at
    once a third each. So the next caller finds a place, until as many callers hang as halve the
    places down to none: eight of them with 160 places.
    """

    def __init__(self, *, most: int = MOST, idle_seconds: float = _IDLE_SECONDS) -> None:
        self._most = most
        self._idle_seconds = idle_seconds
        self._changed = threading.Condition()
        self._waiting: OrderedDict[str, deque[Callable[[], None]]] = OrderedDict()
        """Calls by their caller; the caller whose turn is next is the first."""
        self._running: Counter[str] = Counter()
        self._threads = self._idle = 0
        self._names = 0
        self._closed = False

    def start(self, caller: str, call: Callable[[], None]) -> None:
        """Has the call made as soon as there is a place for this caller. It must not raise."""
        with self._changed:
            if self._closed:
                return
            self._waiting.setdefault(caller, deque()).append(call)
            # An idle thread that was woken for another call is still counted, and so is that call.
            if self._idle >= sum(map(len, self._waiting.values())):
                self._changed.notify()
            elif self._threads < self._most and self._admits(caller):
                self._threads += 1
                self._names += 1
                # Daemons: a slow download must not hold up the end of the process.
                threading.Thread(target=self._work, name=f"upstream-{self._names}", daemon=True).start()

    def close(self) -> None:
        """Makes no call from now on; those that run end by themselves."""
        with self._changed:
            self._closed = True
            self._waiting.clear()
            self._changed.notify_all()

    def _work(self) -> None:
        while (found := self._next()) is not None:
            caller, call = found
            try:
                call()
            except Exception:  # noqa: BLE001 - a bug in one call must not take the thread along
                _log.exception("a fetch failed")
            with self._changed:
                self._running[caller] -= 1
                if not self._running[caller]:
                    del self._running[caller]
                # A place is free, which may let in a caller that was refused one before.
                self._changed.notify()

    def _next(self) -> tuple[str, Callable[[], None]] | None:
        """The next call and its caller; None when this thread should end."""
        with self._changed:
            while not self._closed:
                for caller in self._waiting:
                    if self._admits(caller):
                        calls = self._waiting[caller]
                        call = calls.popleft()
                        if calls:
                            self._waiting.move_to_end(caller)
                        else:
                            del self._waiting[caller]
                        self._running[caller] += 1
                        return caller, call
                self._idle += 1
                notified = self._changed.wait(self._idle_seconds)
                self._idle -= 1
                if not notified and not any(map(self._admits, self._waiting)):
                    break
            self._threads -= 1
            return None

    def _admits(self, caller: str) -> bool:
        free = self._most - self._running.total()
        return self._running[caller] < free if free > 0 else False


FIRST_PAUSE, LONGEST_PAUSE = timedelta(seconds=5), timedelta(seconds=60)
"""How long a document is not asked for after a failure, at first and at most: upstream is not hammered."""
_BREAKERS = 2000
"""Of so many paths that failed last time; the one that failed longest ago is forgotten first."""

Parse = Callable[[bytes], Any]


class Fetch(Struct, frozen=True):
    """A document on its way."""

    future: Future[None]
    since: float
    """When it was asked for (`time.monotonic`)."""


class Asking:
    """Puts what the server has into the memory; safe to use from any thread."""

    def __init__(
        self,
        server: UpstreamServer,
        memory: DocumentMemory,
        *,
        on_missing: Callable[[str], None],
        clock: Callable[[], float],
        fetches: Fetches | None = None,
    ) -> None:
        """`on_missing` is called with the path of each absent document. `clock` counts seconds.

        `fetches` may be shared with others.
        """
        self._server = server
        self._memory = memory
        self._on_missing = on_missing
        self._clock = clock
        self._lock = threading.Lock()
        self._fetches = fetches or Fetches()
        self._fetching: dict[str, Fetch] = {}
        self._breakers: OrderedDict[str, Breaker] = OrderedDict()
        """Of the paths that failed last time."""
        self._failed: tuple[str, Parse] | None = None
        """What failed last, to be asked for again while no caller asks for anything."""

    def failed_before(self, path: str) -> bool:
        """Whether asking for it has failed last time."""
        return path in self._breakers

    def may_ask(self, path: str) -> bool:
        """Whether asking may help. If so, the caller must ask: it may be the probe that others wait for."""
        if path in self._fetching:
            return True
        breaker = self._breakers.get(path)
        if breaker is not None and breaker.is_open and not breaker.is_due:
            return False
        if not self._server.down.admits():
            return False
        if breaker is not None and not breaker.admits():
            self._server.down.withdraw()
            return False
        return True

    def check(self) -> CheckResult:
        """Whether upstream answered last time. If not, it is asked again, behind and not too often."""
        problem = self._server.problem
        if not problem:
            return CheckResult("ok", "The download server has answered whenever it was asked of late.")
        if self._failed is not None and self.may_ask(self._failed[0]):
            path, parse = self._failed
            self.ask(path, parse, instead_of=self._memory.known(self._server.address(path)))
        return CheckResult("warning", f"{problem} Answers come from what was seen before.")

    def is_forbidden(self, path: str) -> bool:
        """Whether upstream did not let us see whether it has an optional document."""
        return path in self._server.forbidden

    def close(self) -> None:
        """Asks for nothing from now on."""
        self._fetches.close()

    def refusal(self, path: str) -> Unavailable:
        """Why the document is not here."""
        for breaker in (self._breakers.get(path), self._server.down):
            if breaker is not None and breaker.is_open:
                return UpstreamUnavailable(breaker.sentence, retry_after=breaker.retry_after)
        return on_its_way(path)

    def ask(self, path: str, parse: Parse, *, instead_of: Document | None) -> Fetch:
        """Fetches a document behind, unless that is being done already.

        `instead_of` is the copy that the caller has looked at: where another one has come since, it
        is not asked for once more.
        """
        with self._lock:
            fetch = self._fetching.get(path)
            if fetch is not None:
                return fetch
            fetch = Fetch(Future(), time.monotonic())
            current = self._memory.known(self._server.address(path))
            if current is not None and current is not instead_of:
                fetch.future.set_result(None)
                return fetch
            self._fetching[path] = fetch
        reading = current_reading()
        self._fetches.start(reading.caller if reading else "", partial(self._fetch, path, parse))
        return fetch

    def _fetch(self, path: str, parse: Parse) -> None:
        if time.monotonic() > self._fetching[path].since + FIRST_SECONDS:
            # It waited in the queue until no caller waited for it any more.
            self._end(path).set_exception(on_its_way(path))
            return
        try:
            self._read(path, parse)
        except AsuError as error:
            self._note_failure(path, parse, error)
            self._end(path).set_exception(error)
        except Exception as bug:  # noqa: BLE001 - callers that wait must learn of it, and not ask again at once
            _log.exception("reading %s failed", path)
            self._note_failure(path, parse, UpstreamUnavailable(f"{path} could not be read."))
            self._end(path).set_exception(bug)
        else:
            with self._lock:
                self._breakers.pop(path, None)
            self._end(path).set_result(None)

    def _end(self, path: str) -> "Future[None]":
        with self._lock:
            return self._fetching.pop(path).future

    def _note_failure(self, path: str, parse: Parse, error: AsuError) -> None:
        with self._lock:
            breaker = self._breakers.pop(path, None)
            if breaker is None:
                breaker = Breaker(clock=self._clock, first=FIRST_PAUSE, longest=LONGEST_PAUSE)
                if not (self._server.problem or self._server.is_foreign):
                    _log.warning("%s", error)
            self._breakers[path] = breaker
            while len(self._breakers) > _BREAKERS:
                self._breakers.popitem(last=False)
        breaker.failed(str(error))
        if isinstance(error, Unavailable):
            error.retry_after = breaker.retry_after
        self._failed = (path, parse)

    def _read(self, path: str, parse: Parse) -> None:
        address = self._server.address(path)
        if (confirmed := self._memory.take_confirmed(address, parse)) is not None:
            self._server.down.withdraw()
            if confirmed.parsed is None:
                self._on_missing(path)
            return
        response = self._server.get(path, etag=self._memory.etag(address))
        if response.status == 304:
            self._memory.confirm(address)
            return
        if response.forbidden and self._memory.stored(address) is not None:
            raise UpstreamUnavailable(f"{address} is answered 403; its last copy is used.")
        body = None if response.status == 404 else response.body
        try:
            parsed = None if body is None else parse(body)
        except (msgspec.MsgspecError, ValueError) as error:
            raise UpstreamUnavailable(f"{address} is not what it should be: {error}.") from error
        document = Document.of(body, parsed, etag=response.etag, checked=self._clock())
        self._memory.keep(address, document, body)
        if body is None:
            self._on_missing(path)


def on_its_way(path: str) -> Unavailable:
    """Not a failure: upstream is as slow as it always is, or was never asked."""
    return Unavailable(
        f"{path} was never asked for before and is being fetched from the download server. "
        "Try again in a few seconds.",
        retry_after=3,
    )
