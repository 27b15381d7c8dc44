"""One lock for every library that is loaded late."""

from collections.abc import Callable
from threading import RLock
from typing import Generic, TypeVar

T = TypeVar("T")

LOADING = RLock()
"""Held while a library is imported off the way to the first answer.

Background work begins in many threads at once. Python locks each module by itself, and two threads
that import modules which import each other (`importlib.abc` and `importlib.resources` do) then stop
each other with a deadlock error and leave one of them half loaded.
"""


class Late(Generic[T]):
    """What `make` returns, made under the lock at the first call: a decorator for what loads a library."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self.value: T | None = None
        """None before the first call."""

    def __call__(self) -> T:
        """Calls `make` the first time."""
        if self.value is None:
            with LOADING:
                if self.value is None:
                    self.value = self._make()
        return self.value
