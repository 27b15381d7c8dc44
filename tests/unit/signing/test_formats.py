"""Keys, certificates and trailers against recorded bytes, and against a reader of their own."""

import base64
import hashlib
import json
import struct
import zlib
from pathlib import Path

import pytest

from asu_builder.signing import fwtool, ucert, usign
from asu_builder.signing.usign import BadKey
from signed_images import METADATA, Device, an_image

PUBLIC = b"untrusted comment: demo key\nRWQBI0VniavN70flRXeQRiADGMGa5mJz1N19RriBCs/2KBsg4A0nA/S8\n"
SECRET = (
    b"untrusted comment: demo key\n"
    b"RWRCSwAAAAAAAAAAAAAAAAAAAAAAAAAAJ5RWaT9PO1ABI0VniavN7wABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR5fR+VF"
    b"d5BGIAMYwZrmYnPU3X1GuIEKz/YoGyDgDScD9Lw=\n"
)
SIGNATURE = (
    b"untrusted comment: signed by key 0123456789abcdef\n"
    b"RWQBI0VniavN7xvJZYNWGmT2dJONZu0YArxvNI4XLARu0vBjI0NMVE6Udu8E+4IZMcPlYLNioewAK+I/pRjtL8XAs/U3Imt4zwA=\n"
)
CONTAINER = base64.b64decode(
    "AAABXAAAAJt1bnRydXN0ZWQgY29tbWVudDogc2lnbmVkIGJ5IGtleSAwMTIzNDU2Nzg5YWJjZGVmClJXUUJJMFZuaWF2Tjd6"
    "N2dTN1JnL1padDFiTVpXaGRZWWYrZjJaRXRYU0JCZFU3eFA3NkFVejJmS0wzMlkwS2tWVzNmYWw0QXpzOURodFRoMkh3dENL"
    "bmY1Q01wMFJ3QUR3Yz0KAAEAALyCAAC4AAV1Y2VydACFAAAUAAhjZXJ0dHlwZQAAAAAAAYQAABgACXZhbGlkZnJvbQAAAAAA"
    "aVW5AIQAABgACWV4cGlyZXNhdAAAAAAA9IZXAIMAAGYABnB1YmtleQAAAAB1bnRydXN0ZWQgY29tbWVudDogZGVtbyBrZXkK"
    "UldRQkkwVm5pYXZONzBmbFJYZVFSaUFER01HYTVtSnoxTjE5UnJpQkNzLzJLQnNnNEEwbkEvUzgKAAAAAAAAoAAAAJt1bnRy"
    "dXN0ZWQgY29tbWVudDogc2lnbmVkIGJ5IGtleSAwMTIzNDU2Nzg5YWJjZGVmClJXUUJJMFZuaWF2Tjd4dkpaWU5XR21UMmRK"
    "T05adTBZQXJ4dk5JNFhMQVJ1MHZCakkwTk1WRTZVZHU4RSs0SVpNY1BsWUxOaW9ld0FLK0kvcFJqdEw4WEFzL1UzSW10NHp3"
    "QT0KAA=="
)
REVOKER = base64.b64decode(
    "AAABBAAAAJt1bnRydXN0ZWQgY29tbWVudDogc2lnbmVkIGJ5IGtleSAwMTIzNDU2Nzg5YWJjZGVmClJXUUJJMFZuaWF2Tjc0M3hi"
    "MEFRNThSM2paaWFQdENaRW1Wb2VROTBzWWZPZ0Vwd2FTbU8rRG0reW5MWnUzam1Cak9JcmE1cmlTaThyUkZCRm92aEZvK0xleSs2"
    "QjZ6R25BTT0KAAEAAGSCAABgAAV1Y2VydACFAAAUAAhjZXJ0dHlwZQAAAAAAAoQAABgACXZhbGlkZnJvbQAAAAAAaVW5AIMAACUA"
    "C2ZpbmdlcnByaW50AAAAMDEyMzQ1Njc4OWFiY2RlZgAAAAA="
)
SEED = bytes(range(30)) + b"\x1e\x5f"
VALID_FROM, EXPIRES_AT = 1767225600, 4102444800


def demo_key() -> usign.SecretKey:
    return usign.parse_secret_key(SECRET)


def certificate(key: usign.SecretKey, *, by: usign.SecretKey | None = None) -> bytes:
    return ucert.certify(
        key.public, (by or key).sign, valid_from=VALID_FROM, expires_at=EXPIRES_AT, comment="demo key"
    )


def sign(image: bytes, key: usign.SecretKey, chain: bytes) -> bytes:
    found = fwtool.read_trailers(image)
    image = image[: found.unsigned_bytes]
    return image + fwtool.signature_chunk(chain + ucert.of_message(key.sign(image)), found.crc)


def test_bytes_are_those_of_the_real_tools() -> None:
    key = demo_key()
    assert key.public == usign.parse_public_key(PUBLIC)
    assert (key.public.text("demo key").encode(), key.text("demo key").encode()) == (PUBLIC, SECRET)
    image = an_image()
    assert (len(image), hashlib.sha256(image).hexdigest()[:16]) == (94, "806f8822498ee1ef")
    assert key.sign(image).text().encode() == SIGNATURE
    chain = certificate(key)
    assert chain + ucert.of_message(key.sign(image)) == CONTAINER
    assert ucert.revoke("0123456789abcdef", key.sign, at=VALID_FROM) == REVOKER
    signed = sign(image, key, chain)
    assert (
        hashlib.sha256(signed).hexdigest()
        == "19c5078ee94c1b3db715f1541474fd38ef5bd50e71de18fd2d3f8bf923d0ed05"
    )
    assert fwtool.split_signed(signed) == (image, CONTAINER)


def test_a_new_key_is_read_again_and_shows_nothing_of_itself() -> None:
    key = usign.make_key()
    again = usign.parse_secret_key(key.text().encode())
    assert again.public == key.public and again.text() == key.text()
    assert usign.is_signed(b"x", again.sign(b"x"), usign.parse_public_key(key.public.text().encode()))
    assert repr(key) == f"<secret key {key.public.key_id}>"
    seed = base64.b64decode(key.text().splitlines()[1])[40:72]
    assert seed[0] & 7 == 0 and seed[31] & 0xC0 == 0x40, "as usign shapes it"


def test_every_flipped_byte_of_a_signed_image_is_refused() -> None:
    key = demo_key()
    device = Device({key.public.key_id: key.public.raw}, VALID_FROM)
    trusted = {key.public.key_id: key.public}
    signed = sign(an_image(), key, certificate(key))
    assert device.takes(signed)
    message, container = fwtool.split_signed(signed)
    assert ucert.is_image_signed(message, container, trusted, now=VALID_FROM)
    unread = []
    for place in range(len(signed)):
        bad = bytearray(signed)
        bad[place] ^= 1
        assert not device.takes(bytes(bad)), f"byte {place}"
        try:
            found = fwtool.read_trailers(bytes(bad))
        except fwtool.BrokenTrailer:
            continue
        # Another magic, type or size: no longer this chunk behind this image.
        unread.append(place)
        assert found.unsigned_bytes != len(message)
    assert all(place >= len(signed) - 16 for place in unread)
    # With a checksum that fits, whatever is signed or signs is refused all the same.
    second = len(certificate(key))
    signing = (*range(58, 158), *range(0xA4, second), *range(second + 58, second + 158))
    for place in signing:
        bad = bytearray(container)
        bad[place] ^= 1
        assert not ucert.is_image_signed(message, bytes(bad), trusted, now=VALID_FROM), f"byte {place}"


def test_a_chain_holds_only_from_a_trusted_key_in_its_time() -> None:
    root, key, other = usign.make_key(), usign.make_key(), usign.make_key()
    image = an_image(bytes(1000))
    chain = certificate(key, by=root)
    message, container = fwtool.split_signed(sign(image, key, chain))

    def takes(*keys: usign.SecretKey, now: float = VALID_FROM, container: bytes = container) -> bool:
        trusted = {each.public.key_id: each.public for each in keys}
        known = {each.public.key_id: each.public.raw for each in keys}
        said = ucert.is_image_signed(message, container, trusted, now=now)
        assert said is Device(known, int(now)).takes(
            message + fwtool.signature_chunk(container, zlib.crc32(message))
        )
        return said

    assert takes(root)
    assert not takes(key), "only the first is looked up"
    assert not takes(other)
    assert not takes(root, now=VALID_FROM - 1)
    assert not takes(root, now=EXPIRES_AT)
    alone = ucert.of_message(key.sign(message))
    assert len(alone) == ucert.MESSAGE_BYTES
    assert takes(key, now=0, container=alone), "a signature alone never expires"
    assert not takes(root, container=alone)
    assert not takes(root, container=chain), "a chain signs no image"
    assert not takes(root, container=certificate(key, by=other) + alone)
    assert not takes(other, container=certificate(key, by=other) + ucert.of_message(other.sign(message)))


def test_a_chain_of_ours_is_checked_before_it_is_used() -> None:
    root, key, other = usign.make_key(), usign.make_key(), usign.make_key()

    def why(chain: bytes, now: float = VALID_FROM) -> str:
        with pytest.raises(BadKey) as refused:
            ucert.require_chain(ucert.parse_container(chain), key.public, now=now)
        return str(refused.value)

    for chain in (certificate(key), certificate(key, by=root), certificate(root) + certificate(key, by=root)):
        found = ucert.require_chain(ucert.parse_container(chain), key.public, now=VALID_FROM)
        assert (found.certified, found.expires_at) == (key.public, EXPIRES_AT)
    assert "another key than the one before" in why(certificate(root) + certificate(key, by=other))
    assert "not valid yet" in why(certificate(key), now=0) and "clock" in why(certificate(key), now=0)
    assert "expired" in why(certificate(key), now=EXPIRES_AT)
    assert f"certifies the key {other.public.key_id}" in why(certificate(other))
    assert "no certificate" in why(b"")
    assert "more than certificates" in why(certificate(key) + ucert.of_message(key.sign(b"x")))
    assert "certifies no key" in why(ucert.revoke(key.public.key_id, key.sign, at=VALID_FROM))


def test_two_signatures_are_both_taken_away_and_metadata_stay() -> None:
    key, image = usign.make_key(), an_image(bytes(100))
    once = image
    for _ in range(3):
        chunk = fwtool.signature_chunk(ucert.of_message(key.sign(once)), zlib.crc32(once))
        once += chunk
    found = fwtool.read_trailers(once)
    assert (once[: found.unsigned_bytes], found.has_metadata) == (image, True)
    assert sign(once, key, b"") == sign(image, key, b"")
    message, _ = fwtool.split_signed(sign(once, key, b""))
    assert Device({}, 0).metadata(message) == json.loads(METADATA)
    bare = bytes(500)
    plain = fwtool.read_trailers(bare + fwtool.signature_chunk(b"x" * 20, zlib.crc32(bare)))
    assert plain == fwtool.Trailers(500, False, zlib.crc32(bare))


@pytest.mark.parametrize("image", [b"", b"FWx0", bytes(15), bytes(16), b"x" * 100])
def test_what_has_no_trailer_is_all_image(image: bytes) -> None:
    assert fwtool.read_trailers(image) == fwtool.Trailers(len(image), False, zlib.crc32(image))


@pytest.mark.parametrize("size", [0, 15, 111, 32_785, 0xFFFFFFFF])
def test_an_impossible_size_is_told_before_it_is_used(size: int) -> None:
    image = an_image()
    with pytest.raises(fwtool.BrokenTrailer):
        fwtool.read_trailers(image[:-4] + struct.pack(">I", size))


def test_a_key_is_refused_with_the_reason(tmp_path: Path) -> None:
    path = tmp_path / "key"

    def why(content: bytes, mode: int = 0o600) -> str:
        path.write_bytes(content)
        path.chmod(mode)
        with pytest.raises(BadKey) as refused:
            usign.read_secret_key(path)
        assert SECRET.splitlines()[1].decode()[40:] not in str(refused.value)
        return str(refused.value)

    comment, line = SECRET.splitlines()
    data = bytearray(base64.b64decode(line))
    encrypted = bytes(data[:7]) + b"\x2a" + bytes(data[8:])
    data[50] ^= 1
    assert "chmod 600" in why(SECRET, 0o640) and "chmod 600" in why(SECRET, 0o604)
    assert "public key" in why(PUBLIC)
    assert "password" in why(comment + b"\n" + base64.b64encode(encrypted))
    assert "damaged" in why(comment + b"\n" + base64.b64encode(data))
    assert "nothing that usign has written" in why(
        b"-----BEGIN PRIVATE KEY-----\nxxx\n-----END PRIVATE KEY-----\n"
    )
    assert "no secret key" in why(SIGNATURE)
    path.unlink()
    with pytest.raises(BadKey, match="No such file"):
        usign.read_secret_key(path)
    path.mkdir()
    with pytest.raises(BadKey):
        usign.read_secret_key(path)


def test_files_are_read_as_tolerantly_as_usign_reads_them() -> None:
    windows = PUBLIC.replace(b"\n", b"\r\n").rstrip()
    assert usign.parse_public_key(windows) == usign.parse_public_key(PUBLIC)
    for bad in (PUBLIC.splitlines()[1], PUBLIC + b"more\n", b"", b"\n\n", PUBLIC.replace(b"RW", b"R!")):
        with pytest.raises(BadKey):
            usign.parse_public_key(bad)
