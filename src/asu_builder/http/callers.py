"""Identifies the caller: the holder of a token, or an address that a client cannot choose."""

import re
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING, NamedTuple

from asu_builder.domain.access import Caller, Right, Token, digest_of
from asu_builder.domain.errors import NotAuthenticated, TooManyRequests

if TYPE_CHECKING:
    from starlette.types import Scope

Admit = Callable[[str], TooManyRequests | None]
"""Counts one more for the caller of this name, or says why not."""

UNKNOWN = Caller("unknown", many=True)
"""A caller without an address, for example through a Unix socket."""

_REMEMBERED = 10_000
_MOST_HOPS = 32
_LONGEST = 64
"""In bytes, of one entry in `X-Forwarded-For`; an IPv6 address with brackets and port has 47."""
_BRACKETED = re.compile(r"\[([^\[\]]+)\](?::[0-9]{1,5})?")
_WITH_PORT = re.compile(r"([0-9.]+):[0-9]{1,5}")
_MAPPED = IPv6Network("::ffff:0:0/96")
_HOUSEHOLD = 64


class _Hop(NamedTuple):
    caller: Caller
    trusted: bool


class Callers:
    """Tells callers apart. Nothing but the peer's own address is believed of anybody else.

    A proxy in `trusted_proxies` (addresses and networks) is believed about who came to it, by the
    last entry of `X-Forwarded-For` that no trusted proxy made about another.
    """

    def __init__(self, tokens: Iterable[Token], trusted_proxies: Sequence[str]) -> None:
        self._holders = {token.digest: Caller(token.name, token) for token in tokens}
        self._trusted = tuple(_network(text) for text in trusted_proxies)
        self._hop = lru_cache(_REMEMBERED)(self._read)

    def of(self, scope: "Scope") -> Caller:
        """Who sent a request. Raises `NotAuthenticated` for an unknown token."""
        holder = None
        forwarded: list[bytes] = []
        for name, value in scope["headers"]:
            if name == b"authorization":
                scheme, *secret = value.split(None, 1) or [b""]
                # What a proxy in front asks for, such as a password, is none of our business.
                if scheme.lower() == b"bearer":
                    holder = self._holders.get(digest_of(b"".join(secret).strip().decode("latin-1")))
                    if holder is None:
                        raise NotAuthenticated(
                            "The token that was sent is not known here: correct it, or ask without the "
                            "header `Authorization`."
                        )
            elif name == b"x-forwarded-for":
                forwarded.append(value)
        if holder:
            return holder
        peer = scope.get("client")
        hop = self._hop(peer[0]) if peer else None
        if hop is None:
            return UNKNOWN
        entries = b",".join(forwarded).rsplit(b",", _MOST_HOPS)[-_MOST_HOPS:]
        while hop.trusted and entries:
            entry = entries.pop()
            before = self._hop(entry.strip().decode("latin-1")) if len(entry) <= _LONGEST else None
            if before is None:
                break
            hop = before
        return hop.caller

    def may_read(self, scope: "Scope") -> bool:
        """Whether a request comes from the holder of a token that may read what operators read."""
        try:
            return self.of(scope).may(Right.READ)
        except NotAuthenticated:
            return False

    def counted_as(self, host: str) -> str | None:
        """Under which name a peer's connections are counted; None for a trusted proxy."""
        hop = self._hop(host)
        if hop is None:
            return host[:_LONGEST]
        return None if hop.trusted else hop.caller.name

    def trusts(self, host: str) -> bool:
        """Whether this peer is a trusted proxy."""
        hop = self._hop(host)
        return hop is not None and hop.trusted

    def _read(self, text: str) -> _Hop | None:
        """None for what is no address."""
        address = _address(text)
        if address is None:
            return None
        trusted = any(address in network for network in self._trusted)
        name = str(address)
        if isinstance(address, IPv6Address):
            host_bits = 128 - _HOUSEHOLD
            name = str(IPv6Network((int(address) >> host_bits << host_bits, _HOUSEHOLD)))
        return _Hop(Caller(name, many=trusted), trusted)


def _address(text: str) -> IPv4Address | IPv6Address | None:
    """An address with or without port and brackets; IPv4 in IPv6's clothes is IPv4."""
    bracketed, with_port = _BRACKETED.fullmatch(text), _WITH_PORT.fullmatch(text)
    try:
        address = IPv6Address(bracketed[1]) if bracketed else ip_address(with_port[1] if with_port else text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def _network(text: str) -> IPv4Network | IPv6Network:
    network = ip_network(text)
    if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED):
        mapped = IPv4Address(int(network.network_address) & 0xFFFFFFFF)
        return IPv4Network((mapped, network.prefixlen - 96))
    return network
