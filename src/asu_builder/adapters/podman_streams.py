"""Calls to Podman whose answer is a stream: an exec's output, an archive, the progress of a pull.

podman-py reads with a timeout per socket read and cannot be interrupted from another thread
(style notes, §1.9): a silent `make` would trip it. So these three calls use a connection of
their own, without a timeout once the answer has begun, and `abort` wakes whoever reads.
"""

import json
import socket
import struct
from collections.abc import Callable, Mapping
from contextlib import suppress
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlencode

from asu_builder.adapters.podman_engine import CALL, podman_errors

CHUNK = 1 << 16
_HEADER = struct.Struct(">BxxxL")


class Stream:
    """One streaming call, also usable as the file that tarfile reads."""

    def __init__(self, path: Path, method: str, url: str, *, headers_within: float | None) -> None:
        """Sends the request; `headers_within` seconds bound the wait for the answer to begin."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(CALL.total_seconds())
        self._connection = HTTPConnection("podman")
        self._headers_within = headers_within
        self._response: HTTPResponse | None = None
        self._request = (path, method, url)
        self._aborted = False

    def begin(self, body: Mapping[str, object] | None = None) -> int:
        """Connects, sends and waits for the status code, which is returned."""
        path, method, url = self._request
        with podman_errors():
            self._socket.connect(str(path))
            if self._aborted:
                raise ConnectionAbortedError("the call was given up before it began")
            self._connection.sock = self._socket
            content = json.dumps(body) if body is not None else ""
            self._connection.request(method, url, content, {"Content-Type": "application/json"})
            self._socket.settimeout(self._headers_within)
            self._response = self._connection.getresponse()
            self._socket.settimeout(None)
            return self._response.status

    def read(self, size: int) -> bytes:
        """Waits for `size` bytes; fewer only at the end of the answer."""
        with podman_errors():
            return self._open_response().read(size)

    def read_some(self) -> bytes:
        """Waits for whatever comes next; empty at the end of the answer."""
        with podman_errors():
            return self._open_response().read1(CHUNK)

    def read_line(self) -> bytes:
        """Waits for the next line; empty at the end of the answer."""
        with podman_errors():
            return self._open_response().readline(CHUNK)

    def refusal(self) -> str:
        """What the service wrote instead of the stream, when the status said so."""
        with podman_errors():
            content = self._open_response().read(CHUNK)
        try:
            answer = json.loads(content)
            return str(answer["message"] or answer["cause"])
        except (ValueError, KeyError, TypeError):
            return content.decode(errors="replace")

    def abort(self) -> None:
        """Ends the call from another thread: a read returns at once, as at the end."""
        self._aborted = True
        with suppress(OSError):  # not connected yet, or already over
            self._socket.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._response is not None:
            self._response.close()
        self._connection.close()
        self._socket.close()

    def _open_response(self) -> HTTPResponse:
        if self._response is None:
            raise ConnectionError("the answer has not begun")
        return self._response


def libpod_url(prefix: str, *parts: str, **query: object) -> str:
    """The path of a libpod call; `prefix` is podman-py's own for this API version."""
    url = prefix + "/".join(parts)
    return f"{url}?{urlencode(query)}" if query else url


class Demultiplexer:
    """Takes an exec's one stream apart again: frames of stdout (1) and stderr (2).

    A frame is the stream's number, three zero bytes, the length as 32 bits in network order, and
    that many bytes. Frames are cut anywhere by the transport; nothing is kept but a header's rest.
    """

    def __init__(self, write: Mapping[int, Callable[[bytes], None]]) -> None:
        self._write = write
        self._header = b""
        self._stream = 0
        self._left = 0

    def feed(self, chunk: bytes) -> None:
        """Passes on what the chunk holds; bytes of unknown streams are dropped."""
        while chunk:
            if self._left:
                part, chunk = chunk[: self._left], chunk[self._left :]
                self._left -= len(part)
                if write := self._write.get(self._stream):
                    write(part)
            else:
                missing = _HEADER.size - len(self._header)
                self._header, chunk = self._header + chunk[:missing], chunk[missing:]
                if len(self._header) == _HEADER.size:
                    self._stream, self._left = _HEADER.unpack(self._header)
                    self._header = b""

    @property
    def is_between_frames(self) -> bool:
        """Whether the stream may end here; if not, it was cut off."""
        return not self._left and not self._header
