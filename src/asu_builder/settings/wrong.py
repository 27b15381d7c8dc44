"""What is wrong with a setting: its place, its name, what was given and what is possible."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from msgspec import Struct

_LONGEST_GIVEN = 80
# Greedy on purpose: a password may hold a slash, and too much hidden does no harm.
_USER = re.compile(r"((?:^|[\s\[])['\"]?(?:[a-z+.-]+://)?)\S*@", re.IGNORECASE)
SECRET = "api_tokens"
"""Its values are never repeated: by mistake one may hold a token itself."""


class Wrong(Struct, frozen=True):
    """One finding. `name` leads to the entry: `api_tokens[1].digest`."""

    name: str
    sentence: str
    place: str = ""

    @property
    def setting(self) -> str:
        """The setting of the entry."""
        return re.split(r"[.\[]", self.name, maxsplit=1)[0]

    def __str__(self) -> str:
        return (
            f"{self.name} ({self.place}): {self.sentence}" if self.place else f"{self.name}: {self.sentence}"
        )


class SettingsProblem(Exception):
    """Settings that stop the start; the text names each and says what was expected."""

    def __init__(self, text: str, wrong: tuple[Wrong, ...] = ()) -> None:
        super().__init__(text)
        self.wrong = wrong


def problem_of(sentences: Iterable[str], wrong: Iterable[Wrong] = ()) -> SettingsProblem:
    """All of them in one text: a sentence, or a line for each."""
    said = tuple(sentences)
    lines = [f"{len(said)} settings are wrong:", *(f"  {line}" for line in said)]
    return SettingsProblem(said[0] if len(said) == 1 else "\n".join(lines), tuple(wrong))


def expectation(name: str, expected: str, given: object) -> Wrong:
    """Something else was expected."""
    got = "" if name.startswith(SECRET) else f", got {written(given)}"
    return Wrong(name, f"expected {expected}{got}")


def written(given: object) -> str:
    """A value as a file would say it, shortened and without the user of an address."""
    match given:
        case None:
            text = "nothing"
        case bool():
            text = str(given).lower()
        case str():
            text = repr(given)
        case Mapping():
            text = "a mapping of " + ", ".join(map(str, given)) if given else "an empty mapping"
        case _:
            text = _plain(given)
    text = _USER.sub(r"\1…@", text)
    return text if len(text) <= _LONGEST_GIVEN else text[: _LONGEST_GIVEN - 1] + "…"


def _plain(given: Any) -> str:
    return f"[{', '.join(map(written, given))}]" if isinstance(given, list | tuple) else str(given)
