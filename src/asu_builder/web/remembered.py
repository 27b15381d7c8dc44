"""Rendered documents, kept for some seconds and made once for all who ask at the same time."""

from collections.abc import Callable

from msgspec import Struct

from asu_builder.web.memory import Memory
from asu_builder.web.threads import Shared, Threads


class Rendered(Struct, frozen=True):
    """A document and for how many seconds it may be given without another look."""

    body: bytes
    seconds: float
    complete: bool = True
    """False where something is not known yet, so that it is soon made again."""


class Remembered:
    """Documents by key, within `budget` bytes. `clock` counts seconds."""

    def __init__(self, threads: Threads, *, budget: int, largest: int, clock: Callable[[], float]) -> None:
        self._threads = threads
        self._clock = clock
        self._kept: Memory[str, tuple[bytes, float]] = Memory(budget=budget, largest=largest)
        self._shared: Shared[bytes] = Shared()

    async def get(self, key: str, render: Callable[[], Rendered]) -> bytes:
        """The document, made in a thread if it is not fresh. Raises what `render` raises."""
        kept = self._kept.get(key)
        if kept is not None and self._clock() < kept[1]:
            return kept[0]
        body, _ = await self._shared.ask(key, lambda: self._make(key, render))
        return body

    async def _make(self, key: str, render: Callable[[], Rendered]) -> bytes:
        rendered = await self._threads.run(render)
        fresh_until = self._clock() + rendered.seconds
        self._kept.put(key, (rendered.body, fresh_until), len(rendered.body) + len(key))
        return rendered.body
