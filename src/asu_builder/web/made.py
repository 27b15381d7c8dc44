"""Answers made of documents of upstream: kept while those stay the same, and made once for all who ask."""

from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from msgspec import Struct

from asu_builder.domain.access import Asker
from asu_builder.domain.errors import TooManyRequests
from asu_builder.ports import Sources
from asu_builder.web.memory import Memory
from asu_builder.web.remembered import Rendered
from asu_builder.web.threads import Shared
from asu_builder.web.waiting import Waiting, while_client_stays

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
        self._kept: Memory[str, Made] = Memory(budget=budget, largest=largest)
        self._shared: Shared[Made] = Shared()

    async def get(self, key: str, asker: Asker, render: Callable[[], Rendered]) -> Made:
        """The answer, made in a thread if it is not right any more. Raises what `render`
        raises, and `ClientDisconnect` when the client goes away.
        """
        kept = self._kept.get(key)
        if kept is not None and self._clock() < kept.until and kept.still_right:
            return kept
        make = partial(self._make, key, asker, render)
        if not self._shared.runs(key):
            return await self._ask(key, make)
        try:
            return await self._ask(key, make)
        except TooManyRequests:
            # It was another's share that is used up.
            return await self._ask((key, asker.name), make)

    async def _ask(self, key: object, make: Callable[[], Coroutine[Any, Any, Made]]) -> Made:
        with while_client_stays():
            kept, _ = await self._shared.ask(key, make)
        return kept

    async def _make(self, key: str, asker: Asker, render: Callable[[], Rendered]) -> Made:
        reading = self._waiting.reading(asker, key)
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
