"""What apk does with a selection: libsolv, and the rules of apk that libsolv does not have."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from msgspec.structs import replace

from asu_builder.domain.errors import BuildProblem, some
from asu_builder.domain.package_index import IndexedPackage, Relation
from asu_builder.domain.packages import unique
from asu_builder.domain.preflight import Foretold, unknown
from asu_builder.resolver.pool import Chosen, PackagePool, Selection

if TYPE_CHECKING:
    import solv

_APK_VERSION = re.compile(
    r"[0-9]{1,18}(?:\.[0-9]{1,18})*[a-z]?"
    r"(?:_(?:alpha|beta|pre|rc|cvs|svn|git|hg|p)[0-9]{0,18})*"
    r"(?:~[0-9a-f]+)?(?:-r[0-9]{1,18})?"
)
_VERSION_PART = re.compile(r"\.?[0-9]+|_[a-z]+|[a-z]|~[0-9a-f]+|-r[0-9]+")
_SUFFIXES = ("alpha", "beta", "pre", "rc", "", "cvs", "svn", "git", "hg", "p")
_UNFORESEEN = "Several packages could be chosen, and apk's choice is not foreseen."
_RELEASE = _SUFFIXES.index("")
"""Suffixes before this place make a version earlier than it is without any."""


class ApkPool(PackagePool):
    """The packages of apk's indexes in a pool of libsolv.

    libsolv as it is packed for Python orders versions as RPM does, so they go into the pool as their places
    in apk's order. A name provided without a version is there in every version, for both. Rules that libsolv
    does not have:

    * A name that is provided with a version is a slot: its provider excludes every other provider of
      that name, those without a version too. A package that provides its own name excludes itself; apk
      sees that after it has chosen.
    * A name provided without a version and without a priority chooses nothing. It is there if a package
      that provides it is installed for another reason. So what libsolv finds is walked again from the
      request, over everything that does choose.
    * `!name` excludes; what a package excludes and provides itself does not count.
    """

    def __init__(self, packages: Iterable[IndexedPackage], left_out: int = 0) -> None:
        super().__init__(packages, left_out)
        import solv  # not everywhere

        self._solv = solv
        self._uncertain: set[str] = set()
        """Names with a version, of a package, provided or asked for, that apk's order does not know."""
        self._bare: dict[str, set[int]] = {}
        """For names that some provide without choosing, who does."""
        self._clashing: set[int] = set()
        """Packages that exclude themselves."""
        self._triggered: list[int] = []
        """Packages that install themselves when others are there."""
        self._pool = solv.Pool()
        self._solvables: list[int] = []
        self._numbers: dict[int, int] = {}
        self._ids: dict[str, int] = {}
        self._places = self._order_versions()
        repository = self._pool.add_repo("")
        for number, package in enumerate(self.packages):
            if package.version in self._places:
                self._add(number, package, repository.add_solvable())
            else:
                self._solvables.append(0)
        self._pool.createwhatprovides()
        self._favours = self._find_favours()

    def _find_favours(self) -> "list[solv.Job]":
        """What apk prefers for its priority, and libsolv would not take by itself.

        Both take what provides the highest version of a name, and among equals the first by its own name;
        but apk takes the highest priority before that.
        """
        pool, job = self._pool, self._solv.Job
        favours: dict[int, None] = {}
        for name in self.provided:
            versions = self._choosing(name)
            if len({self._priority(number) for number in versions}) > 1:
                # Of a name without a version apk cannot say that it is lower.
                rank = self._places if all(versions.values()) else {}
                # Of equal ones `max` takes the first.
                first = sorted(versions, key=lambda number: (self.packages[number].name, number))
                best = max(first, key=lambda n: (rank.get(versions[n], 0), self._priority(n)))
                if not rank or best != max(first, key=lambda n: rank[versions[n]]):
                    favours[best] = None
        how = job.SOLVER_FAVOR | job.SOLVER_SOLVABLE
        return [pool.Job(how, self._solvables[number]) for number in favours]

    def _choosing(self, name: str) -> dict[int, str]:
        """Packages that may be chosen for a name, each with the version in which it is that."""
        return {
            number: self._version_of(number, name)
            for number in self.providers(name)
            if number not in self._bare.get(name, ()) and self._solvables[number]
        }

    def _has_first_choices(self, asked: Selection, walk: "_Walk") -> bool:
        """Whether for every name what apk prefers is there, so that nothing else was looked for."""
        for name in self._near(asked, walk.needs):
            versions = self._choosing(name)
            if len(versions) > 1:
                if not all(versions.values()):
                    return False
                ranks = {n: (self._places[version], self._priority(n)) for n, version in versions.items()}
                best = max(ranks.values())
                if not any(ranks[number] == best for number in ranks if number in walk.needs):
                    return False
        return True

    def _priority(self, number: int) -> int:
        return self.packages[number].provider_priority or 0

    def _version_of(self, number: int, name: str) -> str:
        """The version in which a package provides a name."""
        package = self.packages[number]
        if package.name == name:
            return package.version
        return next(relation.version for relation in package.provides if relation.name == name)

    def _order_versions(self) -> dict[str, int]:
        """For each version that is mentioned its place in apk's order; the names of others are uncertain."""
        keys: dict[str, tuple[object, ...] | None] = {}
        for package in self.packages:
            mentioned = [(package.name, package.version)]
            for relations in (package.provides, package.depends):
                mentioned += [(each.name, each.version) for each in relations if each.operator]
            for name, version in mentioned:
                if version not in keys:
                    keys[version] = order_of(version)
                if keys[version] is None:
                    self._uncertain.add(name)
            if keys[package.version] is None:
                self._uncertain.update(relation.name for relation in package.provides)
        known = {version: key for version, key in keys.items() if key is not None}
        places = {key: place for place, key in enumerate(sorted(set(known.values())), start=1)}
        return {version: places[key] for version, key in known.items()}

    def _add(self, number: int, package: IndexedPackage, solvable: "solv.XSolvable") -> None:
        pool, solv = self._pool, self._solv
        provides, requires, conflicts = (
            solv.SOLVABLE_PROVIDES,
            solv.SOLVABLE_REQUIRES,
            solv.SOLVABLE_CONFLICTS,
        )
        solvable.name, solvable.evr = package.name, str(self._places[package.version])
        self._solvables.append(solvable.id)
        self._numbers[solvable.id] = number
        own = self._id(package.name)
        solvable.add_deparray(provides, pool.rel2id(own, self._version_id(package.version), solv.REL_EQ))
        if len(self.named[package.name]) > 1 or package.name in self.provided:
            solvable.add_deparray(conflicts, own)
        for relation in package.provides:
            name = relation.name
            if name == package.name:
                self._clashing.add(number)
                continue
            solvable.add_deparray(provides, self._relation(relation))
            if not relation.operator:
                if not package.provider_priority:
                    self._bare.setdefault(name, set()).add(number)
            elif name in self.named or len(self.provided[name]) > 1:
                solvable.add_deparray(conflicts, self._id(name))
        for relation in package.depends:
            solvable.add_deparray(conflicts if relation.excludes else requires, self._relation(relation))
        if package.install_if:
            self._triggered.append(number)

    def _id(self, name: str) -> int:
        found = self._ids.get(name)
        if found is None:
            found = self._ids[name] = int(self._pool.str2id(name))
        return found

    def _version_id(self, version: str) -> int:
        """A version in the pool; one that apk's order does not know is none of those there."""
        return self._id(str(self._places.get(version, 0)))

    def _relation(self, relation: Relation) -> int:
        solv, pool, name = self._solv, self._pool, self._id(relation.name)
        if not relation.operator:
            return name
        if relation.operator != "~":
            flags = 0
            for letter, flag in (("<", solv.REL_LT), ("=", solv.REL_EQ), (">", solv.REL_GT)):
                flags |= flag if letter in relation.operator else 0
            return int(pool.rel2id(name, self._version_id(relation.version), flags))
        either = pool.rel2id(name, self._version_id(relation.version), solv.REL_EQ)
        for version in sorted(self._versions(relation.name)):
            if begins_with(version, relation.version):
                one = pool.rel2id(name, self._version_id(version), solv.REL_EQ)
                either = pool.rel2id(either, one, solv.REL_OR)
        return int(either)

    def _versions(self, name: str) -> set[str]:
        """In which versions a name is to be had."""
        versions = {self.packages[number].version for number in self.named.get(name, ())}
        for number in self.provided.get(name, ()):
            provides = self.packages[number].provides
            versions.update(relation.version for relation in provides if relation.name == name)
        return versions - {""}

    def _judge(self, asked: Selection) -> Foretold:
        for name, version in asked.pinned.items():
            if self.is_known(name) and version not in self._versions(name):
                return unknown(f"{name} is not there in the version {version}.")
        missing = {name: () for name in asked.wanted if not self.is_known(name)}
        if hopeless := missing | self._unchosen(asked):
            asked = replace(asked, wanted=tuple(name for name in asked.wanted if name not in hopeless))
        found, rules = self._solve(asked, ())
        walk = self._walk(asked, found)
        if hopeless or rules:
            return self._refuse(asked, hopeless, self._clashes(walk), rules)
        if walk.unchosen:
            # Only what the request can reach over names that choose may fulfil those that do not.
            unreachable = self._unreachable(asked)
            unchosen = walk.unchosen
            found, rules = self._solve(asked, unreachable)
            if rules:
                return self._refuse(asked, unchosen, self._clashes(walk), ())
            walk = self._walk(asked, found)
            if walk.unchosen:
                found, rules = self._solve(asked, {*unreachable, *(found - walk.needs.keys())})
                walk = self._walk(asked, found)
                if rules or walk.unchosen:
                    return unknown(_UNFORESEEN)
        if clashes := self._clashes(walk):
            if not (self._has_first_choices(asked, walk) or self._solve(asked, self._clashing)[1]):
                return unknown(_UNFORESEEN)
            return self._refuse(asked, {}, clashes, ())
        return self._doubts(asked, walk) or self.accept(asked, Chosen(walk.because, walk.needs))

    def _clashes(self, walk: "_Walk") -> list[str]:
        return [self.packages[number].name for number in walk.needs if number in self._clashing]

    def _unchosen(self, asked: Selection) -> dict[str, tuple[str, ...]]:
        """Names asked for that only such packages provide as do not choose, and that nothing brings in."""
        names = [
            name
            for name in asked.wanted
            if name in self._bare and self._bare[name].issuperset(self.providers(name))
        ]
        reached = self._reachable(asked) if names else set()
        return {name: () for name in names if not self._bare[name] & reached}

    def _doubts(self, asked: Selection, walk: "_Walk") -> Foretold | None:
        """Why a solution may not be apk's."""
        installed = [self.packages[number] for number in walk.needs]
        there = {relation.name for package in installed for relation in package.provides}
        there.update(package.name for package in installed)
        if self._uncertain and (
            uncertain := sorted(self._uncertain & (self._near(asked, walk.needs) | there))
        ):
            return unknown(f"The version of {some(uncertain)} is none that apk knows.")
        for number in self._triggered:
            package = self.packages[number]
            if package.name not in there and all(
                (relation.name in there) is not relation.excludes for relation in package.install_if
            ):
                return unknown(f"{package.name} may install itself beside what is there already.")
        if recommending := sorted(package.name for package in installed if package.recommends):
            return unknown(f"{some(recommending)}: packages that it recommends may be installed too.")
        return None

    def _near(self, asked: Selection, numbers: Iterable[int]) -> set[str]:
        """Names that a request and these packages need."""
        depends = (relation.name for number in numbers for relation in self.packages[number].depends)
        return {*asked.wanted, *depends}

    def _solve(self, asked: Selection, forbidden: Iterable[int]) -> tuple[set[int], list[Any]]:
        """Numbers of what libsolv would install, and the rules that clash."""
        pool, solv = self._pool, self._solv
        job = solv.Job
        every = job.SOLVER_SOLVABLE_PROVIDES
        wanted = (
            Relation(name, "=" if name in asked.pinned else "", asked.pinned.get(name, ""))
            for name in asked.wanted
        )
        jobs = [pool.Job(job.SOLVER_INSTALL | every, self._relation(relation)) for relation in wanted]
        # A name that the pool does not know would stay in it.
        excluded = filter(self.is_known, asked.excluded)
        jobs += [pool.Job(job.SOLVER_ERASE | every, self._id(name)) for name in excluded]
        one = job.SOLVER_ERASE | job.SOLVER_SOLVABLE
        jobs += [pool.Job(one, self._solvables[number]) for number in forbidden if self._solvables[number]]
        solver = pool.Solver()
        jobs += self._favours
        solver.set_flag(solv.Solver.SOLVER_FLAG_IGNORE_RECOMMENDED, 1)
        if problems := solver.solve(jobs):
            rules = (rule for problem in problems for rule in problem.findallproblemrules())
            return set(), [
                (
                    info.type,
                    info.solvable and info.solvable.id,
                    info.othersolvable and info.othersolvable.id,
                    str(info.dep),
                )
                for rule in rules
                for info in rule.allinfos()
            ]
        return {self._numbers[solvable.id] for solvable in solver.transaction().newsolvables()}, []

    def _walk(self, asked: Selection, found: set[int]) -> "_Walk":
        """What of `found` the request brings in over names that choose."""
        by_name: dict[str, list[int]] = {}
        for number in found:
            package = self.packages[number]
            for name in {package.name, *(relation.name for relation in package.provides)}:
                by_name.setdefault(name, []).append(number)
        walk = _Walk({}, {}, {})
        waiting: dict[str, list[str]] = {}
        open_: list[int] = []

        def choose(name: str, needing: str) -> Sequence[int]:
            providers = by_name.get(name, ())
            bare = self._bare.get(name)
            if bare is None:
                return providers
            waiting.setdefault(name, []).append(needing)
            return [number for number in providers if number not in bare]

        for name in asked.wanted:
            walk.because[name] = choose(name, "")
            open_ += walk.because[name]
        while open_:
            number = open_.pop()
            if number in walk.needs:
                continue
            package = self.packages[number]
            needed: list[int] = []
            for relation in package.depends:
                if not relation.excludes:
                    needed += choose(relation.name, package.name)
            walk.needs[number] = needed
            open_ += needed
        for name, needing in waiting.items():
            there = [number for number in by_name.get(name, ()) if number in walk.needs]
            if not there:
                walk.unchosen[name] = tuple(sorted({other for other in needing if other}))
            elif name in walk.because:
                walk.because[name] = there
        return walk

    def _reachable(self, asked: Selection) -> set[int]:
        """Whatever could come in because of the request, over every alternative that chooses.

        What the only provider of a name needs is chosen even where the provider itself is not yet.
        """
        reached: set[int] = set()
        seen: set[str] = set()
        names = list(asked.wanted)
        while names:
            name = names.pop()
            if name in seen:
                continue
            seen.add(name)
            bare = self._bare.get(name, ())
            for number in self.providers(name):
                if number in reached:
                    continue
                if number not in bare:
                    reached.add(number)
                depends = self.packages[number].depends
                names += [relation.name for relation in depends if not relation.excludes]
        return reached

    def _unreachable(self, asked: Selection) -> set[int]:
        """What provides a needed name without choosing, and cannot come in for another reason."""
        reached = self._reachable(asked)
        needed = self._bare.keys() & self._near(asked, reached)
        return {number for name in needed for number in self._bare[name] if number not in reached}

    def _refuse(
        self,
        asked: Selection,
        hopeless: Mapping[str, tuple[str, ...]],
        clashes: Iterable[str],
        rules: Iterable[tuple[int, int, int, str]],
    ) -> Foretold:
        if self._uncertain and (
            uncertain := sorted(self._uncertain & self._near(asked, self._reachable(asked)))
        ):
            return unknown(f"The version of {some(uncertain)} is none that apk knows.")
        if self._triggered and any(self.is_known(name) for name in hopeless):
            return unknown("A package that installs itself may bring in what was not chosen.")
        missing = set(hopeless)
        needed_by = {name: set(needing) for name, needing in hopeless.items()}
        conflicts = dict.fromkeys(clashes)
        for kind, solvable, other, dependency in rules:
            name = dependency.partition(" ")[0]
            needing = self.packages[self._numbers[solvable]].name if solvable in self._numbers else ""
            if kind == self._solv.Solver.SOLVER_RULE_PKG_NOTHING_PROVIDES_DEP:
                if self.is_known(name):
                    conflicts |= dict.fromkeys((name, needing))
                else:
                    missing.add(name)
                    needed_by.setdefault(name, set()).add(needing)
            elif kind in (
                self._solv.Solver.SOLVER_RULE_PKG_CONFLICTS,
                self._solv.Solver.SOLVER_RULE_PKG_SAME_NAME,
            ):
                conflicts |= dict.fromkeys((needing, self.packages[self._numbers[other]].name))
            else:
                conflicts |= dict.fromkeys(self._excluded_providers(asked, name))
        named = {
            name: tuple(sorted({self.packages[number].name for number in self.providers(name)}))
            for name in sorted(hopeless)
            if self.is_known(name)
        }
        needs = {name: tuple(sorted(needing)) for name, needing in sorted(needed_by.items()) if needing}
        return self.refuse(BuildProblem(unique(sorted(missing)), unique(sorted(conflicts)), needs, named))

    def _excluded_providers(self, asked: Selection, name: str) -> Iterator[str]:
        """Packages that would fulfil a name and that the request excludes."""
        for number in self.providers(name):
            package = self.packages[number]
            provides = {package.name, *(relation.name for relation in package.provides)}
            if not provides.isdisjoint(asked.excluded):
                yield package.name


class _Walk(NamedTuple):
    because: dict[str, Sequence[int]]
    needs: dict[int, Sequence[int]]
    unchosen: dict[str, tuple[str, ...]]
    """Names that nothing installed provides though it may, and who needs them."""


def order_of(version: str) -> tuple[object, ...] | None:
    """A key that sorts versions as apk does; None for what it takes for none.

    Of two that go on differently after the same beginning, the one with a further number is the latest, then
    that with a letter, a suffix, the number of one, a commit, a revision, and that which ends there; but
    `_alpha` to `_rc` come before all of these.
    """
    if not _APK_VERSION.fullmatch(version):
        return None
    key: list[tuple[int, int, str | int]] = []
    is_suffix = False
    for part in _VERSION_PART.findall(version):
        value = part.lstrip("._~-")
        match part[0]:
            case "_":
                place = _SUFFIXES.index(value)
                key.append((0 if place < _RELEASE else 5, place, ""))
            case "~":
                key.append((3, 0, value))
            case "-":
                key.append((2, int(value[1:]), ""))
            case ".":
                # With a nought in front it is compared as text, and comes before all others.
                key.append((7, 0, value) if value[0] == "0" else (7, int(value), ""))
            case _ if part.isdecimal():
                key.append((4 if is_suffix else 7, int(part), ""))
            case _:
                key.append((6, 0, value))
        is_suffix = part[0] == "_"
    return (*key, (1, 0, ""))


def begins_with(version: str, beginning: str) -> bool:
    """apk's `~`: whether a version is this one, or goes on from it where a part of it ends."""
    rest = version.removeprefix(beginning)
    return version.startswith(beginning) and not (rest[:1].isdigit() and beginning[-1:].isdigit())
