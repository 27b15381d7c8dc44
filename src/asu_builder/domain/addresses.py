"""Addresses that requests and settings name, as comparable parts, what lies below one, and the proxy to one.

What could be read in two ways is no address.
"""

import re
from collections.abc import Mapping
from urllib.parse import SplitResult, quote, urlsplit

from msgspec import Struct, field

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


def is_comparable(address: Address) -> bool:
    """Whether it can be told what lies below it: nothing has to be decoded or normalised first."""
    unclear = address.user or "%" in address.path or "@" in address.path or "//" in address.path
    return not unclear and not {".", ".."} & set(address.segments)


def is_below(address: Address, place: Address) -> bool:
    """Whether it is `place` or below it, by host, port and whole parts of the path; schemes do not count."""
    return (
        (address.host, address.port) == (place.host, place.port)
        and is_comparable(address)
        and address.segments[: len(place.segments)] == place.segments
    )


_HTTPS = re.compile(r"https://([^/\s]+)")


def plain_address(text: str) -> str:
    """A text in which each HTTPS address is written as plain HTTP to the same port.

    So builds ask their proxy, which speaks HTTPS outwards. One port speaks one protocol, so nothing is lost.
    """
    return _HTTPS.sub(lambda found: f"http://{_with_port(found[1])}", text)


def _with_port(place: str) -> str:
    return place if re.search(r":[0-9]+$", place) else f"{place}:443"


def attachment(name: str) -> str:
    """The `Content-Disposition` of a file that is to be kept under its own name (RFC 6266)."""
    quoted = quote(name)
    plain = f'filename="{name}"' if quoted == name else f"filename*=utf-8''{quoted}"
    return f"attachment; {plain}"


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


_SCHEMES = ("http", "https", "all")


class Proxies(Struct, frozen=True):
    """The proxies of an environment: by scheme, and the hosts that are reached without one."""

    addresses: Mapping[str, str] = field(default_factory=dict)
    """`http`, `https` and `all` → an address."""
    exempt: tuple[str, ...] = ()

    def of(self, url: str) -> str:
        """The address of the proxy for a URL; "" where the request goes directly.

        Never for this machine itself, nor for what is no address.
        """
        try:
            parts = urlsplit(url)
            host, port = host_and_port(parts)
        except ValueError:
            return ""  # the request to that address fails with it
        proxy = self.addresses.get(parts.scheme) or self.addresses.get("all", "")
        if not proxy or not host or is_loopback(host):
            return ""
        return "" if any(_covers(entry, host, port) for entry in self.exempt) else proxy

    def unreadable(self) -> tuple[str, ...]:
        """The variables, in lower case, whose value is no address."""
        return tuple(f"{scheme}_proxy" for scheme, address in self.addresses.items() if not host_of(address))

    def environment(self, *, shares_network: bool) -> dict[str, str]:
        """The variables for a build, in both cases, because each program reads its own.

        A proxy on this machine's loopback address is left out for a build that has a network of its
        own: there that address is the build itself. One that cannot be read is left out too.
        """
        found = {
            f"{scheme}_proxy": address
            for scheme, address in self.addresses.items()
            if (host := host_of(address)) and (shares_network or not is_loopback(host))
        }
        if found and self.exempt:
            found["no_proxy"] = ",".join(self.exempt)
        return {name: value for lower, value in found.items() for name in (lower, lower.upper())}


def read_proxies(environment: Mapping[str, str]) -> Proxies:
    """The proxies of an environment. Names in lower case win, also where they are empty."""
    addresses = {}
    for scheme in _SCHEMES:
        if address := _value(environment, f"{scheme}_proxy"):
            addresses[scheme] = address if "://" in address else f"http://{address}"
    exempt = _value(environment, "no_proxy").replace(",", " ").split()
    return Proxies(addresses, tuple(exempt))


def host_of(address: str) -> str:
    """The host of a proxy; "" for what is no address."""
    try:
        parts = urlsplit(address)
        return "" if parts.port == 0 else parts.hostname or ""
    except ValueError:
        return ""


def _value(environment: Mapping[str, str], name: str) -> str:
    return environment.get(name, environment.get(name.upper(), "")).strip()


def is_loopback(host: str) -> bool:
    """Whether a host is this machine itself, as far as its name tells."""
    host = host.rstrip(".").lower()
    if host == "localhost" or host.endswith(".localhost"):
        return True
    from ipaddress import IPv6Address, ip_address  # only where there is a proxy

    try:
        address = ip_address(host)
    except ValueError:
        return False
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return address.is_loopback or address.is_unspecified


def _covers(entry: str, host: str, port: int) -> bool:
    """Whether an entry of `no_proxy` means this host: `*`, a name and what is below it, an address, a
    network like 10.0.0.0/8, each with a port behind it or not."""
    from ipaddress import ip_address, ip_network

    if entry == "*":
        return True
    name, its_port = entry.lower(), ""
    if name.startswith("["):
        name, _, its_port = name[1:].partition("]")
        its_port = its_port.removeprefix(":")
    elif name.count(":") == 1:
        name, its_port = name.split(":")
    if its_port and its_port != str(port):
        return False
    try:
        address = ip_address(host)
    except ValueError:
        name = name.removeprefix("*").strip(".")
        return bool(name) and (host == name or host.endswith(f".{name}"))
    try:
        return address in ip_network(name, strict=False)
    except ValueError:
        return False


def is_public(text: str) -> bool:
    """Whether an address lies in the open internet, and does not carry one that does not."""
    from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

    address: IPv4Address | IPv6Address = ip_address(text.partition("%")[0])
    if isinstance(address, IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if address in IPv6Network("64:ff9b::/96"):  # NAT64
            inner = IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            address = inner
    return address.is_global and not address.is_multicast and not address.is_reserved
