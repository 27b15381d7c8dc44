"""Writes indexes of apk for tests, by the layout alone: facts on the preflight, §4."""

import hashlib
import struct
import zlib
from collections.abc import Mapping, Sequence

Value = int | str | bytes | None | Sequence["Value"]
"""A number, a text, nothing, or a list, which is an array or an object."""
FIELDS = (
    *("name", "version", "hash", "description", "arch", "license", "origin", "maintainer", "url", "commit"),
    *("build_time", "installed_size", "size", "priority", "depends", "provides", "replaces", "install_if"),
    *("recommends", "layer", "tags"),
)
"""Of a package, in their order."""


class Payload:
    """The bytes of a block, and values that point into them."""

    def __init__(self) -> None:
        self.data = bytearray(8)

    def add(self, value: Value) -> int:
        """The value, whose content lies behind what was there before."""
        if value is None:
            return 0
        if isinstance(value, int):
            if value < 1 << 28:
                return 1 << 28 | value
            wide = value >= 1 << 32
            return (3 if wide else 2) << 28 | self._append(struct.pack("<Q" if wide else "<I", value))
        if isinstance(value, str):
            value = value.encode()
        if isinstance(value, bytes):
            kind, form = (8, "<B") if len(value) < 256 else (9, "<H") if len(value) < 1 << 16 else (10, "<I")
            return kind << 28 | self._append(struct.pack(form, len(value)) + value)
        return self.point([self.add(entry) for entry in value])

    def point(self, values: Sequence[int]) -> int:
        """An object of values that were added before."""
        self.data += bytes(-len(self.data) % 4)
        return 14 << 28 | self._append(struct.pack(f"<{len(values) + 1}I", len(values) + 1, *values))

    def _append(self, content: bytes) -> int:
        self.data += content
        return len(self.data) - len(content)

    def file(self, root: int) -> bytes:
        """The whole file, not packed, with a block of signatures behind the values."""
        struct.pack_into("<I", self.data, 4, root)
        block = struct.pack("<I", len(self.data) + 4) + self.data
        return b"ADB.indx" + block + bytes(-len(block) % 8) + struct.pack("<I", 1 << 30 | 12) + bytes(8)


def block(kind: int, content: bytes, *, extended: bool = False) -> bytes:
    """A block of a file: 0 values, 1 a signature, 2 the content of a file."""
    if extended:
        head = struct.pack("<IIQ", 3 << 30 | kind, 0, len(content) + 16)
    else:
        head = struct.pack("<I", kind << 30 | len(content) + 4)
    return head + content + bytes(-len(head + content) % 8)


def package_metadata(
    folders: Mapping[str, Mapping[str, bytes]], name: str = "vim", *, digest: int = 32
) -> bytes:
    """The values in a package file: what it is, and size and SHA-256 of each file, cut to so many bytes."""
    payload = Payload()
    listed = [
        [
            folder,
            None,
            [
                [file, None, len(content), 1_700_000_000, hashlib.sha256(content).digest()[:digest]]
                for file, content in files.items()
            ],
        ]
        for folder, files in folders.items()
    ]
    struct.pack_into("<I", payload.data, 4, payload.add([[name, "9.1-r1"], listed]))
    return bytes(payload.data)


def package_file(metadata: bytes, folders: Mapping[str, Mapping[str, bytes]]) -> bytes:
    """A package of apk 3, not packed: metadata, a signature, and the content of all files that have one."""
    blocks = [block(0, metadata), block(1, bytes(82))]
    for place, files in enumerate(folders.values(), 1):
        for number, content in enumerate(files.values(), 1):
            if content:
                blocks.append(block(2, struct.pack("<II", place, number) + content))
    return b"ADB.pckg" + b"".join(blocks)


def package(**fields: Value) -> Sequence[Value]:
    """A package with these of `FIELDS`."""
    assert fields.keys() <= set(FIELDS)
    values = [fields.get(name) for name in FIELDS]
    while values[-1] is None:
        values.pop()
    return values


def index(*packages: Value) -> bytes:
    """An index, not packed."""
    payload = Payload()
    return payload.file(payload.add([None, list(packages)]))


def packed(adb: bytes, how: str = "deflate") -> bytes:
    """The same file as apk packs it."""
    packing = zlib.compressobj(wbits=-15)
    deflated = packing.compress(adb) + packing.flush()
    return {
        "deflate": b"ADBd" + deflated,
        "named deflate": b"ADBc\1\6" + deflated,
        "named none": b"ADBc\0\0" + adb,
        "none": adb,
    }[how]


def packages_text(*packages: Mapping[str, str]) -> bytes:
    """What opkg reads."""
    return "".join(
        "".join(f"{key}: {value}\n" for key, value in package.items()) + "\n" for package in packages
    ).encode()
