"""How the event loop waits: for threads, for equal calls of others, for documents of upstream.

Everything that touches the services runs in threads, so that the event loop never waits for a disk.
"""

import asyncio
import contextlib
import contextvars
import functools
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextvars import ContextVar
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

from asu_builder.domain.access import Caller
from asu_builder.domain.errors import AsuError, TooManyRequests
from asu_builder.domain.reading import FIRST_SECONDS, Reading
from asu_builder.http.callers import Admit
from asu_builder.http.door import Client, ClientGone

A = TypeVar("A")
T = TypeVar("T")
_QUIET_TURNS = 8
"""Turns of the event loop, a few microseconds each while it has nothing else to do."""
_Ended = Callable[[Any, BaseException | None], None]
"""Called on the event loop with what was returned, or what was raised."""
_Call = tuple[asyncio.AbstractEventLoop, _Ended, contextvars.Context, Callable[..., Any], tuple[object, ...]]


class Threads:
    """A small pool of our own.

    Not anyio's: its forty threads also serve downloads, and each thread that reads keeps a database
    connection with its cache. Few threads bound that memory and lose nothing, because the database
    writes one transaction at a time and most polls never come here. Not the executor of the standard
    library: its futures have locks of their own, beside those of the event loop, at which its threads and
    the loop's meet.
    """

    def __init__(self, size: int, *, name: str) -> None:
        self._size = size
        self._name = name
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._open = 0
        """Calls that have not ended, as far as the event loop knows."""
        self._closed = False

    def run(self, function: Callable[..., T], *arguments: object) -> asyncio.Future[T]:
        """Calls the function in a thread, within the caller's context variables."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        def call() -> T:
            if future.cancelled():  # the caller has gone
                raise asyncio.CancelledError
            return function(*arguments)

        self.begin(functools.partial(_settle, future), call)
        return future

    def begin(self, ended: _Ended, function: Callable[..., Any], *arguments: object) -> None:
        """The same without a future, which would cost the event loop a turn."""
        if self._closed:
            raise RuntimeError(f"The threads {self._name} have ended.")
        self._open += 1
        if len(self._threads) < min(self._open, self._size):
            name = f"{self._name}_{len(self._threads)}"
            self._threads.append(threading.Thread(target=self._work, name=name, daemon=True))
            self._threads[-1].start()
        loop = asyncio.get_running_loop()
        self._calls.put((loop, ended, contextvars.copy_context(), function, arguments))

    def close(self) -> None:
        """Lets running calls end and takes no more; what has not begun is cancelled."""
        self._closed = True
        for _ in self._threads:
            self._calls.put(None)
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            loop, ended, context, function, arguments = call
            result: object = None
            error: BaseException | None = None
            if self._closed:
                error = asyncio.CancelledError()
            else:
                try:
                    result = context.run(function, *arguments)
                except BaseException as raised:  # noqa: BLE001 - its caller is told
                    error = raised
            with contextlib.suppress(RuntimeError):  # the loop has been closed
                loop.call_soon_threadsafe(self._end, ended, result, error)
            # Until the next one comes.
            del call, loop, ended, context, function, arguments, result, error

    def _end(self, ended: _Ended, result: object, error: BaseException | None) -> None:
        self._open -= 1
        ended(result, error)


def _settle(future: asyncio.Future[Any], result: object, error: BaseException | None) -> None:
    if future.done():  # the caller has gone
        return
    if isinstance(error, asyncio.CancelledError):
        future.cancel()
    elif error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)


class Batcher(Generic[A, T]):
    """Calls that arrive together, or while one is running, are made together by the next, in one thread.

    Many who submit at once so share a transaction, its sync to the disk, and the way to a thread
    and back; a single one does not wait. After a call for several the next begins when they have their
    answers and the event loop rests: those who ask again at once take part, and the thread does not
    compete with the event loop for the interpreter.
    """

    def __init__(
        self, threads: Threads, call: Callable[[list[A]], list[T | Exception]], *, largest: int
    ) -> None:
        """`call` has one result or exception for each argument, in order."""
        self._threads = threads
        self._call = call
        self._largest = largest
        self._waiting: list[tuple[A, asyncio.Future[T]]] = []
        self._runs = False
        """Whether a call is running, or about to begin."""

    def ask(self, argument: A) -> asyncio.Future[T]:
        """What becomes the result for this argument, or its exception."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._waiting.append((argument, future))
        if not self._runs:
            self._runs = True
            loop.call_soon(self._begin, 1, 0)  # with all whose requests came at the same moment
        return future

    def _begin(self, before: int, turns: int) -> None:
        """Begins a call when the event loop has turned so often without a new call after `before`."""
        count = len(self._waiting)
        if turns and count > before:
            turns = _QUIET_TURNS
        if turns and count < self._largest:
            asyncio.get_running_loop().call_soon(self._begin, count, turns - 1)
            return
        self._runs = bool(count)
        if self._runs:
            batch, self._waiting = self._waiting[: self._largest], self._waiting[self._largest :]
            arguments = [argument for argument, _ in batch]
            self._threads.begin(functools.partial(self._end, batch), self._call, arguments)

    def _end(
        self, batch: Sequence[tuple[A, asyncio.Future[T]]], found: Any, error: BaseException | None
    ) -> None:
        """Answers those whose call has ended; then the next may begin."""
        results: list[Any] = [error] * len(batch) if error else found
        for (_, future), result in zip(batch, results, strict=True):
            failed = isinstance(result, BaseException)
            _settle(future, None if failed else result, result if failed else None)
        turns = _QUIET_TURNS if len(batch) + len(self._waiting) > 1 else 0
        asyncio.get_running_loop().call_soon(self._begin, len(self._waiting), turns)


class SingleFlight(Generic[T]):
    """One running call for all who ask for the same thing at the same time."""

    def __init__(self) -> None:
        self._running: dict[Hashable, asyncio.Task[T]] = {}
        self._callers: Counter[asyncio.Task[T]] = Counter()

    def runs(self, key: Hashable) -> bool:
        """Whether a call for this is running."""
        return key in self._running

    async def ask(self, key: Hashable, call: Callable[[], Coroutine[Any, Any, T]]) -> tuple[T, bool]:
        """The call's result, and whether it was this caller who started it.

        A caller who goes away does not take the answer from the others; the call ends with the last.
        """
        running = self._running.get(key)
        first = running is None
        if running is None:
            running = self._running[key] = asyncio.get_running_loop().create_task(call())
            running.add_done_callback(functools.partial(self._end, key))
        self._callers[running] += 1
        try:
            return await asyncio.shield(running), first
        finally:
            self._callers[running] -= 1
            if not self._callers[running]:
                del self._callers[running]
                if self._running.get(key) is running:
                    del self._running[key]
                running.cancel()  # does nothing once it has ended

    def part(self) -> None:
        """Later callers do not join what is running now: its result may be out of date."""
        self._running.clear()

    def _end(self, key: Hashable, task: asyncio.Task[T]) -> None:
        if self._running.get(key) is task:
            del self._running[key]
        # Looked at even when every caller has gone, or asyncio complains about an error it saw no one read.
        if not task.cancelled():
            task.exception()


class Relay(Generic[T]):
    """One running call for all who ask for the same thing at the same time, made by the first of them.

    When that one goes away the next begins the call again. It costs neither a task nor further turns of the
    event loop, as `SingleFlight` does, and is for calls that may be begun twice.
    """

    def __init__(self) -> None:
        self._running: dict[Hashable, list[asyncio.Future[Any]]] = {}
        """Who waits for each call: for its result and its error, or None where it is to be begun again."""

    async def ask(self, key: Hashable, call: Callable[[], Awaitable[T]]) -> tuple[T, bool]:
        """The call's result, and whether it was this caller who made it."""
        while (waiting := self._running.get(key)) is not None:
            waiter: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            waiting.append(waiter)
            if (found := await waiter) is not None:
                result, error = found
                if error is not None:
                    raise error
                return result, False
        waiting = self._running[key] = []
        outcome: tuple[Any, Exception | None] | None = None  # until there is one: it leaves
        try:
            outcome = await call(), None
        except Exception as raised:
            outcome = None, raised
            raise
        finally:
            if self._running.get(key) is waiting:
                del self._running[key]
            for waiter in waiting:
                _settle(waiter, outcome, None)
        return outcome[0], True

    def part(self) -> None:
        """Later callers do not join what is running now: its result may be out of date."""
        self._running.clear()


SHORT_SECONDS = 2.0
"""For what is nice to have beside an answer that stands without it."""
AdmitFetch = Callable[[str, str], TooManyRequests | None]
"""Counts one more try that needs upstream, by caller and by what is asked, or says why not."""
WAITS_FOR: ContextVar[Client | None] = ContextVar("waits_for", default=None)
"""The client of the request that is being answered, where the server tells."""


@contextlib.contextmanager
def while_client_stays(client: Client | None = None) -> Iterator[None]:
    """Raises `ClientGone` when this client, or that of this request, goes away meanwhile."""
    client, task = client or WAITS_FOR.get(), asyncio.current_task()
    if client is None or task is None:
        yield
        return
    if client.gone:
        raise ClientGone
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
            raise ClientGone from None
        raise
    finally:
        client.on_gone.discard(leave)


async def require_admitted(caller: Caller, admit: Admit, threads: Threads) -> None:
    """Counts one more for a caller without a token. Raises `TooManyRequests`, as `admit` says."""
    # In a thread, because it may wait for a lock.
    if caller.token is None and (refusal := await threads.run(admit, caller.name)) is not None:
        raise refusal


class Waiting:
    """Makes answers that are read from documents of upstream; lives on the event loop."""

    def __init__(self, threads: Threads, *, admit: AdmitFetch) -> None:
        self.threads = threads
        self._admit = admit
        self._waiting: set[asyncio.Event] = set()
        self._fetches: dict[Future[Any], set[Callable[[], None]]] = {}
        """Who is called when one ends; a waiter that leaves takes its callback along."""
        self._stopped = False

    def reading(self, caller: Caller, what: str | bytes, *, patience: float | None = None) -> Reading:
        """A reading for this caller. `what` is the same for the same question; of bytes the digest counts."""
        patience = FIRST_SECONDS if patience is None else patience
        if caller.token or caller.many:
            return Reading(caller.name, patience=patience)
        return Reading(
            caller.name, admit=functools.partial(self._admit_one, caller.name, what), patience=patience
        )

    async def run(self, reading: Reading, call: Callable[..., T], *arguments: object) -> T:
        """What `call` returns or raises, in a thread, when no document is lacking."""

        def within() -> T:
            with reading.active():
                return call(*arguments)

        return await self.until_whole(reading, lambda: self.threads.run(within))

    async def ask(
        self,
        caller: Caller,
        what: str,
        call: Callable[..., T],
        *arguments: object,
        patience: float | None = None,
    ) -> T:
        """The same with a new reading. Raises `ClientGone` when the client goes away."""
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

    def _admit_one(self, caller: str, what: str | bytes) -> TooManyRequests | None:
        if isinstance(what, bytes):
            import hashlib  # with OpenSSL, which a start does without

            what = hashlib.sha256(what).hexdigest()
        return self._admit(caller, what)

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
            if fetch in self._fetches:
                self._fetches[fetch].add(one_less)
            else:
                self._fetches[fetch] = {one_less}
                fetch.add_done_callback(functools.partial(self._notify, asyncio.get_running_loop()))
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

    def _notify(self, loop: asyncio.AbstractEventLoop, fetch: "Future[Any]") -> None:
        """In the fetch's thread: it has ended."""

        def tell() -> None:
            for listener in tuple(self._fetches.pop(fetch)):
                listener()

        with contextlib.suppress(RuntimeError):  # the loop has been closed
            loop.call_soon_threadsafe(tell)
