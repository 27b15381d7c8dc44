"""What a build may fetch, and how it is fetched: one address at a time, from where it was checked to lead."""

import http.client
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from threading import Lock
from typing import TYPE_CHECKING, Protocol
from urllib.parse import SplitResult, unquote, urljoin, urlsplit

from msgspec import Struct, field

from asu_builder.domain.addresses import (
    Address,
    Proxies,
    host_and_port,
    is_below,
    is_public,
    parse_address,
)

if TYPE_CHECKING:
    import ssl

CHUNK = 1 << 16
MOST_BYTES = 4 << 30
"""That one build is given; as much as it may write."""
_MOST_NOTES = 40
_CONNECT_SECONDS = 10.0
_READ_SECONDS = 30.0
_WHOLE_SECONDS = 600.0
"""For one file; builds end after `job_timeout` anyway."""
_MOST_HOPS = 3
_REDIRECTS = (301, 302, 303, 307, 308)
_IDLE_SECONDS = 15.0
_MOST_IDLE = 8
"""Connections to one server that are kept."""
_PASSED_ON = ("content-type", "last-modified", "etag")


class Refused(Exception):
    """A build asked for what it may not have; the text is for its log, `status` for its package manager."""

    def __init__(self, sentence: str, status: int = 403) -> None:
        super().__init__(sentence)
        self.status = status


class Failed(Exception):
    """A server did not give what was asked for; the text is for the build's log."""


class Counts(Struct):
    """What one build had of the proxy."""

    requests: int = 0
    bytes: int = 0
    """Given to it, without heads."""
    refused: int = 0
    cached: int = 0
    """Requests that were answered without a server."""


class Read(Protocol):
    """What a build has read of files that are kept for others."""

    def drop(self) -> None:
        """Keeps none of it any longer: the build's package manager has refused some of it."""


class Job(Struct):
    """One build, as the proxy knows it."""

    key: str
    note: Callable[[str], None] = lambda sentence: None
    """Called with a sentence for the build's log."""
    places: tuple[Address, ...] = ()
    """What it may fetch from: these and what is below them."""
    traffic: Counts = field(default_factory=Counts)
    lock: Lock = field(default_factory=Lock)
    noted: dict[str, None] = field(default_factory=dict)
    read: Read | None = None
    """The package cache puts it here with the first one."""

    def allow(self, urls: Iterable[str]) -> None:
        """Adds addresses to what it may fetch from; one that cannot be read adds nothing."""
        found = [address for url in urls if (address := parse_address(url))]
        with self.lock:
            self.places = tuple(dict.fromkeys((*self.places, *found)))

    def find(self, url: str) -> str:
        """The address to fetch, for one that the build asks for in plain HTTP. Raises `Refused`."""
        asked = parse_address(url)
        if asked is None:
            raise Refused(f"{url[:200]!a} is no address of a file", 400)
        schemes = {place.scheme for place in self.places if is_below(asked, place)}
        if not schemes:
            raise Refused(f"{url[:200]} is not below a repository of this build")
        scheme = "https" if "https" in schemes else "http"
        usual = asked.port == (443 if scheme == "https" else 80)
        return f"{scheme}://{asked.host}{'' if usual else f':{asked.port}'}{asked.path or '/'}"

    def tell(self, sentence: str) -> None:
        """Notes a sentence once, and no more than some of a build that provokes them."""
        with self.lock:
            if sentence in self.noted or len(self.noted) > _MOST_NOTES:
                return
            self.noted[sentence] = None
            is_last = len(self.noted) > _MOST_NOTES
        self.note("more is not told" if is_last else sentence)


class Stream(Struct):
    """An answer on its way. `close` ends it, however much of it was read."""

    status: int
    headers: Mapping[str, str]
    """Names in lower case; only those that a build may see."""
    length: int | None
    """Bytes of `chunks`, where the server has told."""
    chunks: Iterator[bytes]
    """Raises `Failed` where it ends early."""
    is_cached: bool = False
    close: Callable[[], None] = lambda: None


class Fetcher(Protocol):
    """Where a job's files come from."""

    def fetch(self, job: Job, url: str) -> Stream:
        """The answer to a GET of an address that the job may have. Raises `Refused` or `Failed`."""


class Allowed(Struct, frozen=True):
    """What the operator has said about where builds may get, beside each build's own list."""

    private: tuple[tuple[str, int], ...] = ()
    """Hosts and ports that may lie at addresses which are not public."""
    redirects: tuple[tuple[str, int], ...] = ()
    """Hosts and ports to which servers may redirect."""
    proxies: Proxies = Proxies()


class Direct:
    """Fetches from the servers themselves; every thread may use it.

    A host that the operator has not named is only connected to at a public address, the very one that was
    looked at. Behind an outgoing proxy of the operator only the names of hosts decide.
    """

    def __init__(self, allowed: Allowed) -> None:
        self._allowed = allowed
        self._lock = Lock()
        self._idle: dict[tuple[str, str, int], list[tuple[float, http.client.HTTPConnection]]] = {}
        self._context: ssl.SSLContext | None = None

    def fetch(self, job: Job, url: str, *, headers: Mapping[str, str] | None = None) -> Stream:
        """The answer to a GET, behind at most three redirects; `headers` are sent in addition.

        Raises `Refused` or `Failed`.
        """
        for _ in range(_MOST_HOPS + 1):
            response, connection = self._ask(url, headers or {})
            location = response.headers.get("Location")
            if response.status not in _REDIRECTS or not location:
                return self._stream(url, response, connection)
            connection.close()
            url = self._follow(job, url, location)
        raise Failed(f"{url} leads on and on")

    def close(self) -> None:
        """Closes the connections that are kept."""
        with self._lock:
            for idle in self._idle.values():
                for _, connection in idle:
                    connection.close()
            self._idle.clear()

    def _follow(self, job: Job, url: str, location: str) -> str:
        try:
            before, after = urlsplit(url), urlsplit(urljoin(url, location))
            place = host_and_port(after)
        except ValueError:
            raise Refused(f"{url} leads to {location[:200]!a}, which is no address", 502) from None
        known = {(entry.host, entry.port) for entry in job.places} | set(self._allowed.redirects)
        upgraded = place == (before.hostname, 443) and host_and_port(before)[1] == 80
        if (
            after.scheme not in ("http", "https")
            or (before.scheme, after.scheme) == ("https", "http")
            or "@" in after.netloc
            or not (place in known or upgraded)
        ):
            target = f"{after.scheme}://{after.netloc.rpartition('@')[2]}"
            raise Refused(f"{url} leads to {target[:200]}, which is not followed", 502)
        return after._replace(fragment="").geturl()

    def _ask(
        self, url: str, headers: Mapping[str, str]
    ) -> tuple[http.client.HTTPResponse, http.client.HTTPConnection]:
        parts = urlsplit(url)
        host, port = host_and_port(parts)
        proxy = self._allowed.proxies.of(url)
        sent = {"Accept-Encoding": "identity", "User-Agent": "asu-builder-proxy", **headers}
        path = f"{parts.path or '/'}{f'?{parts.query}' if parts.query else ''}"
        if proxy and parts.scheme == "http":
            path = f"http://{parts.netloc}{path}"
            sent |= _authorization(urlsplit(proxy))
        kept = self._kept((parts.scheme, host, port))
        while True:
            connection = kept
            try:
                connection = connection or self._connect(parts.scheme, host, port, proxy)
                # The tunnel's connection would else name the proxy.
                connection.request("GET", path, headers={"Host": parts.netloc, **sent})
                return connection.getresponse(), connection
            except (OSError, http.client.HTTPException, ValueError) as error:
                if connection:
                    connection.close()
                if kept is None:
                    raise Failed(
                        f"{parts.scheme}://{parts.netloc} does not answer: {_reason(error)}"
                    ) from error
                kept = None  # it may have been closed at this very moment

    def _connect(self, scheme: str, host: str, port: int, proxy: str) -> http.client.HTTPConnection:
        if proxy:
            return self._connect_through(urlsplit(proxy), scheme, host, port)
        may_be_private = (host, port) in self._allowed.private
        places = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
        reached = [place for place in places if may_be_private or is_public(str(place[4][0]))]
        if not reached:
            raise Refused(f"{host} has no public address, and the settings do not name it", 502)
        found = None
        for number, (family, kind, protocol, _, address) in enumerate(reached, start=1):
            found = socket.socket(family, kind, protocol)
            found.settimeout(_CONNECT_SECONDS)
            try:
                found.connect(address)
                found.settimeout(_READ_SECONDS)
                found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if scheme == "https":
                    found = self._secure(found, host.strip("[]"))
                break
            except OSError:
                found.close()
                if number == len(reached):
                    raise
        connection = http.client.HTTPConnection(host, port)
        connection.sock = found  # so that it looks the name up no second time
        connection.auto_open = 0
        return connection

    def _connect_through(
        self, proxy: SplitResult, scheme: str, host: str, port: int
    ) -> http.client.HTTPConnection:
        if proxy.scheme != "http":
            raise Failed("the proxy that the environment names does not speak plain HTTP")
        place = (proxy.hostname or "", proxy.port or 80)
        if scheme == "http":
            return http.client.HTTPConnection(*place, timeout=_READ_SECONDS)
        tunnel = http.client.HTTPSConnection(*place, timeout=_READ_SECONDS, context=self._trust())
        tunnel.set_tunnel(host, port, headers=_authorization(proxy))
        return tunnel

    def _trust(self) -> "ssl.SSLContext":
        with self._lock:
            if self._context is None:
                import ssl  # some megabytes, with the certificates

                self._context = ssl.create_default_context()
            return self._context

    def _secure(self, plain: socket.socket, host: str) -> socket.socket:
        return self._trust().wrap_socket(plain, server_hostname=host)

    def _kept(self, place: tuple[str, str, int]) -> http.client.HTTPConnection | None:
        with self._lock:
            idle = self._idle.get(place, [])
            while idle:
                since, connection = idle.pop()
                if time.monotonic() - since < _IDLE_SECONDS:
                    return connection
                connection.close()
        return None

    def _keep(self, url: str, connection: http.client.HTTPConnection) -> None:
        parts = urlsplit(url)
        with self._lock:
            idle = self._idle.setdefault((parts.scheme, *host_and_port(parts)), [])
            if len(idle) < _MOST_IDLE:
                idle.append((time.monotonic(), connection))
                return
        connection.close()

    def _stream(
        self, url: str, response: http.client.HTTPResponse, connection: http.client.HTTPConnection
    ) -> Stream:
        length = response.length
        until = time.monotonic() + _WHOLE_SECONDS

        def read() -> Iterator[bytes]:
            had = 0
            try:
                while chunk := response.read(CHUNK):
                    had += len(chunk)
                    if time.monotonic() > until:
                        raise Failed(f"{url} was still on its way after {_WHOLE_SECONDS:.0f} seconds")
                    yield chunk
            except (OSError, http.client.HTTPException, ValueError) as error:
                raise Failed(f"{url} broke off: {_reason(error)}") from error
            if length is not None and had < length:
                raise Failed(f"{url} broke off after {had} of {length} bytes")
            if not response.will_close:
                kept.append(connection)
                self._keep(url, connection)

        kept: list[http.client.HTTPConnection] = []

        def close() -> None:
            if not kept:
                with suppress(OSError):
                    connection.close()
                response.close()

        headers = {name: value for name in _PASSED_ON if (value := response.headers.get(name))}
        return Stream(response.status, headers, length, read(), close=close)


def _authorization(proxy: SplitResult) -> dict[str, str]:
    if not proxy.username:
        return {}
    from base64 import b64encode

    secret = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return {"Proxy-Authorization": f"Basic {b64encode(secret.encode()).decode()}"}


def _reason(error: BaseException) -> str:
    """Why, in a few words that name nothing of this machine."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    text = getattr(error, "verify_message", "") or getattr(error, "strerror", "") or str(error)
    return " ".join(text.split())[:200] or type(error).__name__
