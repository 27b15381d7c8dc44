"""A command's output on its way to disk: never in memory, never more than the cap."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import TracebackType

from asu_builder.domain.errors import NoRoom, Unavailable
from asu_builder.domain.make import STDOUT, OutputCallback
from asu_builder.files import DISK_FULL

SERVER_DISK_FULL = "The server's disk is full; the operator has to make room before anything can be built."
ENGINE_DISK_FULL = "The container engine's disk is full; the operator has to make room."
_TAIL = 1 << 16


@contextmanager
def disk_errors() -> Iterator[None]:
    """Our own disk failing is the world's fault, not the request's: `Unavailable`."""
    try:
        yield
    except OSError as error:
        if error.errno in DISK_FULL:
            raise NoRoom(SERVER_DISK_FULL) from error
        raise Unavailable(f"The server cannot use its disk: {error.strerror or error}.") from error


class CappedFile(AbstractContextManager["CappedFile"]):
    """A file that takes any amount of one output stream and keeps the first `limit` bytes of it."""

    def __init__(
        self, path: Path, limit: int, stream: int = STDOUT, on_output: OutputCallback | None = None
    ) -> None:
        """`on_output` is told all that is written, under the number of `stream`."""
        self.path = path
        self._limit = limit
        self._room = limit
        self._is_cut = False
        self._stream = stream
        self._on_output = on_output
        with disk_errors():
            # Unbuffered: watchers of a build read this file while it is written.
            self._file = path.open("wb", buffering=0)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with disk_errors():
            self._file.close()

    def write(self, chunk: bytes) -> None:
        """Keeps what fits, drops the rest, and says once that something was dropped."""
        kept = chunk[: self._room]
        self._room -= len(kept)
        if len(kept) < len(chunk) and not self._is_cut:
            self._is_cut = True
            kept += f"\n[output cut after {self._limit} bytes]\n".encode()
        view = memoryview(kept)
        with disk_errors():
            while view:
                # An unbuffered write may take less than it was given.
                view = view[self._file.write(view) :]
        if self._on_output:
            self._on_output(self._stream, chunk)


def ends_with_full_disk(path: Path) -> bool:
    """Whether the last lines of an output blame a full disk, ours or the engine's."""
    with disk_errors(), path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL))
        return b"No space left on device" in file.read()
