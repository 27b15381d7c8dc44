"""What a build left: its `profiles.json`, read as hostile input, and the trailers at the end of images."""

import re
import struct
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from itertools import islice
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from asu_builder.domain.errors import BuildFailed, FailureReason

MAX_BYTES = 1 << 20
"""Of the document; a real one has some kilobytes."""
MAX_IMAGES = 128
_MAX_DESCRIPTION = 64 << 10
"""Bytes of what is passed on, as JSON."""
_MAX_UNKNOWN = 4 << 10
"""Bytes of one value whose key is not known."""
_MOST_UNKNOWN = 32
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,254}")
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_DEPTH = 6
_LEAST, _MOST = -(1 << 63), (1 << 64) - 1
"""Of a number: what clients' own programs can read."""

_Text = Annotated[str, Meta(max_length=256)]
_Names = Annotated[list[_Text], Meta(max_length=2000)]


@cache
def unprintable() -> re.Pattern[str]:
    """A character that is no text. Compiled when it is needed: it takes as long as twenty other patterns."""
    return re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029]")


class BuiltImage(Struct, frozen=True):
    """One listed file."""

    name: str
    type: _Text = ""
    sha256: _Text | None = None
    filesystem: _Text | None = None


class _Titles(Struct):
    vendor: _Text = ""
    model: _Text = ""
    variant: _Text = ""
    title: _Text = ""


class _Known(Struct):
    """The keys that are passed on, by their types; a wrong one is refused."""

    metadata_version: int | None = None
    target: _Text | None = None
    version_number: _Text | None = None
    version_code: _Text | None = None
    source_date_epoch: int | _Text | None = None
    arch_packages: _Text | None = None
    default_packages: _Names = []
    linux_kernel: dict[_Text, _Text] | None = None
    git_commit: _Text | None = None
    image_prefix: _Text | None = None
    device_packages: _Names = []
    supported_devices: _Names = []
    titles: Annotated[list[_Titles], Meta(max_length=64)] = []
    file_size_limits: dict[_Text, int] | None = None


class Built(Struct, frozen=True):
    """What a build says it made. `description` has the profile's keys lifted to the top."""

    version: str
    images: tuple[BuiltImage, ...]
    description: dict[str, object]


def source_date(description: Mapping[str, object]) -> datetime | None:
    """When the sources of a build were made, by its description; None where it does not tell."""
    try:
        # The number may come as text.
        return datetime.fromtimestamp(int(str(description.get("source_date_epoch"))), UTC)
    except (ValueError, OverflowError, OSError):
        return None


# Made while this is loaded, by one thread: docs/decisions/values-are-structs.md.
_DOCUMENT = msgspec.json.Decoder(dict[str, Any])


def parse_built(content: bytes, profile: str) -> Built:
    """What one profile's build made. Raises `BuildFailed` for what is unreadable, unfit or too much."""
    try:
        document = _DOCUMENT.decode(content)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise _failed(FailureReason.INCOMPLETE_OUTPUT, "JSON file not readable") from None
    profiles = document.get("profiles")
    found = profiles.get(profile) if isinstance(profiles, dict) else None
    if not isinstance(found, dict):
        raise _failed(FailureReason.INCOMPLETE_OUTPUT, "Profile not found in JSON file")
    listed = found.get("images", [])
    if not isinstance(listed, list):
        raise _unfit("its images are no list")
    if len(listed) > MAX_IMAGES:
        raise _unfit(f"it lists more than {MAX_IMAGES} images")
    try:
        images = msgspec.convert(listed, tuple[BuiltImage, ...])
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise _unfit("an image is not described as one") from None
    for image in images:
        if not _NAME.fullmatch(image.name):
            raise _failed(FailureReason.INCOMPLETE_OUTPUT, "An image is listed under an odd name")
        if unprintable().search(f"{image.type}{image.filesystem or ''}"):
            raise _unfit("an image's description has characters that cannot be shown")
    lifted = {key: value for key, value in document.items() if key != "profiles"}
    lifted |= {key: value for key, value in found.items() if key != "images"}
    known = {key: value for key, value in lifted.items() if key in _Known.__struct_fields__}
    try:
        msgspec.convert(known, _Known)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise _unfit("it is not written as an ImageBuilder does") from None
    if len(msgspec.json.encode(known)) > _MAX_DESCRIPTION:
        raise _unfit("it says too much")
    # What newer ImageBuilders may say beside it, as far as it is small.
    unknown = (
        (key, value)
        for key, value in lifted.items()
        if key not in known
        and _KEY.fullmatch(key)
        and len(msgspec.json.encode(value)) <= _MAX_UNKNOWN
        and _is_plain(value, _DEPTH)
    )
    description = known | dict(islice(unknown, _MOST_UNKNOWN))
    if len(msgspec.json.encode(description)) > _MAX_DESCRIPTION:
        description = known
    if not _is_plain(description, _DEPTH):
        raise _unfit("it has characters or numbers that cannot be shown")
    return Built(str(lifted.get("version_number") or ""), images, description)


def _is_plain(value: object, depth: int) -> bool:
    """Whether nothing in it is unfit to be shown, kept or read."""
    if isinstance(value, str):
        return not unprintable().search(value)
    if isinstance(value, int):
        return _LEAST <= value <= _MOST
    if isinstance(value, dict):
        return depth > 0 and all(_is_plain(entry, depth - 1) for pair in value.items() for entry in pair)
    if isinstance(value, list):
        return depth > 0 and all(_is_plain(entry, depth - 1) for entry in value)
    return True


def _unfit(what: str) -> BuildFailed:
    return _failed(
        FailureReason.UNTRUSTED_OUTPUT,
        f"The build's profiles.json was refused: {what}. Tell the operator if it happens again.",
    )


def _failed(reason: FailureReason, what: str) -> BuildFailed:
    return BuildFailed(reason, f"Error: {what}")


class _Listed(Struct):
    filesystem: str = ""


class _Described(Struct):
    images: list[_Listed] = []


_FILESYSTEMS = msgspec.json.Decoder(_Described)


def filesystems_of(profile: bytes) -> frozenset[str]:
    """The file systems of the images of one described profile; none where it cannot be read."""
    try:
        return frozenset(image.filesystem for image in _FILESYSTEMS.decode(profile).images) - {""}
    except (msgspec.MsgspecError, RecursionError):
        return frozenset()


TRAILER_BYTES = 16
_TRAILER = struct.Struct(">4sIB3xI")
_MAGIC = b"FWx0"
_SIGNATURE = 0
_MAX_SIGNATURE_BYTES = 1024


def signature_length(trailer: bytes, file_size: int) -> int:
    """How many bytes at the end of a file are its signature; 0 when its last chunk is none.

    `trailer` is the last 16 bytes of the file.
    """
    if len(trailer) != TRAILER_BYTES:
        return 0
    magic, _, kind, size = _TRAILER.unpack(trailer)
    if magic != _MAGIC or kind != _SIGNATURE:
        return 0
    plausible = TRAILER_BYTES <= size <= min(file_size, _MAX_SIGNATURE_BYTES + TRAILER_BYTES)
    return int(size) if plausible else 0
