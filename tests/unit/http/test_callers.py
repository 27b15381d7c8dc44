"""Who sent a request: a token is known or refused, and no client chooses its address."""

import ipaddress
from collections.abc import Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from starlette.types import Scope

from asu_builder.domain.access import Caller, Right, Token, digest_of, new_token
from asu_builder.domain.errors import NotAllowed, NotAuthenticated
from asu_builder.domain.job import Priority
from asu_builder.http.callers import UNKNOWN, Callers

SECRET = "s3cret-of-the-farm"
FARM = Token("farm", digest_of(SECRET), frozenset({Right.READ}), Priority.BULK)
PROXIES = ("10.0.0.0/8", "192.0.2.7", "2001:db8:ffff::/48")


def a_scope(peer: str | None, *headers: tuple[str, str]) -> Scope:
    raw = [(b"host", b"x"), *((name.encode(), value.encode("latin-1")) for name, value in headers)]
    return {"type": "http", "client": (peer, 4711) if peer is not None else None, "headers": raw}


def name_of(peer: str | None, *forwarded: str, proxies: Sequence[str] = PROXIES) -> str:
    """The name of a caller from this peer with these headers."""
    callers = Callers([FARM], proxies)
    return callers.of(a_scope(peer, *(("x-forwarded-for", value) for value in forwarded))).name


# Tokens


@pytest.mark.parametrize("scheme", ["Bearer ", "bearer ", "BEARER   ", "Bearer\t"])
def test_the_holder_of_a_token_is_known_wherever_they_are(scheme: str) -> None:
    caller = Callers([FARM], ()).of(a_scope("203.0.113.1", ("authorization", f"{scheme}{SECRET} ")))
    assert caller == Caller("farm", FARM)
    assert (caller.name, caller.priority, caller.may(Right.READ)) == ("farm", Priority.BULK, True)
    with pytest.raises(NotAllowed, match="farm lacks the right operate"):
        caller.require(Right.OPERATE)


@pytest.mark.parametrize(
    "value", ["Bearer wrong", "Bearer", "Bearer ", f"Bearer {FARM.digest}", f"Bearer {SECRET}\xe9"]
)
def test_an_unknown_token_is_refused_and_not_taken_for_none(value: str) -> None:
    with pytest.raises(NotAuthenticated, match="not known here") as refusal:
        Callers([FARM], ()).of(a_scope("203.0.113.1", ("authorization", value)))
    assert "wrong" not in str(refusal.value)
    assert SECRET not in str(refusal.value)


def test_no_token_is_known_where_there_are_none() -> None:
    with pytest.raises(NotAuthenticated):
        Callers([], ()).of(a_scope("203.0.113.1", ("authorization", f"Bearer {SECRET}")))


def test_an_unknown_token_is_refused_beside_a_known_one() -> None:
    for values in ((SECRET, "wrong"), ("wrong", SECRET)):
        headers = [("authorization", f"Bearer {value}") for value in values]
        with pytest.raises(NotAuthenticated):
            Callers([FARM], ()).of(a_scope("203.0.113.1", *headers))


@pytest.mark.parametrize("value", ["Basic dTpw", "", "  ", f"Token {SECRET}", SECRET])
def test_what_a_proxy_asks_for_makes_no_one_a_holder(value: str) -> None:
    caller = Callers([FARM], ()).of(a_scope("203.0.113.1", ("authorization", value)))
    assert caller == Caller("203.0.113.1")
    with pytest.raises(NotAuthenticated, match="Authorization: Bearer TOKEN"):
        caller.require(Right.READ)


def test_a_new_token_is_new_each_time_and_opens_what_its_digest_guards() -> None:
    (secret, digest), (another, _) = new_token(), new_token()
    assert secret != another
    assert len(secret) == 43, "32 random bytes"
    caller = Callers([Token("mine", digest)], ()).of(a_scope(None, ("authorization", f"Bearer {secret}")))
    assert caller.name == "mine"


# Addresses


@pytest.mark.parametrize(
    ("peer", "name"),
    [
        ("203.0.113.1", "203.0.113.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("::ffff:203.0.113.1", "203.0.113.1"),
        ("::1", "::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", "unknown"),
        ("testclient", "unknown"),
        (None, "unknown"),
    ],
)
def test_an_address_has_one_name_and_a_household_has_one_too(peer: str | None, name: str) -> None:
    assert name_of(peer) == name
    assert name_of(peer, "198.51.100.9") == name, "a peer that is no proxy is not believed"


def test_a_caller_without_an_address_is_unknown() -> None:
    assert Callers([], PROXIES).of(a_scope(None, ("x-forwarded-for", "198.51.100.9"))) is UNKNOWN


@pytest.mark.parametrize(
    ("forwarded", "name"),
    [
        (["198.51.100.9"], "198.51.100.9"),
        (["  198.51.100.9\t"], "198.51.100.9"),
        (["198.51.100.9:4711"], "198.51.100.9"),
        (["[2001:db8:1:2::3]:4711"], "2001:db8:1:2::/64"),
        (["[2001:db8:1:2::3]"], "2001:db8:1:2::/64"),
        (["2001:db8:1:2::3"], "2001:db8:1:2::/64"),
        (["::ffff:198.51.100.9"], "198.51.100.9"),
        (["[::ffff:198.51.100.9]:1"], "198.51.100.9"),
        # What the client says of itself stands further left, and is not looked at.
        (["8.8.8.8, 198.51.100.9"], "198.51.100.9"),
        (["8.8.8.8", "198.51.100.9"], "198.51.100.9"),
        (["8.8.8.8,10.9.9.9,198.51.100.9"], "198.51.100.9"),
        # More than one proxy of ours.
        (["8.8.8.8, 198.51.100.9, 192.0.2.7, 10.1.1.1"], "198.51.100.9"),
        (["198.51.100.9", "[2001:db8:ffff::1]:80", "10.1.1.1:80"], "198.51.100.9"),
        (["198.51.100.9, ::ffff:10.1.1.1"], "198.51.100.9"),
        # Somebody who asks from inside.
        (["10.2.2.2, 10.1.1.1"], "10.2.2.2"),
    ],
)
def test_a_proxy_is_believed_about_who_came_to_it(forwarded: list[str], name: str) -> None:
    assert name_of("10.0.0.1", *forwarded) == name


@pytest.mark.parametrize(
    "entry",
    [
        "",
        " ",
        "unknown",
        "_hidden",
        "198.51.100",
        "198.51.100.256",
        "198.51.100.009",
        "198.51.100.9:",
        "198.51.100.9:port",
        "198.51.100.9:123456",
        "198.51.100.9/32",
        "[198.51.100.9]:1",
        "[2001:db8::1",
        "2001:db8::1]",
        "[[2001:db8::1]]",
        "[2001:db8::1]x",
        '"198.51.100.9"',
        "for=198.51.100.9",
        "198.51.100.9 198.51.100.9",
        "198.51.100.9;",
        "\xb9.2.3.4",
        "\x00",
        "3325256713",
        "1" * 5000,
    ],
)
def test_garbage_ends_the_walk_at_the_last_good_hop(entry: str) -> None:
    assert name_of("10.0.0.1", entry) == "10.0.0.1"
    assert name_of("10.0.0.1", f"8.8.8.8,{entry}") == "10.0.0.1"
    assert name_of("10.0.0.1", f"8.8.8.8,{entry},10.7.7.7") == "10.7.7.7"


def test_long_headers_and_many_hops_come_to_an_end() -> None:
    assert name_of("10.0.0.1", "8.8.8.8," * 100_000 + "198.51.100.9") == "198.51.100.9"
    assert name_of("10.0.0.1", "8.8.8.8," + "10.1.1.1," * 100_000 + "10.1.1.2") == "10.1.1.1"
    assert name_of("10.0.0.1", "198.51.100.9" + " " * 100_000) == "10.0.0.1"
    assert name_of("10.0.0.1", "8.8.8.8," + ",".join(["10.1.1.1"] * 31)) == "8.8.8.8"
    assert name_of("10.0.0.1", "8.8.8.8," + ",".join(["10.1.1.1"] * 32)) == "10.1.1.1"


@pytest.mark.parametrize("peer", ["203.0.113.1", "11.0.0.0", "192.0.2.8", "2001:db8:fffe::1", "unix:", ""])
def test_no_other_peer_is_believed(peer: str) -> None:
    assert name_of(peer, "198.51.100.9") == name_of(peer)


def test_no_peer_is_believed_where_no_proxy_is_named() -> None:
    assert name_of("127.0.0.1", "198.51.100.9", proxies=()) == "127.0.0.1"


@pytest.mark.parametrize("proxy", ["::ffff:127.0.0.1", "::ffff:127.0.0.0/104", "127.0.0.1", "127.0.0.0/8"])
@pytest.mark.parametrize("peer", ["127.0.0.1", "::ffff:127.0.0.1"])
def test_a_proxy_may_be_named_and_come_in_either_form(proxy: str, peer: str) -> None:
    assert name_of(peer, "198.51.100.9", proxies=(proxy,)) == "198.51.100.9"


def test_a_network_of_ipv6_is_not_one_of_ipv4() -> None:
    assert name_of("127.0.0.1", "198.51.100.9", proxies=("::/0",)) == "127.0.0.1"


@pytest.mark.parametrize("header", ["forwarded", "x-real-ip", "x-client-ip", "x-forwarded-host", "via"])
def test_no_other_header_moves_anybody(header: str) -> None:
    callers = Callers([], PROXIES)
    assert callers.of(a_scope("10.0.0.1", (header, "for=198.51.100.9"))).name == "10.0.0.1"


# For all addresses and all headers

_OUTSIDE = st.ip_addresses(v=4).filter(lambda address: address not in ipaddress.ip_network("10.0.0.0/8"))
_TEXT = st.text(st.characters(max_codepoint=255), max_size=80)
_HEADERS = st.lists(_TEXT | st.ip_addresses().map(str), max_size=6)


@given(_OUTSIDE, _HEADERS)
def test_no_header_moves_an_address_that_is_no_proxy(peer: ipaddress.IPv4Address, headers: list[str]) -> None:
    assert name_of(str(peer), *headers, proxies=["10.0.0.0/8"]) == str(peer)


@given(_OUTSIDE, _HEADERS, st.lists(st.sampled_from(["10.1.1.1", "10.2.2.2:80", " 10.3.3.3 "]), max_size=5))
def test_a_caller_behind_our_proxies_is_found_whatever_it_sent(
    client: ipaddress.IPv4Address, sent: list[str], inner: list[str]
) -> None:
    written_by_proxies = ", ".join([str(client), *inner])
    assert name_of("10.0.0.1", *sent, written_by_proxies, proxies=["10.0.0.0/8"]) == str(client)
    one_header = ",".join([*sent, written_by_proxies])
    assert name_of("10.0.0.1", one_header, proxies=["10.0.0.0/8"]) == str(client)


@given(_TEXT | st.none(), _HEADERS)
@example("10.0.0.1", ["[" * 60, "]"])
@example("10.0.0.1", ["2001:db8::1%" + "x" * 40])
def test_whatever_is_sent_a_name_is_an_address_a_household_or_unknown(
    peer: str | None, headers: list[str]
) -> None:
    name = name_of(peer, *headers, proxies=["0.0.0.0/0", "::/0"])
    if name == "unknown":
        return
    network = ipaddress.ip_network(name)
    assert network.prefixlen == (32 if network.version == 4 else 64)
    assert name == (str(network.network_address) if network.version == 4 else str(network))


@given(st.ip_addresses(v=6), st.integers(0, 2**64 - 1))
def test_a_household_cannot_be_more_than_one_caller(address: ipaddress.IPv6Address, host: int) -> None:
    neighbour = ipaddress.IPv6Address((int(address) >> 64 << 64) | host)
    if address.ipv4_mapped or neighbour.ipv4_mapped:
        return
    assert name_of(str(neighbour), proxies=()) == name_of(str(address), proxies=())
    assert address in ipaddress.ip_network(name_of(str(address), proxies=()))


@given(st.ip_addresses(v=4), st.integers(0, 65535))
def test_every_form_of_an_address_has_the_same_name(address: ipaddress.IPv4Address, port: int) -> None:
    forms = [f"{address}", f"{address}:{port}", f"::ffff:{address}", f"[::ffff:{address}]:{port}"]
    assert {name_of("10.0.0.1", form) for form in forms} == {str(address)}


def test_only_a_proxy_is_trusted() -> None:
    callers = Callers((), ("10.0.0.0/8", "::1"))
    assert all(map(callers.trusts, ("10.1.2.3", "::ffff:10.1.2.3", "::1")))
    assert not any(map(callers.trusts, ("192.0.2.1", "::2", "", "x", "10.1.2.3.4")))
