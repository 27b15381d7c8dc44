"""Sizes and spans of time as operators write them, and back."""

import re
from datetime import timedelta

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)i?B?", re.IGNORECASE)
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw]?)")
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


LONGEST = timedelta(days=36500)
"""Later times than this from now fit neither into a date nor into a wait."""


class Size(int):
    """A number of bytes."""


def parse_duration(text: str) -> timedelta:
    """A span of time from `7d`, `30m`, `10s`, `2h`, `1w` or plain seconds."""
    match = _DURATION.fullmatch(text.strip())
    if not match:
        raise ValueError("expected a duration like 7d, 30m or seconds")
    seconds = float(match[1]) * _UNITS[match[2]]
    if seconds > LONGEST.total_seconds():
        raise ValueError(f"expected a duration of at most {LONGEST.days}d")
    return timedelta(seconds=seconds)


def parse_size(text: str) -> Size:
    """A number of bytes from `20GiB`, `512M` or plain bytes; units are powers of 1024."""
    match = _SIZE.fullmatch(text.strip())
    if not match:
        raise ValueError("expected a size like 20GiB, 512MiB or bytes")
    return Size(float(match[1]) * 1024 ** " KMGT".index(match[2].upper() or " "))


def write_duration(span: timedelta) -> str:
    """The shortest text that means this span: `7d`, `90s`."""
    seconds = span.total_seconds()
    for unit in "dhm":
        if seconds and seconds % _UNITS[unit] == 0:
            return f"{seconds / _UNITS[unit]:.0f}{unit}"
    return f"{seconds:g}s"


def write_size(size: Size) -> str:
    """The shortest text that means exactly this size: `512MiB`."""
    for power, unit in ((4, "TiB"), (3, "GiB"), (2, "MiB"), (1, "KiB")):
        if size and size % 1024**power == 0:
            return f"{size // 1024**power}{unit}"
    return str(int(size))
