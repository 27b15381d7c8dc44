"""What a rules file may say: from YAML text to rules and examples, with the line of every mistake."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import yaml

from package_changes.model import (
    Audience,
    Context,
    Example,
    NamePattern,
    Rename,
    Rule,
)
from package_changes.versions import (
    EVERY_VERSION,
    MAIN,
    VersionProblem,
    VersionRange,
    branch_end,
    branch_order,
    parse_range,
)

MAX_LENGTH = 1 << 20
"""Characters; a rules file is a few dozen kilobytes."""

_MAX_DEPTH = 16
# libyaml where PyYAML was built with it, ten times as fast.
_Loader: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class RulesProblem(Exception):
    """A rules file that cannot be used: where, and what to change. `line` 0 means the whole file."""

    def __init__(self, source: str, line: int, sentence: str) -> None:
        super().__init__(f"{source}, line {line}: {sentence}" if line else f"{source}: {sentence}")
        self.source = source
        self.line = line
        self.sentence = sentence


@dataclass(frozen=True, slots=True)
class Node:
    """A node of the document, with the file it comes from."""

    content: yaml.Node
    source: str

    @property
    def line(self) -> int:
        """The line it begins on, counted from 1."""
        return int(self.content.start_mark.line) + 1

    def problem(self, sentence: str) -> RulesProblem:
        """What is wrong with this node."""
        return RulesProblem(self.source, self.line, sentence)

    def text(self) -> str:
        """A text that is not empty."""
        if not isinstance(self.content, yaml.ScalarNode) or not str(self.content.value).strip():
            raise self.problem("expected a text")
        return str(self.content.value)

    def flag(self) -> bool:
        """true or false."""
        if not isinstance(self.content, yaml.ScalarNode) or self.content.value not in ("true", "false"):
            raise self.problem("expected true or false")
        return bool(self.content.value == "true")

    def number(self) -> int:
        """A whole number."""
        value = self.content.value if isinstance(self.content, yaml.ScalarNode) else ""
        if not (isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 9):
            raise self.problem("expected a whole number")
        return int(value)

    def entries(self) -> "list[Node]":
        """A list."""
        if not isinstance(self.content, yaml.SequenceNode):
            raise self.problem("expected a list")
        return [Node(content, self.source) for content in self.content.value]

    def some(self) -> "list[Node]":
        """A list with at least one entry: a condition that lists nothing can never hold."""
        found = self.entries()
        if not found:
            raise self.problem("expected at least one entry; without any this can never match")
        return found

    def pairs(self) -> "Iterator[tuple[Node, Node]]":
        """Keys and values, each key once."""
        if not isinstance(self.content, yaml.MappingNode):
            raise self.problem("expected keys with values")
        seen: set[str] = set()
        for key_node, value_node in self.content.value:
            key = Node(key_node, self.source)
            if key.text() in seen:
                raise key.problem(f"'{key.text()}' is there twice")
            seen.add(key.text())
            yield key, Node(value_node, self.source)

    def fields(self, known: Iterable[str], required: Iterable[str] = ()) -> "dict[str, Node]":
        """The values of a mapping whose keys are all known."""
        known = tuple(known)
        found = {}
        for key, value in self.pairs():
            name = key.text()
            if name not in known:
                raise key.problem(f"unknown key '{name}'; known are {', '.join(known)}")
            found[name] = value
        for name in required:
            if name not in found:
                raise self.problem(f"'{name}' is missing")
        return found


def read_document(text: str, *, source: str) -> Node:
    """The document's root; `RulesProblem` when the text is too long, empty or no YAML."""
    if len(text) > MAX_LENGTH:
        raise RulesProblem(source, 0, f"longer than {MAX_LENGTH} characters")
    depth = 0
    try:
        # No aliases, which can make little text much work, and no deep nesting.
        for event in yaml.parse(text, Loader=_Loader):
            line = event.start_mark.line + 1 if event.start_mark else 0
            if isinstance(event, yaml.AliasEvent):
                raise RulesProblem(source, line, "aliases (*name) are not used here")
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
            if depth > _MAX_DEPTH:
                raise RulesProblem(source, line, "nested too deeply")
        content = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 0
        raise RulesProblem(source, line, f"no YAML: {error.problem or error.context}") from error
    except yaml.YAMLError as error:
        raise RulesProblem(source, 0, f"no YAML: {' '.join(str(error).split())}") from error
    if content is None:
        raise RulesProblem(source, 0, "the file is empty")
    return Node(content, source)


_EXAMPLE_KEYS = (
    *("version", "target", "profile", "packages", "default_packages", "diff_packages"),
    *("from_version", "from_defaults", "from_revision", "becomes", "unchanged"),
)


def read_examples(node: Node | None) -> tuple[Example, ...]:
    """A rule's examples; that it has some which fire is checked when they are run."""
    found = []
    for entry in node.entries() if node else ():
        fields = entry.fields(_EXAMPLE_KEYS, required=("version", "packages"))
        packages = _texts(fields["packages"])
        unchanged = "unchanged" in fields and fields["unchanged"].flag()
        if unchanged == ("becomes" in fields):
            raise entry.problem("expected either 'becomes' with a list, or 'unchanged: true'")
        context = Context(
            version=fields["version"].text(),
            target=fields["target"].text() if "target" in fields else "x86/64",
            profile=fields["profile"].text() if "profile" in fields else "generic",
            packages=packages,
            default_packages=_texts(fields.get("default_packages")),
            diff_packages="diff_packages" in fields and fields["diff_packages"].flag(),
            from_version=fields["from_version"].text() if "from_version" in fields else None,
            from_defaults=_texts(fields["from_defaults"]) if "from_defaults" in fields else None,
            from_revision=fields["from_revision"].number() if "from_revision" in fields else None,
        )
        becomes = packages if unchanged else _texts(fields["becomes"])
        found.append(Example(entry.line, context, becomes, fires=not unchanged))
    return tuple(found)


def _texts(node: Node | None) -> tuple[str, ...]:
    return tuple(entry.text() for entry in (node.entries() if node else ()))


FORMAT = 1

_HEADER_KEYS = ("format", "branches", "targets", "rules")
_RULE_KEYS = (
    *("name", "for", "why", "versions", "targets", "profiles", "requested", "from_revision"),
    *("add", "remove", "rename", "mandatory", "examples"),
)
_PACKAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,127}", re.ASCII)
_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,127}\*?[A-Za-z0-9._+-]{0,127}", re.ASCII)
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}", re.ASCII)
_FAMILY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}", re.ASCII)
_TARGET = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}/[A-Za-z0-9][A-Za-z0-9_-]{0,31}", re.ASCII)
_PROFILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Header:
    """What holds for all rules: main's revision at each branch-off, and the known target families."""

    branches: Mapping[str, int]
    targets: frozenset[str]


def read_header(document: Node) -> Header:
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


def read_rules(document: Node, header: Header) -> tuple[Rule, ...]:
    """The rules in the file's order."""
    rules: dict[str, Rule] = {}
    for node in document.fields(_HEADER_KEYS)["rules"].some():
        fields = node.fields(_RULE_KEYS, required=("name", "for", "why"))
        name = fields["name"].text()
        if not _NAME.fullmatch(name):
            raise fields["name"].problem("expected a name of small letters, digits and . _ -")
        audience = fields["for"]
        if audience.text() not in list(Audience):
            raise audience.problem(f"expected one of {', '.join(Audience)}")
        revision = fields["from_revision"].number() if "from_revision" in fields else None
        versions = tuple(entry.text() for entry in fields["versions"].some()) if "versions" in fields else ()
        rule = Rule(
            name=name,
            why=fields["why"].text().strip(),
            line=node.line,
            audience=Audience(audience.text()),
            versions=versions,
            ranges=_ranges(fields.get("versions"), revision, header),
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
            raise node.problem(f"{name} does nothing: give it add, remove or rename")
        if name in rules:
            raise node.problem(f"the rule on line {rules[name].line} is called {name} as well")
        rules[name] = rule
    return tuple(rules.values())


def _ranges(versions: Node | None, revision: int | None, header: Header) -> tuple[VersionRange, ...]:
    """The versions a rule is about: what it lists, as far as its revision is in them."""
    since = EVERY_VERSION
    if revision is not None:
        # The branches that were branched off at this revision of main or later, and main.
        for branch, branch_off in header.branches.items():
            order = branch_order(branch) or ()
            if branch_off >= revision:
                since = VersionRange(low=order)
                break
            since = VersionRange(low=branch_end(order))
    if versions is None:
        return (since,)
    found = []
    for node in versions.some():
        name = node.text()
        try:
            listed = parse_range(name)
        except VersionProblem as problem:
            raise node.problem(str(problem)) from problem
        if branch_order(name) and name != MAIN and name not in header.branches:
            raise node.problem(f"'{name}' can never match: it is not among the branches of this file")
        both = listed.meet(since)
        if listed.empty or both.empty:
            why = "" if listed.empty else f": revision {revision} is not in them"
            raise node.problem(f"'{name}' can never match{why}")
        found.append(both)
    return tuple(found)


def _targets(node: Node | None, header: Header) -> frozenset[str] | None:
    found = _names(node, _TARGET, "a target like ath79/generic")
    for entry in node.entries() if node else ():
        if header.targets and entry.text().partition("/")[0] not in header.targets:
            raise entry.problem(f"'{entry.text()}' can never match: it is not among the targets of this file")
    return found


def _names(node: Node | None, grammar: re.Pattern[str], expected: str) -> frozenset[str] | None:
    if node is None:
        return None
    for entry in node.some():
        if not grammar.fullmatch(entry.text()):
            raise entry.problem(f"'{entry.text()}' can never match: expected {expected}")
    return frozenset(_once(node.entries()))


def _patterns(node: Node | None) -> tuple[NamePattern, ...]:
    if node is None:
        return ()
    _once(node.some())
    return tuple(_pattern(entry) for entry in node.entries())


def _pattern(node: Node) -> NamePattern:
    if not _PATTERN.fullmatch(node.text()):
        raise node.problem(f"'{node.text()}' is no package name, with one * at most")
    prefix, star, suffix = node.text().partition("*")
    return NamePattern(prefix, suffix if star else None)


def _additions(node: Node | None) -> tuple[str, ...]:
    for entry in node.some() if node else ():
        if not _PACKAGE.fullmatch(entry.text()):
            raise entry.problem(f"'{entry.text()}' is no package name")
    return _once(node.entries()) if node else ()


def _renames(node: Node | None) -> tuple[Rename, ...]:
    found = []
    for key, value in node.pairs() if node else ():
        source, target = _pattern(key), _pattern(value)
        if (source.suffix is None) != (target.suffix is None):
            raise value.problem("a * must stand on both sides of a rename, or on none")
        found.append(Rename(source, target))
    return tuple(found)


def _once(nodes: Iterable[Node]) -> tuple[str, ...]:
    seen: dict[str, None] = {}
    for node in nodes:
        if node.text() in seen:
            raise node.problem(f"'{node.text()}' is there twice")
        seen[node.text()] = None
    return tuple(seen)
