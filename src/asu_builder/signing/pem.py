"""Ed25519 keys in PEM, as OpenSSL writes and public tools read them."""

import base64
import hashlib
import re
from typing import TYPE_CHECKING

from msgspec import Struct

from asu_builder.signing.usign import BadKey, Signature, StrPath, read_secret_file

if TYPE_CHECKING:
    from mmap import mmap

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_OF_USIGN = b"untrusted comment:"
_SPKI = bytes.fromhex("302a300506032b6570032100")
"""What comes before the 32 bytes of every public key of Ed25519 (RFC 8410)."""
_USUAL = re.compile(rb"-----BEGIN PUBLIC KEY-----\n([A-Za-z0-9+/]{59}=)\n-----END PUBLIC KEY-----\n")


class PublicKey(Struct, frozen=True):
    """The public half, 32 bytes."""

    raw: bytes

    def text(self) -> str:
        """Its file, in the one way that it can be written: SubjectPublicKeyInfo (RFC 8410)."""
        body = base64.b64encode(_SPKI + self.raw).decode()
        return f"-----BEGIN PUBLIC KEY-----\n{body}\n-----END PUBLIC KEY-----\n"

    @property
    def key_id(self) -> str:
        """SHA-256 of this file, 64 hexadecimal digits."""
        return hashlib.sha256(self.text().encode()).hexdigest()


class SecretKey:
    """Both halves. It is shown by the name of the public one, wherever it may be written."""

    def __init__(self, key: "Ed25519PrivateKey") -> None:
        self.public = PublicKey(key.public_key().public_bytes_raw())
        self._key = key

    def __repr__(self) -> str:
        return f"<secret key {self.public.key_id}>"

    def __reduce__(self) -> str:
        raise TypeError("a secret key is not copied")

    def text(self) -> str:
        """Its file: PKCS #8, without a password."""
        from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

        return self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()

    def sign(self, message: "bytes | mmap") -> Signature:
        """Signs all of it."""
        with memoryview(message) as view:
            return Signature(self.public.key_id, self._key.sign(view))


def make_key() -> SecretKey:
    """A new key."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return SecretKey(Ed25519PrivateKey.generate())


def is_signed(message: bytes, signature: bytes, key: PublicKey) -> bool:
    """Whether this key made the signature."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(key.raw).verify(signature, message)
    except (InvalidSignature, ValueError):  # or a key that is no point of the curve
        return False
    return True


def parse_public_key(text: bytes) -> PublicKey:
    """The key of a file. Raises `BadKey`."""
    if (usual := _USUAL.fullmatch(text)) and (der := base64.b64decode(usual[1])).startswith(_SPKI):
        return PublicKey(der[len(_SPKI) :])  # without the library, which a start does without

    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    if b"PRIVATE KEY-----" in text:
        raise BadKey("it is a secret key")
    _require_pem(text)
    try:
        key = load_pem_public_key(text)
    except (ValueError, UnsupportedAlgorithm):
        raise BadKey("it is damaged, or no key in PEM") from None
    if not isinstance(key, Ed25519PublicKey):
        raise BadKey("it is a key of another kind than Ed25519")
    return PublicKey(key.public_bytes_raw())


def parse_secret_key(text: bytes) -> SecretKey:
    """The key of a file. Raises `BadKey`, which never repeats what is in it."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    if b"PUBLIC KEY-----" in text:
        raise BadKey("it is a public key")
    _require_pem(text)
    try:
        key = load_pem_private_key(text, None)
    except TypeError:
        raise BadKey("it is protected by a password; a key for a service has none") from None
    except (ValueError, UnsupportedAlgorithm):
        raise BadKey("it is damaged, or no key in PEM") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise BadKey("it is a key of another kind than Ed25519")
    return SecretKey(key)


def read_secret_key(path: StrPath) -> SecretKey:
    """The key in a file that only its owner may read. Raises `BadKey`."""
    return parse_secret_key(read_secret_file(path))


def _require_pem(text: bytes) -> None:
    if text.startswith(_OF_USIGN):
        raise BadKey(
            "it is a key of usign for images; `asu-builder keys new --provenance` makes the right one"
        )
