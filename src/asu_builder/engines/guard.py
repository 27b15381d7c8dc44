"""What one build may use, and what ends a container in time: stop event, deadline, watches, a lost engine."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from threading import Event, Thread
from time import monotonic
from types import TracebackType
from typing import Self

from msgspec import Struct

from asu_builder.domain.errors import (
    AsuError,
    BuildFailed,
    BuildInterrupted,
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
    text: int = _MIB
    """Of a file that is read as text."""


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
    """Watches one container from entering to leaving the context."""

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

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
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
            if failure := self._look():
                # Before the kill, so that the thread that the kill wakes finds the reason.
                self._failure = failure
                try:
                    self._end()
                except Exception:
                    log.exception("the guard could not end a container")
                return

    def _look(self) -> AsuError | None:
        if self._stop.is_set():
            return interrupted()
        if self._found is None and monotonic() >= self._ends:
            return self._ask_last() or deadline_passed(self._deadline)
        return self._found

    def _ask_last(self) -> AsuError | None:
        """Whether something else than the build is to blame for its reaching the deadline."""
        for watch in self._watches:
            try:
                failure = watch.look()
            except Unavailable as error:
                return error
            except Exception:
                log.exception("a watch failed")
                continue
            if failure:
                return failure
        return None

    def _ask_all(self) -> None:
        due = {watch: monotonic() + watch.every.total_seconds() for watch in self._watches}
        while self._found is None and not self._ended.wait(TICK):
            for watch in [watch for watch in self._watches if monotonic() >= due[watch]]:
                self._found = self._found or self._ask(watch)
                due[watch] = monotonic() + watch.every.total_seconds()

    def _ask(self, watch: Watch) -> AsuError | None:
        """A watch that fails must not end the build at once, and one with a bug not at all."""
        began = monotonic()
        try:
            failure = watch.look()
        except Unavailable as error:
            if watch not in self._silent_since and not self._ended.is_set():
                log.warning("a watch got no answer: %s", error)
            silent_for = monotonic() - self._silent_since.setdefault(watch, began)
            return error if silent_for >= self._silence else None
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
