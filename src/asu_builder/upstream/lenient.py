"""Reads foreign JSON one value at a time: what is odd is left out and noted, all else stays.

A mirror writes what it likes: null, a number for a text, one broken entry among hundreds. What is
read here has the types that it should have, whatever came.
"""

import json
import logging
import re
import threading
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any, TypeVar

import msgspec

from asu_builder.domain.profiles_json import unprintable

_log = logging.getLogger(__name__)

GZIP = b"\x1f\x8b"
"""Begins what gzip has packed."""
MOST_TEXT = 256
"""Characters."""
_SHOWN = 3
_SHOWN_CHARACTERS = 40
_MOST_DOCUMENTS = 512
_MOST_DIGITS = 18

Parsed = TypeVar("Parsed")
Sized = TypeVar("Sized", list[Any], dict[str, Any])


class Unreadable(ValueError):
    """A document that says nothing at all of what it should say; the text is the end of a sentence."""


class Notes:
    """What was left out of one document: how much, and the first few in words."""

    def __init__(self) -> None:
        self.count = 0
        self._shown: list[str] = []

    def add(self, where: str, value: object, count: int = 1) -> None:
        """Notes an odd value at a place like `profiles.acme.titles`; `count` of them at once."""
        if len(self._shown) < _SHOWN:
            self._shown.append(f"{_brief(where)} is {_describe(value)}")
        self.count += count

    def __str__(self) -> str:
        more = self.count - len(self._shown)
        return "; ".join(self._shown) + (f"; and {more} more" if more > 0 else "")


def _brief(text: str) -> str:
    shown = unprintable().sub("?", text[: _SHOWN_CHARACTERS + 1])
    return shown if len(shown) <= _SHOWN_CHARACTERS else f"{shown[:_SHOWN_CHARACTERS]}…"


def _describe(value: object) -> str:
    if isinstance(value, list | dict):
        return f"a {'list' if isinstance(value, list) else 'map'} of {len(value)}"
    if isinstance(value, str):
        return f'"{_brief(value)}"'
    return "null" if value is None else "missing" if value is _MISSING else _brief(str(value))


_MISSING: Any = object()
_MOST_RATIO = 200
_SMALL = 1 << 20
"""Bytes that any packed document may have."""


def unpack(body: bytes, *, wbits: int, most: int) -> bytes:
    """The bytes of a document packed by deflate, `most` of them and no more than 200 times as many.

    `wbits` is zlib's. What gzip has packed in several pieces, one after the other, is read whole, as gzip
    does. Raises `Unreadable`.
    """
    left = min(most, max(_SMALL, len(body) * _MOST_RATIO))
    pieces = []
    while True:
        unpacking = zlib.decompressobj(wbits=wbits)
        try:
            # Of 0 bytes zlib would unpack as many as there are.
            pieces.append(unpacking.decompress(body, max(1, left)))
        except zlib.error as error:
            raise Unreadable(f"it cannot be unpacked ({error})") from None
        left -= len(pieces[-1])
        if not unpacking.eof or left < 0:
            raise Unreadable("it is cut off, or much too large")
        body = unpacking.unused_data
        if wbits < 16 or not body.startswith(GZIP):
            return b"".join(pieces)


def decode_object(body: bytes) -> dict[str, Any]:
    """The JSON object of a document. Raises `ValueError` for everything else.

    One broken escape, letter or number does not spoil the rest: it becomes a value that no reader
    below takes for a good one.
    """
    try:
        try:
            found = msgspec.json.decode(body)
        except ValueError:
            text = body.decode("utf-8-sig", "replace")
            found = json.loads(text, strict=False, parse_int=_whole, parse_constant=lambda _: None)
    except RecursionError:
        raise Unreadable("it is nested too deeply") from None
    if not isinstance(found, dict):
        raise Unreadable(f"expected an object, got {_describe(found)}")
    return found


def _whole(digits: str) -> int | None:
    return int(digits) if len(digits) <= _MOST_DIGITS else None


class Reader:
    """One object of a document; `place` is where it lies in there. Missing values are no oddity."""

    def __init__(self, found: dict[str, Any], notes: Notes, place: str = "") -> None:
        self._found = found
        self._notes = notes
        self._place = place

    def text(self, key: str, pattern: re.Pattern[str] | None = None, *, required: bool = False) -> str:
        """A short printable text, "" for none; with `pattern` it matches that as a whole."""
        value = self._found.get(key, _MISSING if required else "")
        if value == "" and not required:
            return ""
        if is_text(value) and (pattern is None or pattern.fullmatch(value)):
            return str(value)
        self._odd(key, value)
        return ""

    def number(self, key: str, otherwise: int) -> int:
        """A whole number."""
        value = self._found.get(key, otherwise)
        if type(value) is int:
            return value
        self._odd(key, value)
        return otherwise

    def texts(
        self, key: str, *, most: int, pattern: re.Pattern[str] | None = None, required: bool = False
    ) -> tuple[str, ...]:
        """The good texts of a list, at most `most`, in their order."""
        value = self._sized(key, list, most, required=required)
        good: list[str] = []
        odd: list[Any] = []
        for entry in value:
            is_good = is_text(entry) and (pattern is None or pattern.fullmatch(entry))
            (good if is_good else odd).append(entry)
        if odd:
            self._odd(key, odd[0], len(odd))
        return tuple(good)

    def text_map(self, key: str, *, most: int) -> dict[str, str]:
        """The good entries of a map of texts, at most `most`."""
        return self._texts_of(self._sized(key, dict, most), key)

    def own_texts(self, *, most: int) -> dict[str, str]:
        """The same of this object itself."""
        return self._texts_of(self._cut(self._found, most, "entries"), "")

    def objects(self, key: str, *, most: int) -> Iterator["Reader"]:
        """The objects of a list, at most `most`."""
        for number, entry in enumerate(self._sized(key, list, most)):
            if isinstance(entry, dict):
                yield Reader(entry, self._notes, f"{self._at(key)}[{number}]")
            else:
                self._odd(f"{key}[{number}]", entry)

    def named_objects(self, key: str, *, most: int) -> Iterator[tuple[str, "Reader"]]:
        """The objects of a map by their names, at most `most`."""
        for name, entry in self._sized(key, dict, most).items():
            if is_text(name) and isinstance(entry, dict):
                yield name, Reader(entry, self._notes, f"{self._at(key)}.{name}")
            else:
                self._odd(f"{key}.{name}", entry)

    def inner(self, key: str) -> "Reader | None":
        """An object in this one; None for none."""
        value = self._found.get(key, _MISSING)
        if isinstance(value, dict):
            return Reader(value, self._notes, self._at(key))
        if value is not _MISSING:
            self._odd(key, value)
        return None

    def _sized(self, key: str, kind: type[Sized], most: int, *, required: bool = False) -> Sized:
        """A list or map, cut to `most` entries; an empty one for anything else."""
        value = self._found.get(key, _MISSING)
        if not isinstance(value, kind):
            if value is not _MISSING or required:
                self._odd(key, value)
            return kind()
        return self._cut(value, most, key)

    def _cut(self, value: Sized, most: int, key: str) -> Sized:
        if len(value) <= most:
            return value
        self._odd(key, value, len(value) - most)
        return type(value)(islice(value.items() if isinstance(value, dict) else value, most))

    def _texts_of(self, found: Mapping[str, Any], key: str) -> dict[str, str]:
        good = {name: value for name, value in found.items() if is_text(name) and is_text(value)}
        if len(good) < len(found):
            name = next(name for name in found if name not in good)
            self._odd(f"{key}.{name}" if key else name, found[name], len(found) - len(good))
        return good

    def _at(self, key: str) -> str:
        return f"{self._place}.{key}" if self._place else key

    def _odd(self, key: str, value: object, count: int = 1) -> None:
        self._notes.add(self._at(key), value, count)


def is_text(value: object) -> bool:
    """Whether a value is a printable text that is neither empty nor long."""
    return type(value) is str and 0 < len(value) <= MOST_TEXT and not unprintable().search(value)


class LeftOut:
    """What was left out of which documents, as they are now; safe to use from any thread.

    It is logged once for each document, and again when something else is left out.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._documents: OrderedDict[str, str] = OrderedDict()

    def noting(self, path: str, parse: Callable[[bytes, Notes], Parsed]) -> Callable[[bytes], Parsed]:
        """The parser of one document, whose oddities are remembered here."""

        def parse_and_note(body: bytes) -> Parsed:
            notes = Notes()
            parsed = parse(body, notes)
            self.note(path, str(notes))
            return parsed

        return parse_and_note

    def note(self, path: str, what: str) -> None:
        """Replaces what is known to be left out of a document; "" for nothing."""
        with self._lock:
            former = self._documents.pop(path, "")
            if what:
                self._documents[path] = what
                while len(self._documents) > _MOST_DOCUMENTS:
                    self._documents.popitem(last=False)
        if what and what != former:
            _log.warning("%s: left out what cannot be meant: %s", path, what)

    def sentence(self) -> str:
        """Which documents lack something, in a sentence; "" when none does."""
        with self._lock:
            paths = list(self._documents)
        if not paths:
            return ""
        named = ", ".join(paths[:_SHOWN]) + (
            f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else ""
        )
        return f"The download server's {named} hold values that cannot be meant; they are left out."
