"""What the indexes that apk and opkg read say of each package. Layout: facts on the preflight, §4.

Other processes run it as well, so it imports little.
"""

import re
from collections.abc import Callable, Iterator

from msgspec import Struct
from msgspec.structs import replace

from asu_builder.domain.package_index import IndexedPackage, PackageManager, Relation
from asu_builder.upstream.adb import INDEX_SCHEMA, AdbBlock, OddValue, open_adb
from asu_builder.upstream.lenient import GZIP, Notes, Unreadable, is_text, unpack

_MOST_PACKAGES = 50_000
_MOST_OF_A_PACKAGE = 1_000
"""Names in one of its lists."""
_MOST_RELATIONS = 500_000
"""Of all packages, counted wherever they stand."""
_MOST_BYTES = 32 << 20
_MOST_LIST, _MOST_PARAGRAPH = 64 << 10, 256 << 10
"""Characters of a list of names, and of all that `Packages` says of one package."""
_NAME = r"[^\x00-\x20\x7f-\U0010ffff()*,<=>|~]{1,256}"
"""Without what stands between names."""
_VERSION = r"[^\x00-\x20\x7f-\U0010ffff()*,<=>|]{1,256}"


class ReadIndex(Struct, frozen=True):
    """The packages of one index."""

    packages: list[IndexedPackage]
    left_out: int = 0
    """How many entries could not be read: where it is not 0, nothing may be called missing."""


def read_index(
    manager: PackageManager, data: bytes, notes: Notes, *, wanted: Callable[[str], bool] = lambda _: True
) -> ReadIndex:
    """The packages of `packages.adb`, or of `Packages`, packed or not, in their order.

    Of names that are not `wanted` little more than the name is read.

    An entry of which anything that decides cannot be meant is left out; what only people read is left empty.
    Raises `Unreadable` where the whole cannot be read.
    """
    read = _read_adb if manager is PackageManager.APK else _read_packages
    left_out = 0
    packages = []
    for package in read(data, notes, wanted):
        if package is None:
            left_out += 1
        else:
            packages.append(package)
    if left_out and not packages:
        raise Unreadable(f"it names no package ({notes})")
    return ReadIndex(packages, left_out)


class _Relations:
    """Counts the names in all lists of an index."""

    def __init__(self) -> None:
        self._left = _MOST_RELATIONS

    def count(self, more: int) -> None:
        """Raises `Unreadable` when it is too much."""
        self._left -= more
        if self._left < 0:
            raise Unreadable(f"its packages name more than {_MOST_RELATIONS} others")


_OPERATORS = {0: "=", 1: "=", 2: "<", 3: "<=", 4: ">", 5: ">=", 7: "", 8: "~", 9: "~"}
"""By the bits of a match: equal 1, less 2, greater 4, fuzzy 8."""
_CONFLICT = 16
_FIELDS = 21
_CPE, _ABI = "openwrt:cpe=", "openwrt:abiversion="
_IS_NAME = re.compile(_NAME).fullmatch
_IS_VERSION = re.compile(_VERSION).fullmatch


class _AdbReader:
    """The packages of one ADB file. What many of them share is read once."""

    def __init__(self, block: AdbBlock, notes: Notes, wanted: Callable[[str], bool]) -> None:
        self._block = block
        self._notes = notes
        self._wanted = wanted
        self._texts: dict[int, str] = {}
        self._names: dict[int, str] = {}
        self._versions: dict[int, str] = {}
        self._relations: dict[int, Relation] = {}
        self._lists: dict[int, tuple[Relation, ...]] = {}
        self._counted = _Relations()

    def packages(self) -> Iterator[IndexedPackage | None]:
        """One after the other; None for one that is left out."""
        try:
            root = self._block.values(self._block.root, most=_FIELDS)
            # The description, then the packages.
            listed = self._block.values(root[1], most=_MOST_PACKAGES) if len(root) > 1 else ()
        except OddValue as error:
            raise Unreadable(f"its list of packages is {error}") from None
        for number, value in enumerate(listed):
            try:
                fields = self._block.values(value, most=64)
                fields += (0,) * (_FIELDS - len(fields))
                name = self._word(fields[0], self._names, _IS_NAME)
                if self._wanted(name):
                    yield self._package(name, fields)
            except OddValue as error:
                self._notes.add(f"package {number}", str(error))
                yield None

    def _package(self, name: str, fields: tuple[int, ...]) -> IndexedPackage:
        integer, list_of = self._block.integer, self._list
        tags = self._tags(fields[20]) if fields[20] else {}
        return IndexedPackage(
            name,
            self._word(fields[1], self._versions, _IS_VERSION),
            depends=list_of(fields[14]),
            provides=list_of(fields[15]),
            replaces=list_of(fields[16]),
            install_if=list_of(fields[17]),
            recommends=list_of(fields[18]),
            provider_priority=integer(fields[13]) if fields[13] else None,
            architecture=self._text(fields[4]),
            size=integer(fields[12]),
            installed_size=integer(fields[11]),
            licence=self._text(fields[5]),
            cpe=tags.get(_CPE, ""),
            origin=self._text(fields[6]),
            hash=self._block.bytes(fields[2]).hex(),
            abi=tags.get(_ABI, ""),
        )

    def _list(self, value: int) -> tuple[Relation, ...]:
        if not value:
            return ()
        found = self._lists.get(value)
        if found is None:
            known, read = self._relations, self._relation
            listed = self._block.values(value, most=_MOST_OF_A_PACKAGE)
            found = tuple([known.get(entry) or read(entry) for entry in listed])
            self._lists[value] = found
        self._counted.count(len(found))
        return found

    def _relation(self, value: int) -> Relation:
        fields = self._block.values(value, most=64)
        name = self._word(fields[0] if fields else 0, self._names, _IS_NAME)
        version = match = 0
        if len(fields) > 1:
            version = fields[1]
            match = self._block.integer(fields[2]) if len(fields) > 2 else 0
        excludes = bool(match & _CONFLICT)
        operator = _OPERATORS.get(match & ~_CONFLICT)
        if operator is None:
            raise OddValue(f"a dependency by match {match}")
        if version and operator:
            word = self._word(version, self._versions, _IS_VERSION)
            found = Relation(name, operator, word, excludes)
        else:
            found = Relation(name, excludes=excludes)
        self._relations[value] = found
        return found

    def _word(
        self, value: int, known: dict[int, str], is_meant: Callable[[str], re.Match[str] | None]
    ) -> str:
        word = known.get(value)
        if word is None:
            word = self._block.bytes(value).decode("ascii", "replace")
            if not is_meant(word):
                raise OddValue(word or "without a name or version")
            known[value] = word
        return word

    def _text(self, value: int) -> str:
        """A text that nothing depends on."""
        text = self._texts.get(value) if value else ""
        if text is None:
            try:
                text = self._block.bytes(value).decode("utf-8", "replace")
                if not is_text(text):
                    raise OddValue(text)
            except OddValue as error:
                self._notes.add("a text of a package", str(error))
                text = ""
            self._texts[value] = text
        return text

    def _tags(self, tags: int) -> dict[str, str]:
        """Those that are looked at, by how they begin; the first of each counts."""
        found: dict[str, str] = {}
        for tag in self._block.values(tags, most=_MOST_OF_A_PACKAGE):
            text = self._text(tag)
            for start in (_CPE, _ABI):
                if text.startswith(start):
                    found.setdefault(start, text[len(start) :])
        return found


def _read_adb(data: bytes, notes: Notes, wanted: Callable[[str], bool]) -> Iterator[IndexedPackage | None]:
    return _AdbReader(open_adb(data, INDEX_SCHEMA), notes, wanted).packages()


_BLANKS = re.compile(r"\n[ \t]+(?=\n)")
"""A line of nothing but blanks ends a paragraph like an empty one."""
_LISTS = ("Depends", "Provides", "Conflicts", "Replaces", "Recommends")
_IN_LINE = re.compile(r"[^\n]")
_FIELD = re.compile(
    r"^(Package|Version|Pre-Depends|Depends|Provides|Conflicts|Replaces|Recommends|Architecture|Installed-Size|Size"
    r"|License|CPE-ID|Source|SourceName|SHA256sum|Filename|ABIVersion):[ \t]*([^\n]*(?:\n[ \t][^\n]*)*)",
    re.MULTILINE,
)
_ENTRY = re.compile(rf"({_NAME})(?:\s*\(\s*(<<|<=|>=|>>|=|<|>)\s*({_VERSION})\s*\)|=({_VERSION}))?")
_OPKG_OPERATORS = {"<<": "<", ">>": ">", "<": "<=", ">": ">="}
"""opkg takes the single ones for what they meant long ago."""
_NUMBER = re.compile(r"[0-9]{1,18}")


_ENDED = re.compile(rb"\n[ \t\r]*\n\s*\Z")
_LABEL = re.compile(r"^[A-Za-z][A-Za-z0-9-]*(?=:)", re.MULTILINE)
_CALLED = re.compile(r"^Package:[ \t]*(\S+)", re.MULTILINE)


def _read_packages(
    data: bytes, notes: Notes, wanted: Callable[[str], bool]
) -> Iterator[IndexedPackage | None]:
    if data.startswith(GZIP):
        data = unpack(data, wbits=31, most=_MOST_BYTES)
    text = _BLANKS.sub("\n", data.decode("utf-8", "replace").rstrip().replace("\r\n", "\n"))
    reader = _PackagesReader(notes)
    read = 0
    begin = _IN_LINE.search(text)
    while begin:
        read += 1
        if read > _MOST_PACKAGES:
            raise Unreadable(f"its list of packages is a list of more than {_MOST_PACKAGES}")
        end = text.find("\n\n", begin.start())
        end = len(text) if end < 0 else end
        called = _CALLED.search(text, begin.start(), end)
        if called is None or wanted(called[1]):
            yield reader.package(text, begin.start(), end)
        begin = _IN_LINE.search(text, end)
    if read and _is_cut_off(text, data):
        notes.add("the list of packages", "cut off")
        yield None


def _is_cut_off(text: str, data: bytes) -> bool:
    """Whether the last paragraph ends within a line, or with another field than the first one does.

    A mirror may serve half a file as if it were whole. Each paragraph of a whole one is followed by an empty
    line; a writer that leaves out the last of them still ends all paragraphs alike.
    """
    if _ENDED.search(data, max(0, len(data) - 100)):
        return False
    first, last = text.partition("\n\n")[0], text.rpartition("\n\n")[2]
    return not data.endswith(b"\n") or _last_label(first) != _last_label(last)


def _last_label(paragraph: str) -> list[str]:
    """The name of its last field, if it has any."""
    return _LABEL.findall(paragraph[-_MOST_LIST:])[-1:]


class _PackagesReader:
    """Reads one paragraph after the other. What many of them share is read once."""

    def __init__(self, notes: Notes) -> None:
        self._notes = notes
        self._relations: dict[str, Relation] = {}
        self._counted = _Relations()

    def package(self, text: str, start: int, end: int) -> IndexedPackage | None:
        """The package of a paragraph; None for one that is left out."""
        if end - start > _MOST_PARAGRAPH:
            self._notes.add("a package", f"a text of {end - start} characters")
            return None
        found: list[tuple[str, str]] = _FIELD.findall(text, start, end)
        fields = dict(found)
        if len(fields) < len(found) or "Pre-Depends" in fields:
            # opkg takes a list that goes on in another field of the same name for one.
            for label in _LISTS:
                fields[label] = ",".join(text for name, text in found if name.removeprefix("Pre-") == label)
        name, version = fields.get("Package", "").rstrip(), fields.get("Version", "").rstrip()
        try:
            if not (_IS_NAME(name) and _IS_VERSION(version)):
                raise OddValue(version if _IS_NAME(name) else name)
            return IndexedPackage(
                name,
                version,
                depends=self._list(fields.get("Depends")),
                provides=self._list(fields.get("Provides")),
                conflicts=self._list(fields.get("Conflicts")),
                replaces=self._list(fields.get("Replaces")),
                recommends=self._list(fields.get("Recommends")),
                architecture=self._text(fields.get("Architecture")),
                size=self._number(fields.get("Size")),
                installed_size=self._number(fields.get("Installed-Size")),
                licence=self._text(fields.get("License")),
                cpe=self._text(fields.get("CPE-ID")),
                origin=self._text(fields.get("Source") or fields.get("SourceName")),
                filename=self._text(fields.get("Filename")),
                hash=self._text(fields.get("SHA256sum")),
                abi=self._text(fields.get("ABIVersion")),
            )
        except OddValue as error:
            self._notes.add(f"package {name}", str(error))
            return None

    def _list(self, text: str | None) -> tuple[Relation, ...]:
        if not text:
            return ()
        if len(text) > _MOST_LIST:
            raise OddValue(f"a list of {len(text)} characters")
        known = self._relations
        entries = [entry for entry in map(str.strip, text.split(",")) if entry]
        if len(entries) > _MOST_OF_A_PACKAGE:
            raise OddValue(f"a list of {len(entries)}")
        self._counted.count(len(entries))
        return tuple([known.get(entry) or self._relation(entry) for entry in entries])

    def _relation(self, entry: str) -> Relation:
        first, *others = [self._one(part.strip()) for part in entry.split("|")]
        self._counted.count(len(others))
        found = replace(first, others=tuple(others)) if others else first
        self._relations[entry] = found
        return found

    def _one(self, entry: str) -> Relation:
        match = _ENTRY.fullmatch(entry)
        if match is None:
            raise OddValue(entry)
        name, operator, version, equal = match.groups()
        if equal:
            return Relation(name, "=", equal)
        return (
            Relation(name, _OPKG_OPERATORS.get(operator, operator), version) if operator else Relation(name)
        )

    def _text(self, text: str | None) -> str:
        """A text that nothing depends on."""
        if not text:
            return ""
        text = text.rstrip()
        if is_text(text):
            return text
        self._notes.add("a text of a package", text)
        return ""

    def _number(self, text: str | None) -> int:
        if not text:
            return 0
        if _NUMBER.fullmatch(text.rstrip()):
            return int(text)
        self._notes.add("a size of a package", text)
        return 0
