"""The download server itself: requests that end in bounded time, and whether it answers."""

import logging
import re
import threading
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

from msgspec import Struct

from asu_builder.adapters.upstream_redirects import (
    MOST_HOPS,
    STATUSES,
    RedirectRefused,
    Redirects,
    watch_peers,
)
from asu_builder.domain.breaker import Breaker
from asu_builder.domain.errors import UpstreamUnavailable
from asu_builder.loading import LOADING

if TYPE_CHECKING:
    import urllib3

_log = logging.getLogger(__name__)

_CONNECT_SECONDS = 5.0
_READ_SECONDS = 12.0
_WHOLE_SECONDS = 60.0
_DOWN_FIRST, _DOWN_LONGEST = timedelta(seconds=2), timedelta(seconds=10)
"""How long nothing is asked for when no connection was made, at first and at most."""
_CONNECTIONS = 160
_MAX_DOCUMENT_BYTES = 32 << 20
_MOST_FORBIDDEN = 2000
_OPTIONAL = re.compile(r"(?:^|/)(?:\.overview\.json|index\.json|Packages(?:\.gz)?)$")
"""Documents that a sound server may lack: lists of devices, and indexes of packages."""


class Response(Struct, frozen=True):
    """What the server has for a path: 200 with a body, 304 for what the asker has, 404 for nothing."""

    status: int
    etag: str
    body: bytes
    forbidden: bool = False
    """Whether it is an optional document that was answered 403: object storage says so of what it lacks."""


class UpstreamServer:
    """Documents below one address; safe to use from any thread."""

    def __init__(
        self, url: str, *, redirect_hosts: Sequence[str] = (), clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`redirect_hosts` may follow it. `clock` counts seconds and never leaps."""
        self.url = url.rstrip("/")
        self.down = Breaker(clock=clock, first=_DOWN_FIRST, longest=_DOWN_LONGEST)
        """Open while no connection can be made: whatever is asked for, there is no answer."""
        self.forbidden: set[str] = set()
        """Optional documents that were answered 403 the last time."""
        self._lock = threading.Lock()
        self._redirects = Redirects(self.url, redirect_hosts, clock=clock)
        self._pools: dict[tuple[bool, str], urllib3.PoolManager] = {}
        """For the server itself, and for where it sends us; each by the proxy in between, if any."""
        self._problem = ""

    @property
    def problem(self) -> str:
        """Why the latest request got no answer, in a sentence; empty when it got one, or none was made."""
        return self._problem

    def get(self, path: str, *, etag: str) -> Response:
        """Asks for a document, or only whether it has changed when there is an `etag`.

        Raises `UpstreamUnavailable`.
        """
        try:
            response = self._request(path, etag)
        except UpstreamUnavailable as error:
            if not self._problem:
                _log.warning("%s Answering from what was seen before", error)
            self._problem = str(error)
            raise
        if self._problem:
            self._problem = ""
            _log.warning("The download server %s answers again", self.url)
        return response

    def _request(self, path: str, etag: str) -> Response:
        with LOADING:
            import urllib3

        headers = {"If-None-Match": etag} if etag else {}
        try:
            answer, body = self._ask(f"{self.url}/{path}", headers)
        except RedirectRefused as error:
            self.down.worked()
            _log.warning("Not followed: %s", error)
            raise UpstreamUnavailable(
                f"The download server {self.url} sends us elsewhere for {path}, which is not followed."
            ) from error
        except (urllib3.exceptions.HTTPError, OSError) as error:
            sentence = f"The download server {self.url} does not answer: {error}."
            if _is_down(error):
                self.down.failed(sentence)
            else:
                self.down.worked()
            raise UpstreamUnavailable(sentence) from error
        self.down.worked()
        if answer.status == 403 and _OPTIONAL.search(path):
            if len(self.forbidden) >= _MOST_FORBIDDEN:
                self.forbidden.clear()
            self.forbidden.add(path)
            return Response(404, "", b"", forbidden=True)
        self.forbidden.discard(path)
        if answer.status not in (200, 304, 404):
            raise UpstreamUnavailable(f"The download server {self.url} answered {answer.status} for {path}.")
        return Response(answer.status, answer.headers.get("ETag", ""), body)

    def _ask(self, address: str, headers: dict[str, str]) -> "tuple[urllib3.BaseHTTPResponse, bytes]":
        """The answer behind redirects. Raises `RedirectRefused` beside urllib3's errors."""
        answer, body = self._get(address, headers, self._connected(address, own=True))
        hops = 0
        while answer.status in STATUSES and (location := answer.headers.get("Location")):
            hops += 1
            if hops > MOST_HOPS:
                raise RedirectRefused(f"{address} leads on and on")
            address = self._redirects.follow(address, location)
            answer, body = self._get(address, headers, self._connected(address, own=False))
        return answer, body

    def _get(
        self, address: str, headers: dict[str, str], pool: "urllib3.PoolManager"
    ) -> "tuple[urllib3.BaseHTTPResponse, bytes]":
        with LOADING:
            from urllib3.exceptions import ProtocolError

        try:
            return _get_once(address, headers, pool)
        except ProtocolError:
            # A connection that was kept may have been closed at this very moment.
            return _get_once(address, headers, pool)

    def _connected(self, address: str, *, own: bool) -> "urllib3.PoolManager":
        with LOADING:
            import urllib3  # costs 50 ms, and the first answer needs none of it

            from asu_builder.adapters.outgoing import open_pool, proxy_of

        proxy = proxy_of(address)
        with self._lock:
            pool = self._pools.get((own, proxy))
            if pool is None:
                timeout = urllib3.Timeout(connect=_CONNECT_SECONDS, read=_READ_SECONDS)
                pool = open_pool(address, maxsize=_CONNECTIONS, timeout=timeout, retries=False)
                # Behind a proxy the peer is the proxy.
                if not own and not pool.proxy:
                    watch_peers(pool, self._redirects.require_public)
                self._pools[own, proxy] = pool
        if not own and pool.proxy:
            self._redirects.require_public_name(address)
        return pool


def _get_once(
    address: str, headers: dict[str, str], pool: "urllib3.PoolManager"
) -> "tuple[urllib3.BaseHTTPResponse, bytes]":
    answer = pool.request("GET", address, headers=headers, preload_content=False, redirect=False)
    try:
        return answer, _read(answer)
    finally:
        answer.release_conn()


def _is_down(error: Exception) -> bool:
    """Whether not even a connection was made. One that says nothing may only lack this document."""
    with LOADING:
        from urllib3.exceptions import ConnectTimeoutError, NewConnectionError, ProxyError, SSLError

    return isinstance(error, NewConnectionError | ConnectTimeoutError | ProxyError | SSLError)


def _read(answer: "urllib3.BaseHTTPResponse") -> bytes:
    """The whole body; a server that trickles for ever is one that does not answer."""
    until = time.monotonic() + _WHOLE_SECONDS
    chunks: list[bytes] = []
    while chunk := answer.read(1 << 16):
        chunks.append(chunk)
        if time.monotonic() > until:
            raise TimeoutError(f"still sending after {_WHOLE_SECONDS:.0f} seconds")
        if len(chunks) << 16 > _MAX_DOCUMENT_BYTES:
            raise OSError(f"the document is larger than {_MAX_DOCUMENT_BYTES >> 20} MiB")
    return b"".join(chunks)
