"""Names that somebody may have meant."""

import re
from collections.abc import Iterator, Sequence

_SUGGESTIONS = 3
_ALIKE = 0.8
"""From 0 to 1: below this, names have nothing to do with each other."""


def closest(name: str, names: Sequence[str], *, alike: float = _ALIKE) -> tuple[str, ...]:
    """At most three of `names`, the most alike first; about a millisecond for ten thousand."""
    # Needed by few, and not by the first answer.
    from rapidfuzz import process
    from rapidfuzz.distance import JaroWinkler

    # People get the beginning of a name right more often than its end.
    found = process.extract(
        name, names, scorer=JaroWinkler.similarity, limit=_SUGGESTIONS, score_cutoff=alike
    )
    return tuple(match for match, _, _ in found)


_ABI = re.compile(r"[0-9][0-9a-z.]{0,63}")
"""What tells a library's binary interface: `20241020`, `1.1`, `5.7.2.d242c60a`; `-` may stand before it."""
_LONGEST = 128


def without_abi(name: str) -> Iterator[str]:
    """What a library may be called without its ABI suffix: `libubus20241020` → `libubus`.

    More than one where the name itself has digits: `libe2p2` is `libe2p`, or `libe`.
    """
    if not name.startswith("lib") or len(name) > _LONGEST:
        return
    for place in range(len(name) - 1, len("lib"), -1):
        if _ABI.fullmatch(name, place):
            yield name[:place].removesuffix("-")
