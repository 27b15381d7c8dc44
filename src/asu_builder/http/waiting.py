"""Answers that need documents of upstream: they wait on the event loop, and are made once for all."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from concurrent.futures import Future
from contextvars import ContextVar
from functools import partial
from typing import Any, TypeVar

from msgspec import Struct
from starlette.requests import ClientDisconnect

from asu_builder.domain.access import Caller
from asu_builder.domain.errors import AsuError, TooManyRequests
from asu_builder.domain.reading import FIRST_SECONDS, Reading, Sources
from asu_builder.http.cache import LruByteCache, Rendered
from asu_builder.http.door import Client
from asu_builder.http.threads import SingleFlight, Threads

T = TypeVar("T")
SHORT_SECONDS = 2.0
"""For what is nice to have beside an answer that stands without it."""
AdmitFetch = Callable[[str, str], TooManyRequests | None]
"""Counts one more try that needs upstream, by caller and by what is asked, or says why not."""
WAITS_FOR: ContextVar[Client | None] = ContextVar("waits_for", default=None)
"""The client of the request that is being answered, where the server tells."""


@contextlib.contextmanager
def while_client_stays() -> Iterator[None]:
    """Raises `ClientDisconnect` when the client of this request goes away meanwhile."""
    client, task = WAITS_FOR.get(), asyncio.current_task()
    if client is None or task is None:
        yield
        return
    if client.gone:
        raise ClientDisconnect
    before, left = task.cancelling(), False

    def leave() -> None:
        nonlocal left
        left = True
        task.cancel()

    client.on_gone.add(leave)
    try:
        yield
    except asyncio.CancelledError:
        if left and task.uncancel() <= before:
            raise ClientDisconnect from None
        raise
    finally:
        client.on_gone.discard(leave)


class Waiting:
    """Makes answers that are read from documents of upstream; lives on the event loop."""

    def __init__(self, threads: Threads, *, admit: AdmitFetch) -> None:
        self._threads = threads
        self._admit = admit
        self._waiting: set[asyncio.Event] = set()
        self._fetches: dict[Future[Any], set[Callable[[], None]]] = {}
        """Who is called when one ends; a waiter that leaves takes its callback along."""
        self._stopped = False

    def reading(self, caller: Caller, what: str, *, patience: float | None = None) -> Reading:
        """A reading for this caller. `what` is the same for the same question."""
        patience = FIRST_SECONDS if patience is None else patience
        if caller.token or caller.many:
            return Reading(caller.name, patience=patience)
        return Reading(caller.name, admit=partial(self._admit, caller.name, what), patience=patience)

    async def run(self, reading: Reading, call: Callable[..., T], *arguments: object) -> T:
        """What `call` returns or raises, in a thread, when no document is lacking."""

        def within() -> T:
            with reading.active():
                return call(*arguments)

        return await self.until_whole(reading, lambda: self._threads.run(within))

    async def ask(
        self,
        caller: Caller,
        what: str,
        call: Callable[..., T],
        *arguments: object,
        patience: float | None = None,
    ) -> T:
        """The same with a new reading. Raises `ClientDisconnect` when the client goes away."""
        with while_client_stays():
            return await self.run(self.reading(caller, what, patience=patience), call, *arguments)

    async def until_whole(self, reading: Reading, attempt: Callable[[], Awaitable[T]]) -> T:
        """The result of the attempt at which no document was lacking, or its error."""
        while True:
            reading.begin_round()
            try:
                result = await attempt()
            except AsuError:
                if not reading.lacks:
                    raise
            else:
                if not reading.lacks:
                    return result
            for fetches, until in reading.waits:
                await self._ended(fetches, until)
            if self._stopped:
                reading.give_up()

    def stop(self) -> None:
        """Waits for nothing any more: the server ends."""
        self._stopped = True
        for event in self._waiting:
            event.set()

    async def _ended(self, noted: Iterable["Future[Any]"], until: float) -> None:
        """Returns when all have ended, or at this time."""
        fetches = frozenset(noted)  # a document that is read twice is noted twice
        if not fetches or self._stopped:
            return
        ready = asyncio.Event()
        left = len(fetches)

        def one_less() -> None:
            nonlocal left
            left -= 1
            if not left:
                ready.set()

        for fetch in fetches:
            self._listeners(fetch).add(one_less)
        self._waiting.add(ready)
        try:
            async with asyncio.timeout(max(0.0, until - time.monotonic())):
                await ready.wait()
        except TimeoutError:
            pass
        finally:
            self._waiting.discard(ready)
            for fetch in fetches:
                self._fetches.get(fetch, set()).discard(one_less)

    def _listeners(self, fetch: "Future[Any]") -> set[Callable[[], None]]:
        """Who waits for this one to end."""
        known = self._fetches.get(fetch)
        if known is not None:
            return known
        listeners = self._fetches[fetch] = set()
        loop = asyncio.get_running_loop()

        def tell() -> None:
            del self._fetches[fetch]
            for listener in tuple(listeners):
                listener()

        def ended(_: "Future[Any]") -> None:
            with contextlib.suppress(RuntimeError):  # the loop has been closed
                loop.call_soon_threadsafe(tell)

        fetch.add_done_callback(ended)
        return listeners


_STALE_SECONDS = 2.0
"""How long a document made of stale ones is given without a look whether upstream has come back."""
_INCOMPLETE_SECONDS = 10.0
"""The same for one made without a feed."""
_OVERHEAD = 1000
"""Of one document, about, with its key and its sources."""
_LONGEST_AGE = 10**9


class Made(Struct, frozen=True):
    """An answer with what it was made of."""

    body: bytes
    until: float
    sources: Sources
    stale: bool
    """Whether it was made though some of its sources were past their fresh time."""
    left_out: tuple[str, ...] = ()
    """Feeds it was made without."""
    complete: bool = True
    """Whether `render` knew all that it wanted to tell."""

    @property
    def lasts(self) -> bool:
        """Whether it may be kept elsewhere for a while: it lacks nothing and is not stale."""
        return self.complete and not self.left_out and not self.sources.stale_for

    @property
    def still_right(self) -> bool:
        """Whether nothing has changed that it was made of, and nothing has to be asked for again."""
        return self.sources.unchanged and (self.stale or not self.sources.stale_for)

    @property
    def headers(self) -> tuple[tuple[bytes, bytes], ...]:
        """How old it is, where it was made of documents of upstream, and what it was made without."""
        lacking = ((b"x-incomplete", ", ".join(self.left_out).encode()),) if self.left_out else ()
        if not self.sources:
            return lacking
        age = (b"age", b"%d" % min(self.sources.age, _LONGEST_AGE))
        stale_for = min(self.sources.stale_for, _LONGEST_AGE)
        stale = ((b"x-stale-seconds", b"%d" % stale_for),) if stale_for >= 1 else ()
        return (age, *stale, *lacking)


class MadeAnswers:
    """Answers by key, within `budget` bytes. `clock` counts seconds."""

    def __init__(self, waiting: Waiting, *, budget: int, largest: int, clock: Callable[[], float]) -> None:
        self._waiting = waiting
        self._clock = clock
        self._kept: LruByteCache[str, Made] = LruByteCache(budget=budget, largest=largest)
        self._shared: SingleFlight[Made] = SingleFlight()

    async def get(self, key: str, caller: Caller, render: Callable[[], Rendered]) -> Made:
        """The answer, made in a thread if it is not right any more. Raises what `render`
        raises, and `ClientDisconnect` when the client goes away.
        """
        kept = self._kept.get(key)
        if kept is not None and self._clock() < kept.until and kept.still_right:
            return kept
        make = partial(self._make, key, caller, render)
        if not self._shared.runs(key):
            return await self._ask(key, make)
        try:
            return await self._ask(key, make)
        except TooManyRequests:
            # It was another's share that is used up.
            return await self._ask((key, caller.name), make)

    async def _ask(self, key: object, make: Callable[[], Coroutine[Any, Any, Made]]) -> Made:
        with while_client_stays():
            kept, _ = await self._shared.ask(key, make)
        return kept

    async def _make(self, key: str, caller: Caller, render: Callable[[], Rendered]) -> Made:
        reading = self._waiting.reading(caller, key)
        rendered = await self._waiting.run(reading, render)
        sources = reading.sources
        stale = sources.stale_for > 0
        seconds = min(rendered.seconds, _STALE_SECONDS) if stale else rendered.seconds
        left_out = tuple(reading.left_out)
        if left_out:
            seconds = min(seconds, _INCOMPLETE_SECONDS)
        kept = Made(rendered.body, self._clock() + seconds, sources, stale, left_out, rendered.complete)
        self._kept.put(key, kept, len(rendered.body) + len(key) + _OVERHEAD)
        return kept
