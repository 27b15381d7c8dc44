"""Asking again, for a while, what cannot be answered now."""

import time
from collections.abc import Callable
from typing import TypeVar

from asu_builder.domain.errors import AsuError, QueueFull, TooManyRequests, Unavailable

DEFAULT_SECONDS = 60.0
_NOT_NOW = (Unavailable, QueueFull, TooManyRequests)
_LEAST_PAUSE = 0.2

_Answer = TypeVar("_Answer")


def patiently(
    ask: Callable[[], _Answer],
    *,
    seconds: float,
    pause_after: Callable[[AsuError], float],
    note: Callable[[str], None],
) -> _Answer:
    """The answer, asked for again until `seconds` are over; then the last refusal is raised.

    Each new reason to wait is noted once; only what can pass by itself is waited for.
    """
    until = time.monotonic() + seconds
    told = ""
    while True:
        try:
            return ask()
        except _NOT_NOW as error:
            pause = max(_LEAST_PAUSE, pause_after(error))
            if time.monotonic() + pause > until:
                raise
            if told != str(error):
                told = str(error)
                note(f"{told} Trying for {seconds:.0f} s.")
        time.sleep(pause)
