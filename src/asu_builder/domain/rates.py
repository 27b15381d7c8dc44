"""Rates as operators write them: `20/minute; 100/hour`."""

import re

from msgspec import Struct

_SECONDS = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400}
_RATE = re.compile(rf"([0-9]{{1,6}})\s*/\s*(?:([1-9][0-9]{{0,4}})\s+)?({'|'.join(_SECONDS)})")


class Rate(Struct, frozen=True):
    """So many in so many units of time."""

    amount: int
    units: int
    unit: str

    @property
    def seconds(self) -> int:
        """The length of the window."""
        return self.units * _SECONDS[self.unit]

    def __str__(self) -> str:
        """As a sentence says it: `20 per minute`, `20 per 10 seconds`."""
        return f"{self.amount} per {self.unit if self.units == 1 else f'{self.units} {self.unit}s'}"


def parse_rates(text: str) -> tuple[Rate, ...]:
    """The rates that a setting names, each once; none for an empty text. Raises `ValueError`."""
    if not text.strip():
        return ()
    found = [(part, _RATE.fullmatch(part.strip())) for part in text.split(";")]
    if wrong := [part for part, match in found if not match]:
        raise ValueError(f"This is no rate: {wrong[0][:80]!r}")
    return tuple(
        dict.fromkeys(Rate(int(match[1]), int(match[2] or 1), match[3]) for _, match in found if match)
    )
