"""How often one caller may have something, by the `limits` library."""

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING

from asu_builder.domain.errors import TooManyRequests
from asu_builder.loading import LOADING

if TYPE_CHECKING:
    from limits import RateLimitItem
    from limits.strategies import MovingWindowRateLimiter

_ASKERS = 10_000
_QUESTIONS = 20_000
_PREVIEWS = "60/minute; 20/10 second"
"""One a second as people type, and a handful at once."""
_MINUTE, _HOUR = 60, 3600


class RateLimit:
    """Any number of rates at once, each over a moving window; for any thread.

    Callers that have had nothing for the longest window are forgotten, and so are those that have
    waited longest when there are more than ten thousand. The library is loaded by the first who asks.
    """

    def __init__(self, text: str, *, of: str, clock: Callable[[], float] = time.monotonic) -> None:
        """`text` as the library reads it, `20/minute; 100/hour`; "" limits nothing.

        `of` begins the sentence for whoever is refused: what is limited, in the plural. `clock`
        counts seconds and must never go back. Raises `ValueError` at the first `admit` when `text`
        says no rates.
        """
        self._text = text.strip()
        self._of = of
        self._clock = clock
        self._lock = threading.Lock()
        self._rates: tuple[RateLimitItem, ...] = ()
        self._limiter: MovingWindowRateLimiter | None = None

    def admit(self, caller_name: str) -> TooManyRequests | None:
        """None when this caller may have one more, which is counted; a refused try is not."""
        if not self._text:
            return None
        with self._lock:
            limiter = self._limiter or self._load()
            full = [rate for rate in self._rates if not limiter.test(rate, caller_name)]
            if full:
                return self._refusal(limiter, full, caller_name)
            for rate in self._rates:
                limiter.hit(rate, caller_name)
        return None

    def _load(self) -> "MovingWindowRateLimiter":
        with LOADING:
            from limits import parse_many  # see rate_windows
            from limits.strategies import MovingWindowRateLimiter

            from asu_builder.rate_windows import MovingWindows

        # Equal rates share a window, in which each would be counted.
        self._rates = tuple(dict.fromkeys(parse_many(self._text)))
        longest = max(rate.get_expiry() for rate in self._rates)
        windows = MovingWindows(self._clock, longest=longest, most=_ASKERS * len(self._rates))
        self._limiter = MovingWindowRateLimiter(windows)
        return self._limiter

    def _refusal(
        self, limiter: "MovingWindowRateLimiter", full: "list[RateLimitItem]", caller_name: str
    ) -> TooManyRequests:
        resets = [(limiter.get_window_stats(rate, caller_name).reset_time, rate) for rate in full]
        reset, rate = max(resets, key=lambda entry: entry[0])
        wait = max(1, math.ceil(reset - self._clock()))
        unit = rate.GRANULARITY.name
        per = unit if rate.multiples == 1 else f"{rate.multiples} {unit}s"
        return TooManyRequests(
            f"{self._of} are limited to {rate.amount} per {per} for each address: "
            f"try again in {_in_words(wait)}. A token of the operator lifts this limit.",
            retry_after=wait,
        )


class NewBuildsLimit(RateLimit):
    """How many new builds a caller without a token may submit."""

    def __init__(self, text: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        """`text` is the setting `new_builds_limit`."""
        super().__init__(text, of="New builds", clock=clock)


class LookUpsLimit:
    """How many questions that need documents of upstream a caller without a token may ask.

    The same question again is counted once a minute: LuCI and auc repeat theirs every few seconds.
    """

    def __init__(self, text: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        """`text` is the setting `look_ups_limit`."""
        self._limit = RateLimit(text, of="Questions that need the download server", clock=clock)
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

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        """A constant of ours."""
        super().__init__(_PREVIEWS, of="Previews", clock=clock)


def _in_words(seconds: int) -> str:
    """A wait as people say it, rounded up."""
    for size, unit in ((_HOUR, "hour"), (_MINUTE, "minute")):
        if seconds > 2 * size:
            return f"{math.ceil(seconds / size)} {unit}s"
    return f"{seconds} second{'' if seconds == 1 else 's'}"
