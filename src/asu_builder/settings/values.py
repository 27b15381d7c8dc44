"""From what a file or a variable says to what a setting's type wants, with every wrong entry named."""

import types
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints, is_typeddict

from asu_builder.settings.units import Size, parse_duration, parse_size
from asu_builder.settings.wrong import SECRET, Wrong, expectation

_TRUE = frozenset(("true", "yes", "on", "1"))
_FALSE = frozenset(("false", "no", "off", "0"))
_MISSING = object()


def read_text(name: str, kind: Any, text: str) -> Any:
    """What a variable says, as a file would have said it; JSON where a line of words is not enough.

    Raises `ValueError`.
    """
    if kind == tuple[str, ...]:
        return text.replace(",", " ").split()
    if _is_nested(kind):
        import json  # only for whoever writes such a variable

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
        return _convert_one(kind, value)
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


def _convert_one(kind: Any, value: Any) -> Any:
    """Raises `ValueError` that says what is possible."""
    if get_origin(kind) is Literal:
        return _choose(get_args(kind), value)
    return _READERS[kind](value)


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


def _is_nested(kind: Any) -> bool:
    """Whether mappings are in it."""
    return any(is_typeddict(inner) for inner in _inner(kind))


def _inner(kind: Any) -> Iterator[Any]:
    for inner in get_args(kind):
        if isinstance(inner, types.EllipsisType):
            continue
        yield inner
