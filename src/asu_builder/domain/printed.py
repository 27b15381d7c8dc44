"""Text of a container, a mirror or a client, cut into lines that nothing can be slow on.

Whoever wrote it may be hostile: one line of a megabyte, a megabyte of line ends, a progress meter
without any. Every parser of such text reads these lines, with patterns that cannot backtrack:
possessive repeats, or none, behind a literal beginning.
"""

MAX_LINE = 4096
"""Characters of a line that are read: its first and its last half, because a reason may end a long line."""
MAX_LINES = 6_000
"""Lines that are read, the last ones: a reason stands at the end."""
NAME = r"[A-Za-z0-9][A-Za-z0-9._+~-]{0,199}+"
"""What a package may be called, with or without its version."""


def lines_of(text: str) -> list[str]:
    """The lines, ended by any of CR, LF and CR LF, at most `MAX_LINES` of `MAX_LINE` characters."""
    parts = text.replace("\r\n", "\n").replace("\r", "\n").rsplit("\n", MAX_LINES)
    return [part if len(part) <= MAX_LINE else _shortened(part) for part in parts]


def _shortened(line: str) -> str:
    half = MAX_LINE // 2 - 2
    return f"{line[:half]} … {line[-half:]}"
