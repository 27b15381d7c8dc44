"""Whether the rules of a file agree: every request has one outcome, and applying twice is once."""

from collections.abc import Iterator
from itertools import combinations

from package_changes.document import RulesProblem
from package_changes.model import Rename, Rule
from package_changes.patterns import NamePattern


def require_consistent(rules: tuple[Rule, ...], *, source: str) -> None:
    """Raises `RulesProblem` at the first rule that contradicts itself or an earlier one."""
    for later, rule in enumerate(rules):
        for sentence in _own_problems(rule):
            raise RulesProblem(source, rule.line, f"{rule.name} {sentence}")
        for earlier in rules[:later]:
            for sentence in _problems_between(rule, earlier):
                raise RulesProblem(source, rule.line, f"{sentence} (line {earlier.line})")


def _own_problems(rule: Rule) -> Iterator[str]:
    if rule.rename and rule.requested:
        yield "needs no 'requested': a rename concerns those who ask for the old name"
    for one, another in combinations(rule.rename, 2):
        if one.source.meets(another.source):
            yield f"has overlapping renames of {one.source} and {another.source}"
    yield from (f"{sentence} itself" for sentence in _chains(rule, rule))
    if rule.for_clients:
        yield from _problems_for_clients(rule)


def _problems_for_clients(rule: Rule) -> Iterator[str]:
    """Clients know a source, a target and a revision, and nothing else."""
    if rule.from_revision is None:
        yield "is for clients and needs 'from_revision'"
    limits = {
        "versions": rule.versions,
        "targets": rule.targets,
        "profiles": rule.profiles,
        "requested": rule.requested,
        "add": rule.add,
    }
    for key, value in limits.items():
        if value:
            yield f"is for clients, who cannot be told '{key}'"
    named = [*rule.remove, *(rename.source for rename in rule.rename)]
    if any(pattern.suffix is not None for pattern in named):
        yield "is for clients, who know no * in names"


def _problems_between(rule: Rule, earlier: Rule) -> Iterator[str]:
    """What two rules may not do where both are applied."""
    by_builder = rule.for_builder and earlier.for_builder
    by_clients = rule.for_clients and earlier.for_clients
    if not (by_builder or by_clients) or not rule.may_meet(earlier):
        return
    for one in rule.rename:
        for another in earlier.rename:
            if one.source.meets(another.source):
                yield f"{rule.name}: overlapping renames of {one.source}, as in {earlier.name}"
    for first, second in ((rule, earlier), (earlier, rule)):
        for sentence in _chains(first, second):
            yield f"{first.name} {sentence} {second.name}"


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
    for rename, pattern in _swallowed(first, second):
        yield f"can never rename {rename.source}: {pattern} is removed by"


def _swallowed(first: Rule, second: Rule) -> Iterator[tuple[Rename, NamePattern]]:
    """Renames of one exact name that another rule takes out first, wherever the rename holds."""
    if second.requested or not second.for_builder:
        return
    covered = (
        all(any(some.meet(wide) == some for wide in second.ranges) for some in first.ranges)
        and second.targets in (None, first.targets)
        and second.profiles in (None, first.profiles)
    )
    for rename in first.rename if covered else ():
        for pattern in second.remove:
            if rename.source.suffix is None and pattern.matches(rename.source.prefix):
                yield rename, pattern
