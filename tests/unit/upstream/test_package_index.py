"""Indexes of apk and opkg, as they are written, and as they are broken."""

import gzip
import json
import struct
import subprocess
import sys
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adb_writer import Payload, index, package, packages_text, packed
from asu_builder.domain.package_index import IndexedPackage, PackageManager, Relation
from asu_builder.upstream.formats import check_adb, check_foreign_packages, check_packages
from asu_builder.upstream.lenient import Notes, Unreadable
from asu_builder.upstream.package_index import ReadIndex, read_index

RECORDED = Path(__file__).parents[4] / "shared" / "indexes"
recorded = pytest.mark.skipif(
    not RECORDED.is_dir(), reason="needs the recorded indexes beside the repository"
)
VIM = package(name="vim", version="9.1-r1")


def read_apk(data: bytes, notes: Notes | None = None) -> ReadIndex:
    return read_index(PackageManager.APK, data, notes or Notes())


def read_opkg(text: str | bytes, notes: Notes | None = None) -> ReadIndex:
    data = text.encode() if isinstance(text, str) else text
    return read_index(PackageManager.OPKG, data, notes or Notes())


@recorded
@pytest.mark.parametrize(
    ("manager", "folder", "pattern", "count"),
    [
        (PackageManager.APK, "25.12.0-x86-64", "*.adb", 2098),
        (PackageManager.OPKG, "24.10.5-x86-64", "*.Packages.gz", 2003),
    ],
)
def test_recorded_indexes_are_read_whole(
    manager: PackageManager, folder: str, pattern: str, count: int
) -> None:
    notes = Notes()
    read = [
        read_index(manager, path.read_bytes(), notes) for path in sorted((RECORDED / folder).glob(pattern))
    ]
    packages = {package.name: package for found in read for package in found.packages}
    assert sum(len(found.packages) for found in read) == count
    assert notes.count == 0 and not any(found.left_out for found in read)
    verdicts = json.loads((RECORDED / folder / "verdicts.json").read_text())
    # Whatever the real package manager would install is there, in the version it names.
    chosen = {name: version for verdict in verdicts for name, version in verdict.get("packages", {}).items()}
    assert len(chosen) > 100
    own = {"libc", "kernel"} if manager is PackageManager.OPKG else set()
    assert {name: packages[name].version for name in chosen.keys() - own} == {
        name: version for name, version in chosen.items() if name not in own
    }
    kmods = [package for package in packages.values() if package.name.startswith("kmod-")]
    assert all(any(need.name == "kernel" and need.operator == "=" for need in kmod.depends) for kmod in kmods)
    assert all(kmod.size and kmod.installed_size and kmod.licence and len(kmod.hash) == 64 for kmod in kmods)


def test_every_field_of_an_apk_package() -> None:
    full = package(
        name="hostapd",
        version="2.11-r4",
        hash=bytes(range(32)),
        arch="x86_64",
        license="BSD-3-Clause",
        origin="feeds/base/hostapd",
        installed_size=5 << 30,
        size=1 << 30,
        priority=0,
        depends=[
            ["libc"],
            ["libnl", "3.9-r1"],
            ["old", None, 16],
            ["older", "2", 16 | 2],
            ["kernel", "6", 9],
        ],
        provides=[["wpad", "1", 1], ["any", None, 7]],
        replaces=[["a", "1", 2], ["b", "1", 3], ["c", "1", 4], ["d", "1", 5], ["e", "1", 8]],
        install_if=[["x"]],
        recommends=[["y"]],
        tags=["openwrt:section=net", "openwrt:cpe=cpe:/a:w1.fi:hostapd"],
    )
    (found,) = read_apk(index(full)).packages
    assert found == IndexedPackage(
        name="hostapd",
        version="2.11-r4",
        hash=bytes(range(32)).hex(),
        architecture="x86_64",
        licence="BSD-3-Clause",
        origin="feeds/base/hostapd",
        installed_size=5 << 30,
        size=1 << 30,
        provider_priority=0,
        depends=(
            Relation("libc"),
            Relation("libnl", "=", "3.9-r1"),
            Relation("old", excludes=True),
            Relation("older", "<", "2", excludes=True),
            Relation("kernel", "~", "6"),
        ),
        provides=(Relation("wpad", "=", "1"), Relation("any")),
        replaces=tuple(
            Relation(name, operator, "1")
            for name, operator in zip("abcde", ("<", "<=", ">", ">=", "~"), strict=True)
        ),
        install_if=(Relation("x"),),
        recommends=(Relation("y"),),
        cpe="cpe:/a:w1.fi:hostapd",
    )


@pytest.mark.parametrize("how", ["none", "deflate", "named none", "named deflate"])
def test_an_index_is_read_however_it_is_packed(how: str) -> None:
    assert read_apk(packed(index(VIM), how)) == ReadIndex([IndexedPackage("vim", "9.1-r1")])


def test_a_large_head_of_the_block_is_understood() -> None:
    payload = Payload()
    adb = payload.file(payload.add([None, [VIM]]))
    size = len(payload.data)
    large = struct.pack("<IIQ", 3 << 30, 0, size + 16)
    assert read_apk(b"ADB.indx" + large + adb[12 : 12 + size]).packages == [IndexedPackage("vim", "9.1-r1")]


@pytest.mark.parametrize("root", [[], [None], [None, None], [None, []]])
def test_an_index_may_be_empty(root: list[None]) -> None:
    payload = Payload()
    assert read_apk(payload.file(payload.add(root))) == ReadIndex([])


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (package(version="1"), "without a name"),
        (package(name="vim"), "without a name"),
        (package(name="n" * 10_000, version="1"), "a text of 10000 bytes"),
        (package(name="two words", version="1"), "two words"),
        (package(name="a", version="1 2"), "1 2"),
        (package(name="a\nb", version="1"), "a?b"),
        (package(name="\u00fc", version="1"), "is"),
        (package(name=5, version="1"), "no text"),
        (package(name="a", version="1", depends=[["b", "1", 6]]), "match 6"),
        (package(name="a", version="1", depends=[[None, "1"]]), "without a name"),
        (package(name="a", version="1", depends=[None]), "without a name"),
        (package(name="a", version="1", depends="b"), "no list"),
        (package(name="a", version="1", depends=[["b"]] * 1001), "more than 1000"),
        (package(name="a", version="1", size="b"), "no number"),
        ("a", "no list"),
    ],
)
def test_an_odd_entry_is_left_out_and_told(broken: object, said: str) -> None:
    notes = Notes()
    read = read_apk(index(VIM, broken), notes)  # type: ignore[arg-type]
    assert read == ReadIndex([IndexedPackage("vim", "9.1-r1")], 1)
    assert notes.count == 1 and said in str(notes), str(notes)
    with pytest.raises(Unreadable):
        read_apk(index(broken))  # type: ignore[arg-type]


def test_what_only_people_read_spoils_no_entry() -> None:
    notes = Notes()
    odd = package(name="a", version="1", license="l" * 300, origin="x\0", arch=5)
    assert read_apk(index(odd), notes) == ReadIndex([IndexedPackage("a", "1")])
    assert notes.count == 3


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"ADB",
        b"ADB.",
        b"ADB.pckg" + index(VIM)[8:],
        b"<html>not here</html>",
        b"ADBdno deflate",
        b"ADBc",
        b"ADBc\7\0x",
        packed(index(VIM))[:-5],
        packed(packed(index(VIM))),
        index(VIM)[:60],
        b"ADB.indx" + b"\xff\xff\xff\xff" + index(VIM)[12:],
        b"ADB.indx" + struct.pack("<I", 1 << 30 | 40) + index(VIM)[12:],
        index(VIM)[:12] + b"\1" + index(VIM)[13:],
        index(VIM)[:16] + struct.pack("<I", 14 << 28 | 0xFFFFFFF) + index(VIM)[20:],
        index(VIM)[:16] + struct.pack("<I", 1 << 28) + index(VIM)[20:],
    ],
)
def test_a_broken_file_is_unreadable(data: bytes) -> None:
    with pytest.raises(Unreadable):
        read_apk(data)


def test_what_zstd_has_packed_is_read_where_the_library_is_there() -> None:
    try:
        import zstandard  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        with pytest.raises(Unreadable, match="needs the Python library zstandard"):
            read_apk(b"ADBc\2\3\x28\xb5\x2f\xfd")
        return
    whole = zstandard.ZstdCompressor().compress(index(VIM))
    assert read_apk(b"ADBc\2\3" + whole).packages == [IndexedPackage("vim", "9.1-r1")]
    for broken in (whole[:20], b"\x28\xb5\x2f\xfd", zstandard.ZstdCompressor().compress(bytes(40 << 20))):
        with pytest.raises(Unreadable):
            read_apk(b"ADBc\2\3" + broken)


def test_a_file_that_grows_without_end_is_refused_early() -> None:
    packing = zlib.compressobj(1, wbits=-15)
    deflated = b"".join(packing.compress(bytes(1 << 20)) for _ in range(100)) + packing.flush()
    gzipped = gzip.compress(bytes(100 << 20), 1)
    tracemalloc.start()
    for data in (b"ADBd" + deflated, b"ADBc\1\1" + deflated):
        with pytest.raises(Unreadable, match="too large"):
            read_apk(data)
    with pytest.raises(Unreadable, match="too large"):
        read_opkg(gzipped)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 70 << 20


def test_values_that_lead_in_circles_end() -> None:
    payload = Payload()
    at = len(payload.data)
    circle = 14 << 28 | at
    assert payload.point([circle, circle]) == circle
    with pytest.raises(Unreadable):
        read_apk(payload.file(circle))
    # A package that is its own name, version and dependency.
    payload = Payload()
    at = len(payload.data)
    payload.point([14 << 28 | at] * 21)
    with pytest.raises(Unreadable):
        read_apk(payload.file(payload.point([0, payload.point([14 << 28 | at] * 1000)])))


def test_values_that_lie_one_over_another_cost_no_more_than_the_file() -> None:
    # Fifty thousand times one package of a thousand names is what it pretends to hold.
    payload = Payload()
    names = payload.point([payload.add([f"name-{number}"]) for number in range(1000)])
    one = payload.point([payload.add("a"), payload.add("1"), *[0] * 12, names])
    root = payload.point([0, payload.point([one] * 50_000)])
    with pytest.raises(Unreadable, match="more than 500000"):
        read_apk(payload.file(root))
    # Names that begin at every byte of the same text.
    payload = Payload()
    start = len(payload.data)
    payload.data += b"\xf0" * 40_000
    version = payload.add("1")
    listed = [payload.point([8 << 28 | start + number, version]) for number in range(30_000)]
    tracemalloc.start()
    data = payload.file(payload.point([0, payload.point(listed)]))
    with pytest.raises(Unreadable):
        read_apk(data)
    assert tracemalloc.get_traced_memory()[1] < 60 << 20
    tracemalloc.stop()


def test_an_index_of_too_many_packages_is_unreadable() -> None:
    payload = Payload()
    one = payload.add(VIM)
    with pytest.raises(Unreadable, match="more than 50000"):
        read_apk(payload.file(payload.point([0, payload.point([one] * 50_001)])))
    with pytest.raises(Unreadable, match="more than 50000"):
        read_opkg("Package: a\nVersion: 1\n\n" * 50_001)


def test_every_field_of_an_opkg_package() -> None:
    text = packages_text(
        {
            "Package": "libubus20241020",
            "Version": "2025.01.02~abc-r1",
            "Depends": "libc, libubox (>= 1), k (=6~x-r1), a (<<1), b (>> 1), c (<1), d (> 1), e|f (<= 2)",
            "Provides": "libubus, nftables=1.1.6, wpad (= 2)",
            "Conflicts": "x, y",
            "Replaces": "z",
            "Installed-Size": "10240",
            "Size": "5120",
            "License": "GPL-2.0 OR MIT",
            "CPE-ID": "cpe:/a:x:y",
            "Source": "feeds/base/ubus",
            "SourceName": "ubus",
            "Architecture": "x86_64",
            "ABIVersion": "20241020",
            "SHA256sum": "ab" * 32,
            "Filename": "libubus20241020_1_x86_64.ipk",
            "Description": "A bus\n that goes on.\n Package: not-this",
        },
        {"Package": "bare", "Version": "1", "SourceName": "other"},
    )
    first = IndexedPackage(
        name="libubus20241020",
        version="2025.01.02~abc-r1",
        depends=(
            Relation("libc"),
            Relation("libubox", ">=", "1"),
            Relation("k", "=", "6~x-r1"),
            Relation("a", "<", "1"),
            Relation("b", ">", "1"),
            # As opkg takes them.
            Relation("c", "<=", "1"),
            Relation("d", ">=", "1"),
            Relation("e", others=(Relation("f", "<=", "2"),)),
        ),
        provides=(Relation("libubus"), Relation("nftables", "=", "1.1.6"), Relation("wpad", "=", "2")),
        conflicts=(Relation("x"), Relation("y")),
        replaces=(Relation("z"),),
        architecture="x86_64",
        size=5120,
        installed_size=10240,
        licence="GPL-2.0 OR MIT",
        cpe="cpe:/a:x:y",
        origin="feeds/base/ubus",
        filename="libubus20241020_1_x86_64.ipk",
        hash="ab" * 32,
        abi="20241020",
    )
    expected = ReadIndex([first, IndexedPackage("bare", "1", origin="other")])
    assert read_opkg(text) == expected
    assert read_opkg(gzip.compress(text)) == expected
    assert read_opkg(text.replace(b"\n", b"\r\n")) == expected
    assert read_opkg(b"\n \n" + text.replace(b"\n\n", b"\n \t\n\n")) == expected


def test_a_list_may_go_on_in_further_lines() -> None:
    text = "Package: a\nVersion: 1\nDepends: b,\n c (>= 1),\n\td\nProvides:\n"
    (found,) = read_opkg(text).packages
    assert found.depends == (Relation("b"), Relation("c", ">=", "1"), Relation("d"))


def test_a_list_may_go_on_in_further_fields() -> None:
    text = "Package: a\nPre-Depends: z\nVersion: 1\nDepends: b\nProvides: x\nDepends: c, d\nProvides: y\n"
    (found,) = read_opkg(text).packages
    assert [need.name for need in found.depends] == ["z", "b", "c", "d"]
    assert [provision.name for provision in found.provides] == ["x", "y"]


def test_a_list_that_a_mirror_has_cut_off_is_not_taken_for_whole() -> None:
    names = [f"name-{number}" for number in range(3)]
    text = packages_text(
        *({"Package": name, "Version": "1", "Depends": "libc", "Size": "5"} for name in names)
    ).decode()
    assert read_opkg(text).left_out == read_opkg(text[:-1]).left_out == 0
    assert read_opkg(text.replace("\n", "\r\n")).left_out == 0
    second, third = (text.index(f"Package: {name}") for name in names[1:])
    ends_a_paragraph = {*range(second - 1, second + 1), *range(third - 1, third + 1)}
    for cut in {*range(second + 1, len(text) - 1)} - ends_a_paragraph:
        notes = Notes()
        assert read_opkg(text[:cut], notes).left_out and notes.count, text[:cut]


@pytest.mark.parametrize("check", [check_adb, check_packages, check_foreign_packages])
def test_an_empty_file_is_not_taken_for_an_index_of_nothing(check: Callable[[bytes, Notes], object]) -> None:
    for body in (b"", b"\n"):
        with pytest.raises(Unreadable):
            check(body, Notes())
    if check is not check_adb:
        assert check(gzip.compress(b""), Notes())


def test_all_that_gzip_has_packed_is_read() -> None:
    texts = [f"Package: {name}\nVersion: 1\n\n".encode() for name in "abc"]
    assert [package.name for package in read_opkg(b"".join(map(gzip.compress, texts))).packages] == [*"abc"]
    with pytest.raises(Unreadable):
        read_opkg(gzip.compress(texts[0]) + gzip.compress(texts[1])[:-9])
    many = gzip.compress(bytes(1 << 20)) * 64
    with pytest.raises(Unreadable, match="too large"):
        read_opkg(many)


@pytest.mark.parametrize(
    "broken",
    [
        "Package: a",
        "Version: 1",
        "Package: a b\nVersion: 1",
        "Package: a\nVersion: 1 2",
        "Package: a\nVersion: 1\nDepends: b c",
        "Package: a\nVersion: 1\nDepends: b (>= )",
        "Package: a\nVersion: 1\nDepends: b (1)",
        "Package: a\nVersion: 1\nDepends: b | | c",
        "Package: a\nVersion: 1\nDepends: b*",
        f"Package: {'n' * 10_000}\nVersion: 1",
        f"Package: a\nVersion: 1\nDepends: {'b,' * 1001}",
        f"Package: a\nVersion: 1\nDepends: {'b ' * 40_000}",
        "neither",
        "Package: a\nVersion: 1\n" + "Size: 1\n" * 40_000,
    ],
)
def test_an_odd_paragraph_is_left_out_and_told(broken: str) -> None:
    notes = Notes()
    read = read_opkg(f"Package: vim\nVersion: 9\n\n{broken}\n\nPackage: nano\nVersion: 8\n", notes)
    assert read == ReadIndex([IndexedPackage("vim", "9"), IndexedPackage("nano", "8")], 1)
    assert notes.count == 1


def test_odd_sizes_and_texts_spoil_no_paragraph() -> None:
    notes = Notes()
    text = f"Package: a\nVersion: 1\nSize: -5\nInstalled-Size: {'9' * 30}\nLicense: {'l' * 300}\n"
    assert read_opkg(text, notes) == ReadIndex([IndexedPackage("a", "1")])
    assert notes.count == 3


_CUT_OFF = gzip.compress(b"Package: a\nVersion: 1\n", mtime=0)[:-9]


@pytest.mark.parametrize("data", [b"<html>", b"\x1f\x8bno", _CUT_OFF])
def test_a_broken_list_is_unreadable(data: bytes) -> None:
    with pytest.raises(Unreadable):
        read_opkg(data)
    assert read_opkg(b" \n\n") == ReadIndex([])


WHOLE = index(
    VIM,
    package(name="a", version="1", depends=[["vim", "9", 5], ["b", None, 16]], tags=["openwrt:cpe=x"]),
    package(name="b", version="2", provides=[["c", "1", 1]], installed_size=1 << 33, license="MIT"),
)
LIST = packages_text(
    {"Package": "vim", "Version": "9", "Depends": "a (>= 1), b | c", "Size": "5", "Provides": "x, y=1"},
    {"Package": "b", "Version": "2", "License": "MIT"},
)
CHANGES = st.lists(st.tuples(st.integers(0, 1 << 12), st.integers(0, 255)), max_size=8)


@given(CHANGES, st.integers(0, 1 << 12), st.sampled_from(["none", "deflate", "named deflate"]))
def test_changed_bytes_cost_nothing_but_entries(changes: list[tuple[int, int]], cut: int, how: str) -> None:
    for manager, whole in (
        (PackageManager.APK, WHOLE),
        (PackageManager.APK, packed(WHOLE, how)),
        (PackageManager.OPKG, LIST),
        (PackageManager.OPKG, gzip.compress(LIST, mtime=0)),
    ):
        data = bytearray(whole)
        for place, value in changes:
            data[place % len(data)] = value
        del data[len(data) - cut % len(data) if cut % 3 == 0 else len(data) :]
        try:
            read = read_index(manager, bytes(data), Notes())
        except Unreadable:
            continue
        assert len(read.packages) + read.left_out <= 20
        for found in read.packages:
            assert 0 < len(found.name) <= 256 and 0 < len(found.version) <= 256
            assert not set(" \n(),<=>|") & set(found.name + found.version)


@pytest.mark.process
def test_reading_needs_no_network_and_no_database() -> None:
    code = (
        "import sys; from asu_builder.upstream.package_index import read_index;"
        "print(sorted({'urllib3', 'sqlite3', 'http', 'http.client', 'ssl', 'socket'} & sys.modules.keys()))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
