"""Whether a part of the world works: what a check found, and the circuit breaker that tries it again."""

from collections.abc import Callable, Sequence
from datetime import timedelta
from math import ceil
from threading import Lock
from typing import Literal

from msgspec import Struct

Status = Literal["ok", "warning", "error"]
"""`error`: builds or the service fail. `warning`: it works, but not well, or could not be checked."""
_WORST_FIRST: Sequence[Status] = ("error", "warning", "ok")


class CheckResult(Struct, frozen=True):
    """One part, one sentence and, where something is to be done, the remedy: a line to type or a setting."""

    status: Status
    sentence: str
    remedy: str = ""
    name: str = ""
    group: str = ""


def ok(sentence: str) -> CheckResult:
    """Nothing is to be done."""
    return CheckResult("ok", sentence)


def warning(sentence: str, remedy: str) -> CheckResult:
    """It works; something is better done."""
    return CheckResult("warning", sentence, remedy)


def error(sentence: str, remedy: str) -> CheckResult:
    """It does not work."""
    return CheckResult("error", sentence, remedy)


def worst(results: Sequence[CheckResult]) -> CheckResult:
    """The worst of several, the first of its kind."""
    return min(results, key=lambda result: _WORST_FIRST.index(result.status))


class Breaker:
    """Decides whether a caller may try a part of the world; for any thread.

    The machine has four states:

    * *closed*: everybody is admitted. `failed` opens it.
    * *waiting*: no caller is admitted until a span is over. Further failures change the sentence
      only: they are echoes of the same outage, from callers admitted before it.
    * *due*: the span is over, and the next caller is admitted as a trial.
    * *trial*: one caller is trying, no other is admitted.

    `worked` closes it from every state. `failed` in *due* or *trial* begins another span, twice as
    long, up to `longest`. A trial that ended without either is withdrawn, and one that does not
    report back for `patience` (its thread died, or is busy elsewhere) is no longer waited for: the
    next may try.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float],
        first: timedelta = timedelta(seconds=2),
        longest: timedelta = timedelta(seconds=60),
        patience: timedelta = timedelta(minutes=2),
    ) -> None:
        """`clock` counts seconds and never leaps, as `time.monotonic` does."""
        self._clock = clock
        self._first = first.total_seconds()
        self._longest = longest.total_seconds()
        self._patience = patience.total_seconds()
        self._lock = Lock()
        self._sentence = ""
        self._span = 0.0
        self._waits_until: float | None = None
        """When the span ends or ended; None while closed."""
        self._trial_until: float | None = None

    def admits(self) -> bool:
        """Whether the caller may try; one that was admitted reports the result."""
        with self._lock:
            now = self._clock()
            if self._waits_until is None:
                return True
            if now < self._waits_until or self._tries(now):
                return False
            self._trial_until = now + self._patience
            return True

    def worked(self) -> None:
        """The part did what it is for."""
        with self._lock:
            self._waits_until = self._trial_until = None
            self._sentence = ""

    def failed(self, sentence: str) -> None:
        """The part failed; `sentence` says how, for callers in the meantime."""
        with self._lock:
            now = self._clock()
            self._sentence = sentence
            if self._waits_until is None:
                self._span = self._first
            elif self._trial_until is None and now < self._waits_until:
                return
            else:
                self._span = min(2 * self._span, self._longest)
            self._waits_until = now + self._span
            self._trial_until = None

    def withdraw(self) -> None:
        """The trial ended without showing anything; the next caller may try."""
        with self._lock:
            self._trial_until = None

    @property
    def is_open(self) -> bool:
        """Whether the last thing known is a failure."""
        return self._waits_until is not None

    @property
    def is_due(self) -> bool:
        """Whether it is open and its span is over: a caller tries, or may."""
        with self._lock:
            return self._waits_until is not None and self._clock() >= self._waits_until

    @property
    def retry_in(self) -> timedelta:
        """When asking again may help. During a trial that is unknown, so the first span is named."""
        with self._lock:
            now = self._clock()
            if self._waits_until is None:
                return timedelta(0)
            left = self._first if self._tries(now) else self._waits_until - now
            return timedelta(seconds=max(0.0, left))

    @property
    def retry_after(self) -> int:
        """The same in whole seconds, at least one, as errors carry it."""
        return max(1, ceil(self.retry_in.total_seconds()))

    @property
    def sentence(self) -> str:
        """How the part failed last; empty while closed."""
        return self._sentence

    def _tries(self, now: float) -> bool:
        return self._trial_until is not None and now < self._trial_until
