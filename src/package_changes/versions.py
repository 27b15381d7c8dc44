"""OpenWrt's version names, compared as versions, and ranges of them.

The order is: release candidates, releases and the branch's snapshot within a branch, then the next
branch, and SNAPSHOT (main) after all. `24.10.9` is older than `24.10.10`.
"""

import re
from dataclasses import dataclass

MAIN = "SNAPSHOT"

_RELEASE = re.compile(r"(\d{1,4})\.(\d{1,4})\.(\d{1,4})(?:-rc(\d{1,4}))?", re.ASCII)
_BRANCH_SNAPSHOT = re.compile(r"(\d{1,4})\.(\d{1,4})-SNAPSHOT", re.ASCII)
_BRANCH = re.compile(r"(\d{1,4})\.(\d{1,4})", re.ASCII)
_BOUND = re.compile(r"(>=|<=|>|<)\s*([^\s<>]+)")

Order = tuple[int, ...]
"""Sorts versions; longer tuples lie right behind the shorter ones they begin with."""

_CERTAIN = 10_000
"""Above every number in a name: a release comes after its candidates."""
_START: Order = ()
_END: Order = (_CERTAIN + 1,)


class VersionProblem(Exception):
    """A text that names no version, branch or range; its sentence says what was expected."""


def version_order(version: str) -> Order | None:
    """What sorts this version among others; None for a name of no known form."""
    if version == MAIN:
        return (_CERTAIN,)
    if match := _RELEASE.fullmatch(version):
        year, month, patch, candidate = match.groups()
        return (int(year), int(month), 0, int(patch), int(candidate) if candidate else _CERTAIN)
    if match := _BRANCH_SNAPSHOT.fullmatch(version):
        return (int(match[1]), int(match[2]), 1)
    return None


def branch_order(branch: str) -> Order | None:
    """Where a branch (`24.10`, `SNAPSHOT`) begins; None for a name of no known form."""
    if branch == MAIN:
        return (_CERTAIN,)
    match = _BRANCH.fullmatch(branch)
    return (int(match[1]), int(match[2])) if match else None


def branch_of(version: str) -> str | None:
    """The branch a version belongs to; None for a name of no known form."""
    if version == MAIN:
        return MAIN
    match = _RELEASE.fullmatch(version) or _BRANCH_SNAPSHOT.fullmatch(version)
    return f"{match[1]}.{match[2]}" if match else None


@dataclass(frozen=True, slots=True)
class VersionRange:
    """The versions from `low` on and before `high`."""

    low: Order = _START
    high: Order = _END

    def __contains__(self, order: Order) -> bool:
        return self.low <= order < self.high

    def meet(self, other: "VersionRange") -> "VersionRange":
        """The versions in both."""
        return VersionRange(max(self.low, other.low), min(self.high, other.high))

    @property
    def empty(self) -> bool:
        """Whether no version can lie in it."""
        return self.low >= self.high


EVERY_VERSION = VersionRange()


def branch_end(order: Order) -> Order:
    """What lies behind every version of a branch and before the next one."""
    return (*order, 2)


def parse_range(text: str) -> VersionRange:
    """A branch, a version, or bounds such as `>=24.10 <25.12`; `VersionProblem` for anything else.

    A bound that names a branch means the whole branch: `>24.10` begins behind its last version and
    `<25.12` ends before its first release candidate.
    """
    if not text.startswith(("<", ">")):
        low, high = _edges(text)
        return VersionRange(low, high)
    found = EVERY_VERSION
    rest = text
    while rest:
        match = _BOUND.match(rest)
        if not match:
            raise VersionProblem(f"'{text}' is no range; write for example '>=24.10 <25.12'")
        low, high = _edges(match[2])
        bounds = {
            ">=": VersionRange(low=low),
            ">": VersionRange(low=high),
            "<": VersionRange(high=low),
            "<=": VersionRange(high=high),
        }
        found = found.meet(bounds[match[1]])
        rest = rest[match.end() :].lstrip()
    return found


def _edges(name: str) -> tuple[Order, Order]:
    """Where a version or branch begins, and what lies right behind it."""
    if (order := branch_order(name)) is not None:
        return order, branch_end(order)
    if (order := version_order(name)) is not None:
        return order, (*order, 0)
    raise VersionProblem(f"'{name}' is no branch like 24.10 or SNAPSHOT, and no version like 24.10.4")
