"""Everything that files and variables choose, and every wrong setting at once."""

import os
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints, is_typeddict

from msgspec import Struct, field
from msgspec.structs import replace

from asu_builder.settings import CONFIG_FILES, PREFIX, Settings
from asu_builder.settings.checks import PARTNERS, SECRET, SettingsProblem, Wrong, expectation, problem_of
from asu_builder.settings.predecessor import said_of, said_of_branch
from asu_builder.settings.units import Size, parse_duration, parse_size

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
    import yaml  # costs 9 ms of the start, needed only with a file

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


_TRUE = frozenset(("true", "yes", "on", "1"))
_FALSE = frozenset(("false", "no", "off", "0"))
_MISSING = object()


def read_text(name: str, kind: Any, text: str) -> Any:
    """What a variable says, as a file would have said it; JSON where a line of words is not enough.

    Raises `ValueError`.
    """
    if kind == tuple[str, ...]:
        return text.replace(",", " ").split()
    if any(map(is_typeddict, get_args(kind))):  # mappings are in it
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
    """The value as `kind` wants it. What does not fit is appended to `wrong`."""
    found = _convert(name, kind, value, wrong)
    return None if found is _MISSING else found


def _convert(name: str, kind: Any, value: Any, wrong: list[Wrong]) -> Any:
    if is_typeddict(kind):
        return _convert_fields(name, kind, value, wrong)
    origin = get_origin(kind)
    if origin in (tuple, list):
        return _convert_list(name, kind, value, wrong)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return _convert_mapping(name, get_args(kind)[1], value, wrong)
    try:
        return _choose(get_args(kind), value) if origin is Literal else _READERS[kind](value)
    except ValueError as error:
        wrong.append(expectation(name, str(error), value))
        return _MISSING


def _convert_list(name: str, kind: Any, value: Any, wrong: list[Wrong]) -> Any:
    inner = get_args(kind)[0]
    if inner is str and isinstance(value, str):
        value = value.replace(",", " ").split()
    if not isinstance(value, list | tuple):
        wrong.append(expectation(name, "a list", value))
        return _MISSING
    found = [_convert(f"{name}[{number}]", inner, entry, wrong) for number, entry in enumerate(value)]
    return tuple(found) if get_origin(kind) is tuple else found


def _convert_mapping(name: str, inner: Any, value: Any, wrong: list[Wrong]) -> Any:
    if not isinstance(value, Mapping):
        wrong.append(expectation(name, "names with a mapping each", value))
        return _MISSING
    found = {}
    for key, entry in value.items():
        if not isinstance(key, str):
            # YAML reads 24.10 as a number, which is 24.1.
            wrong.append(expectation(f"{name}.{key}", "a name in quotes", key))
            continue
        found[key] = _convert(f"{name}.{key}", inner, entry, wrong)
    return found


def _convert_fields(name: str, kind: Any, value: Any, wrong: list[Wrong]) -> Any:
    hints = get_type_hints(kind)
    names = ", ".join(hints)
    if not isinstance(value, Mapping):
        wrong.append(expectation(name, f"a mapping with {names}", value))
        return _MISSING
    wrong.extend(
        Wrong(f"{name}.{key}", f"there is no such entry; possible are {names}")
        for key in value
        if key not in hints
    )
    wrong.extend(
        Wrong(name, f"{key} is missing")
        for key in hints
        if key in kind.__required_keys__ and key not in value
    )
    return {
        key: _convert(f"{name}.{key}", hint, value[key], wrong) for key, hint in hints.items() if key in value
    }


def _path(value: Any) -> Path:
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError("a path")
    return Path(value).expanduser()


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    raise ValueError("text" if value is None else "text; write it in quotes")


def _amount(parse: Callable[[str], Any]) -> Callable[[Any], Any]:
    """A reader of what is a number with a unit."""

    def read(value: Any) -> Any:
        plain = isinstance(value, str | int | float) and not isinstance(value, bool)
        try:
            return parse(str(value) if plain else "")
        except ValueError as error:
            raise ValueError(str(error).removeprefix("expected ")) from None

    return read


def _choose(choices: tuple[str, ...], value: Any) -> str:
    folded = value.strip().casefold() if isinstance(value, str) else None
    for choice in choices:
        if choice == folded:
            return choice
    raise ValueError("one of " + ", ".join(choices))


def _truth(value: Any) -> bool:
    folded = str(value).strip().casefold()
    if isinstance(value, str | bool | int) and folded in _TRUE | _FALSE:
        return folded in _TRUE
    raise ValueError("true or false")


def _whole(value: Any) -> int:
    if isinstance(value, str):
        try:
            return int(value.strip())
        except ValueError:
            pass
    elif isinstance(value, int) and not isinstance(value, bool):
        return value
    raise ValueError("a whole number")


_READERS: Mapping[Any, Callable[[Any], Any]] = {
    bool: _truth,
    int: _whole,
    str: _text,
    Path: _path,
    timedelta: _amount(parse_duration),
    Size: _amount(parse_size),
}


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
    chosen = _of_files(paths, problems)
    chosen |= _of_variables(os.environ if environment is None else environment, hints, problems)
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
        wrong = _unknown(name, hints)
        value = None if wrong else convert(name, hints[name], choice.value, wrong)
        problems += [str(choice.placed(_hinted(one))) for one in wrong]
        if not wrong:
            good[name] = value
    return good


def _of_files(paths: list[Path], problems: list[str]) -> dict[str, _Choice]:
    chosen: dict[str, _Choice] = {}
    for path in paths:
        try:
            file = read_file(path)
        except SettingsProblem as problem:
            problems.append(str(problem))
            continue
        problems += map(str, file.twice)
        chosen |= {name: _Choice(value, str(path), file.lines) for name, value in file.values.items()}
    return chosen


def _of_variables(
    environment: Mapping[str, str], hints: Mapping[str, Any], problems: list[str]
) -> dict[str, _Choice]:
    chosen: dict[str, _Choice] = {}
    for variable, text in environment.items():
        if not variable.startswith(PREFIX) or variable in _FOR_CLIENTS:
            continue
        name = variable.removeprefix(PREFIX).lower()
        origin = f"variable {variable}"
        if name in chosen:
            problems.append(
                str(Wrong(name, f"expected it once, but {chosen[name].origin} says it too", origin))
            )
        try:
            value = read_text(name, hints.get(name), text)
        except ValueError as error:
            problems.append(str(Wrong(name, str(error), origin)))
        else:
            chosen[name] = _Choice(value, origin)
    return chosen


def _unknown(name: str, hints: Mapping[str, Any]) -> list[Wrong]:
    if name in hints:
        return []
    if said := said_of(name):
        return [Wrong(name, said)]
    import difflib  # only for a mistyped name

    plain = name.lower().removeprefix(PREFIX.lower())
    close = difflib.get_close_matches(plain, hints, n=1)
    return [Wrong(name, "there is no such setting" + (f"; did you mean {close[0]}?" if close else ""))]


def _hinted(wrong: Wrong) -> Wrong:
    """An entry of a branch that the predecessor had is explained."""
    said = said_of_branch(wrong.name.rpartition(".")[2]) if wrong.setting == "branches" else ""
    return replace(wrong, sentence=said) if said else wrong


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
            for name in (wrong.setting, partner):
                good.pop(name, None)
        return Settings(**good)
