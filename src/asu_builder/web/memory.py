"""What was answered lately, as bytes, within a fixed number of bytes."""

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Memory(Generic[K, V]):
    """The most recently used values; the longest unused go first when `budget` bytes are full.

    A value that would take more than `largest` bytes is not kept, and none much longer than
    `seconds`: what is too old to be used is forgotten when others come. For one thread.
    """

    def __init__(
        self,
        *,
        budget: int,
        largest: int,
        seconds: float = math.inf,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`clock` counts seconds."""
        self._budget = budget
        self._largest = largest
        self._seconds = seconds
        self._clock = clock
        self._kept: OrderedDict[K, tuple[V, int, float]] = OrderedDict()
        self.size = 0

    def get(self, key: K) -> V | None:
        """The value, if it is still kept; counts as a use."""
        entry = self._kept.get(key)
        if entry is None:
            return None
        self._kept.move_to_end(key)
        return entry[0]

    def put(self, key: K, value: V, cost: int) -> None:
        """Keeps a value that takes about `cost` bytes, in place of any former one."""
        self.drop(key)
        if cost > self._largest:
            return
        now = self._clock()
        self._kept[key] = (value, cost, now)
        self.size += cost
        while self.size > self._budget or self._is_old(now):
            _, (_, freed, _) = self._kept.popitem(last=False)
            self.size -= freed

    def _is_old(self, now: float) -> bool:
        """Whether the longest unused value is older than any should be; the new one never is."""
        _, _, since = next(iter(self._kept.values()))
        return now - since > self._seconds

    def clear(self) -> None:
        """Forgets everything."""
        self._kept.clear()
        self.size = 0

    def drop(self, key: K) -> None:
        """Forgets the value, if there is one."""
        entry = self._kept.pop(key, None)
        if entry is not None:
            self.size -= entry[1]
