"""What a rules file may say: from the document's nodes to rules, with the line of every mistake."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from package_changes.document import Place
from package_changes.examples_schema import read_examples
from package_changes.model import Audience, Rename, Rule
from package_changes.patterns import PACKAGE, NamePattern, parse_pattern
from package_changes.versions import (
    EVERY_VERSION,
    MAIN,
    VersionProblem,
    VersionRange,
    branch_end,
    branch_named,
    branch_order,
    parse_range,
)

FORMAT = 1

_HEADER_KEYS = ("format", "branches", "targets", "rules")
_RULE_KEYS = (
    *("name", "for", "why", "versions", "targets", "profiles", "requested", "from_revision"),
    *("add", "remove", "rename", "mandatory", "examples"),
)
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}", re.ASCII)
_FAMILY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}", re.ASCII)
_TARGET = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}/[A-Za-z0-9][A-Za-z0-9_-]{0,31}", re.ASCII)
_PROFILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Header:
    """What holds for all rules: main's revision at each branch-off, and the known target families."""

    branches: Mapping[str, int]
    targets: frozenset[str]


def read_header(document: Place) -> Header:
    """Everything but the rules themselves."""
    fields = document.fields(_HEADER_KEYS, required=("format", "branches", "rules"))
    if fields["format"].number() != FORMAT:
        raise fields["format"].problem(f"format {fields['format'].number()} is not known, only {FORMAT}")
    branches: dict[str, int] = {}
    for key, value in fields["branches"].pairs():
        order = branch_order(key.text())
        if order is None or key.text() == MAIN:
            raise key.problem(f"'{key.text()}' is no branch like 24.10")
        if any((branch_order(name) or ()) >= order for name in branches):
            raise key.problem("branches must be listed from old to new")
        if value.number() <= max(branches.values(), default=0):
            raise value.problem("a later branch has a higher revision")
        branches[key.text()] = value.number()
    targets = _names(fields.get("targets"), _FAMILY, "the first part of a target, like ath79")
    return Header(branches, targets or frozenset())


def read_rules(document: Place, header: Header) -> tuple[Rule, ...]:
    """The rules in the file's order."""
    rules: dict[str, Rule] = {}
    for place in document.fields(_HEADER_KEYS)["rules"].some():
        rule = _read_rule(place, header)
        if rule.name in rules:
            raise place.problem(f"the rule on line {rules[rule.name].line} is called {rule.name} as well")
        rules[rule.name] = rule
    return tuple(rules.values())


def _read_rule(place: Place, header: Header) -> Rule:
    fields = place.fields(_RULE_KEYS, required=("name", "for", "why"))
    name = fields["name"].text()
    if not _NAME.fullmatch(name):
        raise fields["name"].problem("expected a name of small letters, digits and . _ -")
    revision = fields["from_revision"].number() if "from_revision" in fields else None
    versions = tuple(entry.text() for entry in fields["versions"].some()) if "versions" in fields else ()
    rule = Rule(
        name=name,
        why=fields["why"].text().strip(),
        line=place.line,
        audience=_audience(fields["for"]),
        versions=versions,
        ranges=_ranges(place, fields.get("versions"), revision, header),
        targets=_targets(fields.get("targets"), header),
        profiles=_names(fields.get("profiles"), _PROFILE, "a profile like tplink_archer-c7-v5"),
        requested=_patterns(fields.get("requested")),
        add=_additions(fields.get("add")),
        remove=_patterns(fields.get("remove")),
        rename=_renames(fields.get("rename")),
        from_revision=revision,
        mandatory="mandatory" in fields and fields["mandatory"].flag(),
        examples=read_examples(fields.get("examples")),
    )
    if not (rule.add or rule.remove or rule.rename):
        raise place.problem(f"{name} does nothing: give it add, remove or rename")
    return rule


def _audience(place: Place) -> Audience:
    if place.text() not in list(Audience):
        raise place.problem(f"expected one of {', '.join(Audience)}")
    return Audience(place.text())


def _ranges(
    rule: Place, versions: Place | None, revision: int | None, header: Header
) -> tuple[VersionRange, ...]:
    """The versions a rule is about: what it lists, as far as its revision is in them."""
    since = EVERY_VERSION if revision is None else _since(revision, header)
    if versions is None:
        return (since,)
    found = []
    for place in versions.some():
        listed = _range(place, header)
        both = listed.meet(since)
        if listed.empty or both.empty:
            why = "" if listed.empty else f": revision {revision} is not in them"
            raise place.problem(f"'{place.text()}' can never match{why}")
        found.append(both)
    return tuple(found)


def _range(place: Place, header: Header) -> VersionRange:
    try:
        found = parse_range(place.text())
    except VersionProblem as problem:
        raise place.problem(str(problem)) from problem
    branch = branch_named(place.text())
    if branch and branch != MAIN and branch not in header.branches:
        raise place.problem(f"'{branch}' can never match: it is not among the branches of this file")
    return found


def _since(revision: int, header: Header) -> VersionRange:
    """The branches that were branched off at this revision of main or later, and main."""
    behind = EVERY_VERSION.low
    for branch, branch_off in header.branches.items():
        order = branch_order(branch) or ()
        if branch_off >= revision:
            return VersionRange(low=order)
        behind = branch_end(order)
    return VersionRange(low=behind)


def _targets(place: Place | None, header: Header) -> frozenset[str] | None:
    found = _names(place, _TARGET, "a target like ath79/generic")
    for entry in place.entries() if place else ():
        if header.targets and entry.text().partition("/")[0] not in header.targets:
            raise entry.problem(f"'{entry.text()}' can never match: it is not among the targets of this file")
    return found


def _names(place: Place | None, grammar: re.Pattern[str], expected: str) -> frozenset[str] | None:
    if place is None:
        return None
    for entry in place.some():
        if not grammar.fullmatch(entry.text()):
            raise entry.problem(f"'{entry.text()}' can never match: expected {expected}")
    return frozenset(_once(place.entries()))


def _patterns(place: Place | None) -> tuple[NamePattern, ...]:
    if place is None:
        return ()
    _once(place.some())
    return tuple(_pattern(entry) for entry in place.entries())


def _pattern(place: Place) -> NamePattern:
    pattern = parse_pattern(place.text())
    if pattern is None:
        raise place.problem(f"'{place.text()}' is no package name, with one * at most")
    return pattern


def _additions(place: Place | None) -> tuple[str, ...]:
    for entry in place.some() if place else ():
        if not PACKAGE.fullmatch(entry.text()):
            raise entry.problem(f"'{entry.text()}' is no package name")
    return _once(place.entries()) if place else ()


def _renames(place: Place | None) -> tuple[Rename, ...]:
    found = []
    for key, value in place.pairs() if place else ():
        source, target = _pattern(key), _pattern(value)
        if (source.suffix is None) != (target.suffix is None):
            raise value.problem("a * must stand on both sides of a rename, or on none")
        found.append(Rename(source, target))
    return tuple(found)


def _once(places: Iterable[Place]) -> tuple[str, ...]:
    seen: dict[str, None] = {}
    for place in places:
        if place.text() in seen:
            raise place.problem(f"'{place.text()}' is there twice")
        seen[place.text()] = None
    return tuple(seen)
