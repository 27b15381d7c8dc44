"""OpenWrt's small HTTP client, on which owut and auc stand."""

from dataclasses import dataclass
from urllib.parse import urljoin

from e2e.clients.crash import ClientError
from e2e.clients.sockets import Reply, exchange

_FOLLOWED = (301, 302, 307)
_MAX_HOPS = 10


@dataclass(slots=True)
class Uclient:
    """Asks for nothing compressed, follows few redirects or none, and reads header names in lower case."""

    user_agent: str
    follows_redirects: bool
    timeout: float
    location: str = ""
    """Where the last answer came from: not the address asked for, once redirects were followed."""

    def ask(self, method: str, url: str, body: bytes | None = None) -> Reply:
        """One answer, behind redirects where this client follows them. Raises `OSError`."""
        headers = {"User-Agent": self.user_agent}
        if body is not None:
            headers["Content-Type"] = "application/json"
        for _ in range(_MAX_HOPS):
            reply = exchange(method, url, body=body, headers=headers, timeout=self.timeout)
            self.location = url
            if reply.header("content-encoding"):
                raise ClientError(f"compressed without being asked: {url}")
            if not (self.follows_redirects and reply.status in _FOLLOWED):
                return reply
            url = urljoin(url, reply.header("location"))
        raise ClientError(f"too many redirects: {url}")
