"""What a directory of packages holds: the indexes of apk and opkg, and which of them to read."""

import re
import zlib
from collections.abc import Callable
from typing import Protocol, TypeVar

from msgspec import Struct

from asu_builder.domain.search import without_abi
from asu_builder.upstream.lenient import Notes, Reader, Unreadable, decode_object, is_text

_MOST_PACKAGES = 20_000
_MOST_BROKEN = 1_000
_MOST_BYTES = 32 << 20

Parsed = TypeVar("Parsed")


class PackageIndex(Struct, frozen=True):
    """Names and versions of a directory of packages."""

    packages: dict[str, str]
    is_stripped: bool
    """Whether the names are without ABI suffix."""
    others: frozenset[str] = frozenset()
    """Further names by which these packages can be asked for: provided ones and those with ABI suffix."""


class Read(Protocol):
    """Reads a document; None when upstream has none. Raises `Unavailable`."""

    def __call__(self, path: str, parse: Callable[[bytes, Notes], Parsed]) -> Parsed | None:
        """The document at a path."""
        ...


def read_index(directory: str, read: Read) -> PackageIndex | None:
    """The index of a directory, None when there is none. Raises what `read` raises."""
    index = read(f"{directory}/index.json", parse_index)
    if index is None:
        # Older releases and many mirrors have nothing but what opkg reads.
        return read(f"{directory}/Packages.gz", parse_packed_packages) or read(
            f"{directory}/Packages", parse_packages
        )
    if index.is_stripped:
        return index
    # The first edition has names with their ABI suffix; `Packages` says what to take off.
    return read(f"{directory}/Packages", parse_packages) or index


def parse_index(body: bytes, notes: Notes) -> PackageIndex:
    """`index.json`, of both editions."""
    found = Reader(decode_object(body), notes)
    found.text("architecture")
    version = found.number("version", 1)
    packages = found.text_map("packages", most=_MOST_PACKAGES)
    if notes.count and not packages:
        raise Unreadable(f"it names no package ({notes})")
    if version >= 2:
        return PackageIndex(packages, True)
    # Where there is no `Packages` beside it.
    others = (short for name in packages for short in without_abi(name))
    return PackageIndex(packages, False, frozenset(others))


_FIELD = re.compile(r"^(Package|Version|ABIVersion|Provides): *([^\r\n]{1,8192})", re.MULTILINE)


def parse_packages(body: bytes, notes: Notes) -> PackageIndex:
    """`Packages`, the index that opkg reads: names without ABI suffix."""
    text = body.decode("utf-8", "replace").replace("\r\n", "\n")
    packages: dict[str, str] = {}
    others: set[str] = set()
    fields: dict[str, str] = {}
    end = read = 0
    for match in _FIELD.finditer(text):
        start = match.start()
        if start >= end:
            _add_package(fields, packages, others, notes)
            if notes.count > max(len(packages), _MOST_BROKEN):
                raise Unreadable(f"most of it cannot be meant ({notes})")
            read += 1
            if read > _MOST_PACKAGES:
                notes.add("the rest", f"more than {_MOST_PACKAGES} packages")
                break
            fields = {}
            end = text.find("\n\n", start)
            end = len(text) if end < 0 else end
        key, value = match.groups()
        fields.setdefault(key, value)
    _add_package(fields, packages, others, notes)
    if not packages and not text.isspace() and text:
        raise Unreadable("it names no package")
    return PackageIndex(packages, True, frozenset(others - packages.keys()))


def _add_package(fields: dict[str, str], packages: dict[str, str], others: set[str], notes: Notes) -> None:
    """Adds the package of one paragraph."""
    if not fields:
        return
    name, version = fields.get("Package", "").rstrip(), fields.get("Version", "").rstrip()
    if not (is_text(name) and is_text(version)):
        notes.add("the version of a package" if name else "the name of a package", version or name)
        return
    others.add(name)
    if abi := fields.get("ABIVersion"):
        name = name.removesuffix(abi.rstrip()) or name
    packages[name] = version
    if provides := fields.get("Provides"):
        # Like `libubus, nftables=1.1.6`.
        provided = (entry.split("=")[0].strip() for entry in provides.split(","))
        others.update(entry for entry in provided if is_text(entry))


def parse_packed_packages(body: bytes, notes: Notes) -> PackageIndex:
    """`Packages.gz`: the same, packed."""
    unpacking = zlib.decompressobj(wbits=31)
    try:
        text = unpacking.decompress(body, _MOST_BYTES)
    except zlib.error as error:
        raise Unreadable(f"it is no gzip file ({error})") from None
    if not unpacking.eof:
        raise Unreadable("it is cut off, or much too large")
    return parse_packages(text, notes)
