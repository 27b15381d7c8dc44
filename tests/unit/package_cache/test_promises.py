"""Packages as indexes promise them: whole, cut off, of other content, and hostile."""

import hashlib
import io
import struct
from collections.abc import Callable, Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adb_writer import Payload, block, index, package, package_file, package_metadata, packages_text, packed
from asu_builder.domain.package_index import PackageManager
from asu_builder.package_cache.promises import Promised, WrongPackage, read_promises, verify

FILES: Mapping[str, Mapping[str, bytes]] = {
    "": {},
    "usr/bin": {"vim": b"program " * 20_000, "empty": b""},
    "etc": {"vimrc": b"set nocompatible\n"},
}
METADATA = package_metadata(FILES)
VIM = package_file(METADATA, FILES)


def promise_of(data: bytes, metadata: bytes = METADATA, *, cut: int = 32) -> Promised:
    digest = hashlib.sha256(metadata).digest()[:cut]
    return Promised(PackageManager.APK, digest.hex(), len(data))


def check(data: bytes, promised: Promised | None = None) -> None:
    verify(io.BytesIO(data), promised or promise_of(data))


@pytest.mark.parametrize("how", ["none", "deflate", "named deflate", "named none"])
@pytest.mark.parametrize("cut", [20, 32])
def test_a_package_of_apk_is_the_promised_one_however_it_is_packed(how: str, cut: int) -> None:
    data = packed(VIM, how)
    check(data, promise_of(data, cut=cut))


def test_digests_of_files_may_be_cut_as_well() -> None:
    metadata = package_metadata(FILES, digest=20)
    data = package_file(metadata, FILES)
    check(data, promise_of(data, metadata))


def test_blocks_may_have_large_heads() -> None:
    blocks = block(0, METADATA, extended=True) + block(2, struct.pack("<II", 2, 1), extended=True)
    with pytest.raises(WrongPackage, match="does not name"):
        check(b"ADB.pckg" + blocks)
    file = struct.pack("<II", 2, 1) + FILES["usr/bin"]["vim"]
    other = struct.pack("<II", 3, 1) + FILES["etc"]["vimrc"]
    check(b"ADB.pckg" + block(0, METADATA, extended=True) + block(2, file, extended=True) + block(2, other))


def altered(name: str, content: bytes) -> bytes:
    """The official metadata with other data."""
    files = {folder: dict(inner) for folder, inner in FILES.items()}
    files["usr/bin"][name] = content
    return package_file(METADATA, files)


BAD: Mapping[str, tuple[Callable[[], bytes], str]] = {
    "other data of the same size": (lambda: altered("vim", b"evil !! " * 20_000), "other content"),
    "longer data": (lambda: altered("vim", b"x" * 200_000), "does not name"),
    "a file without content gets one": (lambda: altered("empty", b"x"), "does not name"),
    "files left out": (lambda: b"ADB.pckg" + block(0, METADATA), "lacks files"),
    "another order": (
        lambda: (
            b"ADB.pckg" + block(0, METADATA) + block(2, struct.pack("<II", 3, 1) + FILES["usr/bin"]["vim"])
        ),
        "another order",
    ),
    "data before metadata": (lambda: b"ADB.pckg" + block(2, bytes(8)), "does not begin with its metadata"),
    "metadata twice": (lambda: VIM + block(0, METADATA), "no package of apk holds"),
    "half of it": (lambda: VIM[: len(VIM) // 2], "cut off"),
    "half of it, packed": (lambda: packed(VIM)[:-40], "cut off"),
    "something behind it": (lambda: packed(VIM) + b"more", "behind its end"),
    "an index": (lambda: index(), "no package of apk"),
    "other metadata": (lambda: package_file(package_metadata(FILES, "emacs"), FILES), "other metadata"),
    "zstd": (lambda: b"ADBc\2\3" + VIM, "not read here"),
    "a block shorter than its head": (lambda: VIM + struct.pack("<I", 2 << 30 | 1), "shorter than its head"),
    "not deflated at all": (lambda: b"ADBd" + b"\xff" * 100, "is broken"),
    "empty metadata": (lambda: b"ADB.pckg" + block(0, b""), "other metadata"),
    "no package": (lambda: b"<html>please log in</html>", "another digest"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_not_promised_is_refused(name: str) -> None:
    make, why = BAD[name]
    with pytest.raises(WrongPackage, match=why):
        check(make())


def test_a_package_of_another_size_is_refused() -> None:
    promised = promise_of(VIM)
    with pytest.raises(WrongPackage, match="bytes, where the index says"):
        check(VIM + bytes(8), promised)


def test_metadata_that_cannot_be_read_is_refused_though_the_index_knows_it() -> None:
    payload = Payload()
    struct.pack_into("<I", payload.data, 4, 13 << 28 | 5_000)
    for metadata in (bytes(payload.data), b"\1" + bytes(20)):
        data = b"ADB.pckg" + block(0, metadata)
        with pytest.raises(WrongPackage, match="is broken"):
            check(data, promise_of(data, metadata))


def test_what_unpacks_to_far_too_much_is_refused() -> None:
    bomb = packed(VIM + block(1, bytes(64 << 20)))
    with pytest.raises(WrongPackage, match=r"no package of apk holds|too much"):
        check(bomb)
    many = package_metadata({"": {"zeros": bytes(40 << 20)}})
    data = packed(package_file(many, {"": {"zeros": bytes(40 << 20)}}))
    with pytest.raises(WrongPackage, match="unpacks to too much"):
        check(data, promise_of(data, many))


@given(st.integers(0, len(VIM) - 1), st.integers(1, 255))
def test_no_byte_of_a_file_or_of_metadata_can_be_another(place: int, flip: int) -> None:
    data = bytearray(VIM)
    data[place] ^= flip
    changed = bytes(data)
    signature = VIM.index(block(1, bytes(82)))
    padding = changed[:8] == VIM[:8] and changed.replace(b"\0", b"") != VIM.replace(b"\0", b"")
    try:
        check(changed, promise_of(VIM))
    except WrongPackage:
        return
    # What apk itself does not look at: a signature, where the index is signed, and what fills up a block.
    is_signature = signature <= place < signature + len(block(1, bytes(82)))
    assert is_signature or (padding and VIM[place] == 0)


@given(st.binary(max_size=400))
def test_any_bytes_are_refused_in_words(data: bytes) -> None:
    for start in (b"", b"ADB.pckg", b"ADBd", b"ADBc\1\0"):
        with pytest.raises(WrongPackage):
            check(start + data + b"!")


def test_a_package_of_opkg_is_promised_by_the_digest_of_its_file() -> None:
    data = b"any bytes"
    promised = Promised(PackageManager.OPKG, hashlib.sha256(data).hexdigest(), len(data))
    check(data, promised)
    with pytest.raises(WrongPackage, match="another digest"):
        check(b"Any bytes", promised)


def test_an_index_of_apk_promises_files_by_name_and_version() -> None:
    data = index(
        package(name="vim", version="9.1-r1", hash=b"\xab" * 32, size=500),
        package(name="none", version="1", hash=b"", size=500),
        package(name="two", version="1", hash=b"\1" * 32, size=500),
        package(name="two", version="1", hash=b"\2" * 32, size=500),
        package(name="nosize", version="1", hash=b"\1" * 32),
    )
    found = read_promises(PackageManager.APK, data)
    assert found == {"vim-9.1-r1.apk": Promised(PackageManager.APK, "ab" * 32, 500)}


def test_an_index_of_opkg_promises_files_by_their_names_in_it() -> None:
    vim = {"Package": "vim", "Version": "1", "Filename": "./vim.ipk", "Size": "5", "SHA256sum": "AB" * 32}
    md5 = {"Package": "old", "Version": "1", "Filename": "old.ipk", "Size": "5", "MD5Sum": "ab" * 16}
    found = read_promises(PackageManager.OPKG, packages_text(vim, md5))
    assert found == {"vim.ipk": Promised(PackageManager.OPKG, "ab" * 32, 5)}
