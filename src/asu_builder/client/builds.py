"""Builds of a server over HTTP: submit, poll, follow to the end, cancel, fetch."""

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import urllib3

from asu_builder.client.downloads import Source, Stretch
from asu_builder.client.events import Ended, Event, LogLines, Refusal, parse_events, progress_of
from asu_builder.client.server import Response, Server, ServerOperator, refusal
from asu_builder.domain.errors import BuildNotFound, NotAllowed, NotAuthenticated, Unavailable

_POLL_SECONDS = 1.0
_LOG_BYTES = 16 << 20
_PIECE = 256 << 10
_CONTENT_RANGE = re.compile(r"bytes (\d+)-")
_ENDED = (200, 500)


class ServerBuilds:
    """Builds on one server. `patience` is how many seconds it may be away while a build is followed."""

    def __init__(
        self,
        server: Server,
        *,
        patience: float = 60.0,
        pause: Callable[[float], None] = time.sleep,
        on_life: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_life` is called whenever the server sends something while a build is followed; it may raise."""
        self.server = server
        self._on_life = on_life
        self._patience = patience
        self._pause = pause

    def submit(self, body: bytes) -> Response:
        """The answer to a request: 200, 202, or 500 for a build that has failed before.

        Raises what the server refuses, in our words.
        """
        return _build_response(self.server.ask("POST", "/api/v1/build", body=body))

    def whole_hash(self, given: str) -> str:
        """The one hash that begins as given; fewer than all digits need a token that may read.

        Raises `RequestRejected`, `BuildNotFound` or `NotAllowed`.
        """
        try:
            return ServerOperator(self.server).whole_hash(given)
        except (NotAuthenticated, NotAllowed) as error:
            raise NotAllowed(
                "A server knows a build by all 64 digits of its hash. Fewer need a token with the right "
                "read (--token)."
            ) from error

    def look(self, request_hash: str) -> Response:
        """The answer to a poll. Raises `BuildNotFound`."""
        return _build_response(self.server.ask("GET", f"/api/v1/build/{request_hash}"))

    def begin(self, request_hash: str) -> None:
        """Nothing: the server builds by itself."""

    def cancel(self, request_hash: str, cancel_token: str) -> None:
        """Ends it before its time. Raises `NotAllowed`, `Conflict` or `BuildNotFound`."""
        headers = {"X-Cancel-Token": cancel_token} if cancel_token else {}
        self.server.fetch("DELETE", f"/api/v1/build/{request_hash}", headers=headers)

    def follow(self, request_hash: str) -> Iterator[Event]:
        """What happens to it, until its end. Raises `Unavailable` when the server stays away.

        By the server's events; one that has none is asked every second.
        """
        seen, since = 0, time.monotonic()
        while True:
            try:
                for event in self._events(request_hash, after=seen):
                    if isinstance(event, Refusal):
                        yield from self._poll(request_hash)
                        return
                    since = time.monotonic()
                    if isinstance(event, LogLines):
                        seen = max([seen, *(line.seq for line in event.lines)])
                    yield event
                    if isinstance(event, Ended):
                        return
            except Unavailable:
                if time.monotonic() - since > self._patience:
                    raise
            self._pause(_POLL_SECONDS)

    def _events(self, request_hash: str, *, after: int) -> Iterator[Event | Refusal]:
        """One stream of events, up to its end or its breaking off; a refusal where there is none."""
        path = f"/api/v1/build/{request_hash}/events"
        headers = {"Accept": "text/event-stream", "Last-Event-ID": str(after)}
        with self.server.stream(path, headers) as response:
            if response.status == 200 and "text/event-stream" in response.headers.get("content-type", ""):
                yield from parse_events(self._chunks(response))
            else:
                yield Refusal(response.status)

    def _chunks(self, response: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
        while chunk := response.read1(1 << 16):
            self._on_life()
            yield chunk

    def _poll(self, request_hash: str) -> Iterator[Event]:
        shown: Event | None = None
        since = time.monotonic()
        while True:
            try:
                response = self.look(request_hash)
            except Unavailable:
                if time.monotonic() - since > self._patience:
                    raise
            else:
                since = time.monotonic()
                if response.status in _ENDED:
                    yield Ended(response.status, response.document)
                    return
                if (event := progress_of(response.document)) != shown:
                    yield event
                shown = event
            self._pause(_POLL_SECONDS)

    def printed(self, request_hash: str) -> list[str] | None:
        """What it has printed so far, line by line; None of a server where only the end tells."""
        with self.server.stream(f"/api/v1/build/{request_hash}/log") as response:
            if response.status != 200 or "text/plain" not in response.headers.get("content-type", ""):
                return None
            text: bytes = response.read(_LOG_BYTES, decode_content=True)
        return text.decode("utf-8", "replace").splitlines()

    def source(self, document: Mapping[str, Any]) -> Source:
        """Where the images of a finished build are read from."""
        directory = document.get("bin_dir") or document.get("request_hash")

        @contextmanager
        def opened(name: str, start: int) -> Iterator[Stretch]:
            headers = {"Range": f"bytes={start}-"} if start else {}
            with self.server.stream(f"/store/{directory}/{name}", headers, anonymous=True) as response:
                yield _stretch(response, name)

        return opened


def _build_response(response: Response) -> Response:
    # A failed build is a 500 with its hash; a 500 without one is the server's own mistake.
    if response.status in (200, 202) or (response.status == 500 and "request_hash" in response.document):
        return response
    raise refusal(response)


def _stretch(response: urllib3.BaseHTTPResponse, name: str) -> Stretch:
    if response.status == 206:
        match = _CONTENT_RANGE.match(response.headers.get("content-range", ""))
        return Stretch(int(match[1]) if match else 0, response.stream(_PIECE))
    if response.status == 200:
        return Stretch(0, response.stream(_PIECE))
    if response.status == 416:
        # What lies here is longer than the file: from its beginning.
        return Stretch(0, iter(()))
    if response.status == 404:
        raise BuildNotFound(f"{name} is not there any more; its build may have expired. Ask for it again.")
    try:
        document = json.loads(response.read(_PIECE))
    except (ValueError, RecursionError):
        document = None
    raise refusal(Response(response.status, document if isinstance(document, dict) else {}))
