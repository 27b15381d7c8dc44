"""The keys that a process has, opened by the settings."""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from asu_builder.database.secrets import Secrets
from asu_builder.domain.errors import SigningUnavailable
from asu_builder.files import BadFile
from asu_builder.settings import Settings, SettingsProblem

if TYPE_CHECKING:
    from asu_builder.signing.attestation import Attestation
    from asu_builder.signing.signer import Signing


def has_keys(settings: Settings) -> bool:
    """Whether this process has every key whose public half its settings name; else others sign for it."""
    return (bool(settings.signing_key) or not settings.signing_public_key) and (
        bool(settings.provenance_key) or not settings.provenance_public_key
    )


def open_secrets(settings: Settings) -> Secrets:
    """What encrypts scripts and keys of requests. Raises `SettingsProblem` where its key cannot be used."""
    path = Path(settings.secrets_key).expanduser() if settings.secrets_key else None
    try:
        return Secrets(path)
    except BadFile as bad:
        raise SettingsProblem(
            f"secrets_key: {path} cannot be used: {bad}; `asu-builder keys new-secrets FILE` makes one"
        ) from None


def open_signing(settings: Settings, now: Callable[[], datetime]) -> "Signing | None":
    """What signs images. Raises `SettingsProblem` where they must be signed and the key cannot be used."""
    if not (settings.signing_key or settings.signing_public_key):
        return None
    from asu_builder.signing.holders import open_signing_key  # a start does without
    from asu_builder.signing.signer import Signing

    holder = open_signing_key(settings)
    assert holder
    certificate = Path(settings.signing_certificate).expanduser() if settings.signing_certificate else None
    signing = Signing(holder, certificate=certificate, offered=settings.public_path / "keys", now=now)
    if settings.signing_required or settings.install_signing_key:
        try:
            _ = signing.key_id
        except SigningUnavailable as problem:
            name = "signing_key" if settings.signing_key else "signing_public_key"
            raise SettingsProblem(f"{name}: {problem}") from None
    return signing


def open_attestation(settings: Settings) -> "Attestation | None":
    """What signs statements. Raises `SettingsProblem` where they must be signed and cannot be."""
    if not (settings.provenance_key or settings.provenance_public_key):
        return None
    from asu_builder.signing.attestation import Attestation
    from asu_builder.signing.holders import open_provenance_key, open_signing_key

    holder = open_provenance_key(settings)
    assert holder
    attestation = Attestation(holder, of_images=open_signing_key(settings))
    if settings.signing_required:
        try:
            attestation.require()
        except SigningUnavailable as problem:
            name = "provenance_key" if settings.provenance_key else "provenance_public_key"
            raise SettingsProblem(f"{name}: {problem}") from None
    return attestation
