"""How often one address may ask for something."""

import time
from collections import OrderedDict
from collections.abc import Callable

_ADDRESSES = 10_000


class RateLimit:
    """A bucket for each address: `burst` at once, refilled by `per_minute`. For one thread.

    Only so many addresses are remembered; the longest unseen goes first, and it is full again then.
    """

    def __init__(self, per_minute: float, *, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_second = per_minute / 60
        self._burst = burst
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait(self, address: str) -> int:
        """0 when the address may ask now, which is counted; else the seconds until it may."""
        now = self._clock()
        left, at = self._buckets.pop(address, (float(self._burst), now))
        left = min(float(self._burst), left + (now - at) * self._per_second)
        allowed = left >= 1
        self._buckets[address] = (left - 1 if allowed else left, now)
        if len(self._buckets) > _ADDRESSES:
            self._buckets.popitem(last=False)
        return 0 if allowed else max(1, round((1 - left) / self._per_second))
