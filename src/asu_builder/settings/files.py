"""A settings file: what it says, on which line each entry stands, and what is in it twice."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct, field

from asu_builder.settings.wrong import SettingsProblem, Wrong

if TYPE_CHECKING:
    from yaml import Node


class SettingsFile(Struct, frozen=True):
    """One file, read."""

    values: Mapping[str, Any] = field(default_factory=dict)
    lines: Mapping[str, int] = field(default_factory=dict)
    """For each entry, by names such as `branches.24.10.enabled`."""
    twice: tuple[Wrong, ...] = ()


def read_file(path: Path) -> SettingsFile:
    """What a file chooses, not yet converted; nothing where there is none. Raises `SettingsProblem`."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return SettingsFile()
    except OSError as error:
        raise SettingsProblem(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SettingsProblem(f"{path} cannot be read: it is not UTF-8") from error
    node, found = _parse(path, text)
    if node is None or found is None:
        return SettingsFile()
    if not isinstance(found, dict):
        raise SettingsProblem(f"{path}: expected one `name: value` a line")
    lines: dict[str, int] = {}
    twice = []
    for name, line in _entries(node, "", frozenset()):
        if name in lines:
            sentence = f"expected it once, but line {lines[name]} says it too"
            twice.append(Wrong(name, sentence, f"{path}, line {line}"))
        lines[name] = line
    return SettingsFile({str(name): value for name, value in found.items()}, lines, tuple(twice))


def _parse(path: Path, text: str) -> tuple["Node | None", Any]:
    import yaml  # costs 9 ms of the start, which whoever has no file need not pay

    try:
        loader = yaml.SafeLoader(text)
        try:
            node = loader.get_single_node()
            return node, None if node is None else loader.construct_document(node)
        finally:
            loader.dispose()
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise SettingsProblem(f"{path} is not valid YAML: {error}") from error


def _entries(node: "Node", name: str, within: frozenset[int]) -> Iterator[tuple[str, int]]:
    """Every entry below a node with its line; an alias that leads into itself is not followed."""
    from yaml import MappingNode, ScalarNode, SequenceNode

    if id(node) in within:
        return
    within = within | {id(node)}
    if isinstance(node, MappingNode):
        for key, value in node.value:
            if isinstance(key, ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                inner = f"{name}.{key.value}" if name else key.value
                yield inner, key.start_mark.line + 1
                yield from _entries(value, inner, within)
    elif isinstance(node, SequenceNode):
        for number, value in enumerate(node.value):
            inner = f"{name}[{number}]"
            yield inner, value.start_mark.line + 1
            yield from _entries(value, inner, within)
