"""What was answered lately, as bytes, within a fixed number of bytes."""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Memory(Generic[K, V]):
    """The most recently used values; the longest unused go first when `budget` bytes are full.

    A value that would take more than `largest` bytes is not kept. For one thread.
    """

    def __init__(self, *, budget: int, largest: int) -> None:
        self._budget = budget
        self._largest = largest
        self._kept: OrderedDict[K, tuple[V, int]] = OrderedDict()
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
        self._kept[key] = (value, cost)
        self.size += cost
        while self.size > self._budget:
            _, (_, freed) = self._kept.popitem(last=False)
            self.size -= freed

    def drop(self, key: K) -> None:
        """Forgets the value, if there is one."""
        entry = self._kept.pop(key, None)
        if entry is not None:
            self.size -= entry[1]
