"""`packages.adb`: what we write is what apk's format says, and what real apk wrote is read."""

import hashlib
import random
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import pytest

from asu_sample.distribution import Distribution
from asu_sample.miniature import adb
from asu_sample.miniature.packages import Package
from asu_sample.miniature.usign import SigningKey, ed25519_verify

_RECORDED = Path(__file__).parents[4] / "shared" / "indexes" / "25.12.0-x86-64"
_KEY = SigningKey(seed=bytes(range(32)), key_id=b"12345678")
_OTHER = SigningKey(seed=bytes(range(1, 33)), key_id=b"12345678")
_LIBRARY = Package(
    "libsample7",
    "1.2_rc3~abc123-r4",
    "all",
    description="long " * 100,
    depends=("libc", "!other", "kernel=6.6~f00-r1", "a>=1", "b<2", "c~3", "d>1", "e<=1"),
    provides=("libsample=1.2", "libsample-any"),
    replaces=("libold",),
    provider_priority=10,
    abi_version="7",
    fault="sleep 1",
    filename="libsample7-1.2_rc3~abc123-r4.apk",
    size=1 << 29,
    installed_size=1 << 33,
    sha256="ab" * 32,
)
_PLAIN = Package("vim", "9-r1", "all", filename="vim-9-r1.apk", size=1, installed_size=2, sha256="cd" * 32)


def unpacked(data: bytes) -> bytes:
    assert data[:4] == b"ADBd"
    return zlib.decompress(data[4:], -15)


def packed(content: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return b"ADBd" + packer.compress(content) + packer.flush()


def test_an_index_is_read_as_it_was_written() -> None:
    data = adb.write_index([_LIBRARY, _PLAIN], _KEY)
    assert adb.read_index(data) == [_LIBRARY, _PLAIN]
    assert adb.read_index(adb.write_index([], _KEY)) == []


def test_the_layout_is_that_of_apk() -> None:
    """Read by hand: head, aligned blocks, the first package's name, and what the signature covers."""
    content = unpacked(adb.write_index([_PLAIN], _KEY))
    assert content[:8] == b"ADB.indx"
    (word,) = struct.unpack_from("<I", content, 8)
    kind, size = word >> 30, word & 0x3FFFFFFF
    payload = content[12 : 8 + size]
    assert (kind, payload[:4]) == (0, bytes(4))

    def offset(value: int, kind: int) -> int:
        assert value >> 28 == kind
        return value & 0xFFFFFFF

    def values(value: int, kind: int) -> tuple[int, ...]:
        place = offset(value, kind)
        (count,) = struct.unpack_from("<I", payload, place)
        return struct.unpack_from(f"<{count - 1}I", payload, place + 4)

    (root,) = struct.unpack_from("<I", payload, 4)
    nothing, packages = values(root, 14)
    (vim,) = values(packages, 13)
    fields = values(vim, 14)
    name = offset(fields[0], 8)
    assert (nothing, payload[name : name + 4]) == (0, b"\x03vim")
    assert fields[11] == 1 << 28 | 2 and fields[12] == 1 << 28 | 1  # installed size and file size, inline

    start = 8 + size + -size % 8
    (word,) = struct.unpack_from("<I", content, start)
    assert (word >> 30, (word & 0x3FFFFFFF) + -(word & 0x3FFFFFFF) % 8) == (1, len(content) - start)
    signature = content[start + 4 : start + (word & 0x3FFFFFFF)]
    assert signature[:2] == b"\0\4" and signature[2:18] == hashlib.sha512(_KEY.public).digest()[:16]
    signed = b"indx" + signature[:18] + hashlib.sha512(payload).digest()
    assert ed25519_verify(_KEY.public, signed, signature[18:])


@pytest.mark.parametrize("head", [b"", b"ADBc\0\0", b"ADBc\1\6"])
def test_other_compressions_are_read(head: bytes) -> None:
    data = adb.write_index([_PLAIN], _KEY)
    body = data[4:] if head == b"ADBc\1\6" else unpacked(data)
    assert adb.read_index(head + body) == [_PLAIN]


def test_only_a_trusted_signature_of_these_bytes_counts() -> None:
    data = adb.write_index([_PLAIN], _KEY)
    assert adb.read_index(data, [_OTHER.public, _KEY.public]) == [_PLAIN]
    assert adb.read_index(data, [_OTHER.public]) is None
    assert adb.read_index(data, []) is None
    changed = unpacked(data).replace(b"\x03vim", b"\x03vin")
    assert adb.read_index(packed(changed), [_KEY.public]) is None
    assert adb.read_index(packed(changed)) == [replace(_PLAIN, name="vin", filename="vin-9-r1.apk")]


def test_unknown_blocks_and_long_headers_are_passed_over() -> None:
    content = unpacked(adb.write_index([_PLAIN], _KEY))
    strange = struct.pack("<I", 2 << 30 | 12) + b"whatever" + bytes(4)
    (word,) = struct.unpack_from("<I", content, 8)
    long_head = struct.pack("<IIQ", 3 << 30 | 0, 0, word + 12)
    payload = content[12 : 8 + word]
    assert adb.read_index(packed(content[:8] + strange + content[8:]), [_KEY.public]) == [_PLAIN]
    assert adb.read_index(packed(content[:8] + long_head + payload)) == [_PLAIN]


def test_a_broken_index_is_a_value_error() -> None:
    data = adb.write_index([_LIBRARY, _PLAIN], _KEY)
    content = unpacked(data)
    for broken in (b"", b"ADBd", b"<html>", data[:-9], packed(b"ADB.pckg"), packed(content[:40])):
        with pytest.raises(ValueError):
            adb.read_index(broken)
    dice = random.Random(7)
    told = 0
    for _ in range(500):
        spoilt = bytearray(content)
        spoilt[dice.randrange(len(spoilt))] = dice.randrange(256)
        try:
            adb.read_index(packed(bytes(spoilt)))
        except ValueError:
            told += 1
    assert told > 50


def test_every_index_of_the_world_is_such_a_file(sample_world: Distribution) -> None:
    paths = sorted(sample_world.downloads.glob("releases/25.12.0/**/packages.adb"))
    assert len(paths) == 10
    for path in paths:
        packages = adb.read_index(path.read_bytes())
        assert packages
        for package in packages:
            data = (path.parent / package.filename).read_bytes()
            assert (package.size, package.sha256) == (len(data), hashlib.sha256(data).hexdigest())
            assert f"{package.base_name}-any" in package.provides


def test_what_real_apk_wrote_is_read() -> None:
    paths = sorted(_RECORDED.glob("*.adb"))
    if not paths:
        pytest.skip(f"no recorded indexes in {_RECORDED}")
    packages = [package for path in paths for package in adb.read_index(path.read_bytes()) or ()]
    assert len(packages) == 2098
    assert all(len(package.sha256) in (40, 64) and package.version for package in packages)
    assert adb.read_index(adb.write_index(packages, _KEY)) == packages
