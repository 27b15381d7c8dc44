"""What apk would install for a list of names, and in which words it refuses.

A name is a slot: two packages that provide it in a version exclude each other. A name that is provided
without a version is a bare virtual: it is met by a package that comes for another reason, and brings none in
unless that package has a provider priority.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import count
from typing import TYPE_CHECKING, NamedTuple

from .adb import ANY, CONFLICT, EQUAL, FUZZY, GREATER, LESS, split_dependency
from .packages import Package

_TOKEN = re.compile(r"[0-9]+|\.[0-9]+|[a-z]|_[a-z]+|~[0-9a-f]+|-r[0-9]+")
_BEFORE = ("alpha", "beta", "pre", "rc")
_AFTER = ("cvs", "svn", "git", "hg", "p")


@lru_cache(maxsize=1 << 14)
def version_key(version: str) -> tuple[tuple[int, int, int | str], ...]:
    """A sort key in apk's order of versions: numbers, letters, suffixes, commit, revision.

    What follows the first unreadable character does not count.
    """
    key: list[tuple[int, int, int | str]] = []
    position = 0
    while found := _TOKEN.match(version, position):
        token, position = found[0], found.end()
        if token.startswith("_"):
            name = token[1:]
            if name not in _BEFORE + _AFTER:
                break
            key.append((0, 0, _BEFORE.index(name)) if name in _BEFORE else (5, 0, _AFTER.index(name)))
        elif token.startswith("~"):
            key.append((3, 0, token[1:]))
        elif token.startswith("-r"):
            key.append((2, 0, int(token[2:])))
        elif token.isalpha():
            key.append((6, 0, token))
        elif key and key[-1][0] in (0, 5) and not token.startswith("."):
            key.append((4, 0, int(token)))
        else:
            digits = token.lstrip(".")
            # A later number with a leading zero is a fraction: it counts as text, before any other number.
            fraction = token.startswith(".") and digits.startswith("0")
            key.append((7, 0, digits) if fraction else (7, 1, int(digits)))
    return (*key, (1, 0, 0))


def version_matches(version: str, match: int, wanted: str) -> bool:
    """Whether `version` has the relation `match` (bits of `adb`, without CONFLICT) to `wanted`."""
    if match == ANY:
        return True
    ours, theirs = version_key(version), version_key(wanted)
    if ours == theirs or (match & FUZZY and ours[: len(theirs) - 1] == theirs[:-1]):
        return bool(match & EQUAL)
    return bool(match & (LESS if ours < theirs else GREATER))


HEADING = "ERROR: unable to select packages:"
"""The line in front of the blocks of `select`."""


class Dependency(NamedTuple):
    """A name that somebody needs or, with `is_conflict`, excludes.

    `owner` is the number of the package, -1 for the request.
    """

    owner: int
    text: str
    name: str
    match: int
    version: str
    is_conflict: bool


class Provider(NamedTuple):
    """A package, by its number, and the version in which it provides a name; none for a bare virtual."""

    number: int
    version: str | None


class Claim(NamedTuple):
    """A name that a package provides, and in which version; none for a bare virtual."""

    name: str
    version: str | None


class Universe:
    """All packages of all indexes; those of earlier indexes have lower numbers."""

    def __init__(self, packages: Sequence[Package]) -> None:
        self.packages = packages
        self._providers: dict[str, list[Provider]] = {}
        self._claims: list[list[Claim]] = []
        self._depends: dict[int, list[Dependency]] = {}
        known: set[tuple[str, str]] = set()
        for number, package in enumerate(packages):
            provided = (text.partition("=") for text in package.provides)
            claims = [Claim(package.name, package.version)]
            claims += [Claim(name, version or None) for name, _, version in provided]
            self._claims.append(claims)
            if (package.name, package.version) in known:
                continue  # an earlier index has it, too
            known.add((package.name, package.version))
            for name, version in claims:
                self._providers.setdefault(name, []).append(Provider(number, version))

    def providers(self, name: str) -> Sequence[Provider]:
        """Who provides a name, under its own name or not."""
        return self._providers.get(name, ())

    def claims(self, number: int) -> Sequence[Claim]:
        """The names of a package with their versions, its own first."""
        return self._claims[number]

    def clashes_with_itself(self, number: int) -> bool:
        """Whether a package provides a name twice and once of it in a version, for example its own name."""
        names = [name for name, _ in self._claims[number]]
        versioned = {name for name, version in self._claims[number] if version is not None}
        return len(names) > len(set(names)) and any(names.count(name) > 1 for name in versioned)

    def depends(self, number: int) -> Sequence[Dependency]:
        """What a package needs and excludes, in the order of the index."""
        if number not in self._depends:
            self._depends[number] = [dependency(number, text) for text in self.packages[number].depends]
        return self._depends[number]


def dependency(owner: int, text: str) -> Dependency:
    """Reads a dependency. Raises ValueError."""
    name, match, version = split_dependency(text)
    return Dependency(owner, text, name, match & ~CONFLICT, version, bool(match & CONFLICT))


def is_met(need: Dependency, provider: Provider) -> bool:
    """Whether a provider of the name has a version that fits; a bare virtual fits every one."""
    if provider.version is None:
        return True
    return version_matches(provider.version, need.match, need.version)


class DeadEnd(Exception):
    """No other choice is tried.

    A package that clashes with itself was chosen, which apk sees too late; or a bare virtual is met by no
    package that another choice could bring in; or enough was tried.
    """


class Selection:
    """The packages chosen so far with all that follows from them. `chosen` is in order of choice."""

    def __init__(self, universe: Universe, *, ignoring_conflicts: bool = False) -> None:
        self._universe = universe
        self._ignoring = ignoring_conflicts
        self.chosen: dict[int, None] = {}
        self._claimed: dict[str, list[Provider]] = {}
        self._excluded: dict[str, list[Dependency]] = {}
        self.open: list[Dependency] = []
        self.virtual: list[Dependency] = []
        self.alternatives: set[int] = set()

    def copy(self) -> Selection:
        """A second selection that can go another way."""
        other = Selection(self._universe, ignoring_conflicts=self._ignoring)
        other.chosen = dict(self.chosen)
        other._claimed = {name: list(providers) for name, providers in self._claimed.items()}
        other._excluded = {name: list(needs) for name, needs in self._excluded.items()}
        other.open, other.virtual = list(self.open), list(self.virtual)
        other.alternatives = set(self.alternatives)
        return other

    def claimed(self, name: str) -> Sequence[Provider]:
        """The chosen providers of a name."""
        return self._claimed.get(name, ())

    def require(self, needs: Iterable[Dependency]) -> bool:
        """Takes needs on. False when one of them excludes a chosen package."""
        for need in needs:
            if not need.is_conflict:
                self.open.append(need)
                continue
            excluded = (each for each in self.claimed(need.name) if each.number != need.owner)
            if not self._ignoring and any(is_met(need, each) for each in excluded):
                return False
            self._excluded.setdefault(need.name, []).append(need)
        return True

    def can_choose(self, number: int) -> bool:
        """Whether nothing that is chosen stands against a package."""
        for name, version in self._universe.claims(number):
            for need in self._excluded.get(name, ()):
                if need.owner != number and is_met(need, Provider(number, version)):
                    return False
            if any(version is not None or each.version is not None for each in self.claimed(name)):
                return False
        return True

    def choose(self, number: int) -> bool:
        """Chooses a package that is not chosen yet. False when what it excludes is there already.

        Raises DeadEnd.
        """
        if not self._ignoring and self._universe.clashes_with_itself(number):
            raise DeadEnd
        self.chosen[number] = None
        for name, version in self._universe.claims(number):
            self._claimed.setdefault(name, []).append(Provider(number, version))
        return self.require(self._universe.depends(number))

    def candidates(self, need: Dependency) -> list[int] | None:
        """Who may meet a need, the best first; None when a chosen package does.

        A package that could come in by a bare virtual only is no candidate. While conflicts are ignored,
        one of the name comes in even when it does not fit.
        """
        claimed = self.claimed(need.name)
        if any(is_met(need, each) for each in claimed) or (self._ignoring and claimed):
            return None
        packages = self._universe.packages
        named = [
            each
            for each in self._universe.providers(need.name)
            if each.version is not None or packages[each.number].provider_priority
        ]
        fitting = [each for each in named if is_met(need, each)]
        able = [each for each in fitting if self.can_choose(each.number)]
        if self._ignoring:
            able = able or fitting or named
        if len(able) > 1:
            able.sort(key=self._preference, reverse=True)
        return list(dict.fromkeys(each.number for each in able))

    def _preference(self, provider: Provider) -> tuple[object, ...]:
        package = self._universe.packages[provider.number]
        key = version_key(provider.version) if provider.version is not None else ()
        return key, package.provider_priority, -provider.number

    def settle(self) -> bool:
        """Chooses whatever has no alternative. False when a need cannot be met.

        What remains in `open` has several candidates, what remains in `virtual` none but bare virtuals.
        """
        waiting: list[Dependency] = []
        progress = True
        while self.open:
            needs, self.open = self.open, []
            for need in needs:
                candidates = self.candidates(need)
                if candidates is None:
                    progress = True
                elif len(candidates) == 1:
                    progress = True
                    if not self.choose(candidates[0]):
                        return False
                elif candidates:
                    waiting.append(need)
                elif self._is_virtual(need):
                    self.virtual.append(need)
                    progress = True
                elif not self._ignoring:
                    return False
            if not self.open and progress:
                self.open, waiting, progress = waiting, [], False
        self.open = waiting
        return True

    def _is_virtual(self, need: Dependency) -> bool:
        return any(each.version is None for each in self._universe.providers(need.name) if is_met(need, each))

    def unmet_virtuals(self) -> list[Dependency]:
        """The bare virtuals that no chosen package provides."""
        return [
            need for need in self.virtual if not any(is_met(need, each) for each in self.claimed(need.name))
        ]

    def could_meet_virtuals(self) -> bool:
        """Whether other choices might bring in a provider for each unmet bare virtual."""
        waiting, within_reach = list(self.alternatives), set(self.alternatives)
        while waiting:
            for need in self._universe.depends(waiting.pop()):
                for each in () if need.is_conflict else self._universe.providers(need.name):
                    if each.number not in within_reach:
                        within_reach.add(each.number)
                        waiting.append(each.number)
        return all(
            any(each.number in within_reach for each in self._universe.providers(need.name))
            for need in self.unmet_virtuals()
        )


def select(universe: Universe, names: Iterable[str]) -> tuple[list[int], list[str]]:
    """The numbers of the packages to install, in apk's order, or none and the lines that say why.

    The request is a set: of two entries with one name, for example `!vim` and `vim`, the last one counts.
    Raises ValueError for an entry that is no dependency.
    """
    entries = (dependency(-1, text) for text in names)
    request = sorted({need.name: need for need in entries}.values(), key=lambda need: need.name)
    selection = _solve(universe, request)
    if selection is None:
        # Not every refusal has a block: apk counts what it cannot explain as well.
        return [], explain(universe, request) or [""]
    return installation_order(universe, request, selection), []


def _solve(universe: Universe, request: Sequence[Dependency]) -> Selection | None:
    start = Selection(universe)
    # Exclusions of the request come first, so that nothing they exclude is ever a candidate.
    start.require(sorted(request, key=lambda need: not need.is_conflict))
    try:
        return _search(start, iter(range(_ATTEMPTS)))
    except DeadEnd:
        return None


_ATTEMPTS = 10_000
"""How many choices are tried before a request counts as impossible."""


def _search(selection: Selection, attempts: Iterator[int]) -> Selection | None:
    """The best selection that meets all needs, or None. Goes back on choices that turn out badly.

    Raises DeadEnd.
    """
    if not selection.settle():
        return None
    if not selection.open:
        if not selection.unmet_virtuals():
            return selection
        if not selection.could_meet_virtuals():
            raise DeadEnd
        return None
    candidates = selection.candidates(selection.open[0]) or []
    selection.alternatives.update(candidates)
    for candidate in candidates:
        if next(attempts, None) is None:
            raise DeadEnd
        attempt = selection.copy()
        found = _search(attempt, attempts) if attempt.choose(candidate) else None
        if found is not None:
            return found
    return None


def installation_order(universe: Universe, request: Sequence[Dependency], selection: Selection) -> list[int]:
    """The chosen packages as apk installs them: the request by name, before each package what it names."""
    order: dict[int, None] = {}
    seen: set[int] = set()

    def visit(needs: Iterable[Dependency]) -> None:
        for need in needs:
            for each in selection.claimed(need.name):
                if each.number not in seen:
                    seen.add(each.number)
                    visit(universe.depends(each.number))
                    order[each.number] = None

    visit(request)
    return list(order)


if TYPE_CHECKING:
    Needs = dict[str, list[tuple[int, Dependency]]]


def explain(universe: Universe, request: Sequence[Dependency]) -> list[str]:
    """apk's blocks about a request that cannot be met: what is missing, then what clashes."""
    selection = Selection(universe, ignoring_conflicts=True)
    selection.require(request)
    selection.settle()
    while selection.open:
        best = selection.candidates(selection.open[0])
        if best:
            selection.choose(best[0])
        selection.settle()
    order = installation_order(universe, request, selection)
    by_name = sorted(order, key=lambda number: universe.packages[number].name)
    needs: Needs = {}
    places = count()
    for need in (*request, *(need for number in by_name for need in universe.depends(number))):
        needs.setdefault(need.name, []).append((next(places), need))
    blocks = (_clash(universe, selection, number, needs) for number in order)
    return [*_missing(universe, selection, needs), *(line for block in blocks for line in block)]


_NOTE = "please select one of the 'provided by' packages explicitly"


def _missing(universe: Universe, selection: Selection, needs: Needs) -> Iterator[str]:
    for name in sorted(needs):
        requiring = [_reference(universe, need) for _, need in needs[name] if not need.is_conflict]
        if selection.claimed(name) or not requiring:
            continue
        providers = universe.providers(name)
        yield f"  {name} ({'virtual' if providers else 'no such package'}):"
        if providers:
            yield from _wrapped("note", _NOTE.split())
            yield from _wrapped("provided by", sorted({_named(universe, each.number) for each in providers}))
        yield from _wrapped("required by", requiring)


def _clash(universe: Universe, selection: Selection, number: int, needs: Needs) -> Iterator[str]:
    package = universe.packages[number]
    own, *provided = universe.claims(number)
    against: dict[str, None] = {}
    for claim in (*provided, own):
        name, version = claim
        for each in selection.claimed(name):
            if each.number == number:
                clashes = name == package.name and claim is not own
            else:
                clashes = version is not None or each.version is not None
            if clashes:
                identity = universe.packages[each.number].identity
                against[f"{identity}[{name}{'=' + version if version else ''}]"] = None
    verdicts: dict[tuple[int, Dependency], bool] = {}
    for name, version in (own, *provided):
        for place, need in needs.get(name, ()):
            good = is_met(need, Provider(number, version)) != need.is_conflict or need.owner == number
            verdicts[place, need] = good or verdicts.get((place, need), False)
    concerned = sorted(verdicts, key=lambda entry: entry[0])
    breaks = [_reference(universe, entry[1]) for entry in concerned if not verdicts[entry]]
    satisfies = [_reference(universe, entry[1]) for entry in concerned if verdicts[entry]]
    if against or breaks:
        yield f"  {package.identity}:"
        yield from _wrapped("conflicts", list(against))
        yield from _wrapped("breaks", breaks)
        yield from _wrapped("satisfies", satisfies)


def _named(universe: Universe, number: int) -> str:
    """A package as a provider is named: with its version where others provide its name, too."""
    package = universe.packages[number]
    return package.identity if len(universe.providers(package.name)) > 1 else package.name


def _reference(universe: Universe, need: Dependency) -> str:
    owner = "world" if need.owner < 0 else universe.packages[need.owner].identity
    return f"{owner}[{need.text}]"


def _wrapped(label: str, words: Sequence[str]) -> Iterator[str]:
    """The words after their label, broken into lines of less than 50 characters where they can be."""
    line = head = f"    {label}: "
    for word in words:
        if line.strip() and line != head and len(line) + len(word) >= 50:
            yield line.rstrip()
            line = " " * len(head)
        line += f"{word} "
    if words:
        yield line.rstrip()
