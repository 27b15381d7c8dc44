"""Where the `limits` library notes who had what and when. Loads it, so nobody imports this early."""

import bisect
from array import array
from collections import OrderedDict
from collections.abc import Callable
from typing import NoReturn

from limits.storage import MovingWindowSupport, Storage


class MovingWindows(Storage, MovingWindowSupport):
    """Moving windows on a clock of our choice, in bounded memory. For one thread at a time.

    The library's own memory keeps every key for ever, starts a thread for each entry that goes
    through all keys, and shuts people out when the wall clock is set back
    (docs/decisions/rate-limits.md).
    """

    STORAGE_SCHEME = None

    def __init__(self, clock: Callable[[], float], *, longest: float, most: int) -> None:
        """`clock` counts seconds and never goes back; `longest` is the longest window in seconds.

        At most `most` keys are kept; the one whose last entry is oldest goes first.
        """
        super().__init__()
        self._clock = clock
        self._longest = longest
        self._most = most
        self._entries: OrderedDict[str, array[float]] = OrderedDict()
        """The times of each key's entries, oldest first; the keys by their last entry."""

    def __len__(self) -> int:
        """How many keys are kept."""
        return len(self._entries)

    def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """Whether `amount` entries fit into the window of `expiry` seconds; if so they are noted."""
        now = self._clock()
        entries = self._entries.pop(key, None) or array("d")
        del entries[: bisect.bisect_right(entries, now - expiry)]
        fits = len(entries) + amount <= limit
        if fits:
            entries.extend([now] * amount)
        if entries:
            self._entries[key] = entries
        self._forget(now)
        return fits

    def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:
        """When the oldest entry within the window was made, and how many there are."""
        now = self._clock()
        entries = self._entries.get(key, ())
        first = bisect.bisect_right(entries, now - expiry)
        count = len(entries) - first
        return (entries[first] if count else now), count

    def _forget(self, now: float) -> None:
        while self._entries:
            key, entries = next(iter(self._entries.items()))
            if len(self._entries) <= self._most and entries[-1] > now - self._longest:
                return
            del self._entries[key]

    def clear(self, key: str) -> None:
        """Forgets one key."""
        self._entries.pop(key, None)

    def reset(self) -> int:
        """Forgets everything; how many keys that were."""
        count = len(self._entries)
        self._entries.clear()
        return count

    def check(self) -> bool:
        """Memory is always there."""
        return True

    @property
    def base_exceptions(self) -> tuple[type[Exception], ...]:
        """Nothing of the outside can go wrong."""
        return ()

    def incr(self, key: str, expiry: int, amount: int = 1) -> NoReturn:
        """Counters are for fixed windows, which allow twice the rate around their edges."""
        raise NotImplementedError

    def get(self, key: str) -> NoReturn:
        """As `incr`."""
        raise NotImplementedError

    def get_expiry(self, key: str) -> NoReturn:
        """As `incr`."""
        raise NotImplementedError
