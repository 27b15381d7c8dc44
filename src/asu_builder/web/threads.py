"""Threads for everything that touches the services, so that the event loop never waits for a disk."""

import asyncio
import contextvars
import functools
from collections.abc import Awaitable, Callable, Coroutine, Hashable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Threads:
    """A small pool of our own.

    Not anyio's: its forty threads also serve downloads, and each thread that reads keeps a database
    connection with its cache. Few threads bound that memory and lose nothing, because the database
    writes one transaction at a time and most polls never come here.
    """

    def __init__(self, size: int, *, name: str) -> None:
        self._pool = ThreadPoolExecutor(max_workers=size, thread_name_prefix=name)

    def run(self, function: Callable[..., T], *arguments: object) -> Awaitable[T]:
        """Calls the function in a thread, within the caller's context variables."""
        call = functools.partial(contextvars.copy_context().run, function, *arguments)
        return asyncio.get_running_loop().run_in_executor(self._pool, call)

    def close(self) -> None:
        """Lets running calls end and takes no more."""
        self._pool.shutdown(wait=True, cancel_futures=True)


class Shared(Generic[T]):
    """One running call for all who ask for the same thing at the same time."""

    def __init__(self) -> None:
        self._running: dict[Hashable, asyncio.Task[T]] = {}

    async def ask(self, key: Hashable, call: Callable[[], Coroutine[Any, Any, T]]) -> tuple[T, bool]:
        """The call's result, and whether it was this asker who started it.

        A caller who goes away does not take the answer from the others.
        """
        running = self._running.get(key)
        first = running is None
        if running is None:
            running = self._running[key] = asyncio.get_running_loop().create_task(call())
            running.add_done_callback(functools.partial(self._end, key))
        return await asyncio.shield(running), first

    def _end(self, key: Hashable, task: asyncio.Task[T]) -> None:
        del self._running[key]
        # Looked at even if everybody has gone, or asyncio complains about an error nobody saw.
        if not task.cancelled():
            task.exception()
