"""Where the download server may send this process, and where not."""

import socket
from collections.abc import Callable
from contextlib import AbstractContextManager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from asu_builder.domain.addresses import is_public
from asu_builder.domain.errors import UpstreamUnavailable
from asu_builder.upstream.server import RedirectRefused, Redirects, UpstreamServer
from forward_proxy import forward_proxy
from odd_server import running

PUBLIC = "https://downloads.example.org/openwrt"


@pytest.mark.parametrize(
    ("location", "leads_to"),
    [
        ("/other/x", "https://downloads.example.org/other/x"),
        ("x?y=1", "https://downloads.example.org/openwrt/x?y=1"),
        ("https://downloads.example.org:443/x", "https://downloads.example.org:443/x"),
        ("HTTPS://Downloads.Example.org./x", "https://Downloads.Example.org./x"),
        ("https://mirror.example.org/x", "https://mirror.example.org/x"),
        ("https://odd.example.org:8443/x", "https://odd.example.org:8443/x"),
    ],
)
def test_redirects_within_the_own_host_and_to_named_ones_are_followed(location: str, leads_to: str) -> None:
    redirects = Redirects(PUBLIC, ("Mirror.example.org", "odd.example.org:8443"))
    assert redirects.follow(f"{PUBLIC}/.versions.json", location) == leads_to


@pytest.mark.parametrize(
    "location",
    [
        "https://elsewhere.example.org/x",
        "https://downloads.example.org:8443/x",
        "https://mirror.example.org:8443/x",
        "https://odd.example.org/x",
        "http://downloads.example.org/x",
        "http://169.254.169.254/latest/meta-data",
        "//127.0.0.1/x",
        "https://downloads.example.org@evil.example.org/",
        "https://user:secret@downloads.example.org/",
        "https://downloads.example.org.evil.example.org/",
        "file:///etc/passwd",
        "gopher://downloads.example.org/",
        "https://[::1/x",
        "https://downloads.example.org:99999/",
        "https://downloads.example.org\\@evil.example.org/",
        "https://evil.example.org\\.downloads.example.org/",
    ],
)
def test_all_others_are_not(location: str) -> None:
    redirects = Redirects(PUBLIC, ("mirror.example.org", "odd.example.org:8443"))
    with pytest.raises(RedirectRefused):
        redirects.follow(f"{PUBLIC}/.versions.json", location)


def test_a_plain_server_may_send_us_to_its_secure_self() -> None:
    assert Redirects("http://a.example.org", ()).follow("http://a.example.org/x", "https://a.example.org/x")
    with pytest.raises(RedirectRefused):
        Redirects("http://a.example.org:8080", ()).follow(
            "http://a.example.org:8080/x", "https://a.example.org/x"
        )


@pytest.mark.parametrize("address", ["1.1.1.1", "2606:4700::1111", "64:ff9b::101:101", "::ffff:1.1.1.1"])
def test_addresses_of_the_open_internet(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0"),
        *("224.0.0.1", "255.255.255.255", "::1", "::", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "ff02::1"),
        *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::"),
    ],
)
def test_addresses_that_are_not(address: str) -> None:
    assert not is_public(address)


class _Handler(BaseHTTPRequestHandler):
    server: "_Server"

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        location = self.server.locations.get(self.path)
        self.send_response(302 if location else 200)
        if location:
            self.send_header("Location", location)
        self.send_header("Content-Length", "0" if location else "2")
        self.end_headers()
        if not location:
            self.wfile.write(b"{}")

    def log_message(self, format: str, *args: object) -> None:
        """Silent."""


class _Server(ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[str] = []
        self.locations: dict[str, str] = {}
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


def serving() -> AbstractContextManager[_Server]:
    """A server some of whose addresses lead elsewhere."""
    return running(_Server())


def test_a_mirror_on_this_machine_may_redirect_within_itself() -> None:
    with serving() as mirror:
        mirror.locations = {"/a": "/b", "/b": f"{mirror.url}/c"}
        assert UpstreamServer(mirror.url).get("a", etag="").body == b"{}"
        assert mirror.asked == ["/a", "/b", "/c"]


def test_a_redirect_that_never_ends_is_left() -> None:
    with serving() as mirror:
        mirror.locations = {"/a": "/a"}
        with pytest.raises(UpstreamUnavailable, match="elsewhere"):
            UpstreamServer(mirror.url).get("a", etag="")
        assert len(mirror.asked) == 4


def test_another_service_of_the_machine_is_never_asked_unless_it_is_named() -> None:
    with serving() as mirror, serving() as other:
        mirror.locations = {"/a": f"{other.url}/secret"}
        with pytest.raises(UpstreamUnavailable, match="elsewhere") as caught:
            UpstreamServer(mirror.url).get("a", etag="")
        assert other.asked == [] and other.url not in str(caught.value)
        named = UpstreamServer(mirror.url, redirect_hosts=(urlsplit(other.url).netloc,))
        assert named.get("a", etag="").body == b"{}"


def pretending(real: Callable[..., object], public: str) -> Callable[..., object]:
    """Name resolution in which upstream's own name has a public address."""

    def resolve(host: str, port: int, *arguments: object, **more: object) -> object:
        if host == "upstream.example.org" and more == {"type": socket.SOCK_STREAM}:
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (public, port))]
        return real("127.0.0.1" if host.endswith(".example.org") else host, port, *arguments, **more)

    return resolve


def test_a_name_that_leads_to_this_machine_is_found_out_when_it_is_connected_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Upstream is public here, and the host that it may redirect to resolves to loopback."""
    with serving() as mirror, serving() as other:
        port, others = urlsplit(mirror.url).port, urlsplit(other.url).port
        mirror.locations = {"/a": f"http://mirror.example.org:{others}/secret"}
        server = UpstreamServer(
            f"http://upstream.example.org:{port}", redirect_hosts=(f"mirror.example.org:{others}",)
        )
        monkeypatch.setattr(socket, "getaddrinfo", pretending(socket.getaddrinfo, "1.1.1.1"))
        with pytest.raises(UpstreamUnavailable, match="elsewhere"):
            server.get("a", etag="")
        assert (mirror.asked, other.asked) == (["/a"], [])


def knowing(real: Callable[..., object], addresses: dict[str, list[str]]) -> Callable[..., object]:
    """Name resolution in a network that is left through a proxy: it knows these names and no others."""

    def resolve(host: str, port: int, *arguments: object, **more: object) -> object:
        if not host.endswith((".example.org", ".invalid")):
            return real(host, port, *arguments, **more)
        if host not in addresses:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (place, port)) for place in addresses[host]]

    return resolve


UNKNOWN: dict[str, list[str]] = {}
FAR, NAMED = "downloads.example.org", "mirror.example.org"


@pytest.mark.process
@pytest.mark.parametrize(
    ("upstream", "elsewhere", "known", "followed"),
    [
        (FAR, NAMED, UNKNOWN, True),
        (FAR, NAMED, {NAMED: ["1.1.1.1"]}, True),
        (FAR, NAMED, {NAMED: ["10.0.0.7"]}, False),
        (FAR, NAMED, {NAMED: ["1.1.1.1", "fd00::7"]}, False),
        (FAR, NAMED, {NAMED: ["127.0.0.1"]}, False),
        (FAR, NAMED, {NAMED: ["10.0.0.7"], FAR: ["1.1.1.1"]}, False),
        (FAR, NAMED, {NAMED: ["10.0.0.7"], FAR: ["10.0.0.1"]}, True),
        (FAR, FAR, {FAR: ["10.0.0.1"]}, True),
        (FAR, "10.0.0.7", UNKNOWN, False),
        (FAR, "169.254.169.254", UNKNOWN, False),
        (FAR, "10.7", UNKNOWN, False),
        (FAR, "0xa000007", UNKNOWN, False),
        (FAR, "167772167", UNKNOWN, False),
        (FAR, "[::ffff:10.0.0.7]", UNKNOWN, False),
        ("10.0.0.1", "10.0.0.7", UNKNOWN, True),
        ("10.0.0.1", NAMED, {NAMED: ["10.0.0.7"]}, True),
    ],
)
def test_behind_a_proxy_what_a_name_means_here_decides(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    upstream: str,
    elsewhere: str,
    known: dict[str, list[str]],
    followed: bool,
) -> None:
    """Where a name means nothing here, the operator has named it and the proxy knows where it leads."""
    log = tmp_path / "proxy.log"
    with serving() as mirror:
        place = urlsplit(mirror.url).netloc
        mirror.locations = {"/a": f"http://{elsewhere}/b"}
        names = {name.replace(".", "_"): place for name in (upstream, elsewhere.strip("[]"))}
        with forward_proxy(log, **names) as port:
            monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{port}")
            monkeypatch.delenv("no_proxy", raising=False)
            monkeypatch.setattr(socket, "getaddrinfo", knowing(socket.getaddrinfo, known))
            server = UpstreamServer(f"http://{upstream}", redirect_hosts=(elsewhere,))
            if followed:
                assert server.get("a", etag="").body == b"{}"
            else:
                with pytest.raises(UpstreamUnavailable, match="elsewhere"):
                    server.get("a", etag="")
        asked = [line.split()[1] for line in log.read_text().splitlines()]
    assert asked == [f"http://{upstream}/a", *([f"http://{elsewhere}/b"] if followed else [])]


@pytest.mark.parametrize("elsewhere", ["127.0.0.1", "localhost", "0.0.0.0", "[::1]", "cache.localhost"])
def test_what_is_this_machine_in_any_case_is_asked_through_no_proxy_and_refused(
    monkeypatch: pytest.MonkeyPatch, elsewhere: str
) -> None:
    redirects = Redirects(f"http://{FAR}", (elsewhere,))
    monkeypatch.setattr(socket, "getaddrinfo", knowing(socket.getaddrinfo, UNKNOWN))
    with pytest.raises(RedirectRefused):
        redirects.require_public_name(f"http://{elsewhere}/x")


def test_a_name_that_is_not_known_here_is_looked_up_once_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds, asked = [0.0], []

    def unknown(host: str, *_: object, **__: object) -> object:
        asked.append(host)
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    redirects = Redirects(f"http://{FAR}", (NAMED,), clock=lambda: seconds[0])
    for at in (0.0, 59.0, 61.0):
        seconds[0] = at
        redirects.require_public_name(f"http://{NAMED}/x")
    assert asked == [NAMED, NAMED]
