"""Keys and signatures as usign writes them: a line of comment, and a line of Base64."""

import base64
import binascii
import contextlib
import hashlib
import mmap
import os
import re
import stat
from collections.abc import Iterator, Mapping
from typing import NamedTuple

ALGORITHM = b"Ed"
_KDF = b"BK"
_COMMENT = "untrusted comment: "
_PUBLIC_BYTES, _SECRET_BYTES, _SIGNATURE_BYTES = 42, 104, 74
_SECRET_TEXT, _HEAD_TEXT, _PUBLIC_TEXT_AT = 140, 54, 96
"""In Base64: a secret key, what of it comes before its seed, and where its public half begins."""
_PROTECTED = "it is protected by a password; a key for a service has none"
_MOST_BYTES = 4096
"""Of a file; a secret key has some 200."""
_KEY_ID = re.compile(r"[0-9a-f]{16}")
OTHERS = stat.S_IRWXG | stat.S_IRWXO
"""The permissions that a secret key's file gives to none but its owner."""


StrPath = str | os.PathLike[str]


class BadKey(Exception):
    """A key, signature or certificate that cannot be used; the sentence says what is wrong with it."""


def is_key_id(text: str) -> bool:
    """Whether it is the name of a key: 16 lower-case hexadecimal digits."""
    return _KEY_ID.fullmatch(text) is not None


class PublicKey(NamedTuple):
    """The public half. `key_id` is random, not derived: two keys may bear the same."""

    key_id: str
    raw: bytes

    def text(self, comment: str = "") -> str:
        """The two lines of its file."""
        return _text(
            comment or f"public key {self.key_id}", ALGORITHM + bytes.fromhex(self.key_id) + self.raw
        )


class Signature(NamedTuple):
    """64 bytes over a whole file, and the name of the key that made them, which proves nothing."""

    key_id: str
    raw: bytes

    def text(self) -> str:
        """The two lines of its file, 151 bytes."""
        return _text(f"signed by key {self.key_id}", ALGORITHM + bytes.fromhex(self.key_id) + self.raw)


class SecretKey:
    """Both halves. It is shown by its name only, wherever it may be written."""

    def __init__(self, key_id: str, seed: bytes, public: bytes) -> None:
        self.public = PublicKey(key_id, public)
        self._seed = seed

    def __repr__(self) -> str:
        return f"<secret key {self.public.key_id}>"

    def __reduce__(self) -> str:
        raise TypeError("a secret key is not copied")

    def text(self, comment: str = "") -> str:
        """The two lines of its file, without a password."""
        both = self._seed + self.public.raw
        checksum = hashlib.sha512(both).digest()[:8]
        head = ALGORITHM + _KDF + bytes(4) + bytes(16) + checksum + bytes.fromhex(self.public.key_id)
        return _text(comment or f"private key {self.public.key_id}", head + both)

    def sign(self, message: "bytes | memoryview | mmap.mmap") -> Signature:
        """Signs all of it; a map of a file is read as it is, and other threads run meanwhile."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        with memoryview(message) as view:
            raw = Ed25519PrivateKey.from_private_bytes(self._seed).sign(view)
        return Signature(self.public.key_id, raw)


def make_key() -> SecretKey:
    """A new key with a random name, its seed as usign shapes it."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    seed = bytearray(os.urandom(32))
    seed[0] &= 0xF8
    seed[31] = seed[31] & 0x7F | 0x40
    public = Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()
    return SecretKey(os.urandom(8).hex(), bytes(seed), public)


def is_signed(message: "bytes | memoryview | mmap.mmap", signature: Signature, key: PublicKey) -> bool:
    """Whether this key made the signature, and bears the name in it."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    if signature.key_id != key.key_id:
        return False
    try:
        with memoryview(message) as view:
            Ed25519PublicKey.from_public_bytes(key.raw).verify(signature.raw, view)
    except (InvalidSignature, ValueError):  # or a key that is no point of the curve
        return False
    return True


def parse_public_key(text: bytes) -> PublicKey:
    """The key of a file. Raises `BadKey`."""
    data = _data(text)
    if len(data) != _PUBLIC_BYTES:
        raise BadKey("it is a secret key" if len(data) == _SECRET_BYTES else "it is no public key of usign")
    return PublicKey(data[2:10].hex(), data[10:])


def parse_secret_key(text: bytes) -> SecretKey:
    """The key of a file. Raises `BadKey`, which never repeats what is in it."""
    data = _data(text)
    if len(data) != _SECRET_BYTES or data[2:4] != _KDF:
        raise BadKey("it is a public key" if len(data) == _PUBLIC_BYTES else "it is no secret key of usign")
    if any(data[4:8]):
        raise BadKey(_PROTECTED)
    if hashlib.sha512(data[40:]).digest()[:8] != data[24:32]:
        raise BadKey("it is damaged: its checksum is another one")
    return SecretKey(data[32:40].hex(), data[40:72], data[72:])


def parse_signature(text: bytes) -> Signature:
    """The signature of a file. Raises `BadKey`."""
    data = _data(text)
    if len(data) != _SIGNATURE_BYTES:
        raise BadKey("it is no signature of usign")
    return Signature(data[2:10].hex(), data[10:])


def read_secret_key(path: StrPath) -> SecretKey:
    """The key in a file that only its owner may read. Raises `BadKey`."""
    return parse_secret_key(read_secret_file(path))


def read_secret_file(path: StrPath) -> bytes:
    """A small file that only its owner may read. Raises `BadKey`."""
    with _opened(path, secret=True) as descriptor:
        return os.read(descriptor, _MOST_BYTES)


def read_public_half(path: StrPath) -> PublicKey:
    """The public half in the file of a secret key, of whose seed no more than four bits are read.

    Its checksum covers the seed, so it is not compared. Raises `BadKey`, as `read_secret_key` does.
    """
    with _opened(path, secret=True) as descriptor:
        length = os.fstat(descriptor).st_size
        start = 0
        while start < min(length, _MOST_BYTES) and os.pread(descriptor, 1, start) != b"\n":
            start += 1
        start += 1
        if length - start < _SECRET_TEXT:
            # Too short for a secret key, so it is read whole to say what it is.
            data = _data(os.pread(descriptor, _MOST_BYTES, 0))
            raise BadKey(
                "it is a public key" if len(data) == _PUBLIC_BYTES else "it is no secret key of usign"
            )
        head = os.pread(descriptor, _HEAD_TEXT, start)
        tail = os.pread(descriptor, _SECRET_TEXT - _PUBLIC_TEXT_AT, start + _PUBLIC_TEXT_AT)
        end = os.pread(descriptor, 3, start + _SECRET_TEXT)
    try:
        first, public = base64.b64decode(head + b"==", validate=True), base64.b64decode(tail, validate=True)
    except binascii.Error:
        first = public = b""
    if first[:4] != ALGORITHM + _KDF or len(public) != 32 or end not in (b"", b"\n", b"\r\n"):
        raise BadKey("it is nothing that usign has written")
    if any(first[4:8]):
        raise BadKey(_PROTECTED)
    return PublicKey(first[32:40].hex(), public)


class TrustedKeys:
    """Public keys that an operator trusts, by what they may sign."""

    def __init__(self, values: Mapping[str, str]) -> None:
        """A value is a key's text, the second line of it, or the path of its file. Raises `BadKey`."""
        self._keys = {}
        for name, value in values.items():
            text = value.strip()
            try:
                if "\n" in text:
                    content = text.encode()
                elif text.startswith("RW"):
                    content = f"{_COMMENT}\n{text}".encode()
                else:
                    content = read_small_file(os.path.expanduser(text))  # noqa: PTH111 - see mapped
                self._keys[name] = parse_public_key(content)
            except BadKey as bad:
                raise BadKey(f"{name}: {bad}") from None

    def __contains__(self, name: object) -> bool:
        """Whether there is a key of this name."""
        return name in self._keys

    def is_signed(self, name: str, message: bytes, signature: bytes) -> bool:
        """Whether the key of this name made a signature, as its file says it."""
        try:
            return is_signed(message, parse_signature(signature), self._keys[name])
        except BadKey:
            return False


def read_small_file(path: StrPath) -> bytes:
    """A public key or a certificate. Raises `BadKey`."""
    with _opened(path) as descriptor:
        return os.read(descriptor, _MOST_BYTES)


@contextlib.contextmanager
def mapped(path: StrPath, *, prefault: bool = False) -> Iterator[mmap.mmap]:
    """A file that is not empty as memory that belongs to it, however large it is.

    `prefault` reads all pages at once, for a process without other threads: it spares a page fault for each
    sixteen pages, but Python holds its lock until the disk has delivered them.
    """
    flags = mmap.MAP_SHARED | (mmap.MAP_POPULATE if prefault else 0)
    with (
        open(path, "rb") as file,  # noqa: PTH123 - what signs imports little
        mmap.mmap(file.fileno(), 0, flags=flags, prot=mmap.PROT_READ) as content,
    ):
        yield content


@contextlib.contextmanager
def _opened(path: StrPath, *, secret: bool = False) -> Iterator[int]:
    """The descriptor of a plain file, a `secret` one that none but its owner may read. Raises `BadKey`."""
    try:
        # What is no plain file, such as a pipe, would else be waited for.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise BadKey(f"it cannot be read: {error.strerror}") from None
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise BadKey("it is no plain file")
        if secret and mode & OTHERS:
            raise BadKey(f"others may read it (mode {stat.S_IMODE(mode):04o}): chmod 600 {path}")
        yield descriptor
    except OSError as error:
        raise BadKey(f"it cannot be read: {error.strerror}") from None
    finally:
        os.close(descriptor)


def _text(comment: str, data: bytes) -> str:
    return f"{_COMMENT}{comment}\n{base64.b64encode(data).decode()}\n"


def _data(text: bytes) -> bytes:
    lines = text[:_MOST_BYTES].replace(b"\r\n", b"\n").split(b"\n")
    if lines[-1] == b"":
        lines.pop()
    try:
        data = base64.b64decode(lines[1], validate=True) if len(lines) == 2 else b""
    except binascii.Error:
        data = b""
    if data[:2] != ALGORITHM:
        raise BadKey("it is nothing that usign has written")
    return data
