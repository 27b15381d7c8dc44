"""Addresses that requests and settings name, as comparable parts: what could be read in two ways is none."""

import re
from urllib.parse import SplitResult

from msgspec import Struct

MAX_LENGTH = 1024
DEFAULT_PORTS = {"http": 80, "https": 443}
_SHAPE = re.compile(r"(https?)://([^/?#\\]{1,255})(/[A-Za-z0-9._~+,=@:%-]*(?:/[A-Za-z0-9._~+,=@:%-]*)*)?")
_PLACE = re.compile(
    r"(?:([A-Za-z0-9._~+,=:%-]{1,128})@)?(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._-]{1,253})(?::([0-9]{1,9}))?"
)
# Names within a network of containers may have an underscore.
_LABEL = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_HIGHEST_PORT = 65535


class Address(Struct, frozen=True):
    """One http(s) address; the host is in lower case, the port the scheme's own where none is named."""

    scheme: str
    host: str
    port: int
    path: str
    user: str = ""

    @property
    def segments(self) -> list[str]:
        """The parts of its path that are not empty."""
        return [segment for segment in self.path.split("/") if segment]


def parse_address(text: str) -> Address | None:
    """An http(s) address of plain characters; None for everything else, and for what is ambiguous.

    No port 0, no leading zeros in a port or an IPv4 address, no brackets around what is no IPv6 address.
    """
    shape = _SHAPE.fullmatch(text) if len(text) <= MAX_LENGTH else None
    place = _PLACE.fullmatch(shape[2]) if shape else None
    if shape is None or place is None:
        return None
    user, host, port = place[1] or "", place[2].lower(), place[3]
    if port is not None and (port.startswith("0") or int(port) > _HIGHEST_PORT):
        return None
    if not _is_host(host):
        return None
    return Address(shape[1], host, int(port) if port else DEFAULT_PORTS[shape[1]], shape[3] or "", user)


def host_and_port(parts: SplitResult) -> tuple[str, int]:
    """Where an address leads, the scheme's own port where it names none. Raises `ValueError`."""
    port = parts.port or DEFAULT_PORTS.get(parts.scheme, 0)
    return (parts.hostname or "").rstrip("."), port


def _is_host(host: str) -> bool:
    is_ipv6, is_ipv4 = host.startswith("["), host.rpartition(".")[2].isdigit()
    if not (is_ipv6 or is_ipv4):
        return all(_LABEL.fullmatch(label) for label in host.removesuffix(".").split("."))
    from ipaddress import IPv4Address, IPv6Address  # most hosts have a name

    try:
        if is_ipv6:
            IPv6Address(host[1:-1])
        else:
            IPv4Address(host)
    except ValueError:
        return False
    return True
