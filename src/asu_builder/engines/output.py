"""A command's output on its way to disk: never in memory, never more than the cap."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from asu_builder.domain.errors import NoRoom, Unavailable
from asu_builder.domain.make import OutputCallback
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


class CappedFile:
    """A file that takes any amount of output and keeps the first `limit` bytes of it."""

    def __init__(self, path: Path, limit: int) -> None:
        self.path = path
        self._limit = limit
        self._room = limit
        self._cut = False
        self._file: BinaryIO | None = None

    def __enter__(self) -> Self:
        with disk_errors():
            # Unbuffered: watchers of a build read this file while it is written.
            self._file = self.path.open("wb", buffering=0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is None:
            return
        with self._file as file, disk_errors():
            if self._cut and kind is None:
                _write_all(file, f"\n[output cut after {self._limit} bytes]\n".encode())

    def write(self, chunk: bytes) -> None:
        """Keeps what fits and drops the rest."""
        if self._file is None:
            raise ValueError("the file is not open")
        if len(chunk) > self._room:
            self._cut = True
            chunk = chunk[: self._room]
        self._room -= len(chunk)
        with disk_errors():
            _write_all(self._file, chunk)


def tee(
    write: Callable[[bytes], None], stream: int, on_output: OutputCallback | None
) -> Callable[[bytes], None]:
    """Writes a stream, and hands each chunk to `on_output`."""
    if on_output is None:
        return write

    def write_and_tell(chunk: bytes) -> None:
        write(chunk)
        on_output(stream, chunk)

    return write_and_tell


def _write_all(file: BinaryIO, chunk: bytes) -> None:
    """An unbuffered write may take less than it was given."""
    view = memoryview(chunk)
    while view:
        view = view[file.write(view) :]


def ends_with_full_disk(path: Path) -> bool:
    """Whether the last lines of an output blame a full disk, ours or the engine's."""
    with disk_errors(), path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL))
        return b"No space left on device" in file.read()
