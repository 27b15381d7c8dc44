"""Keys and signatures in usign's format, the same keys as PEM, and ucert containers.

Formats: usign text envelope and structures, ucert's blobs and payload, as OpenWrt's usign and ucert write
them.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import struct
from dataclasses import dataclass

from . import ed25519

_PEM_PREFIX = bytes.fromhex("302a300506032b6570032100")
"""SubjectPublicKeyInfo of an Ed25519 key up to the 32 raw bytes (RFC 8410). Real apk keys are EC P-256."""

YEAR = 365 * 24 * 3600
"""Validity of a certificate in seconds: ucert always writes issue time plus 365 days."""


@dataclass(frozen=True)
class SigningKey:
    """A key pair: `seed` is the 32-byte private key, `key_id` the 8 random bytes that usign calls
    fingerprint."""

    seed: bytes
    key_id: bytes
    comment: str = "Local build key"

    @property
    def fingerprint(self) -> str:
        """Sixteen lower-case hex digits: the file name of the public half in a key directory."""
        return self.key_id.hex()

    @property
    def public(self) -> bytes:
        """The raw 32-byte public key."""
        return ed25519.public_key(self.seed)

    def public_text(self) -> str:
        """The two-line public key file."""
        return _envelope(self.comment, b"Ed" + self.key_id + self.public)

    def secret_text(self) -> str:
        """The two-line secret key file, not encrypted (zero KDF rounds)."""
        pair = self.seed + self.public
        checksum = hashlib.sha512(pair).digest()[:8]
        return _envelope(self.comment, b"EdBK" + bytes(20) + checksum + self.key_id + pair)

    def public_pem(self) -> str:
        """The public key as PEM, with the free-text line that local apk keys carry in front."""
        body = base64.b64encode(_PEM_PREFIX + self.public).decode()
        pem = f"-----BEGIN PUBLIC KEY-----\n{body}\n-----END PUBLIC KEY-----\n"
        return f"untrusted comment: {self.comment}\n{pem}"

    def sign(self, message: bytes) -> str:
        """The two-line signature file (151 bytes) of `message`."""
        return _envelope(
            f"signed by key {self.fingerprint}", b"Ed" + self.key_id + ed25519.sign(self.seed, message)
        )


def parse_secret(text: str) -> SigningKey:
    """Read a secret key file. Raises ValueError for anything but an unencrypted usign key."""
    data = _decode(text, 104)
    if data[:2] != b"Ed" or data[4:8] != bytes(4):
        raise ValueError("not an unencrypted usign secret key")
    return SigningKey(seed=data[40:72], key_id=data[32:40])


def parse_public(text: str) -> tuple[str, bytes]:
    """Fingerprint and raw key of a public key file. Raises ValueError when it is none."""
    data = _decode(text, 42)
    return data[2:10].hex(), data[10:]


def parse_pem(text: str) -> bytes:
    """Raw key of a PEM public key; lines before `-----BEGIN` are tolerated.

    Raises ValueError when it is none of ours.
    """
    begin, end = "-----BEGIN PUBLIC KEY-----", "-----END PUBLIC KEY-----"
    if begin not in text or end not in text:
        raise ValueError("no PEM public key")
    body = text.split(begin, 1)[1].split(end, 1)[0]
    data = _base64("".join(body.split()))
    if len(data) != len(_PEM_PREFIX) + 32 or not data.startswith(_PEM_PREFIX):
        raise ValueError("not an Ed25519 public key")
    return data[len(_PEM_PREFIX) :]


def signer(signature_text: str) -> str:
    """Fingerprint a signature names: a hint for looking up the key, not a proof. Raises ValueError."""
    return _decode(signature_text, 74)[2:10].hex()


def verify(public: bytes, message: bytes, signature_text: str) -> bool:
    """Whether the two-line signature fits `message` and the raw `public` key. Never raises."""
    try:
        return ed25519.verify(public, message, _decode(signature_text, 74)[10:])
    except ValueError:
        return False


def certificate(issuer: SigningKey, subject: SigningKey, *, issued_at: int) -> bytes:
    """A ucert element: `issuer` vouches for `subject` from `issued_at` (Unix seconds) for a year."""
    fields = b"".join(
        (
            _field(5, "certtype", struct.pack(">I", 1)),
            _field(4, "validfrom", struct.pack(">Q", issued_at)),
            _field(4, "expiresat", struct.pack(">Q", issued_at + YEAR)),
            _field(3, "pubkey", subject.public_text().encode() + b"\0"),
        )
    )
    payload = _field(2, "ucert", fields)
    return _blob(0, _blob(0, issuer.sign(payload).encode()) + _blob(1, payload))


def message_signature(signature_text: str) -> bytes:
    """The last ucert element: nothing but a signature of the image."""
    return _blob(0, _blob(0, signature_text.encode()))


def _envelope(comment: str, data: bytes) -> str:
    return f"untrusted comment: {comment}\n{base64.b64encode(data).decode()}\n"


def _base64(text: str) -> bytes:
    try:
        return base64.b64decode(text.encode(), validate=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise ValueError("not base64") from error


def _decode(text: str, length: int) -> bytes:
    lines = text.splitlines()
    if len(lines) != 2:
        raise ValueError("a usign file has two lines")
    data = _base64(lines[1])
    if len(data) != length or data[:2] != b"Ed":
        raise ValueError("not a usign structure of the expected length")
    return data


def _pad(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def _blob(number: int, data: bytes) -> bytes:
    return _pad(struct.pack(">I", number << 24 | len(data) + 4) + data)


def _field(kind: int, name: str, value: bytes) -> bytes:
    encoded = name.encode()
    head = _pad(struct.pack(">H", len(encoded)) + encoded + b"\0")
    return _blob(0x80 | kind, head + value)
