"""fwtool trailers: metadata and signature chunks at the end of an image.

A chunk is its data and sixteen bytes: `FWx0`, CRC-32 of everything before (not inverted at the end), type,
size.
"""

from __future__ import annotations

import struct
import zlib

SIGNATURE, METADATA = 0, 1
SIGNATURE_LIMIT = 1024
"""Bytes: fwtool silently refuses longer signature chunks."""


def append(image: bytes, kind: int, data: bytes) -> bytes:
    """`image` with one more chunk of type `kind`.

    Raises ValueError when fwtool would refuse the data silently.
    """
    if kind == SIGNATURE and len(data) > SIGNATURE_LIMIT:
        raise ValueError(f"signature of {len(data)} bytes is above fwtool's limit of {SIGNATURE_LIMIT}")
    body = image + data
    trailer = struct.pack(">4sIB3xI", b"FWx0", zlib.crc32(body) ^ 0xFFFFFFFF, kind, len(data) + 16)
    return body + trailer


def append_metadata(image: bytes, json_text: str) -> bytes:
    """`image` with a metadata chunk: eight zero bytes (version, flags) and the JSON text."""
    return append(image, METADATA, bytes(8) + json_text.encode())


def last_chunk(image: bytes) -> tuple[bytes, int, bytes] | None:
    """Split off the last chunk: (image before it, type, data), or None when there is none or its CRC is
    wrong."""
    if len(image) < 16:
        return None
    magic, crc, kind, size = struct.unpack(">4sIB3xI", image[-16:])
    if magic != b"FWx0" or not 16 <= size <= len(image) or zlib.crc32(image[:-16]) ^ 0xFFFFFFFF != crc:
        return None
    start = len(image) - size
    return image[:start], kind, image[start:-16]
