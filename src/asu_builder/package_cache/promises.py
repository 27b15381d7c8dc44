"""What an index promises of a package file, and whether a file is the promised one.

Sources: facts on the proxy, §1; on the preflight, §4; apk-tools, `extract_v3.c` and `adb.c`.
"""

import hashlib
import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO

from msgspec import Struct

from asu_builder.domain.package_index import PackageManager
from asu_builder.proxy.fetching import CHUNK
from asu_builder.upstream.adb import AdbBlock, OddValue
from asu_builder.upstream.lenient import Notes, Unreadable
from asu_builder.upstream.package_index import read_index

_MOST_METADATA = 16 << 20
_MOST_RATIO = 200
_MOST_UNPACKED = 1 << 30
_MOST_FILES = 100_000
_SCHEMA = b"pckg"
_METADATA, _SIGNATURE, _DATA, _EXTENDED = range(4)
_FILE_SIZE, _FILE_HASH, _FILE_TARGET = 2, 4, 5
_WORD = struct.Struct("<I")


class Promised(Struct, frozen=True):
    """What the index of a repository says of one package file."""

    manager: PackageManager
    hash: str
    """Hexadecimal. Of opkg the SHA-256 of the file; of apk the digest of the metadata in it."""
    size: int
    """Bytes of the file; never 0."""


class WrongPackage(ValueError):
    """A file is not what the index promises; the text is the end of a sentence."""


def read_promises(manager: PackageManager, data: bytes) -> dict[str, Promised]:
    """What an index says of its files, by their names as seen from its directory.

    What it says in two ways, or without size or digest, is left out. Raises `Unreadable`.
    """
    found: dict[str, Promised | None] = {}
    for package in read_index(manager, data, Notes()).packages:
        name = package.filename.removeprefix("./")
        if manager is PackageManager.APK:
            name = f"{package.name}-{package.version}.apk"
        promised = Promised(manager, package.hash.lower(), package.size)
        if name and package.hash and package.size:
            found[name] = promised if found.get(name, promised) == promised else None
    return {name: promised for name, promised in found.items() if promised is not None}


def verify(file: BinaryIO, promised: Promised) -> None:
    """Passes where every byte that can reach an image is what the index promises. Raises `WrongPackage`.

    Of apk's packages the index holds the digest of the metadata only, which in turn names the digest of
    each file in the package: all of them are compared.
    """
    size = file.seek(0, 2)
    if size != promised.size:
        raise WrongPackage(f"has {size} bytes, where the index says {promised.size}")
    file.seek(0)
    if promised.manager is PackageManager.APK and file.read(3) == b"ADB":
        file.seek(0)
        try:
            _ApkFile(file, size).verify(bytes.fromhex(promised.hash))
        except (Unreadable, OddValue, zlib.error, struct.error, ValueError) as error:
            raise error if isinstance(error, WrongPackage) else WrongPackage(f"is broken: {error}") from None
        return
    file.seek(0)
    digest = hashlib.sha256()
    for piece in iter(lambda: file.read(CHUNK), b""):
        digest.update(piece)
    if digest.hexdigest() != promised.hash:
        raise WrongPackage("has another digest than the index says")


class _ApkFile:
    """A package of apk 3, read once from its beginning to its end."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._pieces = _unpack(file, min(_MOST_UNPACKED, max(_MOST_METADATA, size * _MOST_RATIO)))
        self._piece = memoryview(b"")

    def verify(self, digest: bytes) -> None:
        if self._take(8) != b"ADB." + _SCHEMA:
            raise WrongPackage("is no package of apk")
        kind, size, padding = self._head()
        if kind != _METADATA or size > _MOST_METADATA:
            raise WrongPackage("does not begin with its metadata")
        metadata = self._take(size)
        found = _digest_of(digest)
        found.update(metadata)
        if found.digest()[: len(digest)] != digest:
            raise WrongPackage("has other metadata than the index says")
        self._take(padding)
        expected = iter(_files(AdbBlock(metadata)))
        while head := self._next_head():
            kind, size, padding = head
            if kind == _DATA:
                self._verify_data(size, next(expected, None))
            elif kind != _SIGNATURE or size > CHUNK:
                raise WrongPackage("holds what no package of apk holds")
            else:
                self._take(size)
            self._take(padding)
        if next(expected, None) is not None:
            raise WrongPackage("lacks files that its metadata names")

    def _verify_data(self, size: int, expected: "_File | None") -> None:
        if expected is None or size != expected.size + 8:
            raise WrongPackage("holds a file that its metadata does not name")
        if self._take(8) != struct.pack("<II", expected.folder, expected.number):
            raise WrongPackage("holds its files in another order than its metadata names them")
        digest = _digest_of(expected.hash)
        left = expected.size
        while left:
            piece = self._some(left)
            left -= len(piece)
            digest.update(piece)
        if digest.digest()[: len(expected.hash)] != expected.hash:
            raise WrongPackage("holds a file of other content than its metadata says")

    def _next_head(self) -> tuple[int, int, int] | None:
        """None behind the last block."""
        return self._head() if self._fill() else None

    def _head(self) -> tuple[int, int, int]:
        """Kind, bytes of content and of padding of the next block."""
        word: int = _WORD.unpack(self._take(4))[0]
        kind, size, head = word >> 30, word & 0x3FFFFFFF, 4
        if kind == _EXTENDED:
            kind, head = size, 16
            size = struct.unpack("<IQ", self._take(12))[1]
        if size < head:
            raise WrongPackage("is broken: a block is shorter than its head")
        return kind, size - head, -size % 8

    def _take(self, size: int) -> bytes:
        taken = bytearray()
        while len(taken) < size:
            taken += self._some(size - len(taken))
        return bytes(taken)

    def _some(self, most: int) -> memoryview:
        """At least one byte, if any are wanted."""
        if not self._fill():
            raise WrongPackage("is cut off")
        piece, self._piece = self._piece[:most], self._piece[most:]
        return piece

    def _fill(self) -> bool:
        """Whether there is more."""
        while not self._piece:
            piece = next(self._pieces, None)
            if piece is None:
                return False
            self._piece = memoryview(piece)
        return True


class _File(Struct, frozen=True):
    """What metadata says of a file whose content follows."""

    folder: int
    number: int
    size: int
    hash: bytes


def _files(metadata: AdbBlock) -> Iterator[_File]:
    """The files with content, in the order in which it follows. Raises `OddValue`."""
    package = metadata.values(metadata.root, most=16)
    folders = metadata.values(package[1], most=_MOST_FILES) if len(package) > 1 else ()
    for folder, place in enumerate(folders, 1):
        described = metadata.values(place, most=16)
        files = metadata.values(described[2], most=_MOST_FILES) if len(described) > 2 else ()
        for number, value in enumerate(files, 1):
            fields = metadata.values(value, most=16)
            fields += (0,) * (_FILE_TARGET + 1 - len(fields))
            size = metadata.integer(fields[_FILE_SIZE])
            if size and not fields[_FILE_TARGET]:
                yield _File(folder, number, size, metadata.bytes(fields[_FILE_HASH]))


def _digest_of(expected: bytes) -> "hashlib._Hash":
    """The digest by which something is compared that has this one; twenty bytes are a cut SHA-256."""
    if len(expected) not in (20, 32, 64):
        raise WrongPackage(f"is described by a digest of {len(expected)} bytes")
    return hashlib.sha512() if len(expected) == 64 else hashlib.sha256()


def _unpack(file: BinaryIO, most: int) -> Iterator[bytes]:
    """The content of a file of apk, in pieces; no more than `most` bytes."""
    start = file.read(4)
    method = b"\1"
    if start == b"ADBc":
        method = file.read(2)[:1]
    elif start != b"ADBd":
        method = b"\0"
        file.seek(0)
    if method not in (b"\0", b"\1"):
        raise WrongPackage("is packed in a way that is not read here")
    unpacking = zlib.decompressobj(wbits=-15)
    for piece in iter(lambda: file.read(CHUNK), b""):
        content = unpacking.decompress(piece, CHUNK) if method == b"\1" else piece
        while content:
            most -= len(content)
            if most < 0:
                raise WrongPackage("unpacks to too much")
            yield content
            content = unpacking.decompress(unpacking.unconsumed_tail, CHUNK) if method == b"\1" else b""
    if method == b"\1" and (not unpacking.eof or unpacking.unused_data):
        raise WrongPackage("is cut off" if not unpacking.eof else "has something behind its end")
