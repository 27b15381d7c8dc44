"""One odd value never takes a document along: every field of every document, replaced by every oddity."""

import contextlib
import copy
import gzip
import json
import logging
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from asu_builder.database.connection import Database
from asu_builder.domain.errors import Unavailable
from asu_builder.upstream.formats import (
    lift_profile,
    parse_feeds,
    parse_index,
    parse_overview,
    parse_packages,
    parse_packed_packages,
    parse_profiles_json,
    parse_targets,
    parse_versions,
)
from asu_builder.upstream.lenient import LeftOut, Notes
from asu_builder.upstream.offer import HttpUpstream
from asu_sample.server import DownloadServer
from factories import Clock, eventually
from yardstick import grows_in_proportion, takes_at_most

ODD: dict[str, Any] = {
    "null": None,
    "number": 42,
    "a number with a point": 1.5,
    "a huge number": 10**30,
    "true": True,
    "list": ["x", 1, None],
    "list of lists": [[]],
    "map": {"x": {}},
    "empty map": {},
    "huge text": "x" * 100_000,
    "huge list": [1] * 100_000,
    "control characters": "a\r\nb\0",
    "half a letter": "\ud800",
    "up and away": "../../etc/passwd",
}
VERSIONS = {
    "stable_version": "24.10.5",
    "oldstable_version": "23.05.6",
    "upcoming_version": "25.12.0-rc1",
    "versions_list": ["24.10.5", "24.10.4", "23.05.6"],
}
TARGETS = {"pico/nine": "pico_9kc", "x86/64": "x86_64"}
PROFILES = {
    "metadata_version": 1,
    "target": "pico/nine",
    "version_number": "24.10.5",
    "version_code": "r1-abc",
    "source_date_epoch": 1767225600,
    "arch_packages": "pico_9kc",
    "default_packages": ["base-files", "busybox"],
    "linux_kernel": {"version": "6.6.1", "release": "1", "vermagic": "0f1e"},
    "profiles": {
        "acme_one": {
            "supported_devices": ["acme,one", "one"],
            "device_packages": ["kmod-one", "-ppp"],
            "titles": [{"vendor": "Acme", "model": "One", "variant": "v1"}],
            "images": [{"name": "one.bin", "type": "sysupgrade", "sha256": "0" * 64}],
        },
        "acme_two": {
            "supported_devices": ["acme,two"],
            "device_packages": ["kmod-two"],
            "titles": [{"title": "Acme Two"}],
            "images": [{"name": "two.bin", "type": "sysupgrade", "sha256": "0" * 64}],
        },
    },
}
OVERVIEW = {
    "release": "24.10.5",
    "profiles": [
        {"id": "acme_one", "target": "pico/nine", "titles": [{"vendor": "Acme", "model": "One"}]},
        {"id": "acme_two", "target": "pico/nine", "titles": [{"title": "Acme Two"}]},
    ],
}
INDEX = {"version": 2, "architecture": "pico_9kc", "packages": {"vim": "9.1-r1", "curl": "8-r1"}}


def places(document: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a document that holds a value, the document itself left out."""
    entries: Any = document.items() if isinstance(document, dict) else enumerate(document)
    for key, value in entries:
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from places(value, (*path, key))


def changed(document: Any, path: tuple[Any, ...], value: Any) -> bytes:
    """The document with another value at one place."""
    copied = copy.deepcopy(document)
    inner = copied
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return json.dumps(copied).encode()


def missing(document: Any, path: tuple[Any, ...]) -> bytes:
    copied = copy.deepcopy(document)
    inner = copied
    for key in path[:-1]:
        inner = inner[key]
    del inner[path[-1]]
    return json.dumps(copied).encode()


def facts(parsed: Any) -> set[str]:
    """What a parsed document says, one statement each, so that two can be compared."""
    if not isinstance(parsed, dict | list | tuple | set | frozenset):
        fields = getattr(parsed, "__struct_fields__", None)
        if fields is None:
            return {repr(parsed)}
        parsed = {name: getattr(parsed, name) for name in fields}
    if isinstance(parsed, dict):
        return {f"{key}: {fact}" for key, value in parsed.items() for fact in facts(value)}
    return {fact for value in parsed for fact in facts(value)}


DOCUMENTS: dict[str, tuple[Callable[[bytes, Notes], Any], Any]] = {
    ".versions.json": (parse_versions, VERSIONS),
    ".targets.json": (parse_targets, TARGETS),
    "profiles.json": (parse_profiles_json, PROFILES),
    ".overview.json": (parse_overview, OVERVIEW),
    "index.json": (parse_index, INDEX),
}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_an_odd_value_takes_nothing_but_itself_along(name: str) -> None:
    parse, document = DOCUMENTS[name]
    notes = Notes()
    parse(json.dumps(document).encode(), notes)
    assert notes.count == 0
    for path in places(document):
        for oddity, value in ODD.items():
            notes = Notes()
            where = f"{name} {path} {oddity}"
            body = changed(document, path, value)
            try:
                read = parse(body, notes)
            except ValueError as error:
                # Nothing was left: the last good copy serves, which is better than an empty one.
                assert len(path) == 1 and path[0] in ("profiles", "packages"), f"{where}: {error}"
                continue
            unit = path[:2] if path[0] in ("profiles", "packages", "versions_list") else path[:1]
            lost = facts(parse(missing(document, unit), Notes())) - facts(read)
            assert lost <= {"is_stripped: False"}, f"{where} has lost {lost}"
            _require_sound(read, where)
        read = None
        try:
            read = parse(missing(document, path), Notes())
        except ValueError:
            assert path == ("versions_list",), path
        if read is not None:
            _require_sound(read, f"{name} without {path}")


def _require_sound(read: Any, where: str) -> None:
    for fact in facts(read):
        assert len(fact) < 1000, where
        assert fact.isprintable(), where


@pytest.mark.parametrize(
    ("path", "kept"),
    [
        (("profiles", "acme_one"), {"acme_two"}),
        (("profiles", "acme_one", "supported_devices"), {"acme_one", "acme_two"}),
        (("profiles", "acme_one", "titles"), {"acme_one", "acme_two"}),
        (("profiles", "acme_one", "titles", 0, "vendor"), {"acme_one", "acme_two"}),
        (("default_packages",), {"acme_one", "acme_two"}),
        (("linux_kernel", "release"), {"acme_one", "acme_two"}),
        (("version_code",), {"acme_one", "acme_two"}),
    ],
)
@pytest.mark.parametrize("value", [None, 42, {"a": 1}, 10**30])
def test_of_a_target_only_the_odd_part_is_left_out_and_noted(
    path: tuple[str, ...], kept: set[str], value: Any
) -> None:
    notes = Notes()
    read = parse_profiles_json(changed(PROFILES, path, value), notes)
    # A map is a legal profile without any field.
    assert set(read.profiles) == kept | ({"acme_one"} if value == {"a": 1} else set())
    if not (value == {"a": 1} and path == ("profiles", "acme_one")):
        assert notes.count >= 1
        assert str(path[-1]) in str(notes)


def test_the_version_that_is_upcoming_is_offered_without_being_listed() -> None:
    """Case 11: "offered and accepted like a listed version"."""
    read = parse_versions(
        b'{"stable_version": "24.10.5", "oldstable_version": "24.10.4", "upcoming_version": "25.12.0-rc1",'
        b' "versions_list": ["24.10.5", "24.10.4"]}'
    )
    assert set(read.listed) == {"24.10.5", "24.10.4", "25.12.0-rc1"}
    assert list(read.latest) == ["25.12.0-rc1", "24.10.5", "24.10.4"]


DIRTY = {
    "stable_version": "25.12.0",
    "oldstable_version": "24.10.5",
    "upcoming_version": "",
    "versions_list": ["25.12.0", "25.12.0", "v25.12.0", 42, None, "", "garbage", "24.10.5"],
}


@pytest.fixture
def downloads(tmp_path: Path) -> Path:
    (tmp_path / "downloads").mkdir()
    (tmp_path / "downloads/.versions.json").write_text(json.dumps(DIRTY))
    return tmp_path / "downloads"


def test_a_dirty_list_is_read_and_told_once(
    downloads: Path, database: Database, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """Case 12: the good versions "are offered, once each; one log line; /health degraded"."""
    caplog.set_level(logging.WARNING)
    with DownloadServer(downloads) as server:
        upstream = HttpUpstream(server.url, database, now=clock, clock=lambda: clock().timestamp())
        try:
            assert eventually(lambda: _listed(upstream) == ("25.12.0", "24.10.5"))
            assert upstream.check().status == "warning"
            assert ".versions.json" in upstream.check().sentence
            for _ in range(3):
                _listed(upstream)
            assert len([line for line in caplog.messages if ".versions.json" in line]) == 1
            (downloads / ".versions.json").write_text(json.dumps(VERSIONS))
            clock.forward(timedelta(days=1))
            assert eventually(lambda: "24.10.4" in (_listed(upstream) or ()))
            assert eventually(lambda: upstream.check().status == "ok")
        finally:
            upstream.close()


def _listed(upstream: HttpUpstream) -> tuple[str, ...] | None:
    try:
        return tuple(upstream.versions().listed)
    except Unavailable:
        return None


def test_nothing_at_all_is_unreadable_so_that_the_last_good_copy_serves() -> None:
    for parse, _ in DOCUMENTS.values():
        for body in (b"", b"null", b"[]", b'"x"', b"{", b"<html>", b"[" * 100_000, b'{"a":' * 100_000):
            with pytest.raises(ValueError, match=r"\w"):
                parse(body, Notes())


def test_a_broken_letter_or_number_does_not_spoil_the_rest() -> None:
    for oddity in (b'"\\ud800"', b'"\xff"', b"1e999", b"9" * 6000, b"NaN", b'"a\nb"'):
        notes = Notes()
        read = parse_index(b'{"version": 2, "packages": {"vim": "9.1", "curl": ' + oddity + b"}}", notes)
        assert read.packages["vim"] == "9.1", oddity


def test_what_is_left_out_is_logged_once_for_each_document(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    left_out = LeftOut()
    parse = left_out.noting("a/index.json", parse_index)
    dirty = b'{"version": 2, "packages": {"vim": "9.1", "curl": 8}}'
    for _ in range(3):
        parse(dirty)
    assert caplog.messages == ["a/index.json: left out what cannot be meant: packages.curl is 8"]
    assert "a/index.json" in left_out.sentence()
    parse(b'{"version": 2, "packages": {"vim": "9.1"}}')
    assert left_out.sentence() == ""


PACKAGES = """Package: libubus20241020
Version: 2024.10.20-r1
Depends: libc
Provides: libubus, ubus-any=1.0
ABIVersion: 20241020
Description: text
 Package: no field
  Version: none

Package: without-version

Version: 1.0
Depends: nobody

Architecture: all
Version: 9.1
Package: vim
"""


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_an_index_of_opkg_is_read_paragraph_by_paragraph(ending: str) -> None:
    notes = Notes()
    read = parse_packages(PACKAGES.replace("\n", ending).encode(), notes)
    assert read.packages == {"libubus": "2024.10.20-r1", "vim": "9.1"}
    assert read.others == {"libubus20241020", "ubus-any"}
    assert notes.count == 2


@pytest.mark.parametrize("field", ["Package", "Version", "ABIVersion", "Provides"])
@pytest.mark.parametrize("value", ["", "\0", "x" * 100_000, "\xff", ", , ,", "= = ="])
def test_an_odd_field_takes_at_most_its_own_package_along(field: str, value: str) -> None:
    lines = {"Package": "curl4", "Version": "8", "ABIVersion": "4", "Provides": "curl"} | {field: value}
    text = "\n".join(f"{key}: {said}" for key, said in lines.items())
    read = parse_packages(
        f"Package: vim\nVersion: 9.1\n\n{text}\n\nPackage: nano\nVersion: 8\n".encode(), Notes()
    )
    assert read.packages["vim"] == "9.1"
    assert read.packages["nano"] == "8"
    assert all(len(name) < 300 for name in (*read.packages, *read.others))


def test_one_profile_is_lifted_as_auc_needs_it() -> None:
    known = {
        "target": "pico/nine",
        "arch_packages": "pico_9kc",
        "version_number": "24.10.5",
        "version_code": "",
    }
    lifted = lift_profile(json.dumps(PROFILES).encode(), "acme_one", known)
    assert lifted is not None
    document = json.loads(lifted)
    assert document["build_at"] == "2026-01-01T00:00:00.000000Z"
    for path in places(PROFILES):
        for value in ODD.values():
            lifted = lift_profile(changed(PROFILES, path, value), "acme_one", known)
            if lifted is None:
                assert path in (("profiles",), ("profiles", "acme_one"))
                continue
            document = json.loads(lifted)
            assert document["metadata_version"].__class__ is int
            for key in known:
                assert isinstance(document[key], str), (path, value)
            assert isinstance(document["images"], list)
            assert all(isinstance(image["name"], str) for image in document["images"])


MIB = 1 << 20
PIECES: dict[str, tuple[bytes, bytes, bytes]] = {
    "one line": (b"", b"x", b""),
    "one line of blanks": (b"", b" ", b""),
    "one line of quotes": (b"", b'"', b""),
    "one long text": (b'{"versions_list": ["', b"x", b'"]}'),
    "one object": (b'{"packages": {"b": 1', b', "a": 1', b"}}"),
    "one list": (b'{"versions_list": [', b"1,", b"1]}"),
    "many lines": (b"", b"\n", b""),
    "many short lines": (b"", b"a\n", b""),
    "many paragraphs": (b"", b"a: b\n\n", b""),
    "many packages": (b"", b"Package: a\n", b""),
    "many whole packages": (b"", b"Package: a\nVersion: 1\n\n", b""),
    "many provided names": (b"Package: a\nVersion: 1\nProvides: ", b"a,", b""),
    "carriage returns": (b"", b"\r", b""),
    "packages between carriage returns": (b"", b"Package: a\r", b""),
    "lines with carriage returns": (b"", b"Package: a\r\n\r\n", b""),
    "deep": (b"", b'{"profiles":', b""),
}
"""What a document begins with, what it repeats, and how it ends."""
PARSERS: dict[str, Callable[[bytes, Notes], Any]] = {
    **{name: parse for name, (parse, _) in DOCUMENTS.items()},
    "Packages": parse_packages,
    "Packages.gz": parse_packed_packages,
    "feeds.conf": parse_feeds,
    "profiles.json of auc": lambda body, _: lift_profile(body, "acme_one", {}),
}


def hostile(kind: str, size: int) -> bytes:
    """A document of so many bytes; the names of an object differ."""
    begin, piece, end = PIECES[kind]
    if kind == "one object":
        return begin + b"".join(b', "a%d": 1' % number for number in range(size // 13)) + end
    return begin + piece * (size // len(piece)) + end


def reading(name: str, body: bytes) -> Callable[[], None]:
    """What reads a document, packed where it is."""
    packed = gzip.compress(body, 1) if name.endswith(".gz") else body

    def read() -> None:
        with contextlib.suppress(ValueError):
            PARSERS[name](packed, Notes())

    return read


@pytest.mark.timed
@pytest.mark.parametrize("kind", PIECES)
@pytest.mark.parametrize("name", PARSERS)
def test_a_mebibyte_of_hostile_text_is_read_in_50_milliseconds_of_cpu(name: str, kind: str) -> None:
    whole, half = (reading(name, hostile(kind, size)) for size in (MIB, MIB // 2))
    assert takes_at_most(whole, 5)
    assert grows_in_proportion(whole, half, least=0.01)
