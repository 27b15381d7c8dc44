"""Two sets of packages with their versions, compared."""

import re
from collections.abc import Mapping

from msgspec import Struct

from asu_builder.domain.search import without_abi

_HASH = re.compile(r"~[0-9a-f]{6,}")
"""A commit's digits in a version: they tell two versions apart, and not which is the later."""
_BEFORE = re.compile(r"_(?=alpha|beta|pre|rc)")
_PARTS = re.compile(r"(\d+)|(~)|([A-Za-z]+)|([^A-Za-z0-9~]+)")
_END = (1, 0, "")
KERNEL = "kernel"


def version_order(version: str) -> tuple[tuple[int, int, str], ...]:
    """Sorts old before new, as apk and opkg do for the versions that OpenWrt has.

    What `~` or a word like `_rc` begins comes before the version without it; digits count as numbers.
    """
    plain = _BEFORE.sub("~", _HASH.sub("", version[:256]))
    parts: list[tuple[int, int, str]] = []
    for digits, before, letters, other in _PARTS.findall(plain):
        if digits:
            parts.append((3, int(digits), ""))
        else:
            parts.append((0, 0, before) if before else (2, 0, letters or other))
    return (*parts, _END)


class Comparison(Struct, frozen=True):
    """What changes from one set to another. Pairs are (before, after); names are sorted."""

    added: Mapping[str, str]
    removed: Mapping[str, str]
    upgraded: Mapping[str, tuple[str, str]]
    downgraded: Mapping[str, tuple[str, str]]
    unchanged: int

    @property
    def kernel(self) -> tuple[str, str] | None:
        """The kernel's versions where it is another one."""
        return self.upgraded.get(KERNEL) or self.downgraded.get(KERNEL)


def compare(before: Mapping[str, str], after: Mapping[str, str]) -> Comparison:
    """A library whose ABI number moved is the same package in another version."""
    removed = {name: before[name] for name in sorted(before.keys() - after.keys())}
    added = {name: after[name] for name in sorted(after.keys() - before.keys())}
    pairs = {name: (before[name], after[name]) for name in sorted(before.keys() & after.keys())}
    former_names = {base: name for name in removed for base in (name, *without_abi(name))}
    for name in list(added):
        bases = (name, *without_abi(name))
        former = next((former_names[base] for base in bases if former_names.get(base) in removed), None)
        if former is not None:
            pairs[name] = (removed.pop(former), added.pop(name))
    upgraded: dict[str, tuple[str, str]] = {}
    downgraded: dict[str, tuple[str, str]] = {}
    for name, (old, new) in sorted(pairs.items()):
        if old != new:
            is_later = version_order(new) >= version_order(old)
            (upgraded if is_later else downgraded)[name] = (old, new)
    unchanged = len(pairs) - len(upgraded) - len(downgraded)
    return Comparison(added, removed, upgraded, downgraded, unchanged)
