"""Signs what the service states about its builds: DSSE envelopes.

Format: https://github.com/secure-systems-lab/dsse, edition 1.0; facts on signing and provenance.
"""

import base64
import binascii
import tempfile
from collections.abc import Mapping
from pathlib import Path

import msgspec
from msgspec import Struct

from asu_builder.domain.errors import SigningUnavailable
from asu_builder.domain.health import CheckResult, error, ok, warning
from asu_builder.ports import KeyHolder
from asu_builder.signing import pem, usign
from asu_builder.signing.pem import PublicKey
from asu_builder.signing.usign import BadKey

PAYLOAD_TYPE = "application/vnd.in-toto+json"
SHORT = 16
"""Digits of a key's name by which people and addresses tell it from others."""
_REMEDY = "See `asu-builder keys show --provenance`, and provenance.md for what the key is for."


class BadEnvelope(Exception):
    """What is no envelope around a statement; the sentence says why."""


class EnvelopeSignature(Struct, frozen=True):
    """One signature; `keyid` is a hint and proves nothing."""

    sig: str
    keyid: str = ""


class Envelope(Struct, frozen=True):
    """A statement in Base64, its type, and signatures over both."""

    payload: str
    payloadType: str  # noqa: N815 - the name on the wire
    signatures: tuple[EnvelopeSignature, ...]

    @property
    def statement(self) -> bytes:
        """Raises `BadEnvelope`."""
        return _decoded(self.payload)

    def is_signed_by(self, key: PublicKey) -> bool:
        """Whether one of the signatures is of this key. Raises `BadEnvelope`."""
        message = to_be_signed(self.statement, self.payloadType)
        return any(pem.is_signed(message, _decoded(found.sig), key) for found in self.signatures)


_DECODER = msgspec.json.Decoder(Envelope)


def to_be_signed(payload: bytes, payload_type: str = PAYLOAD_TYPE) -> bytes:
    """What a signature covers: the payload with its type and both lengths (PAE)."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def parse_envelope(text: bytes) -> Envelope:
    """An envelope around an in-toto statement, as a file of one line. Raises `BadEnvelope`."""
    try:
        envelope = _DECODER.decode(text)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        raise BadEnvelope("it is no DSSE envelope, which is one line of JSON") from None
    if envelope.payloadType != PAYLOAD_TYPE:
        raise BadEnvelope("it is an envelope around something else than an in-toto statement")
    return envelope


def _decoded(text: str) -> bytes:
    # Either alphabet, as the format demands of those who read.
    try:
        return base64.b64decode(text.translate({ord("-"): "+", ord("_"): "/"}), validate=True)
    except (binascii.Error, ValueError):
        raise BadEnvelope("a part of it is no Base64") from None


class Attestation:
    """Fulfils `ports.StatementSigning` with one key."""

    def __init__(self, key: KeyHolder, *, of_images: KeyHolder | None = None) -> None:
        """`of_images` holds the key that signs images, which must be another one."""
        self._holder = key
        self._of_images = of_images
        self._public: PublicKey | None = None
        self._failure = ""

    @property
    def key_id(self) -> str:
        """The name of the key, 64 hexadecimal digits."""
        return self._key().key_id

    def require(self) -> None:
        self._key()

    def examine(self) -> None:
        """Passes where the secret half is whole too, as far as can be told. Raises `SigningUnavailable`."""
        self._key()
        self._holder.examine()

    def sign_statement(self, statement: bytes) -> bytes:
        key, message = self._key(), to_be_signed(statement)
        try:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder, "statement")
                path.write_bytes(message)
                signature = self._holder.sign(path)
            if not pem.is_signed(message, signature, key):
                raise SigningUnavailable(
                    f"What signs statements made a signature that key {key.key_id[:SHORT]} does not have."
                )
        except OSError as problem:
            self._failure = f"A statement cannot be written: {problem.strerror}."
            raise SigningUnavailable(self._failure) from None
        except SigningUnavailable as problem:
            self._failure = str(problem)
            raise
        self._failure = ""
        envelope = Envelope(
            base64.b64encode(statement).decode(),
            PAYLOAD_TYPE,
            (EnvelopeSignature(base64.b64encode(signature).decode(), key.key_id),),
        )
        return msgspec.json.encode(envelope) + b"\n"

    def offers(self) -> Mapping[str, bytes]:
        try:
            key = self._key()
        except SigningUnavailable:
            return {}
        return {f"{key.key_id[:SHORT]}.pem": key.text().encode()}

    def check(self) -> CheckResult:
        try:
            key = self._key()
        except SigningUnavailable as problem:
            return error(str(problem), _REMEDY)
        if self._failure:
            return warning(f"Signing a statement failed lately: {self._failure}", _REMEDY)
        return ok(f"Where images came from is stated by key {key.key_id[:SHORT]}.")

    def _key(self) -> PublicKey:
        if self._public is None:
            key = pem.parse_public_key(self._holder.public_key().encode())
            if key.raw == self._key_of_images():
                raise SigningUnavailable(
                    "The provenance key is the key that signs images; statements need another key."
                )
            self._public = key
        return self._public

    def _key_of_images(self) -> bytes:
        if self._of_images is None:
            return b""
        try:
            return usign.parse_public_key(self._of_images.public_key().encode()).raw
        except (SigningUnavailable, BadKey):
            return b""  # that is told where images are signed
