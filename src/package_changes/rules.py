"""Rules of one file: what they make of a request, what clients are told, and whether they agree."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import combinations, product

from package_changes.model import (
    ClientChange,
    Context,
    NamePattern,
    Rule,
    Selection,
)
from package_changes.schema import Header, RulesProblem, read_document, read_header, read_rules
from package_changes.selection import Draft
from package_changes.versions import MAIN, branch_of, version_order


def _contradictions(rule: Rule, before: Sequence[Rule]) -> Iterator[str]:
    """What a rule may not do by itself, and beside each of those before it."""
    if rule.rename and rule.requested:
        yield f"{rule.name} needs no 'requested': a rename concerns those who ask for the old name"
    for one, another in combinations(rule.rename, 2):
        if one.source.meets(another.source):
            yield f"{rule.name} has overlapping renames of {one.source} and {another.source}"
    yield from (f"{rule.name} {sentence} itself" for sentence in _chains(rule, rule))
    if rule.for_clients:
        # Clients know a source, a target and a revision, and nothing else.
        if rule.from_revision is None:
            yield f"{rule.name} is for clients and needs 'from_revision'"
        for key in ("versions", "targets", "profiles", "requested", "add"):
            if getattr(rule, key):
                yield f"{rule.name} is for clients, who cannot be told '{key}'"
        named = [*rule.remove, *(rename.source for rename in rule.rename)]
        if any(pattern.suffix is not None for pattern in named):
            yield f"{rule.name} is for clients, who know no * in names"
    for earlier in before:
        by_builder = rule.for_builder and earlier.for_builder
        by_clients = rule.for_clients and earlier.for_clients
        if not (by_builder or by_clients) or not rule.may_meet(earlier):
            continue
        where = f"(line {earlier.line})"
        for one, another in product(rule.rename, earlier.rename):
            if one.source.meets(another.source):
                yield f"{rule.name}: overlapping renames of {one.source}, as in {earlier.name} {where}"
        for first, second in ((rule, earlier), (earlier, rule)):
            for sentence in _chains(first, second):
                yield f"{first.name} {sentence} {second.name} {where}"


def _chains(first: Rule, second: Rule) -> Iterator[str]:
    """What `first` brings in must stay, and must not be what `second` waits for."""
    brings = [*map(NamePattern, first.add), *(rename.target for rename in first.rename)]
    gone = [rename.source for rename in second.rename]
    for pattern in brings:
        if any(pattern.meets(other) for other in gone):
            yield f"brings in {pattern}, which is renamed by"
        if any(pattern.meets(other) for other in second.requested):
            yield f"brings in {pattern}, which is asked for by"
    for name in first.add:
        if any(pattern.matches(name) for pattern in second.remove):
            yield f"adds {name}, which is removed by"
    # One exact name that the other rule takes out first, wherever the rename holds, is never renamed.
    covered = (
        not second.requested
        and second.for_builder
        and all(any(some.meet(wide) == some for wide in second.ranges) for some in first.ranges)
        and second.targets in (None, first.targets)
        and second.profiles in (None, first.profiles)
    )
    for rename, pattern in product(first.rename if covered else (), second.remove):
        if rename.source.suffix is None and pattern.matches(rename.source.prefix):
            yield f"can never rename {rename.source}: {pattern} is removed by"


_REMEMBERED = 512


class Rules:
    """An unchanging set of rules; made by `parse_rules`.

    `branches` maps a branch to main's revision where it was branched off. `digest` names the whole
    file's meaning; `text` is what it was made of.
    """

    def __init__(self, rules: tuple[Rule, ...], *, header: Header, source: str, text: str = "") -> None:
        self._rules = rules
        self.text = text
        self._header = header
        self.source = source
        self.digest = _sha256([dict(header.branches), [_canonical(rule, whole=True) for rule in rules]])
        self._for_builder = tuple(rule for rule in rules if rule.for_builder)
        # Names come from outside: only so many are remembered.
        self._matching = lru_cache(_REMEMBERED)(self._find_matching)

    @property
    def count(self) -> int:
        """How many rules there are, for whomever."""
        return len(self._rules)

    @property
    def branches(self) -> Mapping[str, int]:
        """Branch-off revisions; main has none."""
        return self._header.branches

    def __iter__(self) -> Iterator[Rule]:
        return iter(self._rules)

    def only(self, rule: Rule) -> "Rules":
        """One rule by itself."""
        return Rules((rule,), header=self._header, source=self.source)

    def apply(self, context: Context) -> Selection:
        """What make is told instead of the request, and why; the context stays as it is."""
        warnings = []
        branch = branch_of(context.version)
        if branch != MAIN and branch not in self.branches:
            warnings.append(f"The package rules do not know the version {context.version}")
        known = self._header.targets
        if known and context.target.partition("/")[0] not in known:
            warnings.append(f"The package rules do not know the target {context.target}")
        running = branch_of(context.from_version or "")
        if context.from_revision is not None and running != MAIN:
            # A branch counts on from where it was branched off, so its own numbers say nothing of main.
            revision = self.branches.get(running) if running else None
            context = replace(context, from_revision=revision)
        matching, _ = self._matching(context.version, context.target, context.profile)
        return Draft(matching, context, warnings).select()

    def matching_digest(self, version: str, target: str, profile: str) -> str:
        """Names what the builder's rules may do there; "" when none of them holds.

        Only what such a rule does takes part, not where else it holds, nor its name, reason and
        examples: an edit changes the digest of the requests it concerns, and of no others.
        """
        return self._matching(version, target, profile)[1]

    def client_changes(self, branch: str = MAIN) -> tuple[ClientChange, ...]:
        """The `package_changes` of a branch for `overview.json`; main lists all.

        A branch has the changes whose revision is not above its branch-off revision; one that the
        file does not know has none.
        """
        limit = self.branches.get(branch, -1)
        changes: list[ClientChange] = []
        for rule in self._rules:
            revision = rule.from_revision or 0
            if not rule.for_clients or (branch != MAIN and revision > limit):
                continue
            for rename in rule.rename:
                changes.append(ClientChange(str(rename.source), revision, str(rename.target), rule.mandatory))
            changes += [ClientChange(str(gone), revision, None, rule.mandatory) for gone in rule.remove]
        return tuple(changes)

    def _find_matching(self, version: str, target: str, profile: str) -> tuple[tuple[Rule, ...], str]:
        """The builder's rules that hold there, and what names them."""
        order = version_order(version)
        matching = tuple(
            rule for rule in self._for_builder if rule.holds_on(target, profile) and rule.holds_for(order)
        )
        return matching, _sha256([_canonical(rule, whole=False) for rule in matching]) if matching else ""


def parse_rules(text: str, *, source: str) -> Rules:
    """The rules in a text; `RulesProblem` with the line where it is wrong.

    `source` says where the text came from, for messages and for `Rules.source`.
    """
    document = read_document(text, source=source)
    header = read_header(document)
    rules = read_rules(document, header)
    for place, rule in enumerate(rules):
        for sentence in _contradictions(rule, rules[:place]):
            raise RulesProblem(source, rule.line, sentence)
    return Rules(rules, header=header, source=source, text=text)


def _canonical(rule: Rule, *, whole: bool) -> dict[str, object]:
    """What a rule does, and when `whole` also where, in an unambiguous form."""
    does: dict[str, object] = {
        "requested": [str(pattern) for pattern in rule.requested],
        "add": rule.add,
        "remove": [str(pattern) for pattern in rule.remove],
        "rename": [[str(rename.source), str(rename.target)] for rename in rule.rename],
        "from_revision": rule.from_revision,
        "mandatory": rule.mandatory,
    }
    if not whole:
        return does
    return {
        **does,
        "for": rule.audience,
        "ranges": [[versions.low, versions.high] for versions in rule.ranges],
        "targets": None if rule.targets is None else sorted(rule.targets),
        "profiles": None if rule.profiles is None else sorted(rule.profiles),
    }


def _sha256(value: object) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()
