"""Package files that were fetched once, on a disk of this host, for all builds; one download for all.

The directory is all that is known: a file is named by its key and was used last when its time says so. So
the cache is the same after a restart, and for several processes.
"""

import fcntl
import hashlib
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Literal

from asu_builder.files import DISK_FULL
from asu_builder.package_cache.promises import Promised, WrongPackage, verify
from asu_builder.proxy.fetching import CHUNK, Failed, Stream

_log = logging.getLogger(__name__)

_PART = ".part-"
_ROOM_LEFT = 0.9
"""Of its budget a cache has no more than this left after it has made room, so that it need not at once."""
_SILENCE = 60.0
"""Seconds in which a disk is reported once."""
OK = 200


Ask = Callable[[Mapping[str, str]], Stream]
"""Asks the server for a file, with more headers. Raises `Failed`, and others where the build may not."""


def key_of(address: str, promised: Promised) -> str:
    """Names what one address has under one promise; no other address ever gets it."""
    named = json.dumps([address, promised.manager.value, promised.hash, promised.size])
    return hashlib.sha256(named.encode()).hexdigest()


class Shelf:
    """Files by key in one directory, within a budget in bytes; the longest unused go first.

    Nothing here raises: a disk that is full or broken keeps nothing, and that is logged.
    Safe to use from any thread, and from several processes.
    """

    def __init__(self, directory: Path, most_bytes: int, *, floor: int = 0) -> None:
        """`floor` is what has to stay free on the disk, in bytes. The directory comes with the first file."""
        self._directory = directory
        self._most_bytes = most_bytes
        self._floor = floor
        self._lock = threading.Lock()
        self._total: int | None = None
        """What is believed to be there, in bytes; counted again when it is too much."""
        self._reported_at = -_SILENCE

    def take(self, key: str, size: int | None = None) -> IO[bytes] | None:
        """A file that is there, of this size; then it is used now. Without a size its time stays."""
        try:
            file = (self._directory / key).open("rb", buffering=0)
        except FileNotFoundError:
            return None
        except OSError as error:
            self.report(error)
            return None
        if size is not None:
            if os.fstat(file.fileno()).st_size != size:
                # A power cut may leave a name without its content.
                file.close()
                self.drop(key)
                return None
            self.touch(key)
        return file

    def touch(self, key: str) -> None:
        """It is used now."""
        with suppress(OSError):
            os.utime(self._directory / key)

    def used_at(self, key: str) -> float:
        """When it was used last, in seconds of the wall clock. Raises `OSError`."""
        return (self._directory / key).stat().st_mtime

    def drop(self, key: str) -> None:
        """Takes one away, if it is there."""
        with suppress(OSError):
            (self._directory / key).unlink()

    def begin(self, size: int) -> "Part | None":
        """A new file that has no key yet; None where there is no room for it."""
        if not 0 < size <= self._most_bytes:
            return None
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._make_room(size)
            disk = os.statvfs(self._directory)
            if disk.f_bavail * disk.f_frsize - size < self._floor:
                raise OSError(DISK_FULL[0], os.strerror(DISK_FULL[0]))
            return Part(self._directory)
        except OSError as error:
            self.report(error)
            return None

    def keep(self, part: "Part", key: str) -> bool:
        """Gives a finished file its key, durably, and whether it did."""
        try:
            os.fsync(part.file.fileno())
            size = part.file.tell()
            part.path.rename(self._directory / key)
        except OSError as error:
            self.report(error)
            part.discard()
            return False
        part.file.close()
        with self._lock:
            self._total = None if self._total is None else self._total + size
        return True

    def report(self, error: OSError) -> None:
        """Logs what is wrong with the disk, once a minute."""
        now = time.monotonic()
        if now - self._reported_at >= _SILENCE:
            self._reported_at = now
            _log.warning(
                "Packages are not kept in %s, and builds fetch them themselves: %s",
                self._directory,
                error.strerror or error,
            )

    def _make_room(self, size: int) -> None:
        with self._lock:
            if self._total is not None and self._total + size <= self._most_bytes:
                return
            found = self._survey()
            self._total = sum(stat.st_size for _, stat in found)
            if self._total + size <= self._most_bytes:
                return
            for path, stat in sorted(found, key=lambda entry: entry[1].st_mtime_ns):
                if self._total + size <= self._most_bytes * _ROOM_LEFT:
                    break
                with suppress(OSError):
                    path.unlink()
                    self._total -= stat.st_size

    def _survey(self) -> list[tuple[Path, os.stat_result]]:
        """The files with a key; those that a dead process has begun are removed."""
        found = []
        for path in self._directory.iterdir():
            with suppress(OSError):
                if not path.name.startswith(_PART):
                    found.append((path, path.stat()))
                elif _is_abandoned(path):
                    path.unlink()
        return found


class Part:
    """A file on its way to the shelf, locked for as long as its process lives."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / f"{_PART}{os.urandom(8).hex()}"
        self.file = self.path.open("xb")
        fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def write(self, piece: bytes, shelf: Shelf) -> bool:
        """Adds some bytes, for others to read at once; whether the disk has taken them."""
        try:
            self.file.write(piece)
            self.file.flush()
        except OSError as error:
            shelf.report(error)
            self.discard()
            return False
        return True

    def discard(self) -> None:
        """Forgets it."""
        with suppress(OSError):
            self.path.unlink()
        with suppress(OSError):
            self.file.close()


def _is_abandoned(path: Path) -> bool:
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    # Between its creation and its lock it is a moment old.
    return time.time() - path.stat().st_mtime > 1


class PackageCache:
    """Answers for package files: from the shelf, else from one request to upstream for all who wait."""

    def __init__(self, shelf: Shelf) -> None:
        self.shelf = shelf
        self._lock = threading.Lock()
        self._downloads: dict[str, _Download] = {}

    def fetch(self, address: str, promised: Promised, ask: Ask) -> Stream:
        """What the address answers. Raises as `ask` does; the file is shared once it is verified.

        What is on its way goes to all who want it while it comes. It is stopped when no reader is left.
        """
        key = key_of(address, promised)
        with self._lock:
            download = self._downloads.get(key)
            is_first = download is None
            if download is None:
                # Under the lock: a download leaves once its file has its key.
                kept = self.shelf.take(key, promised.size)
                if kept is not None:
                    return Stream(OK, {}, promised.size, _pieces(kept), is_cached=True, close=kept.close)
                download = self._downloads[key] = _Download(self, key, promised)
            download.readers += 1
        reader = _Reader(ask, is_first=is_first)
        return download.begin(reader) if is_first else download.follow(reader)

    def count_out(self, download: "_Download") -> None:
        """One reader fewer."""
        with self._lock:
            download.readers -= 1

    def drop(self, address: str, promised: Promised) -> None:
        """Forgets a file that a package manager has refused; what is on its way is not kept either."""
        key = key_of(address, promised)
        with self._lock:
            if download := self._downloads.get(key):
                download.is_refused = True
            self.shelf.drop(key)

    def keep(self, download: "_Download", part: Part) -> None:
        """Verifies what came and puts it on the shelf."""
        try:
            with part.path.open("rb") as file:
                verify(file, download.promised)
        except (WrongPackage, OSError) as error:
            _log.warning("A package is not kept, because it %s", error)
            part.discard()
            return
        self.shelf.keep(part, download.key)
        with self._lock:
            if download.is_refused:
                self.shelf.drop(download.key)

    def leave(self, download: "_Download", *, unless_read: bool = False) -> bool:
        """Lets no reader join a download any more, `unless_read` by one now; whether it is so."""
        with self._lock:
            if unless_read and download.readers:
                return False
            if self._downloads.get(download.key) is download:
                del self._downloads[download.key]
            return True


class _Reader:
    """One who reads a download, and how it would ask by itself."""

    def __init__(self, ask: Ask, *, is_first: bool) -> None:
        self.ask = ask
        self.is_first = is_first
        self.file: IO[bytes] | None = None
        self.has_left = False


class _Download:
    """One request to upstream, written to a file that all readers follow.

    What goes wrong with it is the matter of the first one alone, which may have met its own limits. The
    others then ask by themselves.
    """

    def __init__(self, cache: PackageCache, key: str, promised: Promised) -> None:
        self._cache = cache
        self.key = key
        self.promised = promised
        self.readers = 0
        self.is_refused = False
        self._moved = threading.Condition()
        self._part: Part | None = None
        self._written = 0
        self._state: Literal["opening", "coming", "whole", "broken", "unkept"] = "opening"
        self._error = Failed("a download was given up")

    def begin(self, reader: _Reader) -> Stream:
        """Asks upstream, for all readers."""
        try:
            stream = reader.ask({})
        except BaseException:
            self._end("broken")
            raise
        if stream.status != OK or stream.length not in (None, self.promised.size):
            self._end("broken")
            return stream
        part = self._cache.shelf.begin(self.promised.size)
        if part is None:
            self._end("unkept")
            return stream
        self._part = part
        thread = threading.Thread(target=self._copy, args=(stream, part), name="package", daemon=True)
        try:
            reader.file = part.path.open("rb", buffering=0)
            self._move("coming")
            thread.start()
        except (OSError, RuntimeError):  # no more descriptors, no more threads
            part.discard()
            self._end("unkept")
            return stream
        return self._stream(reader)

    def follow(self, reader: _Reader) -> Stream:
        """What another one has asked for, while it comes."""
        with self._moved:
            self._moved.wait_for(lambda: self._state != "opening")
            if self._part is not None and self._state in ("coming", "whole"):
                try:
                    reader.file = self._part.path.open("rb", buffering=0)
                except OSError:
                    # It has just got its key.
                    reader.file = self._cache.shelf.take(self.key, self.promised.size)
        if reader.file is None:
            self._leave(reader)
            return reader.ask({})
        return self._stream(reader)

    def _stream(self, reader: _Reader) -> Stream:
        chunks = self._read(reader)

        def close() -> None:
            chunks.close()
            self._leave(reader)

        return Stream(OK, {}, self.promised.size, chunks, is_cached=not reader.is_first, close=close)

    def _leave(self, reader: _Reader) -> None:
        if not reader.has_left:
            reader.has_left = True
            self._cache.count_out(self)
            if reader.file is not None:
                reader.file.close()

    def _read(self, reader: _Reader) -> Generator[bytes, None, None]:
        position = 0
        while position < self.promised.size:
            there, state = self._beyond(position)
            piece = reader.file.read(min(CHUNK, there - position)) if reader.file is not None else b""
            if piece:
                position += len(piece)
                yield piece
            elif state == "broken" and reader.is_first:
                raise self._error
            else:
                yield from _rest(reader.ask({}), position)
                return

    def _beyond(self, position: int) -> tuple[int, str]:
        """How much is written, once it is more than this or nothing more comes; and the state by then."""
        with self._moved:
            self._moved.wait_for(lambda: self._written > position or self._state != "coming")
            return self._written, self._state

    def _copy(self, stream: Stream, part: Part) -> None:
        """Runs in a separate thread, so that the others go on when the first reader leaves."""
        try:
            for piece in stream.chunks:
                if self._written + len(piece) > self.promised.size:
                    raise Failed("a package is longer than its index says")
                if not part.write(piece, self._cache.shelf):
                    self._end("unkept")
                    return
                with self._moved:
                    self._written += len(piece)
                    self._moved.notify_all()
                if self._cache.leave(self, unless_read=True):
                    raise Failed("no build waits for it")
            if self._written < self.promised.size:
                raise Failed("a package is shorter than its index says")
            self._move("whole")
            self._cache.keep(self, part)
        except Failed as error:
            self._error = error
        finally:
            stream.close()
            self._cache.leave(self)
            if self._state != "whole":
                part.discard()
            if self._state == "coming":
                self._move("broken")

    def _end(self, state: Literal["broken", "unkept"]) -> None:
        self._cache.leave(self)
        self._move(state)

    def _move(self, state: Literal["coming", "whole", "broken", "unkept"]) -> None:
        with self._moved:
            self._state = state
            self._moved.notify_all()


def _pieces(file: IO[bytes]) -> Iterator[bytes]:
    return iter(lambda: file.read(CHUNK), b"")


def _rest(stream: Stream, skip: int) -> Iterator[bytes]:
    """What follows on the first bytes."""
    try:
        if stream.status != OK:
            raise Failed(f"asked for the rest of a package, its server answered with {stream.status}")
        for piece in stream.chunks:
            if len(piece) > skip:
                yield piece[skip:]
            skip = max(0, skip - len(piece))
    finally:
        stream.close()
