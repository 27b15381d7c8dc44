"""How often one caller may have something, over moving windows."""

import math
import threading
import time
from array import array
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Sequence

from asu_builder.domain.access import Rate, parse_rates
from asu_builder.domain.errors import TooManyRequests
from asu_builder.ports import RateWindows

_CALLERS = 10_000
_QUESTIONS = 20_000
_PREVIEWS = "60/minute; 20/10 second"
"""One a second as people type, and a handful at once."""
_MINUTE, _HOUR = 60, 3600


class MemoryWindows:
    """Fulfils `RateWindows` in the memory of this process, within a bound; for any thread.

    A key that had nothing for its longest window is dropped, and above `most` keys the one that had
    nothing for longest. Why so: docs/decisions/rate-limits.md.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, *, most: int = _CALLERS) -> None:
        """`clock` counts seconds and must never go back."""
        self._clock = clock
        self._most = most
        self._lock = threading.Lock()
        self._times: OrderedDict[str, array[float]] = OrderedDict()
        """When each key was admitted, oldest first; the keys in the order of their latest times, which may
        have been taken back since.
        """

    def __len__(self) -> int:
        """How many keys are known."""
        return len(self._times)

    def admit(self, key: str, rates: Sequence[Rate]) -> tuple[Rate, float] | None:
        longest = max(rate.seconds for rate in rates)
        with self._lock:
            now = self._clock()
            times = self._times.pop(key, None) or array("d")
            del times[: bisect_right(times, now - longest)]
            full = [
                rate for rate in rates if len(times) - bisect_right(times, now - rate.seconds) >= rate.amount
            ]
            if not full:
                times.append(now)
            if times:
                self._times[key] = times
            while self._times:
                oldest, admitted = next(iter(self._times.items()))
                if len(self._times) <= self._most and admitted[-1] > now - longest:
                    break
                del self._times[oldest]
            # When the oldest of the times that fill a rate leaves its window.
            waits = [
                ((times[-rate.amount] if rate.amount else now) + rate.seconds - now, rate) for rate in full
            ]
        if not waits:
            return None
        wait, rate = max(waits, key=lambda entry: entry[0])
        return rate, wait

    def take_back(self, key: str, amount: int) -> None:
        with self._lock:
            times = self._times.get(key)
            if times is not None:
                del times[max(0, len(times) - amount) :]
                if not times:
                    del self._times[key]


class RateLimit:
    """Any number of rates at once for each caller."""

    def __init__(
        self,
        text: str,
        *,
        of: str,
        clock: Callable[[], float] = time.monotonic,
        windows: RateWindows | None = None,
    ) -> None:
        """`text` as `parse_rates` reads it; "" limits nothing. Raises `ValueError`.

        `of` begins the sentence of a refusal: what is limited, in the plural. `windows` count in place of
        the memory of this process.
        """
        self._rates = parse_rates(text)
        self._of = of
        self._windows: RateWindows = windows or MemoryWindows(clock)

    def admit(self, caller_name: str) -> TooManyRequests | None:
        """None when this caller may have one more, which is counted; a refused try is not."""
        full = self._windows.admit(caller_name, self._rates) if self._rates else None
        if full is None:
            return None
        rate, seconds = full
        wait = max(1, math.ceil(seconds))
        return TooManyRequests(
            f"{self._of} are limited to {rate} for each address: "
            f"try again in {_in_words(wait)}. A token of the operator lifts this limit.",
            retry_after=wait,
        )

    def take_back(self, caller_name: str, amount: int) -> None:
        """This caller did not have the latest so many after all."""
        if amount and self._rates:
            self._windows.take_back(caller_name, amount)


class NewBuildsLimit(RateLimit):
    """How many new builds a caller without a token may submit."""

    def __init__(
        self,
        text: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        windows: RateWindows | None = None,
    ) -> None:
        """`text` is the setting `new_builds_limit`."""
        super().__init__(text, of="New builds", clock=clock, windows=windows)


class LookUpsLimit:
    """How many questions that need documents of upstream a caller without a token may ask.

    The same question again is counted once a minute: LuCI and auc repeat theirs every few seconds.
    """

    def __init__(
        self,
        text: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        windows: RateWindows | None = None,
    ) -> None:
        """`text` is the setting `look_ups_limit`."""
        what = "Questions that need the download server"
        self._limit = RateLimit(text, of=what, clock=clock, windows=windows)
        self._clock = clock
        self._lock = threading.Lock()
        self._asked: OrderedDict[tuple[str, str], float] = OrderedDict()
        """Until when a question of this caller is counted already; the first to end comes first."""

    def admit(self, caller_name: str, what: str) -> TooManyRequests | None:
        """None when this caller may ask this; `what` is the same for the same question."""
        question = (caller_name, what)
        with self._lock:
            now = self._clock()
            while self._asked and (len(self._asked) > _QUESTIONS or next(iter(self._asked.values())) <= now):
                self._asked.popitem(last=False)
            if question in self._asked:
                return None
        refusal = self._limit.admit(caller_name)
        if refusal is None:
            with self._lock:
                self._asked[question] = now + _MINUTE
                self._asked.move_to_end(question)
        return refusal


class PreviewsLimit(RateLimit):
    """How many previews a caller without a token may have."""

    def __init__(
        self,
        *,
        of: str = "Previews",
        clock: Callable[[], float] = time.monotonic,
        windows: RateWindows | None = None,
    ) -> None:
        """The rate is a constant; `of` is something else that costs as much as a preview."""
        super().__init__(_PREVIEWS, of=of, clock=clock, windows=windows)


def _in_words(seconds: int) -> str:
    """A wait as people say it, rounded up."""
    for size, unit in ((_HOUR, "hour"), (_MINUTE, "minute")):
        if seconds > 2 * size:
            return f"{math.ceil(seconds / size)} {unit}s"
    return f"{seconds} second{'' if seconds == 1 else 's'}"
