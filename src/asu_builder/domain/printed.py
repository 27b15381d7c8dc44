"""Text of a container, a mirror or a client, in lines that nothing can be slow on, made safe to show."""

import re
from collections.abc import Iterator

MAX_LINE_LENGTH = 4096
"""Characters of a line that are read: its first and its last half, because a reason may end a long line."""
MAX_LINES = 6_000
"""Lines that are read, the last ones: a reason stands at the end."""
NAME = r"[A-Za-z0-9][A-Za-z0-9._+~-]{0,199}+"
"""What a package may be called, with or without its version."""


def lines_of(text: str) -> list[str]:
    """The lines, ended by any of CR, LF and CR LF, at most `MAX_LINES` of `MAX_LINE` characters."""
    parts = text.replace("\r\n", "\n").replace("\r", "\n").rsplit("\n", MAX_LINES)
    return [part if len(part) <= MAX_LINE_LENGTH else _shortened(part) for part in parts]


def _shortened(line: str) -> str:
    half = MAX_LINE_LENGTH // 2 - 2
    return f"{line[:half]} … {line[-half:]}"


MAX_LINE = 2000
"""Characters of a line that are kept."""

_RAW_LINE = 4 * MAX_LINE
"""Bytes of a line that are looked at; beyond them a line without an end is not even held in memory."""
_LEAST_LINES = 1000
_SHORT_LINE = 40
"""Bytes: a piece of output in which lines are shorter on average is shortened to as many lines."""
_CUT = " […]"
# Patterns as text: most starts need none of them, and `re` remembers what it has compiled.
_SEQUENCES = r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b\n]*(?:\x07|\x1b\\)?|[ -/]*[0-~])"
# Control characters, what breaks a line elsewhere, and what turns the direction of writing round.
_HIDDEN = "[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]"


def readable(raw: bytes) -> str:
    """One line without its end, as text.

    What is no UTF-8 becomes replacement characters, a tab becomes a space; of a line that a program
    has written over and over (`\\r`), the last writing stands.
    """
    return _readable([raw])[0]


def _readable(raw: list[bytes]) -> list[str]:
    """Lines as text, all at once: a flood of short ones costs no more than its bytes."""
    text = b"\n".join(raw).decode("utf-8", "replace")
    if "\r" in text:
        text = "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n"))
    if not text.replace("\n", "").isprintable():
        text = re.sub(_HIDDEN, "", re.sub(_SEQUENCES, "", text).replace("\t", " "))
    lines = text.split("\n")
    return [line if len(line) <= MAX_LINE else line[: MAX_LINE - len(_CUT)] + _CUT for line in lines]


class Lines:
    """Puts lines together from the pieces in which a command's two streams arrive."""

    def __init__(self) -> None:
        self._begun: dict[int, bytes] = {}

    def feed(self, stream: int, chunk: bytes) -> Iterator[str]:
        """The lines that end in this piece of a stream."""
        *ended, rest = (self._begun.get(stream, b"") + chunk).split(b"\n")
        self._begun[stream] = rest[:_RAW_LINE]
        most = max(_LEAST_LINES, len(chunk) // _SHORT_LINE)
        if len(ended) > most:
            # A flood of empty lines tells nothing, and would keep everything else waiting.
            left_out = f"[… {len(ended) - most} lines are left out]".encode()
            ended[most // 2 : len(ended) - most // 2] = [left_out]
        if ended:
            yield from _readable([line[:_RAW_LINE] for line in ended])

    def end(self) -> Iterator[str]:
        """What was begun and never ended; a new command begins with nothing."""
        begun, self._begun = self._begun, {}
        for line in begun.values():
            if line:
                yield readable(line)
