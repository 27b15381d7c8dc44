"""Keys and signatures in usign's format, the same keys as PEM, and ucert containers.

Formats: usign text envelope and structures, ucert's blobs and payload, as OpenWrt's usign and ucert write
them. Below them is Ed25519 (RFC 8032, pure), compact and slow: enough to sign a few sample indexes. It needs
no third-party library and is not constant-time. Never use it with a key that protects anything.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import struct
from dataclasses import dataclass

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
        return ed25519_public_key(self.seed)

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
            f"signed by key {self.fingerprint}", b"Ed" + self.key_id + ed25519_sign(self.seed, message)
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
        return ed25519_verify(public, message, _decode(signature_text, 74)[10:])
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


_P = 2**255 - 19
_ORDER = 2**252 + 27742317777372353535851937790883648493
_D = -121665 * pow(121666, _P - 2, _P) % _P
_SQRT_MINUS_ONE = pow(2, (_P - 1) // 4, _P)

Point = tuple[int, int, int, int]
"""Extended coordinates X, Y, Z, T with x = X/Z, y = Y/Z, xy = T/Z (RFC 8032 §5.1.4)."""

_NEUTRAL: Point = (0, 1, 1, 0)


def _add(a: Point, b: Point) -> Point:
    e = (a[1] - a[0]) * (b[1] - b[0]) % _P
    f = (a[1] + a[0]) * (b[1] + b[0]) % _P
    g = 2 * a[3] * b[3] * _D % _P
    h = 2 * a[2] * b[2] % _P
    p, q, r, s = f - e, h - g, h + g, f + e
    return p * q % _P, r * s % _P, q * r % _P, p * s % _P


def _multiply(scalar: int, point: Point) -> Point:
    result = _NEUTRAL
    while scalar:
        if scalar & 1:
            result = _add(result, point)
        point = _add(point, point)
        scalar >>= 1
    return result


def _recover_x(y: int, sign: int) -> int | None:
    if y >= _P:
        return None
    square = (y * y - 1) * pow(_D * y * y + 1, _P - 2, _P) % _P
    x = pow(square, (_P + 3) // 8, _P)
    if (x * x - square) % _P:
        x = x * _SQRT_MINUS_ONE % _P
    if (x * x - square) % _P or (x == 0 and sign):
        return None
    return _P - x if x & 1 != sign else x


def _compress(point: Point) -> bytes:
    inverse = pow(point[2], _P - 2, _P)
    x, y = point[0] * inverse % _P, point[1] * inverse % _P
    return (y | (x & 1) << 255).to_bytes(32, "little")


def _decompress(data: bytes) -> Point | None:
    number = int.from_bytes(data, "little")
    y = number & (1 << 255) - 1
    x = _recover_x(y, number >> 255)
    return None if x is None else (x, y, 1, x * y % _P)


_BASE_Y = 4 * pow(5, _P - 2, _P) % _P
_BASE_X = _recover_x(_BASE_Y, 0) or 0
_BASE: Point = (_BASE_X, _BASE_Y, 1, _BASE_X * _BASE_Y % _P)


_BASE_POWERS = [_BASE]
while len(_BASE_POWERS) < 256:
    _BASE_POWERS.append(_add(_BASE_POWERS[-1], _BASE_POWERS[-1]))


def _multiply_base(scalar: int) -> Point:
    result = _NEUTRAL
    for power in _BASE_POWERS:
        if scalar & 1:
            result = _add(result, power)
        scalar >>= 1
    return result


def _hash_number(*parts: bytes) -> int:
    return int.from_bytes(hashlib.sha512(b"".join(parts)).digest(), "little")


def _expand(seed: bytes) -> tuple[int, bytes]:
    digest = hashlib.sha512(seed).digest()
    scalar = int.from_bytes(digest[:32], "little") & (1 << 254) - 8 | 1 << 254
    return scalar, digest[32:]


def ed25519_public_key(seed: bytes) -> bytes:
    """The 32-byte public key of a 32-byte seed (RFC 8032 §5.1.5)."""
    return _compress(_multiply_base(_expand(seed)[0]))


def ed25519_sign(seed: bytes, message: bytes) -> bytes:
    """The 64-byte signature of `message` (RFC 8032 §5.1.6); same seed and message, same signature."""
    scalar, prefix = _expand(seed)
    public = _compress(_multiply_base(scalar))
    nonce = _hash_number(prefix, message) % _ORDER
    commitment = _compress(_multiply_base(nonce))
    challenge = _hash_number(commitment, public, message) % _ORDER
    return commitment + ((nonce + challenge * scalar) % _ORDER).to_bytes(32, "little")


def ed25519_verify(public: bytes, message: bytes, signature: bytes) -> bool:
    """Whether `signature` belongs to `message` and the 32-byte `public` key (RFC 8032 §5.1.7).

    Never raises.
    """
    if len(public) != 32 or len(signature) != 64:
        return False
    key, commitment = _decompress(public), _decompress(signature[:32])
    response = int.from_bytes(signature[32:], "little")
    if key is None or commitment is None or response >= _ORDER:
        return False
    challenge = _hash_number(signature[:32], public, message) % _ORDER
    return _compress(_multiply_base(response)) == _compress(_add(commitment, _multiply(challenge, key)))
