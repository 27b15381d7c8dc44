"""Images with trailers, and a device that checks them: a reader of its own, by the published layout."""

import base64
import json
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from asu_builder.domain.errors import SigningUnavailable
from asu_builder.signing import pem, usign
from asu_builder.signing.usign import mapped

METADATA = b'{"metadata_version":"1.1","supported_devices":["acme,widget-5"]}\n'


class KeyInMemory:
    """A `ports::KeyHolder` without a process."""

    def __init__(self, key: usign.SecretKey | pem.SecretKey) -> None:
        self._key = key

    def public_key(self) -> str:
        return self._key.public.text()

    def examine(self) -> None:
        """A key in memory is whole."""

    def sign(self, path: Path) -> bytes:
        try:
            with mapped(path) as content:
                return self._key.sign(content).raw
        except (OSError, ValueError) as problem:
            raise SigningUnavailable(f"Nothing can be signed: {problem}.") from None


def an_image(content: bytes = b"HELLO", metadata: bytes = METADATA) -> bytes:
    """An image with metadata, as a build leaves it."""
    body = content + bytes(8) + metadata
    crc = zlib.crc32(body) ^ 0xFFFFFFFF
    return body + b"FWx0" + struct.pack(">IB3xI", crc, 1, 8 + len(metadata) + 16)


class Device:
    """Reads a signed image by the published layout alone; shares nothing with the code under test."""

    def __init__(self, keys: Mapping[str, bytes], now: int) -> None:
        self._keys = keys
        self._now = now

    def takes(self, image: bytes) -> bool:
        try:
            return self._check(image)
        except (ValueError, InvalidSignature, struct.error, IndexError, KeyError, UnicodeDecodeError):
            return False

    def metadata(self, image: bytes) -> object:
        """As `fwtool -i` of an image whose last signature was taken away."""
        size = struct.unpack(">I", image[-4:])[0]
        crc = struct.unpack(">I", image[-12:-8])[0]
        if image[-16:-12] != b"FWx0" or zlib.crc32(image[:-16]) ^ 0xFFFFFFFF != crc or image[-8] != 1:
            raise ValueError
        return json.loads(image[-size + 8 : -16])

    def _check(self, image: bytes) -> bool:
        magic, crc, kind, size = struct.unpack(">4sIB3xI", image[-16:])
        if magic != b"FWx0" or kind != 0 or not 16 <= size <= 1040 or any(image[-7:-4]):
            return False
        if zlib.crc32(image[:-16]) ^ 0xFFFFFFFF != crc:
            return False
        message, container = image[:-size], image[-size:-16]
        key: bytes | None = None
        checked = False
        while container:
            length = int.from_bytes(container[1:4], "big")
            element, container = container[4:length], container[length + -length % 4 :]
            signature_length = int.from_bytes(element[1:4], "big")
            name, signature = self._signature(element[4:signature_length])
            rest = element[signature_length + -signature_length % 4 :]
            key = key or self._keys[name]
            if not rest:
                Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
                checked = True
                continue
            table = rest[4 : int.from_bytes(rest[1:4], "big")]
            Ed25519PublicKey.from_public_bytes(key).verify(signature, table)
            start = int.from_bytes(table[0x30:0x38], "big")
            if not start <= self._now < int.from_bytes(table[0x48:0x50], "big"):
                return False
            text = table[table.index(b"untrusted") :].split(b"\0")[0]
            key = base64.b64decode(text.split(b"\n")[1])[10:]
        return checked

    def _signature(self, text: bytes) -> tuple[str, bytes]:
        data = base64.b64decode(text.split(b"\n")[1], validate=True)
        if data[:2] != b"Ed" or len(data) != 74 or len(text) != 151:
            raise ValueError
        return data[2:10].hex(), data[10:]


def public_bytes(text: bytes) -> bytes:
    """The 32 bytes of a public key's file."""
    return base64.b64decode(text.split(b"\n")[1], validate=True)[10:]


def is_signed(message: bytes, signature: bytes, key: bytes) -> bool:
    """Whether a signature's file fits."""
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(
            base64.b64decode(signature.split(b"\n")[1])[10:], message
        )
    except InvalidSignature:
        return False
    return True
