"""What leaves a container: output up to a cap, and plain files with plain names, few and small enough.

Everything inside a container may have been written by a stranger's post-install script
(facts on the ImageBuilder, §7.3), so the rules are the same whichever runtime it ran in.
"""

import os
import re
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from io import BytesIO
from pathlib import Path
from time import time
from types import TracebackType
from typing import IO, cast

from msgspec import Struct, field

from asu_builder.domain.errors import BuildFailed, EngineUnavailable, FailureReason, NoRoom, Unavailable
from asu_builder.domain.make import STDOUT, OutputCallback
from asu_builder.engines.guard import Limits
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
    """A command's output on its way to disk: never in memory, and no more than the first `limit` bytes."""

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


_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,254}", re.ASCII)
_CHUNK = 1 << 20
_OPEN_PLAIN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
"""Never follows a link and never waits for a pipe, whatever the name has become meanwhile."""
_KINDS = {tarfile.DIRTYPE: "a directory", tarfile.SYMTYPE: "a symbolic link", tarfile.LNKTYPE: "a link"}


class Collection(Struct):
    """Takes files into a directory of this host, one by one, and refuses what is not plain."""

    into: Path
    limits: Limits
    size: int = 0
    """Of all files so far."""
    names: list[str] = field(default_factory=list)

    def add(self, name: str, size: int, content: IO[bytes]) -> None:
        """Copies exactly `size` bytes. Raises `BuildFailed(UNTRUSTED_OUTPUT)`."""
        if not _PLAIN_NAME.fullmatch(name):
            raise _untrusted(f"a file has the odd name {name[:100]!r}")
        if name in self.names:
            raise _untrusted(f"the file {name} appears twice")
        if len(self.names) >= self.limits.collected_files:
            raise _untrusted(f"there are more than {self.limits.collected_files} files")
        self.size += size
        if self.size > self.limits.collected_size:
            raise _untrusted(f"the files are larger than {self.limits.collected_size} bytes")
        self.names.append(name)
        with disk_errors():
            # "x": the name must be new, and a link waiting there is never followed.
            file = (self.into / name).open("xb")
        with file:
            left = size
            while left:
                chunk = content.read(min(left, _CHUNK))
                if not chunk:
                    raise EngineUnavailable(f"The container's archive ended in the middle of {name}.")
                left -= len(chunk)
                with disk_errors():
                    file.write(chunk)

    def refuse(self, name: str, what: str) -> None:
        """Something that is no plain file."""
        raise _untrusted(f"{name[:100]!r} is {what}, not a plain file")


def unpack(stream: IO[bytes], into: Path, *, limits: Limits) -> list[str]:
    """Takes one directory's files out of a tar stream, without ever holding it in memory.

    The members are named `<directory>` (the directory itself, once) and `<directory>/<file>`,
    as the engine's archive call writes them. Raises `BuildFailed(UNTRUSTED_OUTPUT)`.
    """
    collection, whole = Collection(into, limits), _Whole(stream)
    with _tar_errors(), tarfile.open(fileobj=cast(IO[bytes], whole), mode="r|") as archive:
        root = archive.next()
        if root is None or not root.isdir() or not _PLAIN_NAME.fullmatch(root.name):
            raise _untrusted("the archive does not start with a plain directory")
        prefix = f"{root.name}/"
        while (member := archive.next()) is not None:
            if not member.name.startswith(prefix):
                raise _untrusted(f"{member.name[:100]!r} lies outside the directory")
            if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or member.issparse():
                collection.refuse(member.name, _KINDS.get(member.type, "something special"))
            content = archive.extractfile(member)
            if content is None:
                raise _untrusted(f"{member.name[:100]!r} has no content")
            collection.add(member.name.removeprefix(prefix), member.size, content)
    whole.require_end()
    return collection.names


class _Whole:
    """A tar stream that knows whether it came to its end: tarfile takes a cut header for one."""

    _END = bytes(2 * tarfile.BLOCKSIZE)

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._last = b""

    def read(self, size: int) -> bytes:
        chunk = self._stream.read(size)
        self._last = (self._last + chunk)[-len(self._END) :]
        return chunk

    def require_end(self) -> None:
        """Two blocks of zeros end an archive; what may follow them is at most a record of padding."""
        self.read(_CHUNK)
        if self._last != self._END:
            raise EngineUnavailable("The container's archive was cut off.")


def gather(directory: Path, into: Path, *, limits: Limits) -> list[str]:
    """The same rules for a directory of this host that strangers could write to."""
    collection = Collection(into, limits)
    with os.scandir(directory) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if not entry.is_file(follow_symlinks=False):
                collection.refuse(entry.name, "a link, a directory or something special")
            with os.fdopen(os.open(entry.path, _OPEN_PLAIN), "rb") as content:
                found = os.fstat(content.fileno())
                if found.st_nlink > 1:
                    collection.refuse(entry.name, "a link")
                collection.add(entry.name, found.st_size, content)
    return collection.names


def pack(files: Mapping[str, str]) -> bytes:
    """Texts as a tar of plain world-readable files; directories are left to the unpacking side.

    Without directory members an existing directory keeps its owner and mode.
    """
    buffer = BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path, text in files.items():
            content = text.encode()
            member = tarfile.TarInfo(path)
            member.size, member.mode, member.mtime = len(content), 0o644, int(time())
            archive.addfile(member, BytesIO(content))
    return buffer.getvalue()


def read_one(stream: IO[bytes], *, limit: int) -> bytes:
    """The content of the one plain file in a tar stream, at most `limit` bytes."""
    with _tar_errors(), tarfile.open(fileobj=stream, mode="r|") as archive:
        member = archive.next()
        content = archive.extractfile(member) if member is not None and member.isreg() else None
        if member is None or content is None or member.size > limit:
            raise _untrusted(f"a plain file of at most {limit} bytes was expected")
        return content.read()


def read_plain(path: Path, *, limit: int) -> bytes:
    """The content of one plain file of this host, at most `limit` bytes."""
    with disk_errors(), os.fdopen(os.open(path, _OPEN_PLAIN), "rb") as content:
        text = content.read(limit + 1)
    if len(text) > limit:
        raise _untrusted(f"a plain file of at most {limit} bytes was expected")
    return text


@contextmanager
def _tar_errors() -> Iterator[None]:
    try:
        yield
    except tarfile.TarError as error:
        raise EngineUnavailable("The container's archive is broken or was cut off.") from error


def _untrusted(what: str) -> BuildFailed:
    return BuildFailed(
        FailureReason.UNTRUSTED_OUTPUT,
        f"Error: The build's output was refused: {what}. This is no fault of the request; "
        "tell the operator if it happens again.",
    )
