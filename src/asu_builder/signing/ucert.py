"""Certificates, revokers and signatures of images in ucert's container: a row of binary attributes."""

import struct
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from msgspec import Struct

from asu_builder.signing.usign import (
    BadKey,
    PublicKey,
    Signature,
    is_key_id,
    is_signed,
    parse_public_key,
    parse_signature,
)

if TYPE_CHECKING:
    from mmap import mmap

MOST_BYTES = 4095
"""Of a file with a container."""
MOST_IN_IMAGE = 1024
"""Of a container at the end of an image; fwtool leaves a longer one out and says nothing."""
MESSAGE_BYTES = 160
"""Of the signature of an image in its container."""
YEAR = 365 * 86400
"""Seconds that the original tool certifies a key for."""
_AUTHORITY, _REVOKER = 1, 2
_SIGNATURE, _PAYLOAD = 0, 1
_TABLE, _STRING, _INT64, _INT32 = 2, 3, 4, 5
_EXTENDED = 0x80
_HEADER = struct.Struct(">I")


class Element(Struct, frozen=True):
    """One entry: a signature, over the payload beside it or, without one, over the image."""

    signature: Signature
    payload: bytes = b""
    fields: Mapping[str, str | int] = {}

    @property
    def certified(self) -> PublicKey:
        """The key that it certifies. Raises `BadKey`."""
        text = self.fields.get("pubkey")
        if self.fields.get("certtype") != _AUTHORITY or not isinstance(text, str):
            raise BadKey("it certifies no key")
        return parse_public_key(text.encode())

    @property
    def valid_from(self) -> int:
        """Seconds since 1970."""
        return self._time("validfrom")

    @property
    def expires_at(self) -> int:
        """Seconds since 1970."""
        return self._time("expiresat")

    def _time(self, name: str) -> int:
        value = self.fields.get(name)
        if not isinstance(value, int):
            raise BadKey("it says no time")
        return value


Sign = Callable[[bytes], Signature]
"""Signs some bytes; of a secret key or of what holds one."""


def certify(key: PublicKey, sign: Sign, *, valid_from: int, expires_at: int, comment: str = "") -> bytes:
    """An element in which the key of `sign` certifies `key` for a span of Unix seconds."""
    return _signed_payload(
        sign,
        _number("certtype", _AUTHORITY, _INT32),
        _number("validfrom", valid_from, _INT64),
        _number("expiresat", expires_at, _INT64),
        _named("pubkey", _STRING, key.text(comment).encode() + b"\0"),
    )


def revoke(key_id: str, sign: Sign, *, at: int) -> bytes:
    """A revoker: devices that have the key of `sign` in their directory then trust `key_id` no more."""
    return _signed_payload(
        sign,
        _number("certtype", _REVOKER, _INT32),
        _number("validfrom", at, _INT64),
        _named("fingerprint", _STRING, key_id.encode() + b"\0"),
    )


def of_message(signature: Signature) -> bytes:
    """The last element of an image's container."""
    return _attribute(0, _attribute(_SIGNATURE, signature.text().encode()))


def parse_container(data: bytes) -> tuple[Element, ...]:
    """Its elements. Raises `BadKey` for what is no whole container."""
    if len(data) > MOST_BYTES:
        raise BadKey(f"it is longer than {MOST_BYTES} bytes")
    try:
        return tuple(_element(body) for kind, body in _attributes(data) if _require(kind == 0))
    except (ValueError, struct.error):
        raise BadKey("it is no container of ucert") from None


def require_chain(elements: Sequence[Element], key: PublicKey, *, now: float) -> Element:
    """The certificate of `key`, the last one, where every one before leads to it and holds now.

    Who signed the first is for devices to know; where that is a key of the chain, it is checked too.
    Raises `BadKey`.
    """
    if not elements or not all(element.payload for element in elements):
        raise BadKey("there is no certificate in it, or more than certificates")
    keys = [element.certified for element in elements]
    signers = [keys[0] if elements[0].signature.key_id == keys[0].key_id else None, *keys]
    for element, signer in zip(elements, signers, strict=False):
        if signer and not is_signed(element.payload, element.signature, signer):
            raise BadKey("a certificate in it was signed by another key than the one before")
        if now < element.valid_from:
            raise BadKey("it is not valid yet, or the clock of this machine is wrong")
        if now >= element.expires_at:
            raise BadKey("it has expired: `asu-builder keys renew`")
    if keys[-1] != key:
        raise BadKey(f"it certifies the key {keys[-1].key_id}, and not {key.key_id}")
    return elements[-1]


def is_image_signed(
    message: "bytes | memoryview | mmap", container: bytes, trusted: Mapping[str, PublicKey], *, now: float
) -> bool:
    """Whether a device with these keys in its directory takes the image: what `ucert -V -m` says."""
    try:
        elements = parse_container(container)
        key = trusted.get(elements[0].signature.key_id) if elements else None
        for element in elements:
            if key is None:
                return False
            if not element.payload:
                return is_signed(message, element.signature, key)
            if not is_signed(element.payload, element.signature, key):
                return False
            if not element.valid_from <= now < element.expires_at:
                return False
            key = element.certified
    except BadKey:
        pass
    return False


def _signed_payload(sign: Sign, *fields: bytes) -> bytes:
    table = _named("ucert", _TABLE, b"".join(fields))
    signature = sign(table)
    return _attribute(0, _attribute(_SIGNATURE, signature.text().encode()) + _attribute(_PAYLOAD, table))


def _attribute(kind: int, data: bytes) -> bytes:
    return _padded(_HEADER.pack(kind << 24 | len(data) + _HEADER.size) + data)


def _named(name: str, kind: int, value: bytes) -> bytes:
    text = name.encode()
    head = _padded(struct.pack(">H", len(text)) + text + b"\0")
    return _attribute(_EXTENDED | kind, head + value)


def _number(name: str, value: int, kind: int) -> bytes:
    return _named(name, kind, struct.pack(">i" if kind == _INT32 else ">q", value))


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def _require(holds: bool) -> bool:
    if not holds:
        raise ValueError
    return True


def _attributes(data: bytes) -> list[tuple[int, bytes]]:
    """Kind and content of each attribute in a row. Raises `ValueError` or `struct.error`."""
    found = []
    while data:
        (head,) = _HEADER.unpack_from(data)
        length = head & 0xFFFFFF
        _require(_HEADER.size <= length <= len(data))
        found.append((head >> 24, data[_HEADER.size : length]))
        data = data[length + -length % 4 :]
    return found


def _element(body: bytes) -> Element:
    parts = _attributes(body)
    _require([kind for kind, _ in parts] in ([_SIGNATURE], [_SIGNATURE, _PAYLOAD]))
    signature = parse_signature(parts[0][1])
    if len(parts) == 1:
        return Element(signature)
    payload = parts[1][1]
    ((name, fields),) = _fields(payload).items()
    _require(name == "ucert" and isinstance(fields, bytes))
    assert isinstance(fields, bytes)
    found = {key: value for key, value in _fields(fields).items() if not isinstance(value, bytes)}
    if "fingerprint" in found:
        _require(is_key_id(str(found["fingerprint"])))
    return Element(signature, payload, found)


def _fields(data: bytes) -> dict[str, str | int | bytes]:
    """The named attributes of a table; another table in it stays bytes."""
    found: dict[str, str | int | bytes] = {}
    for kind, body in _attributes(data):
        (length,) = struct.unpack_from(">H", body)
        name = body[2 : 2 + length].decode("ascii")
        value = body[2 + length + 1 + -(2 + length + 1) % 4 :]
        if kind == _EXTENDED | _STRING:
            _require(value.endswith(b"\0"))
            found[name] = value[:-1].decode("ascii")
        elif kind in (_EXTENDED | _INT32, _EXTENDED | _INT64):
            _require(len(value) == (4 if kind == _EXTENDED | _INT32 else 8))
            found[name] = int.from_bytes(value, "big", signed=True)
        elif kind == _EXTENDED | _TABLE:
            found[name] = value
        else:
            raise ValueError
    return found
