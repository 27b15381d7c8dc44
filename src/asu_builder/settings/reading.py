"""Everything that files and variables choose, and every wrong setting at once."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints, is_typeddict

from msgspec import Struct, field
from msgspec.structs import replace

from asu_builder.settings import CONFIG_FILES, PREFIX, Settings
from asu_builder.settings.checks import (
    PARTNERS,
    SECRET,
    SettingsProblem,
    Size,
    Wrong,
    expectation,
    parse_duration,
    parse_size,
    problem_of,
)
from asu_builder.settings.predecessor import said_of, said_of_branch

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
    import yaml  # costs 9 ms of the start, needed only with a file

    try:
        loader = yaml.SafeLoader(text)
        try:
            node = loader.get_single_node()
            found = None if node is None else loader.construct_document(node)
        finally:
            loader.dispose()
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise SettingsProblem(f"{path} is not valid YAML: {error}") from error
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


_TRUE = frozenset(("true", "yes", "on", "1"))
_FALSE = frozenset(("false", "no", "off", "0"))


def read_text(name: str, kind: Any, text: str) -> Any:
    """What a variable says, as a file would have said it; JSON where a line of words is not enough.

    Raises `ValueError`.
    """
    if kind == tuple[str, ...]:
        return text.replace(",", " ").split()
    if get_origin(kind) is Mapping or any(map(is_typeddict, get_args(kind))):
        import json  # only where such a variable is set

        try:
            return json.loads(text, object_pairs_hook=_once)
        except json.JSONDecodeError as error:
            given = "" if name == SECRET else f": {error}"
            raise ValueError(f"expected JSON{given}") from None
        except RecursionError:
            raise ValueError("expected JSON, not so deeply nested") from None
    return text


def convert(name: str, kind: Any, value: Any, wrong: list[Wrong]) -> Any:
    """The value as `kind` wants it. What does not fit is appended to `wrong`, and None in its place."""
    origin = get_origin(kind)
    if is_typeddict(kind):
        hints = get_type_hints(kind)
        names = ", ".join(hints)
        if not isinstance(value, Mapping):
            wrong.append(expectation(name, f"a mapping with {names}", value))
            return None
        sentence = f"there is no such entry; possible are {names}"
        wrong.extend(Wrong(f"{name}.{key}", sentence) for key in value if key not in hints)
        lacking = (key for key in hints if key in kind.__required_keys__ and key not in value)
        wrong.extend(Wrong(name, f"{key} is missing") for key in lacking)
        return {
            key: convert(f"{name}.{key}", hint, value[key], wrong)
            for key, hint in hints.items()
            if key in value
        }
    if origin in (tuple, list):
        inner = get_args(kind)[0]
        if inner is str and isinstance(value, str):
            value = value.replace(",", " ").split()
        if not isinstance(value, list | tuple):
            wrong.append(expectation(name, "a list", value))
            return None
        entries = [convert(f"{name}[{number}]", inner, entry, wrong) for number, entry in enumerate(value)]
        return tuple(entries) if origin is tuple else entries
    if isinstance(origin, type) and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            inner = get_args(kind)[1]
            what = "text" if inner is str else "mapping" if is_typeddict(inner) else "list"
            wrong.append(expectation(name, f"names with a {what} each", value))
            return None
        found = {}
        for key, entry in value.items():
            if isinstance(key, str):
                found[key] = convert(f"{name}.{key}", get_args(kind)[1], entry, wrong)
            else:
                # YAML reads 24.10 as a number, which is 24.1.
                wrong.append(expectation(f"{name}.{key}", "a name in quotes", key))
        return found
    try:
        return _convert_scalar(kind, value)
    except ValueError as error:
        wrong.append(expectation(name, str(error).removeprefix("expected "), value))
        return None


def _convert_scalar(kind: Any, value: Any) -> Any:
    """Raises `ValueError` with what was expected."""
    text = value.strip() if isinstance(value, str) else str(value)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if get_origin(kind) is Literal:
        choices = get_args(kind)
        if isinstance(value, str) and text.casefold() in choices:
            return text.casefold()
        raise ValueError("one of " + ", ".join(choices))
    if kind is bool:
        if isinstance(value, str | int) and text.casefold() in _TRUE | _FALSE:
            return text.casefold() in _TRUE
        raise ValueError("true or false")
    if kind is int:
        try:
            return int(text if isinstance(value, str) or (is_number and isinstance(value, int)) else "")
        except ValueError:
            raise ValueError("a whole number") from None
    if kind is str:
        if isinstance(value, str):
            return value
        raise ValueError("text" if value is None else "text; write it in quotes")
    if kind is Path:
        if isinstance(value, str) and value and "\0" not in value:
            return Path(value).expanduser()
        raise ValueError("a path")
    parse = parse_size if kind is Size else parse_duration
    return parse(text if isinstance(value, str) or is_number else "")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"expected each name once, but {twice} is there twice")
    return found


_FOR_CLIENTS = ("ASU_BUILDER_SERVER", "ASU_BUILDER_TOKEN")
"""Variables of the commands that ask another server; they may be set where a service starts too."""


class Survey(Struct, frozen=True):
    """What was found. `settings` has the default of whatever is wrong."""

    settings: Settings
    origins: Mapping[str, str]
    """For each setting that was chosen well: a file's path or `variable NAME`."""
    problems: tuple[str, ...]
    """One for each wrong entry, or unreadable file, in the words that would stop a start."""
    read: tuple[Path, ...]
    absent: tuple[Path, ...]


class _Choice(Struct, frozen=True):
    """What one file or variable says of a setting."""

    value: Any
    origin: str
    lines: Mapping[str, int] = field(default_factory=dict)

    def placed(self, wrong: Wrong, name: str = "") -> Wrong:
        """With its place: the line of the entry itself (or of `name`), else of what holds it."""
        name = name or wrong.name
        while name and name not in self.lines:
            name = name[: max(name.rfind("."), name.rfind("["), 0)]
        return replace(wrong, place=f"{self.origin}, line {self.lines[name]}" if name else self.origin)


def survey_settings(
    environment: Mapping[str, str] | None = None,
    files: tuple[Path, ...] | None = None,
    *,
    options: Mapping[str, Any] | None = None,
) -> Survey:
    """Reads what a start would read, and goes on after each problem.

    `options` are settings of the command line, by name; they win over all.
    """
    paths = [path.expanduser() for path in (CONFIG_FILES if files is None else files)]
    problems: list[str] = []
    hints = get_type_hints(Settings)
    chosen: dict[str, _Choice] = {}
    for path in paths:
        try:
            file = read_file(path)
        except SettingsProblem as problem:
            problems.append(str(problem))
            continue
        problems += map(str, file.twice)
        chosen |= {name: _Choice(value, str(path), file.lines) for name, value in file.values.items()}
    variables: dict[str, _Choice] = {}
    for variable, text in (os.environ if environment is None else environment).items():
        if not variable.startswith(PREFIX) or variable in _FOR_CLIENTS:
            continue
        name, origin = variable.removeprefix(PREFIX).lower(), f"variable {variable}"
        if name in variables:
            sentence = f"expected it once, but {variables[name].origin} says it too"
            problems.append(str(Wrong(name, sentence, origin)))
        try:
            variables[name] = _Choice(read_text(name, hints.get(name), text), origin)
        except ValueError as error:
            problems.append(str(Wrong(name, str(error), origin)))
    chosen |= variables
    for name, value in (options or {}).items():
        chosen[name] = _Choice(value, "command line")
    good = _fitting(chosen, hints, problems)
    settings = _together(good, chosen, problems)
    return Survey(
        settings,
        {name: chosen[name].origin for name in good},
        tuple(problems),
        tuple(path for path in paths if path.exists()),
        tuple(path for path in paths if not path.exists()),
    )


def require_settings(values: Mapping[str, Any], origin: str) -> None:
    """Raises `SettingsProblem` that names every value no start would take."""
    problems: list[str] = []
    chosen = {name: _Choice(value, origin) for name, value in values.items()}
    _together(_fitting(chosen, get_type_hints(Settings), problems), chosen, problems)
    if problems:
        raise problem_of(problems)


def _fitting(chosen: Mapping[str, _Choice], hints: Mapping[str, Any], problems: list[str]) -> dict[str, Any]:
    """What is of its setting's type."""
    good: dict[str, Any] = {}
    for name, choice in chosen.items():
        wrong: list[Wrong] = []
        if name in hints:
            good[name] = convert(name, hints[name], choice.value, wrong)
        elif said := said_of(name):
            wrong.append(Wrong(name, said))
        else:
            import difflib  # only for a mistyped name

            plain = name.lower().removeprefix(PREFIX.lower())
            close = difflib.get_close_matches(plain, hints, n=1)
            meant = f"; did you mean {close[0]}?" if close else ""
            wrong.append(Wrong(name, f"there is no such setting{meant}"))
        for one in wrong:
            good.pop(name, None)
            # An entry of a branch that the predecessor had is explained.
            said = said_of_branch(one.name.rpartition(".")[2]) if one.setting == "branches" else ""
            problems.append(str(choice.placed(replace(one, sentence=said) if said else one)))
    return good


def _together(good: dict[str, Any], chosen: Mapping[str, _Choice], problems: list[str]) -> Settings:
    """The settings. What may not be, alone or with another, is told and taken out of `good`."""
    try:
        return Settings(**good)
    except SettingsProblem as problem:
        for wrong in problem.wrong:
            partner = PARTNERS.get(wrong.setting, "")
            blamed = wrong.setting if wrong.setting in chosen else partner
            choice = chosen.get(blamed)
            entry = wrong.name if blamed == wrong.setting else blamed
            problems.append(str(choice.placed(wrong, entry) if choice else wrong))
            # What only means something beside these would be wrong without them, and is not to blame.
            gone = {wrong.setting, partner}
            for name in gone | {name for name, measure in PARTNERS.items() if measure in gone}:
                good.pop(name, None)
        return Settings(**good)
