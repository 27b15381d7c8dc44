"""The download server itself: requests that end in bounded time, and whether it answers."""

import logging
import threading
import time
from typing import TYPE_CHECKING

from msgspec import Struct

from asu_builder.domain.errors import UpstreamUnavailable
from asu_builder.loading import LOADING

if TYPE_CHECKING:
    import urllib3

_log = logging.getLogger(__name__)

_CONNECT_SECONDS = 5.0
_READ_SECONDS = 30.0
_WHOLE_SECONDS = 60.0
_MAX_DOCUMENT_BYTES = 32 << 20


class Response(Struct, frozen=True):
    """What the server has for a path: 200 with a body, 304 for what the asker has, 404 for nothing."""

    status: int
    etag: str
    body: bytes


class UpstreamServer:
    """Documents below one address; safe to use from any thread."""

    def __init__(self, url: str, *, connections: int) -> None:
        """At most `connections` are kept open."""
        self.url = url.rstrip("/")
        self._connections = connections
        self._lock = threading.Lock()
        self._pool: urllib3.PoolManager | None = None
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
            answer = self._connected().request(
                "GET", f"{self.url}/{path}", headers=headers, preload_content=False
            )
            try:
                body = _read(answer)
            finally:
                answer.release_conn()
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise UpstreamUnavailable(f"The download server {self.url} does not answer: {error}.") from error
        if answer.status not in (200, 304, 404):
            raise UpstreamUnavailable(f"The download server {self.url} answered {answer.status} for {path}.")
        return Response(answer.status, answer.headers.get("ETag", ""), body)

    def _connected(self) -> "urllib3.PoolManager":
        with LOADING:
            import urllib3  # costs 50 ms, and the first answer needs none of it

        with self._lock:
            if self._pool is None:
                timeout = urllib3.Timeout(connect=_CONNECT_SECONDS, read=_READ_SECONDS)
                retries = urllib3.Retry(total=1, redirect=3, backoff_factor=0.2)
                self._pool = urllib3.PoolManager(maxsize=self._connections, timeout=timeout, retries=retries)
            return self._pool


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
