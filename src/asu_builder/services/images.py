"""Checks what an ImageBuilder left, and describes it with digests of our own.

Exit 0 is no success: facts on the ImageBuilder, §2.5 and §3. `profiles.json` must exist, list the
profile and at least one image, and each listed file must be there with the listed digest.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from asu_builder.domain.errors import BuildFailed, FailureReason
from asu_builder.domain.fwtool import TRAILER_BYTES, signature_length
from asu_builder.domain.job import Image
from asu_builder.domain.request import BuildRequest

_MAX_PROFILES_JSON_BYTES = 4 << 20
_CHUNK_BYTES = 1 << 20


def describe_images(directory: Path, request: BuildRequest) -> tuple[dict[str, object], tuple[Image, ...]]:
    """The lifted `profiles.json` and the verified images of a build in `directory`.

    Raises `BuildFailed` when anything is missing or is not what it is said to be.
    """
    document = _read_profiles_json(directory / "profiles.json")
    if document.get("version_number", request.version) != request.version:
        raise BuildFailed(
            FailureReason.REVISION_MISMATCH,
            f"Error: Received incorrect version {document['version_number']} (requested {request.version})",
        )
    profile = document.get("profiles", {}).get(request.profile)
    if not isinstance(profile, dict):
        raise _incomplete("Profile not found in JSON file")
    images = tuple(
        sorted(
            (_verify(directory, entry) for entry in profile.get("images", [])), key=lambda image: image.name
        )
    )
    if not images:
        raise BuildFailed(FailureReason.NO_IMAGES, f"Error: No image was built for {request.profile}")
    description = {key: value for key, value in document.items() if key != "profiles"}
    description |= {key: value for key, value in profile.items() if key != "images"}
    return description, images


def _read_profiles_json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MAX_PROFILES_JSON_BYTES:
            raise _incomplete("JSON file too big")
        document = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise _incomplete("No JSON file found") from None
    except ValueError:
        raise _incomplete("JSON file not readable") from None
    if not isinstance(document, dict):
        raise _incomplete("JSON file not readable")
    return document


def _verify(directory: Path, entry: Mapping[str, Any]) -> Image:
    name = str(entry.get("name", ""))
    path = directory / name
    stated = entry.get("sha256")
    if not path.is_file() and (directory / f"{name}.gz").is_file():
        # Some targets compress after describing: name, digest and size are the intermediate's.
        name, path, stated = f"{name}.gz", directory / f"{name}.gz", None
    if "/" in name or not path.is_file():
        raise _incomplete(f"Image {name} is listed but missing")
    sha256, sha256_unsigned = _digests(path)
    if stated is not None and stated != sha256:
        raise _incomplete(f"Image {name} is not what profiles.json says")
    filesystem = entry.get("filesystem")
    return Image(
        name=name,
        type=str(entry.get("type", "")),
        sha256=sha256,
        sha256_unsigned=sha256_unsigned,
        size=path.stat().st_size,
        filesystem=None if filesystem is None else str(filesystem),
    )


def _digests(path: Path) -> tuple[str, str]:
    """SHA-256 of the file, and of what a signature at its end covers."""
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, size - TRAILER_BYTES))
        unsigned_left = size - signature_length(file.read(TRAILER_BYTES), size)
        file.seek(0)
        unsigned = hashlib.sha256()
        while unsigned_left and (chunk := file.read(min(unsigned_left, _CHUNK_BYTES))):
            unsigned.update(chunk)
            unsigned_left -= len(chunk)
        whole = unsigned.copy()
        whole.update(file.read())
    return whole.hexdigest(), unsigned.hexdigest()


def _incomplete(what: str) -> BuildFailed:
    return BuildFailed(FailureReason.INCOMPLETE_OUTPUT, f"Error: {what}")
