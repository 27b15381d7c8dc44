"""Signs what is published: the key with its certificate, and what becomes of an image."""

import contextlib
import hashlib
import os
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from msgspec.structs import replace

from asu_builder.domain.errors import BuildFailed, FailureReason, SigningUnavailable
from asu_builder.domain.health import CheckResult, error, ok, warning
from asu_builder.domain.job import Image
from asu_builder.ports import KeyHolder
from asu_builder.signing import fwtool, ucert, usign
from asu_builder.signing.holders import BoundedReads
from asu_builder.signing.usign import BadKey, PublicKey, Signature, mapped

REVOKED = ".revoke"
"""Ending of a revoker below `public_path`/keys."""


class Signing:
    """Fulfils `ports.ImageSigning` with one key and its certificate, which is read each time it is needed."""

    def __init__(
        self,
        key: KeyHolder,
        *,
        certificate: Path | None,
        offered: Path,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """`offered` is the directory of revokers."""
        self._holder = key
        self._certificate = certificate
        self._reads = BoundedReads()
        self._offered = offered
        self._now = now
        self._public: PublicKey | None = None
        self._failure = ""

    @property
    def key_id(self) -> str:
        return self._key().key_id

    def public_text(self) -> str:
        """The two lines of the public key's file, as devices keep it in a directory of keys."""
        return self._key().text()

    def require(self) -> None:
        self._ready()

    def examine(self) -> None:
        """Passes where the secret half is whole too, as far as can be told. Raises `SigningUnavailable`."""
        self._holder.examine()

    def is_revoked(self, key_id: str) -> bool:
        return (self._offered / f"{key_id}{REVOKED}").exists()

    def sign_image(self, image: Image, path: Path) -> Image:
        key, chain = self._ready()
        if not path.stat().st_size:
            raise _broken(path, "it is empty")
        with mapped(path) as content:
            try:
                found = fwtool.read_trailers(content)
            except fwtool.BrokenTrailer as broken:
                raise _broken(path, str(broken)) from None
            cut = content[found.unsigned_bytes :]
            with memoryview(content) as view:
                digest = hashlib.sha256(view[: found.unsigned_bytes])
        if not found.unsigned_bytes:
            raise _broken(path, "it is nothing but a signature")
        os.truncate(path, found.unsigned_bytes)
        try:
            signature = self._signature(key, path)
            unsigned = digest.hexdigest()
            size = found.unsigned_bytes
            if found.has_metadata:
                chunk = fwtool.signature_chunk(chain + ucert.of_message(signature), found.crc)
                with path.open("ab") as file:
                    file.write(chunk)
                digest.update(chunk)
                size += len(chunk)
            else:
                _beside(path).write_text(signature.text())
        except BaseException:
            # As it was: it may be published without our signature.
            os.truncate(path, found.unsigned_bytes)
            with path.open("ab") as file:
                file.write(cut)
            raise
        return replace(image, sha256=digest.hexdigest(), sha256_unsigned=unsigned, size=size)

    def sign_file(self, path: Path) -> None:
        key, _ = self._ready()
        _beside(path).write_text(self._signature(key, path).text())

    def offers(self) -> Mapping[str, bytes]:
        found = {}
        for path in sorted(self._offered.glob(f"*{REVOKED}")) if self._offered.is_dir() else ():
            if usign.is_key_id(path.name.removesuffix(REVOKED)):
                found[path.name] = usign.read_small_file(path)
        with contextlib.suppress(SigningUnavailable):
            key = self._key()
            if f"{key.key_id}{REVOKED}" not in found:
                found[key.key_id] = key.text().encode()
                if self._certificate:
                    with contextlib.suppress(BadKey):
                        found[f"{key.key_id}.ucert"] = self._reads.read(
                            usign.read_small_file, self._certificate
                        )
        return found

    def expires_at(self) -> datetime | None:
        validity = self._validity()
        return validity[1] if validity else None

    def check(self) -> CheckResult:
        remedy = "See `asu-builder keys show`, and security.md for what each key is for."
        try:
            key, _ = self._ready()
        except SigningUnavailable as problem:
            return error(str(problem), remedy)
        if self._failure:
            return warning(f"Signing failed lately: {self._failure}", remedy)
        validity = self._validity()
        if not validity:
            return ok(f"Images are signed by key {key.key_id}, without a certificate.")
        valid_from, expires_at = validity
        until = f"{expires_at:%Y-%m-%d}"
        if expires_at - self._now() < (expires_at - valid_from) / 3:
            return warning(
                f"The certificate of key {key.key_id} expires on {until}: devices then refuse its images.",
                "asu-builder keys renew",
            )
        return ok(f"Images are signed by key {key.key_id}; its certificate is valid until {until}.")

    def _validity(self) -> tuple[datetime, datetime] | None:
        """Since when and until when the whole chain is valid; None without a certificate that can be read."""
        if not self._certificate:
            return None
        try:
            elements = ucert.parse_container(self._reads.read(usign.read_small_file, self._certificate))
            valid_from = max(element.valid_from for element in elements)
            expires_at = min(element.expires_at for element in elements)
            return datetime.fromtimestamp(valid_from, UTC), datetime.fromtimestamp(expires_at, UTC)
        except (BadKey, ValueError, OverflowError, OSError):
            return None

    def _key(self) -> PublicKey:
        if self._public is None:
            self._public = usign.parse_public_key(self._holder.public_key().encode())
        return self._public

    def _ready(self) -> tuple[PublicKey, bytes]:
        """The key and its chain of certificates, which all hold now. Raises `SigningUnavailable`."""
        key = self._key()
        if self.is_revoked(key.key_id):
            raise SigningUnavailable(f"The signing key {key.key_id} is revoked; make another one.")
        if not self._certificate:
            return key, b""
        try:
            chain = self._reads.read(usign.read_small_file, self._certificate)
            ucert.require_chain(ucert.parse_container(chain), key, now=self._now().timestamp())
            if len(chain) + ucert.MESSAGE_BYTES > ucert.MOST_IN_IMAGE:
                raise BadKey(f"with a signature it is longer than {ucert.MOST_IN_IMAGE} bytes")
        except BadKey as bad:
            raise SigningUnavailable(
                f"The signing certificate {self._certificate} cannot be used: {bad}."
            ) from None
        return key, chain

    def _signature(self, key: PublicKey, path: Path) -> Signature:
        try:
            signature = Signature(key.key_id, self._holder.sign(path))
            with mapped(path) as content:
                if not usign.is_signed(content, signature, key):
                    raise SigningUnavailable(
                        f"What signs made a signature that key {key.key_id} does not have."
                    )
        except SigningUnavailable as problem:
            self._failure = str(problem)
            raise
        self._failure = ""
        return signature


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.sig")


def _broken(path: Path, why: str) -> BuildFailed:
    return BuildFailed(
        FailureReason.INCOMPLETE_OUTPUT, f"Error: Image {path.name} cannot be signed: {why}. Try again later."
    )
