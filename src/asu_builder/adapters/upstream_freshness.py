"""How long each kind of document is believed: the table in docs/api.md."""

from datetime import timedelta

from msgspec import Struct

FRESH_FOR = timedelta(minutes=5)
MISSING_FOR = timedelta(minutes=1)
"""How long "upstream has no such document" is believed: a release appears without a restart."""
MISSING_STALE = timedelta(hours=1)
"""How long it is believed at most while upstream does not answer."""


class Freshness(Struct, frozen=True):
    """Of one kind of document; `stale` is how old a copy may be at most that is still served."""

    fresh: timedelta
    missing: timedelta
    stale: timedelta

    def seconds(self, *, there: bool) -> float:
        """How long it is not asked for again, by whether upstream had it."""
        return (self.fresh if there else self.missing).total_seconds()


LISTS = Freshness(FRESH_FOR, MISSING_FOR, timedelta(days=7))
"""Versions, targets and devices."""
OF_A_RELEASE = Freshness(FRESH_FOR, MISSING_FOR, timedelta(days=30))
"""Profiles and packages of what is released: they hardly change."""
OF_A_SNAPSHOT = Freshness(FRESH_FOR, MISSING_FOR, timedelta(days=1))
"""Profiles and packages of what moves: an old copy names packages that are gone."""


def freshness(path: str) -> Freshness:
    """That of the document at this path of the download server."""
    if path.rpartition("/")[2].startswith("."):
        return LISTS
    moving = path.startswith("snapshots/") or "-SNAPSHOT/" in path
    return OF_A_SNAPSHOT if moving else OF_A_RELEASE
