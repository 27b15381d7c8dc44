"""Devices and packages by their names, found while a user types, and likely meanings of unknown names."""

import re
from collections.abc import Iterable, Iterator, Sequence

import msgspec
from msgspec import Struct

_SUGGESTIONS = 3
_ALIKE = 0.8
"""From 0 to 1: below this, names have nothing to do with each other."""


def closest(name: str, names: Sequence[str], *, alike: float = _ALIKE) -> tuple[str, ...]:
    """At most three of `names`, the most alike first; about a millisecond for ten thousand."""
    # Needed by few, and not by the first answer.
    from rapidfuzz import process
    from rapidfuzz.distance import JaroWinkler

    # People get the beginning of a name right more often than its end.
    found = process.extract(
        name, names, scorer=JaroWinkler.similarity, limit=_SUGGESTIONS, score_cutoff=alike
    )
    return tuple(match for match, _, _ in found)


_ABI = re.compile(r"[0-9][0-9a-z.]{0,63}")
"""What tells a library's binary interface: `20241020`, `1.1`, `5.7.2.d242c60a`; `-` may stand before it."""
_LONGEST = 128


def without_abi(name: str) -> Iterator[str]:
    """What a library may be called without its ABI suffix: `libubus20241020` → `libubus`.

    More than one where the name itself has digits: `libe2p2` is `libe2p`, or `libe`.
    """
    if not name.startswith("lib") or len(name) > _LONGEST:
        return
    for place in range(len(name) - 1, len("lib"), -1):
        if _ABI.fullmatch(name, place):
            yield name[:place].removesuffix("-")


_SEPARATORS = re.compile(r"[\W_]+")
_DIGITS = re.compile(r"(\d+)")
_LETTERS = 10**9
"""Sorts letters behind numbers of up to nine digits."""
_ALIKE_WORDS = 0.84
"""From 0 to 1: below this a word is not a mistyped other one."""
_ALIKE_NAMES = 70
"""From 0 to 100: the same for whole names."""
_LONGEST_PHRASE = 64
_MANY_WORDS = 12


class Title(Struct, frozen=True, gc=False):
    """What a device is called: whole, or in parts (source: upstream's `titles`)."""

    title: str = ""
    vendor: str = ""
    model: str = ""
    variant: str = ""

    def __str__(self) -> str:
        return self.title or " ".join(part for part in (self.vendor, self.model, self.variant) if part)


class Device(Struct, frozen=True, gc=False):
    """One name of a profile; a profile with three titles is three devices."""

    title: Title
    target: str
    profile: str
    aliases: tuple[str, ...] = ()
    """Other names it is found by: those it reports, and its other titles."""


class Found(Struct, frozen=True):
    """What a search found, the best first."""

    devices: tuple[Device, ...]
    more: bool
    """Whether there are others beyond the limit."""
    guessed: bool = False
    """Whether nothing is called so and these are the most alike."""


def name_devices(
    profile: str, target: str, titles: Sequence[Title], supported_devices: Sequence[str] = ()
) -> list[Device]:
    """A device for each title of a profile; one without any is called by the profile's name."""
    called = {str(title): title for title in titles if str(title)} or {profile: Title(profile)}
    names = list(called)
    return [
        Device(title, target, profile, (*supported_devices, *(name for name in names if name != own)))
        for own, title in called.items()
    ]


def plain(text: str) -> str:
    """Lower-case words without accents and punctuation, with one blank between them."""
    if not text.isascii():
        import unicodedata  # slow to load, and most names need none of it

        decomposed = unicodedata.normalize("NFKD", text)
        text = "".join(letter for letter in decomposed if not unicodedata.combining(letter))
    return _SEPARATORS.sub(" ", text.casefold()).strip()


class DeviceIndex:
    """The devices of one version, prepared once; a search costs a few milliseconds at most.

    Safe to use from any thread.
    """

    def __init__(self, devices: Iterable[Device]) -> None:
        named = sorted(((plain(str(device.title)), device) for device in devices), key=_alphabetically)
        self._devices = tuple(device for _, device in named)
        # Words of the title, then those of the other names; a blank before and behind each.
        self._texts = [f" {title} \n {_other_names(title, device)} " for title, device in named]

    def __len__(self) -> int:
        return len(self._devices)

    def search(self, text: str, limit: int) -> Found:
        """At most `limit` devices that have every word of `text`, in any order; all of them for "".

        Whole words of the title come first, then beginnings of words, then what is inside of them;
        among equals v2 comes before v10. When nothing has them, the most alike.
        """
        words = plain(text).split()[:_MANY_WORDS]
        if not words:
            return Found(self._devices[:limit], len(self._devices) > limit)
        if ranked := self._rank([(word,) for word in words]):
            return self._pick(ranked, limit)
        from rapidfuzz import fuzz, process  # needed by few, and not by the first answer

        known = list(dict.fromkeys(word for text in self._texts for word in text.split()))
        joined = "".join(self._texts)
        wanted = [(word,) if word in joined else closest(word, known, alike=_ALIKE_WORDS) for word in words]
        if all(wanted) and (ranked := self._rank(wanted)):
            return self._pick(ranked, limit, guessed=True)
        phrase = " ".join(words)[:_LONGEST_PHRASE]
        titles = [text[1 : text.index("\n")] for text in self._texts]
        scored = process.extract(
            phrase, titles, scorer=fuzz.token_set_ratio, limit=limit + 1, score_cutoff=_ALIKE_NAMES
        )
        return self._pick([number for _, _, number in scored], limit, guessed=bool(scored))

    def _pick(self, ranked: Sequence[int], limit: int, *, guessed: bool = False) -> Found:
        devices = tuple(self._devices[number] for number in ranked[:limit])
        return Found(devices, len(ranked) > limit, guessed)

    def _rank(self, wanted: Sequence[Sequence[str]]) -> list[int]:
        """Numbers of devices that have one alternative of each word, the best first."""
        numbers: Iterable[int] = range(len(self._texts))
        for alternatives in wanted:
            if len(alternatives) == 1:
                (word,) = alternatives
                numbers = [number for number in numbers if word in self._texts[number]]
            else:
                numbers = [
                    number
                    for number in numbers
                    if any(f" {word}" in self._texts[number] for word in alternatives)
                ]
        phrase = " ".join(alternatives[0] for alternatives in wanted)
        width = len(self._texts)
        # One number for rank and place sorts three times as fast as a pair.
        keys = [_penalty(self._texts[number], wanted, phrase) * width + number for number in numbers]
        return [key % width for key in sorted(keys)]


def _alphabetically(named: tuple[str, Device]) -> tuple[object, ...]:
    """Numbers by their value; the rest leaves no two different devices equal."""
    title, device = named
    parts_of_title = msgspec.structs.astuple(device.title)
    parts = (part for part in _DIGITS.split(title) if part)
    natural = [(int(part[:9]), part) if part.isdecimal() else (_LETTERS, part) for part in parts]
    return natural, device.target, device.profile, parts_of_title, device.aliases


def _other_names(title: str, device: Device) -> str:
    names = (device.profile, device.target, *device.aliases)
    words = dict.fromkeys(word for name in names for word in plain(name).split())
    # Joined as people write it who leave out the blanks: tplink, archerc7.
    joined = (plain(device.title.vendor).replace(" ", ""), title.replace(" ", ""))
    return " ".join(dict.fromkeys((*words, *joined)))


def _penalty(text: str, wanted: Sequence[Sequence[str]], phrase: str) -> int:
    """How far a text that has all words is from what was typed; 0 for the very title."""
    end = text.index("\n")
    penalty = 0
    for words in wanted:
        nearest = _word_penalty(text, words[0], end)
        for word in words[1:]:
            nearest = min(nearest, _word_penalty(text, word, end))
        penalty += 4 * nearest
    if not text.startswith(f" {phrase} \n"):
        penalty += 1 if text.startswith(f" {phrase}") else 2
    return penalty


_INFIX = 100
"""More than any number of words that are found as beginnings."""


def _word_penalty(text: str, word: str, end: int) -> int:
    if text.find(f" {word}", 0, end) >= 0:
        return 0 if text.find(f" {word} ", 0, end) >= 0 else 1
    return 2 if f" {word}" in text else _INFIX
