"""How one part of the world is."""

from msgspec import Struct


class Verdict(Struct, frozen=True):
    """Health of one part in a word and a sentence."""

    status: str
    """`ok`, `degraded` or `down`."""
    sentence: str
