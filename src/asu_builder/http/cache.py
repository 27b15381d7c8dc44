"""Rendered answers, kept within a fixed number of bytes, for some seconds, or until their sources change."""

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Hashable
from functools import partial
from typing import Any, Generic, TypeVar

from msgspec import Struct

from asu_builder.domain.access import Caller
from asu_builder.domain.errors import TooManyRequests
from asu_builder.domain.reading import Sources
from asu_builder.http.threads import SingleFlight, Threads, Waiting, while_client_stays

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
        self.size -= self._entries.pop(key, (None, 0, 0.0))[1]
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
        self.size -= self._entries.pop(key, (None, 0, 0.0))[1]


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
