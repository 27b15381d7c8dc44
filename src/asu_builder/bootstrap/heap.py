"""The heap of the C library: one for all threads, and what they have freed goes back to the system."""

import contextlib
import ctypes

_ARENA_MAX = -8
"""Of malloc.h."""


def use_one_heap() -> None:
    """Lets all threads share one heap: glibc gives each its own, and keeps what each has freed."""
    _tell_libc("mallopt", _ARENA_MAX, 1)


def give_back_memory() -> None:
    """Returns free pages to the system, also those between used ones, which glibc keeps; takes about 1 ms.

    What a burst of requests has taken would stay with the process for good.
    """
    _tell_libc("malloc_trim", 0)


def _tell_libc(name: str, *arguments: int) -> None:
    with contextlib.suppress(OSError, AttributeError):  # another C library
        getattr(ctypes.CDLL(None), name)(*arguments)
