"""Which proxy a request goes through, by the environment variables that curl, wget and Python read."""

from collections.abc import Mapping
from urllib.parse import urlsplit

from msgspec import Struct, field

from asu_builder.domain.addresses import host_and_port

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
    name, its_port = _split(entry.lower())
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


def _split(entry: str) -> tuple[str, str]:
    """`host:port`, `[address]:port`, or either alone."""
    if entry.startswith("["):
        name, _, port = entry[1:].partition("]")
        return name, port.removeprefix(":")
    name, _, port = entry.partition(":")
    return (entry, "") if ":" in port else (name, port)
