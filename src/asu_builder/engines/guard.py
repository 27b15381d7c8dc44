"""What one build may use, what ends its container in time, and what removes it afterwards."""

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from threading import Condition, Event, Thread
from time import monotonic
from typing import Self

from msgspec import Struct

from asu_builder.domain.errors import (
    AsuError,
    BuildFailed,
    BuildInterrupted,
    EngineUnavailable,
    FailureReason,
    Unavailable,
    deadline_passed,
)

_MIB = 1 << 20
_GIB = 1 << 30


class Limits(Struct, frozen=True):
    """Sizes are in bytes. Only tests construct one with other numbers."""

    memory: int = 2 * _GIB
    """All processes together; no swap beyond it."""
    cpus: float = 2.0
    processes: int = 1024
    open_files: int = 4096
    file_size: int = 2 * _GIB
    """Of any single file."""
    disk: int = 4 * _GIB
    """Written on top of the ImageBuilder, looked at every few seconds: it can be overshot."""
    log: int = 16 * _MIB
    """Kept of each output stream of one command; the rest is dropped."""
    collected_files: int = 128
    collected_size: int = 2 * _GIB
    """Of everything that is taken out of one container."""
    read_size: int = 4 * _MIB
    """Of a file that is read as a whole."""


log = logging.getLogger(__name__)

TICK = 0.2
"""Seconds between two looks at the stop event and the clock."""
SILENCE = timedelta(seconds=30)
"""How long a watch may get no answer before the build is given back: busy engines are slow at times."""


class Watch(Struct, frozen=True):
    """Something looked at every so often; a returned failure ends the container.

    `look` raises `Unavailable` when what runs the container does not answer.
    """

    every: timedelta
    look: Callable[[], AsuError | None]


class Guard:
    """Ends one container in time: at a stop, a deadline, what a watch finds, or when the engine is lost.

    It works while it is `active`.
    """

    def __init__(
        self,
        stop: Event,
        deadline: timedelta,
        *,
        kill: Callable[[], None],
        watches: Sequence[Watch] = (),
        silence: timedelta = SILENCE,
    ) -> None:
        """`kill` ends the container and wakes the thread that waits for it; it is called at most once."""
        self._stop = stop
        self._deadline = deadline
        self._ends = monotonic() + deadline.total_seconds()
        self._end = kill
        self._watches = watches
        self._silence = silence.total_seconds()
        self._silent_since: dict[Watch, float] = {}
        self._ended = Event()
        self._found: AsuError | None = None
        """What a watch has found; the guard's thread acts on it."""
        self._failure: AsuError | None = None
        self._threads = [Thread(target=self._guard, name="guard", daemon=True)]
        if watches:
            self._threads.append(Thread(target=self._ask_all, name="watches", daemon=True))

    @contextmanager
    def active(self) -> Iterator[Self]:
        """From the container's beginning to its end; once only."""
        for thread in self._threads:
            thread.start()
        try:
            yield self
        finally:
            self._ended.set()
            for thread in self._threads:
                thread.join()

    @property
    def remaining(self) -> timedelta:
        """How long until the deadline; never negative."""
        return timedelta(seconds=max(0.0, self._ends - monotonic()))

    @contextmanager
    def step(self) -> Iterator[None]:
        """Runs one step; once the guard has killed, its reason replaces the step's outcome."""
        self.raise_if_killed()
        try:
            yield
        except AsuError:
            self.raise_if_killed()
            raise
        self.raise_if_killed()

    def raise_if_killed(self) -> None:
        """Raises the reason if the guard has struck; for steps that have no end to wait for."""
        if self._failure is not None:
            raise self._failure
        if self._stop.is_set():
            raise interrupted()

    def _guard(self) -> None:
        while not self._ended.wait(TICK):
            failure = interrupted() if self._stop.is_set() else self._found
            if failure is None and monotonic() >= self._ends:
                # Something else than the build may be to blame for its reaching the deadline.
                asked = (self._ask(watch, silence=0) for watch in self._watches)
                failure = next(filter(None, asked), None) or deadline_passed(self._deadline)
            if failure:
                # Before the kill, so that the thread that the kill wakes finds the reason.
                self._failure = failure
                try:
                    self._end()
                except Exception:
                    log.exception("the guard could not end a container")
                return

    def _ask_all(self) -> None:
        due = {watch: monotonic() + watch.every.total_seconds() for watch in self._watches}
        while self._found is None and not self._ended.wait(TICK):
            for watch in [watch for watch in self._watches if monotonic() >= due[watch]]:
                self._found = self._found or self._ask(watch, silence=self._silence)
                due[watch] = monotonic() + watch.every.total_seconds()

    def _ask(self, watch: Watch, *, silence: float) -> AsuError | None:
        """A watch ends the build when it gets no answer for `silence` seconds; one with a bug never does."""
        began = monotonic()
        try:
            failure = watch.look()
        except Unavailable as error:
            if watch not in self._silent_since and not self._ended.is_set():
                log.warning("a watch got no answer: %s", error)
            silent_for = monotonic() - self._silent_since.setdefault(watch, began)
            return error if silent_for >= silence else None
        except Exception:
            log.exception("a watch failed")
            return None
        self._silent_since.pop(watch, None)
        return failure


def interrupted() -> BuildInterrupted:
    """The stop event was set."""
    return BuildInterrupted("The build was stopped; it will be tried again.")


def memory_exhausted(limit: int) -> BuildFailed:
    """The build needed more memory (bytes) than it may have."""
    return BuildFailed(
        FailureReason.OUT_OF_MEMORY,
        f"Error: The build needed more than {limit >> 20} MiB of memory and was stopped. "
        "Ask for fewer packages or a smaller root file system.",
    )


def disk_exhausted(limit: int) -> BuildFailed:
    """The build wrote more (bytes) than it may."""
    return BuildFailed(
        FailureReason.DISK_LIMIT,
        f"Error: The build wrote more than {limit >> 20} MiB to disk and was stopped. "
        "Ask for fewer packages or a smaller root file system.",
    )


BACKLOG = 4
"""How many wait to be removed when no further container is begun."""
LAST = timedelta(seconds=5)
"""How long the end of the process waits for what is left; more is swept at the next start."""


class Removals:
    """Removes in the background what is no longer needed, one thing after the other.

    A container's end must not wait for its removal, which takes seconds on a busy disk. But builds that
    end faster than their containers are removed would fill the disk, so the next one waits at its
    beginning, where it keeps no images back. Every thread may use it. A thread runs while there is
    something to remove.
    """

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
        while True:
            with self._changed:
                self._current, remove = self._waiting.popleft() if self._waiting else ("", None)
                self._is_working = remove is not None
                self._changed.notify_all()
            if remove is None:
                return
            try:
                remove()
            except Exception:
                log.exception("a removal failed")
