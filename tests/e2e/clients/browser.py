"""A page in a browser: what it may ask another origin for, and what it gets to see."""

import threading
import time
from collections.abc import Mapping
from urllib.parse import urljoin

from e2e.clients.sockets import Reply, exchange

_SIMPLE_TYPES = ("application/x-www-form-urlencoded", "multipart/form-data", "text/plain")
_MAX_HOPS = 20


class NetworkError(Exception):
    """All that a page learns when the other origin did not answer, or did not allow the answer."""


class Browser:
    """Sends `Origin`, asks before it asks, and hides every answer that is not meant for this origin."""

    def __init__(self, origin: str) -> None:
        self.origin = origin
        self.preflights = 0
        self._lock = threading.Lock()

    def fetch(
        self, method: str, url: str, *, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Reply:
        """A cross-origin request of a page's script. Raises `NetworkError`."""
        sent = {"Origin": self.origin, "User-Agent": "Mozilla/5.0", **(headers or {})}
        try:
            if _needs_preflight(method, headers or {}):
                self._preflight(method, url, headers or {})
            for _ in range(_MAX_HOPS):
                reply = exchange(method, url, body=body, headers=sent)
                _require_origin(reply, url)
                if reply.status not in (301, 302, 303, 307, 308):
                    return reply
                url = urljoin(url, reply.header("location"))
        except OSError as error:
            raise NetworkError(f"{method} {url}: {error}") from error
        raise NetworkError(f"too many redirects: {url}")

    def follow_link(self, url: str) -> Reply:
        """A click on a link: no script, no CORS."""
        return exchange("GET", url, headers={"User-Agent": "Mozilla/5.0"})

    def _preflight(self, method: str, url: str, headers: Mapping[str, str]) -> None:
        with self._lock:
            self.preflights += 1
        asked = {"Origin": self.origin, "Access-Control-Request-Method": method}
        names = [name.lower() for name in headers if name.lower() == "content-type"]
        if names:
            asked["Access-Control-Request-Headers"] = ",".join(names)
        reply = exchange("OPTIONS", url, headers=asked)
        _require_origin(reply, url)
        if not 200 <= reply.status <= 299:
            raise NetworkError(f"the preflight of {url} was answered {reply.status}")
        if method not in _words(reply, "access-control-allow-methods"):
            raise NetworkError(f"{url} does not allow {method}")
        # Browsers before 2019 do not know the star.
        missing = set(names) - {word.lower() for word in _words(reply, "access-control-allow-headers")}
        if missing:
            raise NetworkError(f"{url} does not allow the headers {missing}")


def timestamp() -> int:
    """Milliseconds since 1970, as JavaScript counts."""
    return time.time_ns() // 1_000_000


def _needs_preflight(method: str, headers: Mapping[str, str]) -> bool:
    kind = next((value for name, value in headers.items() if name.lower() == "content-type"), None)
    return method not in ("GET", "HEAD", "POST") or (kind is not None and kind not in _SIMPLE_TYPES)


def _require_origin(reply: Reply, url: str) -> None:
    origins = reply.all("access-control-allow-origin")
    if origins != ["*"]:
        raise NetworkError(f"{url}: blocked, Access-Control-Allow-Origin is {origins}")


def _words(reply: Reply, name: str) -> list[str]:
    return [word.strip() for word in reply.header(name).split(",")]
