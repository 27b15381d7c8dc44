"""The heap of the C library: one for all threads, and what they have freed goes back to the system."""

import ctypes
from collections.abc import Callable
from functools import partial
from typing import Any

_ARENA_MAX = -8
"""Of malloc.h."""


def use_one_heap() -> None:
    """Lets all threads share one heap: glibc gives each its own, and keeps what each has freed."""
    _of_libc("mallopt", _ARENA_MAX, 1)()


def give_back_memory() -> None:
    """Returns free pages to the system, also those between used ones, which glibc keeps; takes about 1 ms.

    What a burst of requests has taken would stay with the process for good.
    """
    _of_libc("malloc_trim", 0)()


def _of_libc(name: str, *arguments: int) -> Callable[[], Any]:
    """The call, or nothing where another C library has no such function."""
    try:
        function = getattr(ctypes.CDLL(None), name)
    except (OSError, AttributeError):
        return lambda: None
    return partial(function, *arguments)
