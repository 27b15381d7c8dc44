"""What a command printed, as lines that may be shown: text only, nothing that speaks to a terminal."""

import re
from collections.abc import Iterator

MAX_LINE = 2000
"""Characters of a line that are kept."""

_RAW_LINE = 4 * MAX_LINE
"""Bytes of a line that are looked at; beyond them a line without an end is not even held in memory."""
_CUT = " […]"
# Patterns as text: most starts need none of them, and `re` remembers what it has compiled.
_SEQUENCES = r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[ -/]*[0-~])"
# Control characters, what breaks a line elsewhere, and what turns the direction of writing round.
_HIDDEN = "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]"


def readable(raw: bytes) -> str:
    """One line without its end, as text.

    What is no UTF-8 becomes replacement characters, a tab becomes a space; of a line that a program
    has written over and over (`\\r`), the last writing stands.
    """
    text = raw.decode("utf-8", "replace").rstrip("\r")
    if "\r" in text:
        text = text.rpartition("\r")[2]
    if not text.isprintable():
        text = re.sub(_HIDDEN, "", re.sub(_SEQUENCES, "", text).replace("\t", " "))
    return text if len(text) <= MAX_LINE else text[: MAX_LINE - len(_CUT)] + _CUT


class Lines:
    """Puts lines together from the pieces in which a command's two streams arrive."""

    def __init__(self) -> None:
        self._begun: dict[int, bytes] = {}

    def feed(self, stream: int, chunk: bytes) -> Iterator[str]:
        """The lines that end in this piece of a stream."""
        *ended, rest = (self._begun.get(stream, b"") + chunk).split(b"\n")
        self._begun[stream] = rest[:_RAW_LINE]
        for line in ended:
            yield readable(line[:_RAW_LINE])

    def end(self) -> Iterator[str]:
        """What was begun and never ended; a new command begins with nothing."""
        begun, self._begun = self._begun, {}
        for line in begun.values():
            if line:
                yield readable(line)
