"""Builds of a server over HTTP: submit, poll, follow to the end by its events, cancel, fetch."""

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import msgspec
import urllib3
from msgspec import Struct

from asu_builder.client.downloads import Source, Stretch, is_file_name
from asu_builder.client.server import Response, Server, ServerOperator, json_object, refusal
from asu_builder.domain.errors import BuildNotFound, NotAllowed, NotAuthenticated, ServerMistake, Unavailable

_POLL_SECONDS = 1.0
_LOG_BYTES = 16 << 20
_SBOM_BYTES = 128 << 20
_PIECE = 256 << 10
_CONTENT_RANGE = re.compile(r"bytes (\d+)-")
_ENDED = (200, 500)


class Progress(Struct, frozen=True, tag_field="type", tag="state", omit_defaults=True):
    """How far it is. `position` counts the jobs ahead while it waits, `eta_seconds` what is left."""

    state: str
    stage: str | None = None
    position: int | None = None
    eta_seconds: int | None = None


class LogLine(Struct, frozen=True):
    """One line that the build has printed; `seq` numbers them from 1."""

    seq: int
    at: str
    stage: str
    text: str


class LogLines(Struct, frozen=True, tag_field="type", tag="lines"):
    """What was printed since the last event."""

    lines: tuple[LogLine, ...]


class Ended(Struct, frozen=True, tag_field="type", tag="final"):
    """The end: the HTTP status and the document that a poll answers from now on."""

    status: int
    document: dict[str, Any]


class Refusal(Struct, frozen=True, tag_field="type", tag="problem"):
    """Why nothing follows, though the build has not ended."""

    status: int
    detail: str = ""


Event = Progress | LogLines | Ended

_DECODER: msgspec.json.Decoder[Event | Refusal] = msgspec.json.Decoder(Event | Refusal)


class ServerBuilds:
    """Builds on one server. `patience` is how many seconds it may be away while a build is followed."""

    def __init__(
        self, server: Server, *, patience: float = 60.0, pause: Callable[[float], None] = time.sleep
    ) -> None:
        self.server = server
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

    def on_life(self) -> None:
        """Called whenever the server sends something while a build is followed; may raise `Unavailable`."""

    def cancel(self, request_hash: str, cancel_token: str) -> None:
        """Ends it before its time. Raises `NotAllowed`, `Conflict` or `BuildNotFound`."""
        headers = {"X-Cancel-Token": cancel_token} if cancel_token else {}
        self.server.fetch("DELETE", f"/api/v1/build/{request_hash}", headers=headers)

    def follow(self, request_hash: str) -> Iterator[Event]:
        """What happens to it, until its end. Raises `Unavailable` when the server stays away.

        By the server's events; one that has none is asked every second.
        """
        path = f"/api/v1/build/{request_hash}/events"
        seen, since = 0, time.monotonic()
        while True:
            try:
                headers = {"Accept": "text/event-stream", "Last-Event-ID": str(seen)}
                with self.server.stream(path, headers) as response:
                    streams = "text/event-stream" in response.headers.get("content-type", "")
                    found: Iterable[Event | Refusal] = [Refusal(response.status)]
                    if response.status == 200 and streams:
                        found = parse_events(self._chunks(response))
                    for event in found:
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

    def _chunks(self, response: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
        while chunk := response.read1(1 << 16):
            self.on_life()
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

    def sbom(self, document: Mapping[str, Any], format_: str) -> list[str]:
        """The lines of what is in the images of a finished build, `format_` being `cyclonedx` or `spdx`.

        Raises `BuildNotFound` where the server has none, `ServerMistake` for what is much too large.
        """
        named = document.get("sbom")
        name = named.get(format_) if isinstance(named, dict) else None
        if not (isinstance(name, str) and is_file_name(name)):
            raise BuildNotFound("There is no software bill of materials of this build; it is an older one.")
        text = bytearray()
        with self.source(document)(name, 0) as stretch:
            for chunk in stretch.chunks:
                text += chunk
                if len(text) > _SBOM_BYTES:
                    raise ServerMistake(f"{name} has more than {_SBOM_BYTES >> 20} MiB.")
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


def parse_events(chunks: Iterable[bytes]) -> Iterator[Event | Refusal]:
    """The events of a stream of server-sent events; what is not known, or no JSON, is passed over."""
    rest = b""
    for chunk in chunks:
        *blocks, rest = (rest + chunk).replace(b"\r\n", b"\n").split(b"\n\n")
        for block in filter(None, blocks):
            # The `data` of an event (WHATWG HTML, §9.2) is its lines joined; a comment has none.
            data = [
                line.removeprefix(b"data:").removeprefix(b" ")
                for line in block.split(b"\n")
                if line.startswith(b"data:")
            ]
            with suppress(msgspec.MsgspecError):
                yield _DECODER.decode(b"\n".join(data))


def progress_of(document: dict[str, Any]) -> Progress:
    """What a poll's 202 says. Old servers say no `state`, but their words for it."""
    waits = document.get("detail") == "queued"
    state = document.get("state") or ("pending" if waits else "building")
    stage = document.get("imagebuilder_status")
    return Progress(
        str(state),
        stage=stage if isinstance(stage, str) and not waits else None,
        position=_count(document.get("queue_position")) if waits else None,
        eta_seconds=_count(document.get("eta_seconds")),
    )


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and value >= 0 else None


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
    raise refusal(Response(response.status, json_object(response.read(_PIECE)) or {}))
