"""Requests to the download server, and to repositories of requests.

They end in bounded time, and stay within the server's own host or hosts that we allow.
"""

import contextlib
import logging
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from ipaddress import ip_address
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

from msgspec import Struct

from asu_builder.domain.addresses import DEFAULT_PORTS, host_and_port, is_loopback, is_public
from asu_builder.domain.errors import ArchiveRefused, BuildInterrupted, UpstreamUnavailable
from asu_builder.domain.health import Breaker
from asu_builder.loading import LOADING
from asu_builder.outgoing import open_pool, proxy_of

if TYPE_CHECKING:
    import urllib3


STATUSES = (301, 302, 303, 307, 308)
MOST_HOPS = 3
_UNKNOWN_SECONDS = 60.0


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
            places = host_and_port(before), host_and_port(after)
        except ValueError:
            raise RedirectRefused(f"{address} leads to {location[:200]!r}, which is no address") from None
        if after.scheme not in DEFAULT_PORTS or (before.scheme == "https" and after.scheme == "http"):
            raise RedirectRefused(f"{address} leads to {after.scheme}://, which is not followed")
        own_host, own_port = host_and_port(self._own)
        host, port = places[1]
        is_own = host == own_host and (port == own_port or (own_port, port) == (80, 443))
        is_usual = port == DEFAULT_PORTS[after.scheme]
        is_named = f"{host}:{port}" in self._named or (is_usual and host in self._named)
        if "@" in after.netloc or not (places[0] == places[1] or is_own or is_named):
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
        host, port = host_and_port(urlsplit(address))
        if host == host_and_port(self._own)[0]:
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
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            return [str(entry[4][0]) for entry in found]
        except (OSError, UnicodeError):
            # A resolver that does not answer takes long to say so.
            self._unknown[host] = now + _UNKNOWN_SECONDS
            return []

    def _is_private_itself(self) -> bool:
        """Whether upstream is at an address that is not public; one that has no address here is not."""
        host, port = host_and_port(self._own)
        return not all(map(is_public, self._meant_by(host, port)))


def _written_address(host: str) -> str | None:
    """The address that a host is written as, also as old resolvers read it: `0x7f.1` is 127.0.0.1."""
    with contextlib.suppress(ValueError):
        return str(ip_address(host.partition("%")[0]))
    try:
        return socket.inet_ntoa(socket.inet_aton(host))
    except (OSError, ValueError):
        return None


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


_log = logging.getLogger(__name__)

_CONNECT_SECONDS = 5.0
_READ_SECONDS = 12.0
_WHOLE_SECONDS = 60.0
_DOWN_FIRST, _DOWN_LONGEST = timedelta(seconds=2), timedelta(seconds=10)
"""How long nothing is asked for when no connection was made, at first and at most."""
_CONNECTIONS = 160
_MAX_DOCUMENT_BYTES, _MAX_FOREIGN_BYTES = 32 << 20, 8 << 20
"""Of one document of the download server, and of one of a repository that a request names."""
_MOST_FORBIDDEN = 2000
_OPTIONAL = re.compile(r"(?:^|/)(?:\.overview\.json|index\.json|Packages(?:\.gz)?|[^/]+\.adb)$")
"""Documents that a sound server may lack: lists of devices, and indexes of packages."""


class Response(Struct, frozen=True):
    """What the server has for a path: 200 with a body, 304 for what the caller has, 404 for nothing."""

    status: int
    etag: str
    body: bytes
    forbidden: bool = False
    """Whether it is an optional document that was answered 403: object storage says so of what it lacks."""


class UpstreamServer:
    """Documents below one address; safe to use from any thread."""

    def __init__(
        self,
        url: str,
        *,
        redirect_hosts: Sequence[str] = (),
        clock: Callable[[], float] = time.monotonic,
        around: str = "",
    ) -> None:
        """`redirect_hosts` may follow it. `clock` counts seconds and never leaps.

        With `around`, the download server's address, this is a server that a request names: only what
        `RepositoryStatus` may ask is asked, less is taken from it, and its failures are no news.
        """
        self.url = url.rstrip("/")
        self.is_foreign = bool(around)
        self._called = f"The {'repository' if around else 'download'} server {self.url}"
        self.down = Breaker(clock=clock, first=_DOWN_FIRST, longest=_DOWN_LONGEST)
        """Open while no connection can be made: whatever is asked for, there is no answer."""
        self.forbidden: set[str] = set()
        """Optional documents that were answered 403 the last time."""
        self._lock = threading.Lock()
        self._redirects = Redirects(self.url, redirect_hosts, clock=clock)
        self._watched: Redirects | None = None
        """What looks at the peers of this server itself; the operator has named the download server."""
        if around and not _is_literal(urlsplit(self.url).hostname or ""):
            self._watched = Redirects(around, (), clock=clock)
        self._pools: dict[tuple[bool, str], urllib3.PoolManager] = {}
        """For the server itself, and for where it sends us; each by the proxy in between, if any."""
        self.problem = ""
        """Why the latest request got no answer, in a sentence; empty when it got one, or none was made."""

    def address(self, path: str) -> str:
        """Where a document is; also its name in the memory."""
        return f"{self.url}/{path}"

    def get(self, path: str, *, etag: str) -> Response:
        """Asks for a document, or only whether it has changed when there is an `etag`.

        Raises `UpstreamUnavailable`.
        """
        try:
            response = self._request(path, etag)
        except UpstreamUnavailable as error:
            if not self.problem and not self.is_foreign:
                _log.warning("%s Answering from what was seen before", error)
            self.problem = str(error)
            raise
        if self.problem:
            self.problem = ""
            if not self.is_foreign:
                _log.warning("The download server %s answers again", self.url)
        return response

    def download(
        self, path: str, write: Callable[[bytes], object], *, most: int, stop: threading.Event, ends: float
    ) -> None:
        """Passes a large file to `write` as it comes, at most `most` bytes.

        It does not go on after `ends`, in seconds of the monotonic clock. Raises `UpstreamUnavailable`,
        `ArchiveRefused` for more bytes, or `BuildInterrupted`.
        """
        with self._translated(path):
            address = self.address(path)
            for hop in range(MOST_HOPS + 1):
                pool = self._connected(address, own=not hop)
                answer = pool.request("GET", address, preload_content=False, redirect=False)
                with contextlib.closing(answer):
                    location = answer.headers.get("Location")
                    if answer.status in STATUSES and location:
                        address = self._redirects.follow(address, location)
                        continue
                    if answer.status != 200:
                        raise UpstreamUnavailable(f"{self._called} answered {answer.status} for {path}.")
                    size = 0
                    while chunk := answer.read(1 << 18):
                        size += len(chunk)
                        if size > most:
                            raise ArchiveRefused(f"{path} is larger than {most >> 20} MiB")
                        if stop.is_set():
                            raise BuildInterrupted("The build was stopped; it will be tried again.")
                        if time.monotonic() > ends:
                            raise TimeoutError(f"{path} did not arrive in time")
                        write(chunk)
                    return
            raise RedirectRefused(f"{address} leads on and on")

    def _request(self, path: str, etag: str) -> Response:
        headers = {"If-None-Match": etag} if etag else {}
        with self._translated(path):
            answer, body = self._ask(self.address(path), headers)
        if answer.status == 403 and _OPTIONAL.search(path):
            if len(self.forbidden) >= _MOST_FORBIDDEN:
                self.forbidden.clear()
            self.forbidden.add(path)
            return Response(404, "", b"", forbidden=True)
        self.forbidden.discard(path)
        if answer.status not in (200, 304, 404):
            raise UpstreamUnavailable(f"{self._called} answered {answer.status} for {path}.")
        return Response(answer.status, answer.headers.get("ETag", ""), body)

    @contextlib.contextmanager
    def _translated(self, path: str) -> Iterator[None]:
        """Foreign errors leave as `UpstreamUnavailable`, and `down` learns from them."""
        with LOADING:
            import urllib3
            from urllib3.exceptions import ConnectTimeoutError, NewConnectionError, ProxyError, SSLError

        try:
            yield
        except RedirectRefused as error:
            self.down.worked()
            _log.log(logging.INFO if self.is_foreign else logging.WARNING, "Not followed: %s", error)
            raise UpstreamUnavailable(
                f"{self._called} sends us elsewhere for {path}, which is not followed."
            ) from error
        except (urllib3.exceptions.HTTPError, OSError) as error:
            sentence = f"{self._called} does not answer: {error}."
            # Not even a connection was made. One that says nothing may only lack this document.
            if isinstance(error, NewConnectionError | ConnectTimeoutError | ProxyError | SSLError):
                self.down.failed(sentence)
            else:
                self.down.worked()
            raise UpstreamUnavailable(sentence) from error
        self.down.worked()

    def _ask(self, address: str, headers: dict[str, str]) -> "tuple[urllib3.BaseHTTPResponse, bytes]":
        """The answer behind redirects. Raises `RedirectRefused` beside urllib3's errors."""
        with LOADING:
            from urllib3.exceptions import ProtocolError

        for hop in range(MOST_HOPS + 1):
            pool = self._connected(address, own=not hop)
            try:
                answer, body = self._get(address, headers, pool)
            except ProtocolError:
                # A connection that was kept may have been closed at this very moment.
                answer, body = self._get(address, headers, pool)
            location = answer.headers.get("Location")
            if answer.status not in STATUSES or not location:
                return answer, body
            address = self._redirects.follow(address, location)
        raise RedirectRefused(f"{address} leads on and on")

    def _connected(self, address: str, *, own: bool) -> "urllib3.PoolManager":
        with LOADING:
            import urllib3  # costs 50 ms, and the first answer needs none of it

        proxy = proxy_of(address)
        with self._lock:
            pool = self._pools.get((own, proxy))
            if pool is None:
                read = _REPOSITORY_SECONDS if self.is_foreign else _READ_SECONDS
                timeout = urllib3.Timeout(connect=_CONNECT_SECONDS, read=read)
                pool = open_pool(address, maxsize=_CONNECTIONS, timeout=timeout, retries=False)
                # Behind a proxy the peer is the proxy.
                watching = self._watched or (None if own else self._redirects)
                if watching and not pool.proxy:
                    watch_peers(pool, watching.require_public)
                self._pools[own, proxy] = pool
        if not own and pool.proxy:
            self._redirects.require_public_name(address)
        return pool

    def _get(
        self, address: str, headers: dict[str, str], pool: "urllib3.PoolManager"
    ) -> "tuple[urllib3.BaseHTTPResponse, bytes]":
        """The answer and its whole body; a server that trickles for ever is one that does not answer."""
        seconds = _REPOSITORY_WHOLE_SECONDS if self.is_foreign else _WHOLE_SECONDS
        most = _MAX_FOREIGN_BYTES if self.is_foreign else _MAX_DOCUMENT_BYTES
        until = time.monotonic() + seconds
        chunks: list[bytes] = []
        answer = pool.request("GET", address, headers=headers, preload_content=False, redirect=False)
        try:
            while chunk := answer.read(1 << 16):
                chunks.append(chunk)
                if time.monotonic() > until:
                    raise TimeoutError(f"still sending after {seconds:.0f} seconds")
                if len(chunks) << 16 > most:
                    raise OSError(f"the document is larger than {most >> 20} MiB")
        finally:
            answer.release_conn()
        return answer, b"".join(chunks)


_REPOSITORY_SECONDS = 5.0
"""For a connection, and for the head of an answer."""
_REPOSITORY_WHOLE_SECONDS = 10.0
"""For one file with all its redirects, beyond which no further request is made."""


class RepositoryStatus:
    """Asks for the head of one file of a request's repository; safe to use from any thread.

    Both package managers call `wget -q`, which ends alike for 404 and for 503 and prints neither.

    Only addresses that the operator's allow list lets through may be asked for. A name that leads to
    an address which is not public is not asked, unless the download server itself lies on such a one:
    the owner of an allowed name must not make this process ask this machine or the network around it.
    An address, or `localhost`, in place of a name is the operator's own word.
    """

    def __init__(self, upstream_url: str) -> None:
        self._around = Redirects(upstream_url, ())

    def ask(self, url: str) -> int:
        """The HTTP status of a file, behind redirects within its own host; 0 when there is none."""
        with LOADING:
            import urllib3

        until = time.monotonic() + _REPOSITORY_WHOLE_SECONDS
        timeout = urllib3.Timeout(connect=_REPOSITORY_SECONDS, read=_REPOSITORY_SECONDS)
        try:
            redirects = Redirects(url, ())
            for _ in range(MOST_HOPS + 1):
                with open_pool(url, maxsize=1, timeout=timeout, retries=False) as pool:
                    # Behind a proxy the peer is the proxy, which alone knows where a name leads.
                    if not pool.proxy and not _is_literal(urlsplit(url).hostname or ""):
                        watch_peers(pool, self._around.require_public)
                    answer = pool.request("GET", url, preload_content=False, redirect=False)
                    answer.close()  # the body may be large, and says nothing
                location = answer.headers.get("Location", "")
                if answer.status not in STATUSES or not location:
                    return answer.status
                if time.monotonic() > until:
                    break
                url = redirects.follow(url, location)
            _log.info("A repository of a request could not be asked: %s leads on and on", url)
        except (urllib3.exceptions.HTTPError, RedirectRefused, OSError, ValueError) as error:
            _log.info("A repository of a request could not be asked: %s", error)
        return 0


def _is_literal(host: str) -> bool:
    """Whether a host is an address or this machine itself, so that the allow list says so, too."""
    try:
        ip_address(host)
    except ValueError:
        return is_loopback(host)
    return True
