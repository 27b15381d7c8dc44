"""How many may watch builds, and how one is got rid of who does not read."""

from msgspec import Struct

ABORT = "asu_builder.abort"
"""Where in a scope the server's protocol says how a connection is broken off, sent or not."""


class WatchLimits(Struct, frozen=True):
    """How many may watch: in all, of one address or token; and how long one message may take to send.

    A process often has no more than 1,024 descriptors, and builds need some of them.
    """

    total: int = 700
    each: int = 100
    seconds: float = 15.0
