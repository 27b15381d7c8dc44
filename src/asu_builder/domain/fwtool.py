"""The trailers that OpenWrt's fwtool appends to images (facts on signing, §3)."""

import struct

TRAILER_BYTES = 16
_TRAILER = struct.Struct(">4sIB3xI")
_MAGIC = b"FWx0"
_SIGNATURE = 0
_MAX_SIGNATURE_BYTES = 1024


def signature_length(trailer: bytes, file_size: int) -> int:
    """How many bytes at the end of a file are its signature; 0 when its last chunk is none.

    `trailer` is the last 16 bytes of the file.
    """
    if len(trailer) != TRAILER_BYTES:
        return 0
    magic, _, kind, size = _TRAILER.unpack(trailer)
    if magic != _MAGIC or kind != _SIGNATURE:
        return 0
    plausible = TRAILER_BYTES <= size <= min(file_size, _MAX_SIGNATURE_BYTES + TRAILER_BYTES)
    return int(size) if plausible else 0
