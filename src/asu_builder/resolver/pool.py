"""All packages of one set of indexes, and what every verdict on a request is made of.

Nothing here waits, reads a file or runs in the service: the process beside it calls it.
"""

import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from asu_builder.domain.errors import BuildProblem, some
from asu_builder.domain.make import NAME
from asu_builder.domain.package_index import IndexedPackage
from asu_builder.domain.preflight import Feasibility, Foretold, unknown
from asu_builder.domain.search import closest, without_abi

_NAME = re.compile(NAME)
_MOST_NEAREST = 10
"""Missing names that others are proposed for."""
_NEAREST = 3
_MANY = 0
"""Stands where something is needed because of more than one name of the request."""


class Selection(Struct, frozen=True):
    """A request as the package manager gets it: a set of names."""

    wanted: tuple[str, ...]
    excluded: tuple[str, ...]
    """`!name`: must not be there."""
    taken_away: tuple[str, ...]
    """`-name`: neither a wish nor a conflict any more."""
    odd: tuple[str, ...]
    """What is no plain name, nor one with a version."""
    pinned: Mapping[str, str] = {}
    """The only version that will do (`name=version`) of names that are wanted."""


def read_names(names: Iterable[str]) -> Selection:
    """The last mention of a name counts, as both tools have it; `-name` takes it away wherever it stands.

    It does not take `name=version` away, which the makefile adds beside its list of packages.
    """
    names = list(names)
    taken_away = dict.fromkeys(name[1:] for name in names if name.startswith("-"))
    asked: dict[str, bool] = {}
    pinned: dict[str, str] = {}
    odd = []
    for name in names:
        plain, _, version = name.removeprefix("!").partition("=")
        if name.startswith("-") or (plain in taken_away and not version):
            continue
        if not _NAME.fullmatch(plain) or (version and name.startswith("!")):
            odd.append(name)
            continue
        asked[plain] = not name.startswith("!")
        pinned.pop(plain, None)
        if version:
            pinned[plain] = version
    return Selection(
        tuple(name for name, wanted in asked.items() if wanted),
        tuple(name for name, wanted in asked.items() if not wanted),
        tuple(taken_away),
        tuple(odd),
        pinned,
    )


class Chosen(NamedTuple):
    """What would be installed, by numbers of packages."""

    because: Mapping[str, Sequence[int]]
    """For each name asked for what fulfils it."""
    needs: Mapping[int, Sequence[int]]
    """For each package what fulfils its dependencies; its keys are everything that is installed."""


class PackagePool:
    """All packages of one set of indexes. An answer changes nothing in it."""

    takes_versions = True
    """Whether the package manager takes `name=version` for a wish."""
    packages: list[IndexedPackage]
    named: dict[str, list[int]]
    """Packages of a name."""
    provided: dict[str, list[int]]
    """Packages that provide a name without being called so."""
    left_out: int
    """Entries of the indexes that could not be read: any name may be one of them."""

    def __init__(self, packages: Iterable[IndexedPackage], left_out: int = 0) -> None:
        self.packages = list(packages)
        self.left_out = left_out
        self.named = {}
        self.provided = {}
        for number, package in enumerate(self.packages):
            self.named.setdefault(package.name, []).append(number)
            for relation in package.provides:
                if relation.name != package.name:
                    self.provided.setdefault(relation.name, []).append(number)
        self._siblings: dict[str, list[str]] | None = None

    def resolve(self, names: Sequence[str]) -> Foretold:
        """The verdict on names as make is told them."""
        asked = read_names(names)
        if odd := asked.odd or (() if self.takes_versions else tuple(asked.pinned)):
            return unknown(f"{some(odd)}: no plain name of a package.")
        foretold = self._judge(asked)
        if foretold.verdict is Feasibility.IMPOSSIBLE and self.left_out:
            reason = f"{self.left_out} entries of the indexes could not be read."
            return replace(foretold, verdict=Feasibility.UNKNOWN, reason=reason)
        return foretold

    def _judge(self, asked: Selection) -> Foretold:
        raise NotImplementedError

    def is_known(self, name: str) -> bool:
        """Whether a package is called so or provides it."""
        return name in self.named or name in self.provided

    def providers(self, name: str) -> Iterator[int]:
        """Packages of this name, then those that provide it."""
        yield from self.named.get(name, ())
        yield from self.provided.get(name, ())

    def nearest(self, missing: Sequence[str]) -> dict[str, tuple[str, ...]]:
        """For missing names those that may be meant: the same library first, then the most alike."""
        if self._siblings is None:
            self._siblings = {}
            for name in self.named:
                for short in without_abi(name):
                    self._siblings.setdefault(short, []).append(name)
        known = list(self.named)
        found = {}
        for name in missing[:_MOST_NEAREST]:
            bases = (name, *without_abi(name))
            same = (other for base in bases for other in self._siblings.get(base, ()))
            alike = dict.fromkeys((*(base for base in bases if base in self.named), *same))
            alike |= dict.fromkeys(closest(name, known) if len(alike) < _NEAREST else ())
            if alike:
                found[name] = tuple(alike)[:_NEAREST]
        return found

    def refuse(self, problem: BuildProblem) -> Foretold:
        """The verdict *impossible*."""
        return Foretold(Feasibility.IMPOSSIBLE, problem=problem, nearest=self.nearest(problem.missing))

    def accept(self, asked: Selection, chosen: Chosen) -> Foretold:
        """The verdict *fine*."""
        installed = [self.packages[number] for number in chosen.needs]
        provided = {relation.name for package in installed for relation in package.provides}
        names = {package.name: package.version for package in installed}
        return Foretold(
            Feasibility.FINE,
            packages=names,
            short={p.name: short for p in installed if p.abi and (short := p.name.removesuffix(p.abi))},
            brings=self._brought(chosen),
            kept=tuple(name for name in asked.taken_away if name in names or name in provided),
            download_size=sum(package.size for package in installed),
            installed_size=sum(package.installed_size for package in installed),
        )

    def _brought(self, chosen: Chosen) -> dict[str, tuple[str, ...]]:
        """For each name asked for what no other name asked for needs."""
        owner: dict[int, int] = {}
        open_ = deque(
            (number, place)
            for place, numbers in enumerate(chosen.because.values(), start=1)
            for number in numbers
        )
        while open_:
            number, place = open_.popleft()
            before = owner.get(number)
            if before in (place, _MANY):
                continue
            owner[number] = place if before is None else _MANY
            open_.extend((needed, owner[number]) for needed in chosen.needs[number])
        brought: dict[int, list[str]] = {}
        for number, place in owner.items():
            brought.setdefault(place, []).append(self.packages[number].name)
        return {
            name: others
            for place, name in enumerate(chosen.because, start=1)
            if (others := tuple(sorted(other for other in brought.get(place, ()) if other != name)))
        }


class NamesOnly(PackagePool):
    """For apk where libsolv is not installed: says what is missing, and nothing else."""

    def _judge(self, asked: Selection) -> Foretold:
        if missing := tuple(sorted(name for name in asked.wanted if not self.is_known(name))):
            return self.refuse(BuildProblem(missing))
        return unknown("The library that works out dependencies (solv) is not installed here.")
