"""Which numbers fit: the settings that have a least value, or a largest one."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asu_builder.settings import Settings

_LEAST = {
    "max_pending_jobs": 1,
    "max_defaults_length": 0,
    "max_custom_rootfs_size_mb": 1,
    "max_head_size": 8 << 10,
    "max_request_line": 1 << 10,
    "max_body_size": 64 << 10,
    "max_fields": 50,
    "max_connections_per_address": 8,
}
_MOST = {
    "max_head_size": 1 << 20,
    "max_request_line": 1 << 20,
    "max_body_size": 16 << 20,
    "max_fields": 100_000,
}
"""So that one request never takes a large part of the memory."""


def range_checks(settings: "Settings") -> Iterator[tuple[str, bool, str]]:
    """Each setting, whether its value fits, and what would."""
    for name, least in _LEAST.items():
        value, most = getattr(settings, name), _MOST.get(name)
        expected = f"of at least {least}" if most is None else f"from {least} to {most}"
        yield name, value >= least and (most is None or value <= most), f"a number {expected}"
    fits = settings.max_request_line <= settings.max_head_size
    yield "max_request_line", fits, "at most max_head_size, because the line is part of the head"
