"""Threads that fetch documents: many may hang without holding up the others.

Why threads, and how many: docs/decisions/the-first-asker-is-served.md.
"""

import logging
import threading
from collections import Counter, OrderedDict, deque
from collections.abc import Callable

_log = logging.getLogger(__name__)

MOST = 160
"""Fetches at the same time."""
_IDLE_SECONDS = 20.0
"""How long a thread with nothing to do is kept."""


class Fetches:
    """Runs calls in threads, made when they are needed.

    One caller may have as many running as places are left free: alone half of all, two of them at
    once a third each. So whoever comes next finds a place, until as many callers hang as halve the
    places down to none: eight of them with 160 places.
    """

    def __init__(self, *, most: int = MOST, idle_seconds: float = _IDLE_SECONDS) -> None:
        self._most = most
        self._idle_seconds = idle_seconds
        self._changed = threading.Condition()
        self._waiting: OrderedDict[str, deque[Callable[[], None]]] = OrderedDict()
        """Calls by their caller; the caller whose turn is next is the first."""
        self._running: Counter[str] = Counter()
        self._threads = self._idle = 0
        self._names = 0
        self._closed = False

    def start(self, caller: str, call: Callable[[], None]) -> None:
        """Has the call made as soon as there is a place for this caller. It must not raise."""
        with self._changed:
            if self._closed:
                return
            self._waiting.setdefault(caller, deque()).append(call)
            # Who is idle and was woken for another call is still counted, and so is that call.
            if self._idle >= sum(map(len, self._waiting.values())):
                self._changed.notify()
            elif self._threads < self._most and self._admits(caller):
                self._threads += 1
                self._names += 1
                # Daemons: a slow download must not hold up the end of the process.
                threading.Thread(target=self._work, name=f"upstream-{self._names}", daemon=True).start()

    def close(self) -> None:
        """Makes no call from now on; those that run end by themselves."""
        with self._changed:
            self._closed = True
            self._waiting.clear()
            self._changed.notify_all()

    def _work(self) -> None:
        while (found := self._next()) is not None:
            caller, call = found
            try:
                call()
            except Exception:  # noqa: BLE001 - a bug in one call must not take the thread along
                _log.exception("a fetch failed")
            with self._changed:
                self._running[caller] -= 1
                if not self._running[caller]:
                    del self._running[caller]
                # A place is free, which may let in a caller that was refused one before.
                self._changed.notify()

    def _next(self) -> tuple[str, Callable[[], None]] | None:
        """The next call and its caller; None when this thread should end."""
        with self._changed:
            while not self._closed:
                for caller in self._waiting:
                    if self._admits(caller):
                        return caller, self._take(caller)
                self._idle += 1
                notified = self._changed.wait(self._idle_seconds)
                self._idle -= 1
                if not notified and not any(map(self._admits, self._waiting)):
                    break
            self._threads -= 1
            return None

    def _take(self, caller: str) -> Callable[[], None]:
        calls = self._waiting[caller]
        call = calls.popleft()
        if calls:
            self._waiting.move_to_end(caller)
        else:
            del self._waiting[caller]
        self._running[caller] += 1
        return call

    def _admits(self, caller: str) -> bool:
        free = self._most - self._running.total()
        return self._running[caller] < free if free > 0 else False
