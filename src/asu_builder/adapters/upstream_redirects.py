"""Where the download server may send us: within its own host, or to hosts that the operator names.

Whoever can write to a mirror must not make this process ask services of the machine or of the
network around it, such as a cloud's metadata.
"""

import contextlib
import socket
import time
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urljoin, urlsplit

from asu_builder.domain.proxies import is_loopback
from asu_builder.loading import LOADING

if TYPE_CHECKING:
    import urllib3

STATUSES = (301, 302, 303, 307, 308)
MOST_HOPS = 3
_DEFAULT_PORTS = {"http": 80, "https": 443}
_UNKNOWN_SECONDS = 60.0
_NAT64 = IPv6Network("64:ff9b::/96")


class RedirectRefused(Exception):
    """The download server sends us where we do not go; the text is for the operator."""


class Redirects:
    """What may follow the download server's own address."""

    def __init__(
        self, url: str, named: Sequence[str], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`named` are hosts, each with a port where it is not the usual one. `clock` counts seconds."""
        self._own = urlsplit(url)
        self._clock = clock
        self._unknown: dict[str, float] = {}
        """Until when a name is not looked up again that this machine's resolver does not know."""
        self._named = frozenset(name.lower().replace("[", "").replace("]", "") for name in named)

    def follow(self, address: str, location: str) -> str:
        """The next address. Raises `RedirectRefused`."""
        try:
            before, after = urlsplit(address), urlsplit(urljoin(address, location))
            places = _place(before), _place(after)
        except ValueError:
            raise RedirectRefused(f"{address} leads to {location[:200]!r}, which is no address") from None
        if after.scheme not in _DEFAULT_PORTS or (before.scheme == "https" and after.scheme == "http"):
            raise RedirectRefused(f"{address} leads to {after.scheme}://, which is not followed")
        if "@" in after.netloc or not (places[0] == places[1] or self._is_named(after)):
            raise RedirectRefused(
                f"{address} leads to {after.hostname}:{places[1][1]}, which is not in upstream_redirect_hosts"
            )
        return after.geturl()

    def require_public(self, address: str) -> None:
        """Refuses an address of this machine or of a private network, unless upstream is there itself.

        To be called with the address that a connection was really made to: names may mean another
        one the next time. Raises `RedirectRefused`.
        """
        if not (is_public(address) or self._is_private_itself()):
            raise RedirectRefused(f"a redirect leads to {address}, which is not public")

    def require_public_name(self, address: str) -> None:
        """The same for an address to which a proxy makes the connection, as far as this machine can tell.

        A host written as an address is refused in any of its spellings, and a name that this machine's
        resolver knows. Where it knows none, as in networks that are left through a proxy only, the proxy
        alone can tell where the name leads; the operator has named that host. Raises `RedirectRefused`.
        """
        host, port = _place(urlsplit(address))
        if host == _place(self._own)[0]:
            return
        if all(map(is_public, self._meant_by(host, port))) or self._is_private_itself():
            return
        raise RedirectRefused(f"a redirect leads through the proxy to {host}, which is not public")

    def _meant_by(self, host: str, port: int) -> list[str]:
        """The addresses of a host; none where its name says nothing here."""
        if is_loopback(host):
            return ["127.0.0.1"]
        if (written := _written_address(host)) is not None:
            return [written]
        now = self._clock()
        if now < self._unknown.get(host, now):
            return []
        try:
            return _resolve(host, port)
        except (OSError, UnicodeError):
            # A resolver that does not answer takes long to say so.
            self._unknown[host] = now + _UNKNOWN_SECONDS
            return []

    def _is_private_itself(self) -> bool:
        """Whether upstream is at an address that is not public; one that has no address here is not."""
        host, port = _place(self._own)
        return not all(map(is_public, self._meant_by(host, port)))

    def _is_named(self, after: SplitResult) -> bool:
        host, port = _place(after)
        own_host, own_port = _place(self._own)
        if host == own_host and (port == own_port or (own_port, port) == (80, 443)):
            return True
        usual = port == _DEFAULT_PORTS[after.scheme]
        return f"{host}:{port}" in self._named or (usual and host in self._named)


def _resolve(host: str, port: int) -> list[str]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(entry[4][0]) for entry in found]


def _written_address(host: str) -> str | None:
    """The address that a host is written as, also as old resolvers read it: `0x7f.1` is 127.0.0.1."""
    with contextlib.suppress(ValueError):
        return str(ip_address(host.partition("%")[0]))
    try:
        return socket.inet_ntoa(socket.inet_aton(host))
    except (OSError, ValueError):
        return None


def _place(parts: SplitResult) -> tuple[str, int]:
    """Host and port. Raises `ValueError`."""
    port = parts.port or _DEFAULT_PORTS.get(parts.scheme, 0)
    return (parts.hostname or "").rstrip("."), port


def is_public(text: str) -> bool:
    """Whether an address lies in the open internet."""
    address: IPv4Address | IPv6Address = ip_address(text.partition("%")[0])
    if isinstance(address, IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if address in _NAT64:
            inner = IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            address = inner
    return address.is_global and not address.is_multicast


def watch_peers(pool: "urllib3.PoolManager", require: Callable[[str], None]) -> None:
    """Calls `require` with the address of each new connection of the pool, before anything is sent."""
    with LOADING:
        from urllib3.connection import HTTPConnection, HTTPSConnection
        from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

    def checked(connection: socket.socket) -> socket.socket:
        try:
            require(str(connection.getpeername()[0]))
        except BaseException:
            connection.close()
            raise
        return connection

    class PlainConnection(HTTPConnection):
        def _new_conn(self) -> socket.socket:
            return checked(super()._new_conn())

    class SecureConnection(HTTPSConnection):
        def _new_conn(self) -> socket.socket:
            return checked(super()._new_conn())

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = PlainConnection

    class SecurePool(HTTPSConnectionPool):
        ConnectionCls = SecureConnection

    pool.pool_classes_by_scheme = {"http": PlainPool, "https": SecurePool}
