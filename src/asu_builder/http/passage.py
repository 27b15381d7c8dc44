"""One answer on its way out, and what every answer carries."""

import time

from starlette.types import Message, Scope, Send

BUILD = "/api/v1/build"


BUILD_PREFIX = f"{BUILD}/"


ORIGIN = (b"access-control-allow-origin", b"*")


_CACHE_CONTROL = b"cache-control"


NO_STORE = (_CACHE_CONTROL, b"no-store")
"""What every answer says that does not say how long it may be kept."""


class Passage:
    """One answer on its way out through the door."""

    def __init__(self, scope: Scope, send: Send, *, request_id: bytes, cors: bool) -> None:
        self._send = send
        self._head = scope["method"] == "HEAD"
        self._private = scope["path"].startswith("/api/")
        self._timed = scope["path"] == BUILD or scope["path"].startswith(BUILD_PREFIX)
        self._began = time.perf_counter()
        self._cors = cors
        self.request_id = request_id
        self.status = 500
        self.complete = False
        self.seconds = 0.0
        """From the request to the beginning of its answer."""

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.seconds = time.perf_counter() - self._began
            headers = list(message.get("headers", ()))
            keeps = not self._private and any(name == _CACHE_CONTROL for name, _ in headers)
            message["headers"] = [*headers, *self._additions(keeps=keeps)]
        elif message["type"] == "http.response.body":
            if self._head:
                message["body"] = b""
            self.complete = not message.get("more_body", False)
        await self._send(message)

    def _additions(self, *, keeps: bool) -> list[tuple[bytes, bytes]]:
        additions = [(b"x-request-id", self.request_id)]
        if self._timed:
            additions.append((b"server-timing", b"app;dur=%.1f" % (self.seconds * 1e3)))
        if not keeps:
            additions.append(NO_STORE)
        if self._cors:
            additions.append(ORIGIN)
        return additions
