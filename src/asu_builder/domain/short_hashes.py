"""A hash as people copy it: all of it, or how it begins, as the log and the names of images show it."""

from collections.abc import Callable, Iterable

from asu_builder.domain.errors import BuildNotFound, RequestRejected
from asu_builder.domain.request import HASH_PREFIX, REQUEST_HASH

FOUND_AT_MOST = 1000
"""How many jobs are looked at for others that begin alike; one hash may have many jobs."""
_NAMED_AT_MOST = 4


def whole_hash(given: str, begin_so: Callable[[str], Iterable[str]]) -> str:
    """The one hash that begins as given; `begin_so` tells the hashes of jobs by a prefix.

    Raises `RequestRejected` for what is no prefix or fits several, `BuildNotFound` for none.
    """
    prefix = given.strip().rstrip("….").lower()
    if REQUEST_HASH.fullmatch(prefix):
        return prefix
    if not HASH_PREFIX.fullmatch(prefix):
        raise RequestRejected(f"HASH: expected 4 to 64 hexadecimal digits, got {given[:80]!r}.")
    found = list(dict.fromkeys(begin_so(prefix)))
    if not found:
        raise BuildNotFound(f"There is no job whose hash begins with {prefix}.")
    if len(found) > 1:
        named = ", ".join(found[:_NAMED_AT_MOST]) + (", …" if len(found) > _NAMED_AT_MOST else "")
        raise RequestRejected(f"{len(found)} hashes begin with {prefix}: {named}. Give more digits.")
    return found[0]
