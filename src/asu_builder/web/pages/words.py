"""Numbers, sizes and times as people read them."""

import re
from datetime import UTC, datetime, timedelta

from markupsafe import Markup, escape

_CODE = re.compile("`([^`]+)`")
_ADDRESS = re.compile(r"https://[A-Za-z0-9._~/?#=&;%+-]*[A-Za-z0-9/]")
_REACHED = re.compile(
    r"https?://[A-Za-z0-9._~/?#=&;%+:@-]*[A-Za-z0-9/]|[A-Za-z0-9._%+-]+@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+"
)
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def size(count: float) -> str:
    """Bytes in the largest unit that leaves at least one: `9.4 MiB`."""
    unit = 0
    while count >= 1024 and unit < len(_UNITS) - 1:
        count /= 1024
        unit += 1
    return f"{count:.0f} {_UNITS[unit]}" if unit == 0 or count >= 100 else f"{count:.1f} {_UNITS[unit]}"


def span(length: timedelta | float) -> str:
    """A length of time, or seconds, in its two largest units: `3 min 20 s`."""
    seconds = length.total_seconds() if isinstance(length, timedelta) else length
    if seconds < 10:
        return f"{max(0.0, seconds):.1f} s"
    whole = round(seconds)
    parts = ((whole // 86400, "d"), (whole // 3600 % 24, "h"), (whole // 60 % 60, "min"), (whole % 60, "s"))
    first = next(index for index, (count, _) in enumerate(parts) if count)
    return " ".join(f"{count} {unit}" for count, unit in parts[first : first + 2] if count)


def moment(at: datetime) -> Markup:
    """A time in UTC, as in the log; the browser's script adds the reader's own as a tooltip."""
    utc = at.astimezone(UTC)
    return Markup('<time datetime="{}">{}</time>').format(
        utc.isoformat(timespec="seconds"), f"{utc:%Y-%m-%d %H:%M} UTC"
    )


def number(count: float) -> str:
    """A number with thin spaces between thousands."""
    return f"{count:,}".replace(",", "\u202f")


def sentence(text: str) -> Markup:
    """A sentence of ours, what stands in backticks as code."""
    return Markup(_CODE.sub(r"<code>\1</code>", str(escape(text))))


def contact(text: str) -> Markup:
    """Who runs this server, as the operator wrote it; addresses of mail and of pages are links."""
    parts = []
    end = 0
    for found in _REACHED.finditer(text):
        address = found[0] if "://" in found[0] else f"mailto:{found[0]}"
        link = Markup('<a href="{}" rel="noreferrer">{}</a>').format(address, found[0])
        parts += [escape(text[end : found.start()]), link]
        end = found.end()
    return Markup("").join([*parts, escape(text[end:])])


def linked(text: str) -> Markup:
    """A sentence of ours as `sentence` makes it, whose addresses are links."""
    return Markup(_ADDRESS.sub(r'<a href="\g<0>" rel="noreferrer">\g<0></a>', str(sentence(text))))
