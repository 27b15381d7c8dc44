"""Answers wait for documents of upstream here: on the event loop, holding no thread."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from concurrent.futures import Future
from contextvars import ContextVar
from functools import partial
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect

from asu_builder.domain.access import Asker
from asu_builder.domain.errors import AsuError, TooManyRequests
from asu_builder.ports import Reading
from asu_builder.ports.reading import FIRST_SECONDS
from asu_builder.web.door import Client
from asu_builder.web.threads import Threads

T = TypeVar("T")
SHORT_SECONDS = 2.0
"""For what is nice to have beside an answer that stands without it."""
AdmitFetch = Callable[[str, str], TooManyRequests | None]
"""Counts one more try that needs upstream, by asker and by what is asked, or says why not."""
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
        """Who is called when one ends: it is told but once, and whoever leaves leaves nothing at it."""
        self._stopped = False

    def reading(self, asker: Asker, what: str, *, patience: float | None = None) -> Reading:
        """A reading for this asker. `what` is the same for the same question."""
        patience = FIRST_SECONDS if patience is None else patience
        if asker.token or asker.many:
            return Reading(asker.name, patience=patience)
        return Reading(asker.name, admit=partial(self._admit, asker.name, what), patience=patience)

    async def run(self, reading: Reading, call: Callable[..., T], *arguments: object) -> T:
        """What `call` returns or raises, in a thread, when no document is lacking."""

        def within() -> T:
            with reading.active():
                return call(*arguments)

        return await self.until_whole(reading, lambda: self._threads.run(within))

    async def ask(
        self,
        asker: Asker,
        what: str,
        call: Callable[..., T],
        *arguments: object,
        patience: float | None = None,
    ) -> T:
        """The same with a reading of its own. Raises `ClientDisconnect` when the client goes away."""
        with while_client_stays():
            return await self.run(self.reading(asker, what, patience=patience), call, *arguments)

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
        """Returns when all have ended, or at this time. They know nothing of whoever waits."""
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
            with contextlib.suppress(RuntimeError):  # the loop has been closed: nobody waits there
                loop.call_soon_threadsafe(tell)

        fetch.add_done_callback(ended)
        return listeners
