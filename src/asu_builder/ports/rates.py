"""Who had something when, as far as limits need it."""

from collections.abc import Sequence
from typing import Protocol

from asu_builder.domain.rates import Rate


class RateWindows(Protocol):
    """Moving windows: what a caller had is counted until it is as old as the window is long."""

    def admit(self, key: str, rates: Sequence[Rate]) -> tuple[Rate, float] | None:
        """None when one more fits into the windows of all rates: it is counted in each of them.

        Otherwise it is counted in none: the full rate that has room last, and the seconds until then.
        """
