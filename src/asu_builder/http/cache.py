"""Rendered answers, kept within a fixed number of bytes or for some seconds."""

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from msgspec import Struct

from asu_builder.http.threads import SingleFlight, Threads

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class LruByteCache(Generic[K, V]):
    """The most recently used values; the longest unused go first when `budget` bytes are full.

    A value that would take more than `largest` bytes is not kept, and none much longer than
    `seconds`: what is too old to be used is forgotten when others come. For one thread.
    """

    def __init__(
        self,
        *,
        budget: int,
        largest: int,
        seconds: float = math.inf,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`clock` counts seconds."""
        self._budget = budget
        self._largest = largest
        self._seconds = seconds
        self._clock = clock
        self._entries: OrderedDict[K, tuple[V, int, float]] = OrderedDict()
        self.size = 0

    def get(self, key: K) -> V | None:
        """The value, if it is still kept; counts as a use."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        self._entries.move_to_end(key)
        return entry[0]

    def put(self, key: K, value: V, cost: int) -> None:
        """Keeps a value that takes about `cost` bytes, in place of any former one."""
        self.drop(key)
        if cost > self._largest:
            return
        now = self._clock()
        self._entries[key] = (value, cost, now)
        self.size += cost
        while True:
            longest_unused, (_, freed, since) = next(iter(self._entries.items()))
            if self.size <= self._budget and now - since <= self._seconds:
                break
            del self._entries[longest_unused]
            self.size -= freed

    def clear(self) -> None:
        """Forgets everything."""
        self._entries.clear()
        self.size = 0

    def drop(self, key: K) -> None:
        """Forgets the value, if there is one."""
        entry = self._entries.pop(key, None)
        if entry is not None:
            self.size -= entry[1]


class Rendered(Struct, frozen=True):
    """A document and for how many seconds it may be given without another look."""

    body: bytes
    seconds: float
    complete: bool = True
    """False where something is not known yet, so that it is soon made again."""


class TtlCache:
    """Documents by key, within `budget` bytes. `clock` counts seconds."""

    def __init__(self, threads: Threads, *, budget: int, largest: int, clock: Callable[[], float]) -> None:
        self._threads = threads
        self._clock = clock
        self._cached: LruByteCache[str, tuple[bytes, float]] = LruByteCache(budget=budget, largest=largest)
        self._flights: SingleFlight[bytes] = SingleFlight()

    async def get(self, key: str, render: Callable[[], Rendered]) -> bytes:
        """The document, made in a thread if it is not fresh. Raises what `render` raises."""
        cached = self._cached.get(key)
        if cached is not None and self._clock() < cached[1]:
            return cached[0]

        async def make() -> bytes:
            rendered = await self._threads.run(render)
            fresh_until = self._clock() + rendered.seconds
            self._cached.put(key, (rendered.body, fresh_until), len(rendered.body) + len(key))
            return rendered.body

        body, _ = await self._flights.ask(key, make)
        return body
