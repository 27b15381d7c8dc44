"""What upstream already has for a device: its own images, and where the release stands."""

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
from msgspec import Struct

from asu_builder.core.catalog import Catalog
from asu_builder.core.search import DescribedDevice
from asu_builder.domain.job import Image
from asu_builder.domain.profiles_json import source_date
from asu_builder.domain.release import Release
from asu_builder.http.pages.words import ShownImage, images_first
from asu_builder.http.texts import gettext

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,254}")
_TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+ -]{0,63}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MOST = 64
_FIRST = ("sysupgrade", "factory", "combined")
"""Types of images that most people look for."""
_DOCUMENT = msgspec.json.Decoder(dict[str, Any])


class OfficialImages(Struct, frozen=True):
    """Images of upstream, and facts about their release."""

    first: Sequence[ShownImage]
    others: Sequence[ShownImage]
    directory: str
    """Where they lie, with a slash at the end."""
    made_at: datetime | None
    """When the sources were made, as upstream says."""
    standing: str
    """A sentence on the release; "" where upstream says nothing of it."""


def official_images(
    catalog: Catalog, version: str, device: DescribedDevice, url: str
) -> OfficialImages | None:
    """What upstream has for a device below `url`; None where it has no images.

    Raises `RequestRejected`, and `Unavailable` while upstream does not answer.
    """
    release = catalog.release(version)
    described = catalog.described_profile(release, device.target, device.profile)
    try:
        document = _DOCUMENT.decode(described or b"{}")
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    listed = document.get("images")
    images = [
        image for entry in (listed if isinstance(listed, list) else ())[:_MOST] if (image := _image(entry))
    ]
    if not images:
        return None
    shown = images_first(images)
    first = [one for one in shown if one.image.type.startswith(_FIRST)] or list(shown[:1])
    return OfficialImages(
        first=first,
        others=[one for one in shown if one not in first],
        directory=f"{url.rstrip('/')}/{release.path}/targets/{device.target}/",
        made_at=source_date(document),
        standing=standing_of(release, catalog.latest(), catalog),
    )


def _image(entry: object) -> Image | None:
    """An image of a description, which is foreign text; None for what is not described as one."""
    if not isinstance(entry, dict):
        return None
    name, kind, digest = (
        text if isinstance(text := entry.get(key), str) else "" for key in ("name", "type", "sha256")
    )
    size, filesystem = entry.get("size"), entry.get("filesystem")
    if not (_NAME.fullmatch(name) and _TYPE.fullmatch(kind) and _SHA256.fullmatch(digest)):
        return None
    return Image(
        name,
        kind,
        digest,
        digest,
        size if isinstance(size, int) and size > 0 else 0,
        filesystem if isinstance(filesystem, str) and _TYPE.fullmatch(filesystem) else None,
    )


def standing_of(release: Release, latest: Sequence[str], catalog: Catalog) -> str:
    """Where a release stands among those that upstream names as its stable and old stable ones."""
    if release.moving:
        return gettext("A snapshot: its images change every day.")
    named = [catalog.branches.release(version) for version in latest]
    for other in named:
        if other.version == release.version:
            return gettext("This is the newest release of its branch.")
        if other.branch == release.branch:
            return gettext("There is a newer release of this branch: %(version)s.", version=other.version)
    if not named:
        return ""
    return gettext(
        "Upstream does not name this branch among its current ones (%(branches)s) any more.",
        branches=", ".join(other.branch for other in named),
    )
