"""Calls to Podman whose answer is a stream: an exec's output, an archive, the progress of a pull.

podman-py reads with a timeout per socket read and cannot be interrupted from another thread
(style notes, §1.9): a silent `make` would trip it. So these three calls use a connection of
their own, without a timeout once the answer has begun, and `abort` wakes the reader.
"""

import json
import socket
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlencode

from asu_builder.domain.errors import EngineUnavailable
from asu_builder.engines.podman.service import podman_errors

CHUNK = 1 << 16
_HEADER = struct.Struct(">BxxxL")


class Stream:
    """One streaming call, also usable as the file that tarfile reads."""

    def __init__(
        self, path: Path, method: str, url: str, *, call: timedelta, headers_within: timedelta | None
    ) -> None:
        """`call` bounds connecting, sending and a refusal, `headers_within` the wait for the answer.

        What bounds the answer itself, and its beginning where that is None, is `abort`.
        """
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._call = call.total_seconds()
        self._socket.settimeout(self._call)
        self._connection = HTTPConnection("podman")
        self._headers_within = headers_within.total_seconds() if headers_within else None
        self._response: HTTPResponse | None = None
        self._request = (path, method, url)
        self._aborted = False
        self._broke_off = False

    def begin(self, body: Mapping[str, object] | None = None, *, tar: Iterable[bytes] | None = None) -> int:
        """Connects, sends and waits for the status code, which is returned; `tar` is sent as it comes."""
        path, method, url = self._request
        with podman_errors():
            self._socket.connect(str(path))
            if self._aborted:
                raise ConnectionAbortedError("the call was given up before it began")
            self._connection.sock = self._socket
            content: str | Iterable[bytes] = json.dumps(body) if body is not None else ""
            kind = "application/json"
            if tar is not None:
                content, kind = tar, "application/x-tar"
            self._connection.request(method, url, content, {"Content-Type": kind})
            self._socket.settimeout(self._headers_within)
            self._response = self._connection.getresponse()
            status = self._response.status
            self._socket.settimeout(self._call if status >= 400 else None)
            return status

    @property
    def is_complete(self) -> bool:
        """Whether the service has ended the answer in good order; not known of an exec's output."""
        return self._response is not None and self._response.isclosed() and not self._broke_off

    def read(self, size: int) -> bytes:
        """Waits for `size` bytes; fewer only at the end of the answer."""
        with self._reading() as response:
            return response.read(size)

    def read_some(self) -> bytes:
        """Waits for whatever comes next; empty at the end of the answer."""
        with self._reading() as response:
            return response.read1(CHUNK)

    def read_line(self) -> bytes:
        """Waits for the next line; empty at the end of the answer."""
        with self._reading() as response:
            return response.readline(CHUNK)

    def refusal(self) -> str:
        """What the service wrote instead of the stream, when the status said so."""
        with self._reading() as response:
            content = response.read(CHUNK)
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

    @contextmanager
    def _reading(self) -> Iterator[HTTPResponse]:
        try:
            with podman_errors():
                if self._response is None:
                    raise ConnectionError("the answer has not begun")
                yield self._response
        except EngineUnavailable:
            self._broke_off = True
            raise


class ConnectionSentinel:
    """Tells whether one and the same service was there all the time.

    An exec's output ends in the same way when its command has ended and when the service has died.
    Where systemd holds the socket, the next call is answered by a new service, which may know the
    command's exit code but not what was lost of its output. So a call that is not answered as long
    as the container runs is left open beside: its connection breaks when the service dies.
    """

    def __init__(self, path: Path, url: str, *, call: timedelta) -> None:
        """Sends the request, `POST` without a body; no answer is waited for."""
        self._was_answered = False
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with podman_errors():
                self._socket.settimeout(call.total_seconds())
                self._socket.connect(str(path))
                request = f"POST {url} HTTP/1.1\r\nHost: podman\r\nContent-Length: 0\r\n\r\n"
                self._socket.sendall(request.encode())
                self._socket.setblocking(False)
        except BaseException:
            self._socket.close()
            raise

    def has_lost_sight(self) -> bool:
        """Whether the service went away without an answer. One that has answered proves nothing."""
        if self._was_answered:
            return False
        try:
            self._was_answered = self._socket.recv(1) != b""
        except BlockingIOError:
            return False
        except OSError:
            return True
        return not self._was_answered

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()


def libpod_url(prefix: str, *parts: str, **query: object) -> str:
    """The path of a libpod call; `prefix` is podman-py's own for this API version."""
    url = prefix + "/".join(parts)
    return f"{url}?{urlencode(query, doseq=True)}" if query else url


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
