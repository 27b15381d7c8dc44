"""Our own Ed25519, usign, ucert and fwtool code against published vectors."""

import base64
import hashlib

import pytest

from asu_sample.miniature import usign
from asu_sample.miniature.images import METADATA, SIGNATURE, append_chunk, append_metadata, last_chunk

# RFC 8032 §7.1: seed, public key, message, signature.
_RFC_8032 = [
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46b"
        "d25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c"
        "387b2eaeb4302aeeb00d291612bb0c00",
    ),
    (
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc659"
        "4a7c15e9716ed28dc027beceea1ec40a",
    ),
]

_DEMO = usign.SigningKey(
    bytes.fromhex("000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e5f"),
    bytes.fromhex("0123456789abcdef"),
    comment="demo key",
)
_METADATA = '{"metadata_version":"1.1","supported_devices":["acme,widget-5"]}\n'


@pytest.mark.parametrize(("seed", "public", "message", "signature"), _RFC_8032)
def test_ed25519_agrees_with_rfc_8032(seed: str, public: str, message: str, signature: str) -> None:
    assert usign.ed25519_public_key(bytes.fromhex(seed)).hex() == public
    assert usign.ed25519_sign(bytes.fromhex(seed), bytes.fromhex(message)).hex() == signature
    assert usign.ed25519_verify(bytes.fromhex(public), bytes.fromhex(message), bytes.fromhex(signature))


def test_ed25519_refuses_every_single_changed_byte() -> None:
    message, signature = b"made up", usign.ed25519_sign(_DEMO.seed, b"made up")
    for position in range(64):
        changed = bytearray(signature)
        changed[position] ^= 1
        assert not usign.ed25519_verify(_DEMO.public, message, bytes(changed))
    assert not usign.ed25519_verify(_DEMO.public, b"made  up", signature)
    assert not usign.ed25519_verify(b"\xff" * 32, message, signature)
    assert not usign.ed25519_verify(_DEMO.public, message, signature[:63])


def test_ed25519_refuses_a_response_beyond_the_group_order() -> None:
    signature = usign.ed25519_sign(_DEMO.seed, b"x")
    order = 2**252 + 27742317777372353535851937790883648493
    shifted = int.from_bytes(signature[32:], "little") + order
    assert not usign.ed25519_verify(_DEMO.public, b"x", signature[:32] + shifted.to_bytes(32, "little"))


def test_key_files_are_what_usign_writes() -> None:
    assert _DEMO.public_text() == (
        "untrusted comment: demo key\nRWQBI0VniavN70flRXeQRiADGMGa5mJz1N19RriBCs/2KBsg4A0nA/S8\n"
    )
    assert _DEMO.secret_text() == (
        "untrusted comment: demo key\n"
        "RWRCSwAAAAAAAAAAAAAAAAAAAAAAAAAAJ5RWaT9PO1ABI0VniavN7wABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR5f"
        "R+VFd5BGIAMYwZrmYnPU3X1GuIEKz/YoGyDgDScD9Lw=\n"
    )
    assert usign.parse_secret(_DEMO.secret_text()).seed == _DEMO.seed
    assert usign.parse_public(_DEMO.public_text()) == ("0123456789abcdef", _DEMO.public)
    assert usign.parse_pem("any words first\n" + _DEMO.public_pem()) == _DEMO.public


def test_a_metadata_trailer_is_what_fwtool_writes() -> None:
    image = append_metadata(b"HELLO", _METADATA)
    assert len(image) == 94
    assert image[-16:].hex() == "465778300864a2200100000000000059"
    digest = "806f8822498ee1ef44f3aa93dab9c2c30bf9346c1ebdf41505436fe953f6e6a0"
    assert hashlib.sha256(image).hexdigest() == digest
    assert last_chunk(image) == (b"HELLO", METADATA, bytes(8) + _METADATA.encode())


def test_a_signed_image_is_what_ucert_and_fwtool_write(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        usign, "YEAR", 4102444800 - 1767225600
    )  # the vector's certificate is valid until 2100
    image = append_metadata(b"HELLO", _METADATA)
    signature = _DEMO.sign(image)
    assert signature.splitlines()[1].startswith("RWQBI0VniavN7xvJZYNWGmT2")
    ucert = usign.certificate(_DEMO, _DEMO, issued_at=1767225600) + usign.message_signature(signature)
    assert (len(ucert), hashlib.sha256(ucert).hexdigest()) == (
        508,
        "8e3b28eb1b7c47fcbaf6fd63701b9a2b286575aa38574a48b576def5dfd8ffd5",
    )
    signed = append_chunk(image, SIGNATURE, ucert)
    assert hashlib.sha256(signed).hexdigest() == (
        "19c5078ee94c1b3db715f1541474fd38ef5bd50e71de18fd2d3f8bf923d0ed05"
    )
    assert last_chunk(signed) == (image, SIGNATURE, ucert)


def test_a_changed_image_byte_makes_its_trailers_unreadable() -> None:
    image = bytearray(append_metadata(b"HELLO", _METADATA))
    image[0] ^= 1
    assert last_chunk(bytes(image)) is None


def test_a_signature_that_fwtool_would_drop_silently_is_refused() -> None:
    with pytest.raises(ValueError, match="1025 bytes"):
        append_chunk(b"image", SIGNATURE, bytes(1025))


@pytest.mark.parametrize("text", ["", "one line", "comment\nRWQ=\n", "comment\n%%%%\n", "a\nb\nc\n"])
def test_broken_key_files_raise_value_errors_only(text: str) -> None:
    for parse in (usign.parse_public, usign.parse_secret, usign.parse_pem, usign.signer):
        with pytest.raises(ValueError):
            parse(text)
    assert not usign.verify(_DEMO.public, b"message", text)


def test_an_encrypted_secret_key_is_refused() -> None:
    data = bytearray(base64.b64decode(_DEMO.secret_text().splitlines()[1]))
    data[7] = 42  # KDF rounds
    with pytest.raises(ValueError, match="unencrypted"):
        usign.parse_secret(f"comment\n{base64.b64encode(data).decode()}\n")
