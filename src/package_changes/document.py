"""A YAML text as nodes that know their line; every scalar is the text that was written.

So `24.10` stays 24.10 and is no number, and every complaint can say where.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import yaml

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
class Place:
    """A node of the document."""

    node: yaml.Node
    source: str

    @property
    def line(self) -> int:
        """The line it begins on, counted from 1."""
        return int(self.node.start_mark.line) + 1

    def problem(self, sentence: str) -> RulesProblem:
        """A complaint about this place."""
        return RulesProblem(self.source, self.line, sentence)

    def text(self) -> str:
        """A text that is not empty."""
        if not isinstance(self.node, yaml.ScalarNode) or not str(self.node.value).strip():
            raise self.problem("expected a text")
        return str(self.node.value)

    def flag(self) -> bool:
        """true or false."""
        if not isinstance(self.node, yaml.ScalarNode) or self.node.value not in ("true", "false"):
            raise self.problem("expected true or false")
        return bool(self.node.value == "true")

    def number(self) -> int:
        """A whole number."""
        value = self.node.value if isinstance(self.node, yaml.ScalarNode) else ""
        if not (isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 9):
            raise self.problem("expected a whole number")
        return int(value)

    def entries(self) -> "list[Place]":
        """A list."""
        if not isinstance(self.node, yaml.SequenceNode):
            raise self.problem("expected a list")
        return [Place(node, self.source) for node in self.node.value]

    def some(self) -> "list[Place]":
        """A list with at least one entry: a condition that lists nothing can never hold."""
        found = self.entries()
        if not found:
            raise self.problem("expected at least one entry; without any this can never match")
        return found

    def pairs(self) -> "Iterator[tuple[Place, Place]]":
        """Keys and values, each key once."""
        if not isinstance(self.node, yaml.MappingNode):
            raise self.problem("expected keys with values")
        seen: set[str] = set()
        for key_node, value_node in self.node.value:
            key = Place(key_node, self.source)
            if key.text() in seen:
                raise key.problem(f"'{key.text()}' is there twice")
            seen.add(key.text())
            yield key, Place(value_node, self.source)

    def fields(self, known: Iterable[str], required: Iterable[str] = ()) -> "dict[str, Place]":
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


def read_document(text: str, *, source: str) -> Place:
    """The document's root; `RulesProblem` when the text is too long, empty or no YAML."""
    if len(text) > MAX_LENGTH:
        raise RulesProblem(source, 0, f"longer than {MAX_LENGTH} characters")
    try:
        _require_plain(text, source)
        node = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 0
        raise RulesProblem(source, line, f"no YAML: {error.problem or error.context}") from error
    except yaml.YAMLError as error:
        raise RulesProblem(source, 0, f"no YAML: {' '.join(str(error).split())}") from error
    if node is None:
        raise RulesProblem(source, 0, "the file is empty")
    return Place(node, source)


def _require_plain(text: str, source: str) -> None:
    """No aliases, which can make little text much work, and no deep nesting."""
    depth = 0
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
