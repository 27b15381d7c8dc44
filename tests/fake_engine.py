"""Something that speaks as much of Podman's API as a build needs, and fails as a test wants it to."""

import json
import re
import struct
from collections import Counter, defaultdict
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer
from threading import Event, Thread
from types import TracebackType
from typing import Any, Self


@dataclass(frozen=True)
class Answer:
    """What is answered to one call."""

    status: int = 200
    body: Any = None
    """Bytes as they are, anything else as JSON."""
    hangs: bool = False
    """Accepts the call and never answers, until the engine is stopped."""
    breaks: bool = False
    """Hangs up without a word."""
    after: float = 0.0
    """Seconds."""


HANGS, BREAKS = Answer(hangs=True), Answer(breaks=True)


def refusing(message: str, status: int = 500) -> Answer:
    """As Podman says that something went wrong."""
    return Answer(status, {"cause": message, "message": message, "response": status})


_OUTPUT = struct.pack(">BxxxL", 1, 3) + b"hi\n"
_CONTAINER = {"Id": "c1", "Config": {"Env": []}, "State": {"Running": True}}
_USUAL = {
    r"GET /_ping": Answer(body=b"OK"),
    r"GET /images/.*/json": Answer(body={"Id": "sha256:1", "Config": {"WorkingDir": "/builder"}}),
    r"POST /images/pull": Answer(body={"id": "sha256:1"}),
    r"GET /containers/json": Answer(body=[]),
    r"POST /containers/create": Answer(201, {"Id": "c1", "Warnings": []}),
    r"GET /containers/.*/json": Answer(body=_CONTAINER),
    r"POST /containers/.*/start": Answer(204),
    r"POST /containers/.*/kill": Answer(204),
    r"POST /containers/.*/wait": HANGS,
    r"POST /containers/.*/exec": Answer(201, {"Id": "e1"}),
    r"POST /exec/.*/start": Answer(body=_OUTPUT),
    r"GET /exec/.*/json": Answer(body={"Running": False, "ExitCode": 0}),
    r"HEAD /containers/.*/archive": refusing("no such file", 404),
    r"PUT /containers/.*/archive": Answer(),
    r"DELETE /containers/.*": Answer(body=[]),
}


class FakeEngine:
    """Listens on `socket`; `faults` maps patterns of calls to what they get instead of the usual."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self.faults: dict[str, Answer] = {}
        self.calls: Counter[str] = Counter()
        self.bodies: defaultdict[str, list[Any]] = defaultdict(list)
        """What was sent along, as far as it was JSON."""
        self._ended = Event()
        self._killed: set[str] = set()

    def __enter__(self) -> Self:
        self._server = _Server(str(self.socket), _Call)
        self._server.engine = self
        self._thread = Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def hang(self) -> None:
        """From now on nothing is answered."""
        self.faults[".*"] = HANGS

    def recover(self) -> None:
        """From now on everything is well."""
        self.faults.clear()

    def asked(self, pattern: str) -> int:
        """How many calls like this came in."""
        return sum(number for call, number in self.calls.items() if re.fullmatch(pattern, call))

    def answer(self, call: str) -> Answer | None:
        """What this call gets; None for no answer at all."""
        self.calls[call] += 1
        usual = _USUAL
        if killed := re.fullmatch(r"POST /containers/(.*)/kill", call):
            self._killed.add(killed[1])
        elif call in {f"GET /containers/{name}/json" for name in self._killed}:
            usual = {call: Answer(body=_CONTAINER | {"State": {"Running": False}})}
        for pattern, answer in (*self.faults.items(), *usual.items()):
            if re.fullmatch(pattern, call):
                self._ended.wait(None if answer.hangs else answer.after)
                return None if answer.hangs or answer.breaks else answer
        return refusing(f"no such call: {call}", 404)


class _Server(ThreadingMixIn, UnixStreamServer):
    daemon_threads = True
    request_queue_size = 64
    engine: FakeEngine


class _Call(BaseHTTPRequestHandler):
    server: _Server

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = re.sub(r"^/v[\d.]+/libpod", "", self.path.partition("?")[0])
        with suppress(ValueError):
            self.server.engine.bodies[f"{self.command} {path}"].append(json.loads(body))
        answer = self.server.engine.answer(f"{self.command} {path}")
        self.close_connection = True
        if answer is None:
            return
        raw = isinstance(answer.body, bytes)
        content = answer.body if raw else json.dumps(answer.body).encode() if answer.body is not None else b""
        self.send_response(answer.status)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = _serve  # noqa: N815 - the library's names

    def log_message(self, *_: object) -> None:
        """Says nothing."""

    def address_string(self) -> str:
        """A socket in the file system has no address."""
        return "unix"
