"""`packages.adb`, the index of an apk repository: written and read as apk 3 does it.

A file is `ADBd` and a raw deflate stream. Unpacked, it is `ADB.`, a schema and blocks, each aligned to eight
bytes: the database, then its signatures. The database holds values of 32 bits: four bits of type, the rest a
small number or the offset of something longer. All numbers are little-endian.

Made up are the signature (Ed25519 where real files have ECDSA P-256, in a block of the real shape), the hash
of a package (SHA-256 of its file), and the tags that start with `sample:`.
"""

from __future__ import annotations

import hashlib
import re
import struct
import zlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from .packages import Package
from .usign import SigningKey, ed25519_sign, ed25519_verify

FILE_NAME = "packages.adb"

_SCHEMA = b"indx"
_DATABASE, _SIGNATURE, _EXTENDED = 0, 1, 3
_INLINE, _NUMBER, _LONG_NUMBER, _ARRAY, _OBJECT = 1, 2, 3, 13, 14
_LENGTHS = {8: "<B", 9: "<H", 10: "<I"}
_OFFSET = (1 << 28) - 1
_HASH_SHA512 = 4
_LARGEST = 64 * 1024 * 1024
"""Bytes: an index does not unpack to more than this."""

EQUAL, LESS, GREATER, FUZZY, CONFLICT = 1, 2, 4, 8, 16
"""Bits of a dependency's match field; all of the first three together mean any version."""
ANY = EQUAL | LESS | GREATER

_RELATIONS = {
    "": ANY,
    "=": EQUAL,
    "<": LESS,
    ">": GREATER,
    "<=": LESS | EQUAL,
    ">=": GREATER | EQUAL,
    "~": FUZZY | EQUAL,
    "<~": FUZZY | LESS | EQUAL,
    ">~": FUZZY | GREATER | EQUAL,
}
_SIGNS = {bits: sign for sign, bits in _RELATIONS.items()}
_DEPENDENCY = re.compile(r"(!?)([^=<>~]+)([<>]?[=~]?)(.*)")

if TYPE_CHECKING:
    Value = None | int | bytes | list["Value"]


def split_dependency(text: str) -> tuple[str, int, str]:
    """Name, match bits and version of `name`, `name>=1.2`, `name~1`, `!name` … as apk writes them.

    Raises ValueError.
    """
    found = _DEPENDENCY.fullmatch(text)
    if found is None or bool(found[3]) != bool(found[4]):
        raise ValueError(f"not a dependency: {text}")
    return found[2], _RELATIONS[found[3]] | (CONFLICT if found[1] else 0), found[4]


def write_index(packages: Iterable[Package], key: SigningKey) -> bytes:
    """A `packages.adb` of `packages`, signed with `key`."""
    database = _Writer()
    root = database.put_list(_OBJECT, [0, database.put_list(_ARRAY, [_put(database, p) for p in packages])])
    payload = struct.pack("<II", 0, root) + bytes(database.content[8:])
    head = bytes((0, _HASH_SHA512)) + _key_id(key.public)
    signature = head + ed25519_sign(key.seed, _signed(head, payload))
    blocks = _block(_DATABASE, payload) + _block(_SIGNATURE, signature)
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return b"ADBd" + packer.compress(b"ADB." + _SCHEMA + blocks) + packer.flush()


def read_index(data: bytes, trusted: Sequence[bytes] | None = None) -> list[Package] | None:
    """The packages of an index, or None when none of the raw public keys in `trusted` signed it.

    Without `trusted`, signatures are not looked at. Raises ValueError when it is no index.
    """
    try:
        blocks = list(_blocks(_unpack(data)))
        payload = next((content for kind, content in blocks if kind == _DATABASE), None)
        if payload is None:
            raise ValueError("no database block")
        if trusted is not None and not any(
            kind == _SIGNATURE and _is_trusted(content, payload, trusted) for kind, content in blocks
        ):
            return None
        (root,) = struct.unpack_from("<I", payload, 4)
        index = _list(_read(payload, root, depth=5))
        return [_package(_list(fields)) for fields in _list(index[1])] if len(index) > 1 else []
    except (struct.error, IndexError, TypeError, zlib.error, UnicodeDecodeError) as error:
        raise ValueError(f"broken index: {error}") from error


class _Writer:
    """The content of a database block; equal strings are kept once."""

    def __init__(self) -> None:
        self.content = bytearray(8)  # header and root value, filled in at the end
        self._known: dict[bytes, int] = {}

    def put(self, value: bytes | int | None) -> int:
        if value is None or value in (b"", 0):
            return 0
        if isinstance(value, int):
            if value <= _OFFSET:
                return _INLINE << 28 | value
            kind, form = (_NUMBER, "<I") if value < 1 << 32 else (_LONG_NUMBER, "<Q")
            return kind << 28 | self._append(struct.pack(form, value), align=8)
        if value not in self._known:
            kind = 8 if len(value) < 1 << 8 else 9 if len(value) < 1 << 16 else 10
            offset = self._append(struct.pack(_LENGTHS[kind], len(value)) + value, align=1 << kind - 8)
            self._known[value] = kind << 28 | offset
        return self._known[value]

    def put_list(self, kind: int, values: Sequence[int]) -> int:
        """An array or object; empty values at its end are left out, and nothing is written for none."""
        count = len(values)
        while count and not values[count - 1]:
            count -= 1
        if not count:
            return 0
        data = struct.pack(f"<{count + 1}I", count + 1, *values[:count])
        return kind << 28 | self._append(data, align=4)

    def _append(self, data: bytes, *, align: int) -> int:
        self.content += bytes(-len(self.content) % align)
        offset = len(self.content)
        self.content += data
        return offset


def _put(database: _Writer, package: Package) -> int:
    tags = [f"openwrt:abiversion={package.abi_version}"] if package.abi_version else []
    tags += [f"sample:fault={package.fault}"] if package.fault else []
    fields: list[bytes | int | None] = [
        package.name.encode(),
        package.version.encode(),
        bytes.fromhex(package.sha256),
        package.description.encode(),
        package.architecture.encode(),
        b"Apache-2.0",
        b"sample",
        None,  # maintainer
        b"https://sample.invalid/",
        None,  # commit
        None,  # build time
        package.installed_size,
        package.size,
        package.provider_priority,
    ]
    lists = [
        database.put_list(_ARRAY, [_put_dependency(database, text) for text in texts])
        for texts in (package.depends, package.provides, package.replaces)
    ]
    unused = [0, 0, 0]  # install-if, recommends, layer
    labels = database.put_list(_ARRAY, [database.put(tag.encode()) for tag in tags])
    return database.put_list(_OBJECT, [*map(database.put, fields), *lists, *unused, labels])


def _put_dependency(database: _Writer, text: str) -> int:
    name, match, version = split_dependency(text)
    plain = match == (EQUAL if version else ANY)
    values = (name.encode(), version.encode(), None if plain else match)
    return database.put_list(_OBJECT, [database.put(value) for value in values])


def _package(fields: list[Value]) -> Package:
    """A package as a database describes it; fields that it lacks are empty."""
    fields = fields + [None] * (21 - len(fields))
    tags = dict(_text(tag).partition("=")[::2] for tag in _list(fields[20]))
    name, version = _text(fields[0]), _text(fields[1])
    return Package(
        name,
        version,
        _text(fields[4]),
        description=_text(fields[3]),
        depends=_dependencies(fields[14]),
        provides=_dependencies(fields[15]),
        replaces=_dependencies(fields[16]),
        abi_version=tags.get("openwrt:abiversion", ""),
        fault=tags.get("sample:fault", ""),
        filename=f"{name}-{version}.apk",
        size=_number(fields[12]),
        installed_size=_number(fields[11]),
        provider_priority=_number(fields[13]),
        sha256=_bytes(fields[2]).hex(),
    )


def _dependencies(value: Value) -> tuple[str, ...]:
    return tuple([_dependency(_list(entry)) for entry in _list(value)]) if value else ()


def _dependency(fields: list[Value]) -> str:
    if len(fields) == 1:
        return _text(fields[0])
    match = _number(fields[2]) if len(fields) > 2 else EQUAL
    relation = match & ~CONFLICT
    if relation not in _SIGNS:
        raise ValueError(f"unknown match {match}")
    return "!" * bool(match & CONFLICT) + _text(fields[0]) + _SIGNS[relation] + _text(fields[1])


def _bytes(value: Value) -> bytes:
    if value is None:
        return b""
    if not isinstance(value, bytes):
        raise ValueError("not a string")
    return value


def _text(value: Value) -> str:
    return _bytes(value).decode()


def _number(value: Value) -> int:
    if value is None:
        return 0
    if not isinstance(value, int):
        raise ValueError("not a number")
    return value


def _list(value: Value) -> list[Value]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise ValueError("not a list")
    return value


def _read(payload: bytes, value: int, *, depth: int) -> Value:
    kind, offset = value >> 28, value & _OFFSET
    if value == 0:
        return None
    if kind == _INLINE:
        return offset
    if kind in _LENGTHS:
        (length,) = struct.unpack_from(_LENGTHS[kind], payload, offset)
        start = offset + (1 << kind - 8)
        if start + length > len(payload):
            raise ValueError("a string leaves the database")
        return payload[start : start + length]
    if kind in (_ARRAY, _OBJECT):
        if not depth:
            raise ValueError("too deeply nested")
        (count,) = struct.unpack_from("<I", payload, offset)
        values = struct.unpack_from(f"<{count - 1}I", payload, offset + 4) if count else ()
        return [_read(payload, inner, depth=depth - 1) for inner in values]
    if kind in (_NUMBER, _LONG_NUMBER):
        number: int = struct.unpack_from("<I" if kind == _NUMBER else "<Q", payload, offset)[0]
        return number
    raise ValueError(f"unknown type {kind}")


def _unpack(data: bytes) -> bytes:
    if data[:4] == b"ADBd":
        unpacker, packed = zlib.decompressobj(-15), data[4:]
    elif data[:4] == b"ADBc" and data[4:5] == b"\1":
        unpacker, packed = zlib.decompressobj(-15), data[6:]
    else:
        plain = data[6:] if data[:5] == b"ADBc\0" else data
        return _without_head(plain)
    content = unpacker.decompress(packed, _LARGEST)
    if not unpacker.eof:
        raise ValueError("cut off or too large")
    return _without_head(content)


def _without_head(content: bytes) -> bytes:
    if content[:8] != b"ADB." + _SCHEMA:
        raise ValueError("not an index")
    return content[8:]


def _blocks(content: bytes) -> Iterable[tuple[int, bytes]]:
    """Type and payload of each block. Raises ValueError for one that is cut off."""
    position = 0
    while position < len(content):
        (word,) = struct.unpack_from("<I", content, position)
        kind, size, head = word >> 30, word & (1 << 30) - 1, 4
        if kind == _EXTENDED:
            kind, head = size, 16
            (size,) = struct.unpack_from("<Q", content, position + 8)
        if size < head or position + size > len(content):
            raise ValueError("a block is cut off")
        yield kind, content[position + head : position + size]
        position += size + -size % 8


def _block(kind: int, payload: bytes) -> bytes:
    size = len(payload) + 4
    return struct.pack("<I", kind << 30 | size) + payload + bytes(-size % 8)


def _key_id(public: bytes) -> bytes:
    return hashlib.sha512(public).digest()[:16]


def _signed(head: bytes, payload: bytes) -> bytes:
    """What a signature signs: schema, the 18 bytes in front of it, and the digest of the database."""
    return _SCHEMA + head + hashlib.sha512(payload).digest()


def _is_trusted(signature: bytes, payload: bytes, trusted: Sequence[bytes]) -> bool:
    head, proof = signature[:18], signature[18:]
    signers = (public for public in trusted if _key_id(public) == head[2:])
    return head[:2] == bytes((0, _HASH_SHA512)) and any(
        ed25519_verify(public, _signed(head, payload), proof) for public in signers
    )
