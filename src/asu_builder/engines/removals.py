"""Removes in the background what is no longer needed, one thing after the other.

A container's end must not wait for its removal, which takes seconds on a busy disk. But builds that
end faster than their containers are removed would fill the disk, so the next one waits at its
beginning, where it keeps no images back.
"""

import logging
from collections import deque
from collections.abc import Callable
from datetime import timedelta
from threading import Condition, Event, Thread
from time import monotonic

from asu_builder.domain.errors import EngineUnavailable
from asu_builder.engines.guard import TICK, interrupted

log = logging.getLogger(__name__)

BACKLOG = 4
"""How many wait to be removed when no further container is begun."""
LAST = timedelta(seconds=5)
"""How long the end of the process waits for what is left; more is swept at the next start."""


class Removals:
    """Every thread may use it. A thread runs while there is something to remove."""

    def __init__(self, *, backlog: int = BACKLOG) -> None:
        self._backlog = backlog
        self._changed = Condition()
        self._waiting: deque[tuple[str, Callable[[], None]]] = deque()
        self._current = ""
        self._is_working = False

    def __contains__(self, name: str) -> bool:
        """Whether it is being removed, or waits for that."""
        with self._changed:
            return name == self._current or any(name == waiting for waiting, _ in self._waiting)

    def add(self, name: str, remove: Callable[[], None]) -> None:
        """Has `remove` called soon, once, and returns at once; what it raises is logged."""
        with self._changed:
            self._waiting.append((name, remove))
            if not self._is_working:
                self._is_working = True
                # A daemon: an engine that hangs must not hold up the end of the process.
                Thread(target=self._work, name="removals", daemon=True).start()

    def wait_for_room(self, stop: Event, *, within: timedelta) -> None:
        """Returns when fewer wait than the backlog.

        Raises `BuildInterrupted` when `stop` is set, and `EngineUnavailable` when it takes too long.
        """
        ends = monotonic() + within.total_seconds()
        with self._changed:
            while len(self._waiting) >= self._backlog:
                if stop.is_set():
                    raise interrupted()
                if monotonic() >= ends:
                    raise EngineUnavailable("Former builds could not be removed in time; look at the disk.")
                self._changed.wait(TICK)

    def close(self, within: timedelta = LAST) -> bool:
        """Waits until nothing is left to remove, for a bounded time; whether that was enough."""
        with self._changed:
            done = self._changed.wait_for(lambda: not self._is_working, within.total_seconds())
            if not done:
                log.warning("%d removal(s) left for the next start", len(self._waiting) + 1)
            return done

    def _work(self) -> None:
        while (remove := self._next()) is not None:
            try:
                remove()
            except Exception:
                log.exception("a removal failed")

    def _next(self) -> Callable[[], None] | None:
        """What to remove next; None when this thread should end."""
        with self._changed:
            self._current, remove = self._waiting.popleft() if self._waiting else ("", None)
            self._is_working = remove is not None
            self._changed.notify_all()
            return remove
