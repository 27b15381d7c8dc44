"""The trailers at the end of images: metadata and signatures, as fwtool reads them."""

import struct
import zlib
from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from mmap import mmap

_MAGIC = b"FWx0"
_TRAILER = struct.Struct(">4sIB3sI")
_PADDING = bytes(3)
_SIGNATURE, _METADATA = 0, 1
_MOST_BYTES = 32_768 + _TRAILER.size
"""Of a chunk with its trailer; fwtool calls a longer one broken."""
_ALL_ONES = 0xFFFFFFFF
_MOST_SIGNATURES = 32
"""Behind each other; what builds leave has one."""


class BrokenTrailer(Exception):
    """What ends as an image with trailers does, and is none."""


class Trailers(Struct, frozen=True):
    """What was found at the end of an image."""

    unsigned_bytes: int
    """The image without any signature; its metadata are part of it."""
    has_metadata: bool
    """Whether devices look for a signature at its end."""
    crc: int
    """Of the image without its signatures, to go on from."""


def read_trailers(image: "bytes | mmap") -> Trailers:
    """All signatures at the end, and the metadata before them; reads the image once.

    Raises `BrokenTrailer` where a checksum or a size is another than it should be.
    """
    with memoryview(image) as view:
        chunks = []
        end = len(view)
        while found := _trailer_before(view, end):
            kind, stated, size = found
            chunks.append((end, kind, stated))
            if kind != _SIGNATURE:
                break
            if len(chunks) > _MOST_SIGNATURES:
                raise BrokenTrailer("it has too many signatures")
            end -= size
        # The checksum of each covers all that lies before its trailer.
        has_metadata = bool(chunks) and chunks[-1][1] == _METADATA
        unsigned = chunks[-1][0] if has_metadata else end
        marks = {end - _TRAILER.size: stated for end, _, stated in chunks}
        crc, at, unsigned_crc = 0, 0, 0
        for mark in sorted({*marks, unsigned}):
            crc = zlib.crc32(view[at:mark], crc)
            at = mark
            if mark == unsigned:
                unsigned_crc = crc
            if mark in marks and crc ^ _ALL_ONES != marks[mark]:
                raise BrokenTrailer("the checksum at its end is another one")
        return Trailers(unsigned, has_metadata, unsigned_crc)


def signature_chunk(container: bytes, crc: int) -> bytes:
    """What makes an image with this checksum a signed one, put behind it."""
    stated = zlib.crc32(container, crc) ^ _ALL_ONES
    return container + _TRAILER.pack(_MAGIC, stated, _SIGNATURE, _PADDING, len(container) + _TRAILER.size)


def split_signed(image: bytes) -> tuple[bytes, bytes]:
    """What the last signature covers, and its container; empty where there is none. As `fwtool -T`, `-s`."""
    found = _trailer_before(memoryview(image), len(image))
    if not found or found[0] != _SIGNATURE:
        return image, b""
    return image[: -found[2]], image[-found[2] : -_TRAILER.size]


def _trailer_before(view: memoryview, end: int) -> tuple[int, int, int] | None:
    """Kind, stated checksum and size of the chunk that ends there, if one does."""
    if end < _TRAILER.size:
        return None
    magic, stated, kind, padding, size = _TRAILER.unpack_from(view, end - _TRAILER.size)
    if magic != _MAGIC:
        return None
    if padding != _PADDING:
        raise BrokenTrailer("its end is no trailer")
    if not _TRAILER.size <= size <= min(end, _MOST_BYTES):
        raise BrokenTrailer("the size at its end is none that it can have")
    return (kind, stated, size) if kind in (_SIGNATURE, _METADATA) else None
