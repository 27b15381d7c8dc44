"""Threads for everything that touches the services, so that the event loop never waits for a disk."""

import asyncio
import contextvars
import functools
from collections import Counter
from collections.abc import Callable, Coroutine, Hashable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, TypeVar

A = TypeVar("A")
T = TypeVar("T")


class Threads:
    """A small pool of our own.

    Not anyio's: its forty threads also serve downloads, and each thread that reads keeps a database
    connection with its cache. Few threads bound that memory and lose nothing, because the database
    writes one transaction at a time and most polls never come here.
    """

    def __init__(self, size: int, *, name: str) -> None:
        self._pool = ThreadPoolExecutor(max_workers=size, thread_name_prefix=name)

    def run(self, function: Callable[..., T], *arguments: object) -> asyncio.Future[T]:
        """Calls the function in a thread, within the caller's context variables."""
        call = functools.partial(contextvars.copy_context().run, function, *arguments)
        return asyncio.get_running_loop().run_in_executor(self._pool, call)

    def close(self) -> None:
        """Lets running calls end and takes no more."""
        self._pool.shutdown(wait=True, cancel_futures=True)


class Batcher(Generic[A, T]):
    """Calls that arrive while one is running are made together by the next, in one thread.

    Many who submit at once so share a transaction, its sync to the disk, and the way to a thread
    and back; a single one does not wait.
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

    async def ask(self, argument: A) -> T:
        """The result for this argument."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.append((argument, future))
        if not self._runs:
            self._start()
        return await future

    def _start(self) -> None:
        batch, self._waiting = self._waiting[: self._largest], self._waiting[self._largest :]
        self._runs = True
        running = self._threads.run(self._call, [argument for argument, _ in batch])
        running.add_done_callback(functools.partial(self._end, batch))

    def _end(
        self, batch: list[tuple[A, asyncio.Future[T]]], running: asyncio.Future[list[T | Exception]]
    ) -> None:
        self._runs = False
        if self._waiting:
            self._start()
        error = asyncio.CancelledError() if running.cancelled() else running.exception()
        results: list[Any] = [error] * len(batch) if error else running.result()
        for (_, future), result in zip(batch, results, strict=True):
            if future.done():  # the caller has gone
                continue
            if isinstance(result, BaseException):
                future.set_exception(result)
            else:
                future.set_result(result)


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
