"""Reads the container of apk's indexes, a database of values in one block.

Layout: facts on the preflight, §4.
"""

import importlib
import struct
from typing import Any

from asu_builder.upstream.lenient import MOST_TEXT, Unreadable, unpack

INDEX_SCHEMA = b"indx"
_OFFSET = 0x0FFFFFFF
"""The part of a value that says where its content lies; the four bits above say what it is."""
SMALL, INTEGER_32, INTEGER_64 = 1, 2, 3
_LENGTHS = {8: 1, 9: 2, 10: 4}
"""Kinds of bytes, each with the size of the length in front of them."""
_LISTS = (13, 14)
"""Arrays and objects. apk writes some arrays as objects; they are laid out alike."""
_MOST_BYTES = 32 << 20
"""Of an unpacked file; that of a large feed has some million."""
_WORD = struct.Struct("<I")


class OddValue(ValueError):
    """A value that is not what its place asks for; the text is the end of a sentence."""


class AdbBlock:
    """The values of one block. Each is read where it lies, when it is asked for, and leads to no other.

    All that is read takes no more than twice the block, however often values share their place.
    """

    def __init__(self, payload: bytes) -> None:
        """Raises `Unreadable` for a block of another edition."""
        if len(payload) < 8 or payload[0]:
            raise Unreadable("its block is of an unknown edition" if payload else "its block is empty")
        self._payload = payload
        self._size = len(payload)
        self._left = 2 * len(payload)
        self.root: int = _WORD.unpack_from(payload, 4)[0]

    def values(self, value: int, *, most: int) -> tuple[int, ...]:
        """The values in an array or object, none for an absent one. Raises `OddValue`."""
        if not value:
            return ()
        start = value & _OFFSET
        if value >> 28 not in _LISTS or start + 4 > self._size:
            raise OddValue("no list")
        # Itself included.
        count: int = _WORD.unpack_from(self._payload, start)[0]
        if not 0 < count <= most + 1:
            raise OddValue(f"a list of more than {most}" if count else "a list without a length")
        if start + 4 * count > self._size:
            raise OddValue("cut off")
        self._spend(4 * count)
        return struct.unpack_from(f"<{count - 1}I", self._payload, start + 4)

    def bytes(self, value: int, *, most: int = MOST_TEXT) -> bytes:
        """The bytes of a value, none for an absent one. Raises `OddValue`."""
        if not value:
            return b""
        width = _LENGTHS.get(value >> 28)
        start = value & _OFFSET
        if width is None:
            raise OddValue("no text")
        length = int.from_bytes(self._payload[start : start + width], "little")
        start += width
        if length > most:
            raise OddValue(f"a text of {length} bytes")
        if start + length > self._size:
            raise OddValue("cut off")
        self._spend(length)
        return self._payload[start : start + length]

    def integer(self, value: int) -> int:
        """The number of a value, 0 for an absent one. Raises `OddValue`."""
        kind = value >> 28
        if kind == SMALL or not value:
            return value & _OFFSET
        start = value & _OFFSET
        width = {INTEGER_32: 4, INTEGER_64: 8}.get(kind)
        if width is None or start + width > self._size:
            raise OddValue("no number")
        return int.from_bytes(self._payload[start : start + width], "little")

    def _spend(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise Unreadable("its values lie one over another")


def open_adb(data: bytes, schema: bytes) -> AdbBlock:
    """The values of a file, packed or not. Raises `Unreadable`; `schema` has four letters."""
    data = _unpacked(data)
    if data[:4] != b"ADB." or data[4:8] != schema:
        raise Unreadable("it is no index of apk")
    if len(data) < 12:
        raise Unreadable("it is cut off")
    # The values come first; signatures follow.
    head: int = _WORD.unpack_from(data, 8)[0]
    kind, size, start = head >> 30, head & 0x3FFFFFFF, 12
    if kind == 3:  # a larger head
        kind, size, start = size, int.from_bytes(data[16:24], "little"), 24
    if kind != 0:
        raise Unreadable("it does not begin with its values")
    if not start - 8 <= size <= len(data) - 8:
        raise Unreadable("it is cut off")
    return AdbBlock(data[start : 8 + size])


def _unpacked(data: bytes) -> bytes:
    """The file as it was before it was packed."""
    if data[:4] == b"ADBd":
        return unpack(data[4:], wbits=-15, most=_MOST_BYTES)
    if data[:4] != b"ADBc":
        return data
    packed = data[6:]
    match data[4:5]:
        case b"\0":
            return packed
        case b"\1":
            return unpack(packed, wbits=-15, most=_MOST_BYTES)
        case b"\2":
            return _unpack_zstd(packed)
    raise Unreadable("it is packed in an unknown way")


def _unpack_zstd(packed: bytes) -> bytes:
    try:
        zstandard: Any = importlib.import_module("zstandard")
    except ImportError:
        raise Unreadable("it is packed with zstd, which needs the Python library zstandard here") from None
    try:
        data: bytes = (
            zstandard.ZstdDecompressor(max_window_size=_MOST_BYTES)
            .stream_reader(packed)
            .read(_MOST_BYTES + 1)
        )
    except zstandard.ZstdError as error:
        raise Unreadable(f"it cannot be unpacked ({error})") from None
    if len(data) > _MOST_BYTES:
        raise Unreadable("it is much too large")
    return data
