"""The texts of the pages, in the language of who reads them.

English is in the source; `locale` has a catalogue for each other language, compiled by `make texts` and read
by the `gettext` of the standard library. What programs read stays English.

The language of a request is a context variable: threads that render have it too.
"""

import gettext as catalogues
import re
from collections.abc import Iterable
from contextvars import ContextVar
from functools import lru_cache
from pathlib import Path

from msgspec import Struct

LOCALE = Path(__file__).parent / "locale"
SOURCE = "en"
QUERY = "lang"
"""The parameter of an address that chooses the language."""
COOKIE = "asu_language"
VARY = "Accept-Language, Cookie, Accept, Accept-Encoding"
"""What the answer to a request for a page depends on, beside its address."""
_MOST_FORMS = 6
"""Arabic has the most."""
_LONGEST = 256
"""Characters of an `Accept-Language` that are looked at."""
_PREFERENCE = re.compile(
    r"([a-z]{1,8}(?:-[a-z0-9]{1,8})*|\*)(?:\s*;\s*q=(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?))?"
)
_PLURAL = re.compile(r"plural\s*=\s*([n0-9 ()?:!=<>&|%+*/-]+);?")
"""Of a catalogue's header; what it allows means the same in C and in JavaScript."""


class Language(Struct, frozen=True):
    """One language. `code` is that of BCP 47, `name` its own name, `direction` that of its writing."""

    code: str
    texts: catalogues.NullTranslations

    @property
    def name(self) -> str:
        """How its speakers call it."""
        # Translators: the name of your language, in your language.
        return self.texts.pgettext("name of this language", "English")

    @property
    def direction(self) -> str:
        """`ltr`, or `rtl` for one that is written from right to left."""
        # Translators: rtl if your language is written from right to left.
        return "rtl" if self.texts.pgettext("direction of writing", "ltr") == "rtl" else "ltr"

    @property
    def plural(self) -> str:
        """The number of the plural form as an expression of `n`, as JavaScript reads it."""
        found = _PLURAL.search(self.texts.info().get("plural-forms", ""))
        return found[1].strip() if found else "n != 1"

    def plurals(self, one: str, many: str) -> list[str]:
        """The message in each of its plural forms, in the order of the catalogue."""
        forms: dict[int, str] = {}
        catalogue: dict[object, str] = getattr(self.texts, "_catalog", {})
        for number in range(_MOST_FORMS):
            if (one, number) in catalogue:
                forms[number] = catalogue[one, number]
        return list(forms.values()) or [one, many]


def _load(root: Path) -> dict[str, Language]:
    found = {SOURCE: Language(SOURCE, catalogues.NullTranslations())}
    for path in sorted(root.glob("*.mo")):
        with path.open("rb") as file:
            language = Language(path.stem, catalogues.GNUTranslations(file))
        # One whose own name has no translation has only been begun.
        if language.name != found[SOURCE].name:
            found[path.stem] = language
    return found


LANGUAGES = _load(LOCALE)
"""By their codes, English first."""
_CURRENT: ContextVar[Language] = ContextVar("language", default=LANGUAGES[SOURCE])


def current() -> Language:
    """The language of the request that is being answered; English outside of any."""
    return _CURRENT.get()


def speak(language: Language) -> None:
    """Makes it the language of this context."""
    _CURRENT.set(language)


def marked(message: str) -> str:
    """The message itself: marks a text that is translated where it is shown."""
    return message


def gettext(message: str, /, **values: object) -> str:
    """The message in the current language; `%(name)s` in it stands for a value."""
    text = current().texts.gettext(message) if message else ""
    return text % values if values else text


def ngettext(one: str, many: str, count: int, /, **values: object) -> str:
    """The same in the form that this count takes."""
    text = current().texts.ngettext(one, many, count)
    return text % values if values else text


def pgettext(context: str, message: str, /, **values: object) -> str:
    """The same of a message that means different things in different places."""
    text = current().texts.pgettext(context, message)
    return text % values if values else text


def npgettext(context: str, one: str, many: str, count: int, /, **values: object) -> str:
    """Both of these."""
    text = current().texts.npgettext(context, one, many, count)
    return text % values if values else text


def language_named(code: str) -> Language | None:
    """The language of a code such as `de` or `de-AT`; None for one that the pages do not speak."""
    code = code.strip().lower().replace("_", "-")[:_LONGEST]
    while code:
        for known, language in LANGUAGES.items():
            if known.lower() == code:
                return language
        code = code.rpartition("-")[0]
    return None


@lru_cache(maxsize=128)
def preferred_language(accepted: str) -> Language:
    """The best of ours for an `Accept-Language`; English where it names none, or is malformed."""
    weighed: list[tuple[float, Language]] = []
    for part in accepted[:_LONGEST].lower().split(","):
        match = _PREFERENCE.fullmatch(part.strip())
        if match is None:
            continue
        language = LANGUAGES[SOURCE] if match[1] == "*" else language_named(match[1])
        weight = float(match[2] or 1)
        if language and weight > 0:
            weighed.append((weight, language))
    # The first of those with the largest weight.
    return max(weighed, key=lambda entry: entry[0], default=(1.0, LANGUAGES[SOURCE]))[1]


def choose_language(query: str, cookie: str, accepted: Iterable[str]) -> Language:
    """By the address, else by the cookie of one who chose before, else by the browser's wish."""
    return language_named(query) or language_named(cookie) or preferred_language(",".join(accepted))
