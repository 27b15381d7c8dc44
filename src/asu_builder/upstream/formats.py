"""What the download server's documents say. Layout: facts on the ImageBuilder, §5.

Every reader takes the bytes and a place for notes, and raises `ValueError` for a document that says
nothing of what it should: then the last good one serves.
"""

import json
import re
import sys
from collections.abc import Collection
from datetime import UTC, datetime
from typing import Any

import msgspec
from msgspec import Struct

from asu_builder.domain.errors import RequestRejected
from asu_builder.domain.release import TargetProfiles, VersionList, parse_release
from asu_builder.domain.request import TARGET, UPSTREAM_PACKAGE, VERSION_CODE
from asu_builder.domain.search import Device, Title, name_devices, without_abi
from asu_builder.upstream.adb import INDEX_SCHEMA, open_adb
from asu_builder.upstream.lenient import GZIP, Notes, Reader, Unreadable, decode_object, is_text, unpack

_ARCHITECTURE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,63}")
_KERNEL_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9_~+-]*(?:\.[A-Za-z0-9_~+-]+)*")
"""A part of a directory's name: no two dots in a row."""
_NUMBER = re.compile(r"[0-9]{1,11}")
_MOST_VERSIONS, _MOST_TARGETS, _MOST_PROFILES = 2_000, 2_000, 20_000
_MOST_OF_A_PROFILE = 500
_MOST_FEEDS = 64
_FEEDS_BYTES = 64 << 10


def parse_versions(body: bytes, notes: Notes | None = None) -> VersionList:
    """`.versions.json`: what is a version and listed or named, each once."""
    notes = Notes() if notes is None else notes
    found = Reader(decode_object(body), notes)
    listed = [
        _released(version, notes, "versions_list")
        for version in found.texts("versions_list", most=_MOST_VERSIONS, required=True)
    ]
    latest = [
        _released(found.text(key), notes, key)
        for key in ("upcoming_version", "stable_version", "oldstable_version")
    ]
    # A version may be announced before the list has it, and then is on offer all the same.
    offered = tuple(dict.fromkeys(filter(None, [*listed, *latest])))
    _require_any(offered, "version", notes)
    return VersionList(offered, tuple(dict.fromkeys(filter(None, latest))))


def _require_any(found: Collection[object], what: str, notes: Notes) -> None:
    """A document of which everything was left out says nothing."""
    if notes.count and not found:
        raise Unreadable(f"it names no {what} ({notes})")


def _released(name: str, notes: Notes, key: str) -> str:
    """The name if it is a released version's, else ""."""
    if not name:
        return ""
    try:
        # Snapshots are found by their targets.
        return "" if parse_release(name).moving else name
    except RequestRejected:
        notes.add(key, name)
        return ""


def parse_targets(body: bytes, notes: Notes | None = None) -> dict[str, str]:
    """`.targets.json`: target → architecture."""
    notes = Notes() if notes is None else notes
    found = Reader(decode_object(body), notes).own_texts(most=_MOST_TARGETS)
    targets = {}
    for target, architecture in found.items():
        if TARGET.fullmatch(target) and _ARCHITECTURE.fullmatch(architecture):
            targets[target] = architecture
        else:
            notes.add(target, architecture)
    _require_any(targets, "target", notes)
    return targets


def parse_overview(body: bytes, notes: Notes) -> tuple[Device, ...]:
    """The devices of `.overview.json`; words that many of them have are kept once."""
    devices: list[Device] = []
    for profile in Reader(decode_object(body), notes).objects("profiles", most=_MOST_PROFILES):
        name = profile.text("id", required=True)
        target = profile.text("target", TARGET, required=True)
        titles = _titles(profile)
        if name and target:
            devices += name_devices(name, sys.intern(target), titles)
    _require_any(devices, "device", notes)
    return tuple(devices)


def _titles(profile: Reader) -> tuple[Title, ...]:
    titles = (
        Title(
            title.text("title"),
            sys.intern(title.text("vendor")),
            title.text("model"),
            sys.intern(title.text("variant")),
        )
        for title in profile.objects("titles", most=_MOST_OF_A_PROFILE)
    )
    return tuple(title for title in titles if str(title))


def parse_profiles_json(body: bytes, notes: Notes) -> TargetProfiles:
    """What `profiles.json` says about one target."""
    found = Reader(decode_object(body), notes)
    profiles: dict[str, tuple[str, ...]] = {}
    packages: dict[str, tuple[str, ...]] = {}
    titles: dict[str, tuple[Title, ...]] = {}
    for name, profile in found.named_objects("profiles", most=_MOST_PROFILES):
        profiles[name] = profile.texts("supported_devices", most=_MOST_OF_A_PROFILE)
        packages[name] = profile.texts("device_packages", most=_MOST_OF_A_PROFILE, pattern=UPSTREAM_PACKAGE)
        if called := _titles(profile):
            titles[name] = called
    # All three parts make the name of the directory.
    parts: list[str] = []
    if (kernel := found.inner("linux_kernel")) is not None:
        keys = ("version", "release", "vermagic")
        parts = [kernel.text(key, _KERNEL_PART, required=True) for key in keys]
    described = TargetProfiles(
        found.text("version_code", VERSION_CODE),
        found.text("arch_packages", _ARCHITECTURE),
        profiles,
        found.texts("default_packages", most=_MOST_OF_A_PROFILE, pattern=UPSTREAM_PACKAGE),
        packages,
        "-".join(parts) if all(parts) else "",
        titles,
    )
    _require_any(profiles, "profile", notes)
    return described


def parse_feeds(body: bytes, notes: Notes) -> tuple[str, ...]:
    """`feeds.conf`: the directories of an architecture. Not every mirror's list names `base`."""
    del notes
    lines = (line.split() for line in body[:_FEEDS_BYTES].decode("utf-8", "replace").splitlines())
    named = (words[1] for words in lines if len(words) >= 3 and re.fullmatch(r"[A-Za-z0-9_-]+", words[1]))
    return tuple(dict.fromkeys(("base", *named)))[:_MOST_FEEDS]


_RAW = msgspec.json.Decoder(dict[str, msgspec.Raw])


def lift_profile(body: bytes, profile: str, known: dict[str, str]) -> bytes | None:
    """`profiles.json` with one profile's keys at the top; None when it has no such profile.

    `known` holds what auc takes as given (facts on clients, §3.4) for where this document lacks it.
    """
    document, found = _take_profile(body, profile)
    if not isinstance(found, dict):
        return None
    reader = Reader(document, Notes())
    said: dict[str, Any] = {key: reader.text(key) or value for key, value in known.items()}
    said["metadata_version"] = reader.number("metadata_version", 1)
    # In seconds, which was a text before 2022.
    epoch = str(document.get("source_date_epoch"))
    if _NUMBER.fullmatch(epoch):
        built = datetime.fromtimestamp(int(epoch), UTC)
        said["build_at"] = built.isoformat(timespec="microseconds").replace("+00:00", "Z")
    listed = found.get("images")
    images = [
        image
        for image in (listed if isinstance(listed, list) else ())
        if isinstance(image, dict)
        and all(isinstance(image.get(key), str) for key in ("name", "type", "sha256"))
    ]
    lifted = {**document, **found, **said, "images": images, "id": profile}
    try:
        return msgspec.json.encode(lifted)
    except ValueError:
        return json.dumps(lifted).encode()  # half a letter, which it can only write as an escape


def _take_profile(body: bytes, profile: str) -> tuple[dict[str, Any], Any]:
    """The document without its profiles, and the one."""
    try:
        # All the others are skipped, not read.
        raw = _RAW.decode(body)
        one = _RAW.decode(raw.pop("profiles", msgspec.Raw(b"{}"))).get(profile)
        document = {key: msgspec.json.decode(value) for key, value in raw.items()}
        return document, None if one is None else msgspec.json.decode(one)
    except (ValueError, RecursionError):
        document = decode_object(body)
        profiles = document.pop("profiles", {})
        return document, profiles.get(profile) if isinstance(profiles, dict) else None


_MOST_PACKAGES = 20_000
_MOST_BROKEN = 1_000
_MOST_BYTES = 32 << 20


class PackageIndex(Struct, frozen=True):
    """Names and versions of a directory of packages."""

    packages: dict[str, str]
    is_stripped: bool
    """Whether the names are without ABI suffix."""
    others: frozenset[str] = frozenset()
    """Further names by which these packages can be asked for: provided ones and those with ABI suffix."""


def parse_index(body: bytes, notes: Notes) -> PackageIndex:
    """`index.json`, of both editions."""
    found = Reader(decode_object(body), notes)
    found.text("architecture")
    version = found.number("version", 1)
    packages = found.text_map("packages", most=_MOST_PACKAGES)
    _require_any(packages, "package", notes)
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
    return parse_packages(unpack(body, wbits=31, most=_MOST_BYTES), notes)


class IndexFile(Struct, frozen=True):
    """What is kept of an index in memory: its packages are read from the stored bytes when need be."""

    digest: str
    """SHA-256 of the bytes, hexadecimal."""

    @classmethod
    def of(cls, body: bytes) -> "IndexFile":
        """The file with these bytes."""
        import hashlib  # with OpenSSL, which a start does without

        return cls(hashlib.sha256(body).hexdigest())


def check_adb(body: bytes, notes: Notes) -> IndexFile:
    """`packages.adb`, whose packages another process reads: whether it is an index at all."""
    del notes
    open_adb(body, INDEX_SCHEMA)
    return IndexFile.of(body)


def check_packages(body: bytes, notes: Notes) -> IndexFile:
    """`Packages`, packed or not, whose packages are forgotten again."""
    _check_is_there(body)
    read_packages(body, notes)
    return IndexFile.of(body)


def _check_is_there(body: bytes) -> None:
    """A server whose disk is full serves empty files: such an index does not mean that all packages are gone.

    An index that really lists no package has at least a gzip header.
    """
    if not body.strip():
        raise Unreadable("it is empty")


def check_foreign_packages(body: bytes, notes: Notes) -> IndexFile:
    """The same, whose packages another process reads: whether it is an index at all."""
    del notes
    _check_is_there(body)
    text = unpack(body, wbits=31, most=_MOST_BYTES) if body.startswith(GZIP) else body
    if not text.isspace() and text and not re.search(rb"^Package:", text, re.MULTILINE):
        raise Unreadable("it names no package")
    return IndexFile.of(body)


def read_packages(body: bytes, notes: Notes) -> PackageIndex:
    """`Packages`, packed or not."""
    return (parse_packed_packages if body.startswith(GZIP) else parse_packages)(body, notes)
