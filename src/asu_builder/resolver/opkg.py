"""What opkg does with a selection: it installs one name after the other and never takes a choice back."""

import re
from collections.abc import Iterable, Iterator, Sequence, Set
from functools import lru_cache

from asu_builder.domain.errors import BuildProblem, some
from asu_builder.domain.package_index import IndexedPackage, Relation
from asu_builder.domain.packages import unique
from asu_builder.domain.preflight import Foretold, unknown
from asu_builder.resolver.pool import Chosen, PackagePool, Selection

_PARTS = re.compile(r"(\D*)(\d*)")
_LONGEST_NUMBER = 100
"""Digits that are compared."""
_ANY_ARCHITECTURE = frozenset({"all", "noarch"})


class OpkgPool(PackagePool):
    """The packages of opkg's indexes.

    * A package is called by its name or by what it provides; a version that is asked for is compared
      with the package's own. What one version of a package provides counts for all of its versions.
    * The package of the very name is preferred, then one that is installed already, then the last by name
      and version; for a name of the request itself the first of those for this very architecture.
    * A package is no candidate if a dependency of it cannot be fulfilled, whatever else there is.
    * A package conflicts with another that is called so, not with what provides the name, and only if that
      one is installed, or about to be, when it comes itself. So the order of the request matters.
    """

    takes_versions = False

    def __init__(self, packages: Iterable[IndexedPackage], left_out: int = 0) -> None:
        latest: dict[tuple[str, str, str], IndexedPackage] = {}
        for package in packages:
            # A second mention of the very package replaces the first.
            latest[package.name, package.version, package.architecture] = package
        super().__init__(latest.values(), left_out)
        self._all_names: dict[str, set[str]] = {name: {name} for name in self.named}
        """For each package what any of its versions is called."""
        for name, numbers in self.provided.items():
            called = dict.fromkeys(self.packages[number].name for number in numbers)
            self.provided[name] = [number for other in called for number in self.named[other]]
            for other in called:
                self._all_names[other].add(name)
        self._broken = self._find_broken()
        self._sorted: dict[str, list[int]] = {}
        self._replaced = {
            relation.name
            for package in self.packages
            for relation in package.replaces
            if any(relation.name == other.name for other in package.conflicts)
        }
        """Names that opkg would exchange for others."""

    def _find_broken(self, whole: Set[int] = frozenset()) -> set[int]:
        """Packages that have a dependency which cannot be fulfilled, or need such a package.

        Those that are taken for `whole` are never among them.
        """
        broken: set[int] = set()
        needing: dict[str, set[int]] = {}
        candidates = set(range(len(self.packages)))
        for number, package in enumerate(self.packages):
            for relation in package.depends:
                for name in (relation.name, *(other.name for other in relation.others)):
                    needing.setdefault(name, set()).add(number)
        while candidates:
            found = {
                number
                for number in candidates - broken - whole
                if any(self._unfulfilled(self.packages[number].depends, broken))
            }
            broken |= found
            names = {name for number in found for name in self._all_names[self.packages[number].name]}
            candidates = {number for name in names for number in needing.get(name, ())}
        return broken

    def _unfulfilled(self, depends: Iterable[Relation], broken: set[int]) -> Iterator[Relation]:
        for relation in depends:
            if not any(
                number not in broken and self.fits(one, number)
                for one in (relation, *relation.others)
                for number in self.providers(one.name)
            ):
                yield relation

    def fits(self, relation: Relation, number: int) -> bool:
        """Whether the version of a package is one that is asked for."""
        version = self.packages[number].version
        if not relation.operator or version == relation.version:
            return True
        own, other = order_of(version), order_of(relation.version)
        # opkg takes an equal version for an earlier and for a later one, too.
        return (
            own == other
            or ("<" in relation.operator and own < other)
            or (">" in relation.operator and own > other)
        )

    def candidates(self, name: str) -> list[int]:
        """Packages that may be installed for a name, by name, version and architecture."""
        found = self._sorted.get(name)
        if found is None:
            found = [number for number in dict.fromkeys(self.providers(name)) if number not in self._broken]
            if len(found) > 1:
                found.sort(key=self._place)
            self._sorted[name] = found
        return found

    def _place(self, number: int) -> tuple[object, ...]:
        package = self.packages[number]
        return package.name, order_of(package.version), package.architecture not in _ANY_ARCHITECTURE

    def _judge(self, asked: Selection) -> Foretold:
        if asked.excluded:
            return unknown(f"!{asked.excluded[0]}: opkg knows no such wish.")
        missing = [name for name in asked.wanted if not self.is_known(name)]
        hopeless = [n for n in asked.wanted if n not in missing and not self.candidates(n)]
        needed_by = self._broken_because(hopeless)
        course = _Course(self)
        for name in asked.wanted:
            if self.candidates(name):
                course.install_by_name(name)
        names = {name for number in course.needs for name in self._all_names[self.packages[number].name]}
        if replaced := sorted(self._replaced & names):
            return unknown(f"{some(replaced)} may be replaced by another package.")
        if course.upgraded:
            return unknown(
                f"{some(course.upgraded)} would be installed in two versions, one after the other."
            )
        if not missing and (hopeless or course.conflicts) and self._may_be_overlooked(asked.wanted):
            return unknown("A package needs another version of itself in turn.")
        if missing or hopeless or course.conflicts:
            absent = unique((*missing, *needed_by))
            return self.refuse(BuildProblem(absent, unique(course.conflicts), needed_by))
        if recommending := sorted(n for n in course.needs if self.packages[n].recommends):
            names_ = [self.packages[number].name for number in recommending]
            return unknown(f"{some(names_)}: packages that it recommends may be installed too.")
        return self.accept(asked, Chosen(course.because, course.needs))

    def _may_be_overlooked(self, names: Iterable[str]) -> bool:
        """Whether opkg may install all names since it takes broken packages for whole ones.

        While it gathers what a package needs, it does not look again at the dependencies of that name, and
        thus not at those of its other versions.
        """
        reached = self._reached_from([number for name in names for number in self.providers(name)])
        overlooked: set[int] = set()
        for called in {self.packages[number].name for number in reached & self._broken}:
            versions = self.named[called]
            needed = (provider for number in versions for provider in self._may_need(number))
            if len(versions) > 1 and not self._reached_from(needed).isdisjoint(versions):
                overlooked.update(versions)
        if not overlooked:
            return False
        broken = self._find_broken(overlooked)
        return not any(broken.issuperset(self.providers(name)) for name in names)

    def _reached_from(self, numbers: Iterable[int]) -> set[int]:
        """These packages and all that they may need, whichever version of it."""
        open_ = list(numbers)
        seen = set(open_)
        while open_:
            needed = set(self._may_need(open_.pop())) - seen
            seen |= needed
            open_ += needed
        return seen

    def _may_need(self, number: int) -> Iterator[int]:
        for relation in self.packages[number].depends:
            for one in (relation, *relation.others):
                yield from self.providers(one.name)

    def _broken_because(self, names: Iterable[str]) -> dict[str, tuple[str, ...]]:
        """For dependencies that nothing fulfils, who needs them."""
        needed_by: dict[str, list[str]] = {}
        open_ = [number for name in names for number in self.providers(name)]
        seen = set(open_)
        while open_:
            number = open_.pop()
            package = self.packages[number]
            for relation in self._unfulfilled(package.depends, self._broken):
                fitting = {
                    provider
                    for one in (relation, *relation.others)
                    for provider in self.providers(one.name)
                    if self.fits(one, provider)
                }
                if not fitting:
                    needed_by.setdefault(relation.name, []).append(package.name)
                open_ += fitting - seen
                seen |= fitting
        return {name: unique(sorted(needing)) for name, needing in sorted(needed_by.items())}


class _Course:
    """One installation as it goes on, name after name."""

    def __init__(self, world: OpkgPool) -> None:
        self._pool = world
        self.because: dict[str, Sequence[int]] = {}
        self.needs: dict[int, list[int]] = {}
        """What is installed, and what fulfils its dependencies."""
        self.conflicts: dict[str, None] = {}
        self.upgraded: list[str] = []
        """What would be installed in one version and then in another."""
        self._coming: set[int] = set()
        """What is installed or about to be."""
        self._visited: set[str] = set()
        """Packages whose dependencies were looked at: opkg does so once for each name."""
        self._fulfilling: dict[int, list[int]] = {}

    def install_by_name(self, name: str) -> None:
        """What `opkg install` does for one of its names, one that has candidates."""
        packages, candidates = self._pool.packages, self._pool.candidates(name)
        called_so = [number for number in candidates if packages[number].name == name]
        there = [number for number in candidates if number in self.needs]
        if called_so:
            chosen = called_so[-1]
        elif there:
            chosen = there[-1]
        else:
            native = (n for n in candidates if packages[n].architecture not in _ANY_ARCHITECTURE)
            chosen = next(native, candidates[0])
        self.because[name] = (chosen,)
        if chosen in self.needs:
            return
        if not self._coming.isdisjoint(self._pool.named[packages[chosen].name]):
            self.upgraded.append(packages[chosen].name)
        self._coming.add(chosen)
        if self._clashes(chosen):
            return
        needed = self._find_needed(chosen)
        self._coming.update(needed)
        for number in needed:
            if number not in self.needs:
                name = self._pool.packages[number].name
                if not self.needs.keys().isdisjoint(self._pool.named[name]):
                    self.upgraded.append(name)
                # The package itself may be among them, and then conflicts with what it needs.
                if self._clashes(number):
                    return
                self.needs[number] = self._fulfilling.get(number, [])
        self.needs.setdefault(chosen, self._fulfilling.get(chosen, []))

    def _find_needed(self, chosen: int) -> list[int]:
        """What must be installed before a package, in the order in which opkg does."""
        world = self._pool
        found: dict[int, None] = {}
        self._visited.add(world.packages[chosen].name)
        open_ = [(chosen, iter(world.packages[chosen].depends))]
        while open_:
            number, depends = open_[-1]
            fulfilling = self._fulfilling.setdefault(number, [])
            for relation in depends:
                needed = self._fulfil(relation)
                fulfilling.append(needed)
                if needed in self.needs or needed == number or needed in found:
                    continue
                name = world.packages[needed].name
                if name in self._visited:
                    found[needed] = None
                    continue
                self._visited.add(name)
                open_.append((needed, iter(world.packages[needed].depends)))
                break
            else:
                open_.pop()
                if open_:
                    found[number] = None
        return list(found)

    def _fulfil(self, relation: Relation) -> int:
        """The package that opkg takes for a dependency of a package that is not broken."""
        world = self._pool
        best = -1
        for one in (relation, *relation.others):
            fitting = [number for number in world.candidates(one.name) if world.fits(one, number)]
            if there := [number for number in fitting if number in self.needs]:
                return there[-1]
            if fitting and best < 0:
                called_so = [n for n in fitting if world.packages[n].name == one.name]
                best = (called_so or fitting)[-1]
        return best

    def _clashes(self, number: int) -> bool:
        package = self._pool.packages[number]
        clashing = [
            other
            for relation in package.conflicts
            for one in (relation, *relation.others)
            for other in self._pool.named.get(one.name, ())
            if other in self._coming and other != number and self._pool.fits(one, other)
        ]
        if clashing:
            self.conflicts |= dict.fromkeys(self._pool.packages[n].name for n in (number, *clashing))
        return bool(clashing)


@lru_cache(maxsize=10_000)
def order_of(version: str) -> tuple[object, ...]:
    """A key that sorts versions as opkg and Debian do: `~` before the end, letters before other signs."""
    epoch, colon, rest = version.partition(":")
    if not colon or not epoch.isdecimal():
        epoch, rest = "0", version
    upstream, _, revision = rest.rpartition("-") if "-" in rest else (rest, "", "")
    return int(epoch[:18]), _order_of_part(upstream), _order_of_part(revision)


def _order_of_part(part: str) -> tuple[object, ...]:
    key: list[object] = []
    for signs, digits in _PARTS.findall(part):
        key.append((*(_weight(sign) for sign in signs), 0))
        key.append(int(digits[:_LONGEST_NUMBER] or 0))
    return tuple(key)


def _weight(sign: str) -> int:
    if sign == "~":
        return -1
    return ord(sign) if sign.isalpha() else ord(sign) + 256
