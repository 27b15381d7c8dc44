"""How one part of the world is."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Verdict:
    """Health of one part in a word and a sentence."""

    status: str
    """`ok`, `degraded` or `down`."""
    sentence: str
