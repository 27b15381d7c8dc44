"""What both package managers leave behind: the list of installed packages and their files in the root file
system."""

from __future__ import annotations

import hashlib
import tarfile
from dataclasses import dataclass
from typing import Protocol

from . import archives
from .archives import Content
from .packages import Package
from .rootfs import Rootfs
from .sources import Catalog, Offer


class Corrupt(Exception):
    """A downloaded package file does not fit its index or cannot be read."""


class PackageManager(Protocol):
    """What the goals need of opkg and apk."""

    def load(self) -> Catalog:
        """Read all repositories, with the manager's chatter."""
        ...

    def install(self, wanted: list[str], rootfs: Rootfs, *, quiet: bool) -> list[Package]:
        """Install into `rootfs`; `quiet` keeps stdout silent.

        Raises GoalFailed with the manager's error texts.
        """
        ...

    def banner(self) -> list[str]:
        """Words that follow the package names in the `Packages:` line of `make image`."""
        ...


@dataclass(frozen=True)
class Word:
    """Where the nested makes of a flavour stop: recipe lines, copied from recorded output."""

    package_install: int
    manifest: int
    image: int
    check_profile: int
    prepare_rootfs: int
    build_image: int


RECIPE_LINES = {
    "opkg": Word(227, 166, 156, 294, 238, 259),
    "apk": Word(254, 193, 183, 323, 267, 282),
}


def unpack(offer: Offer, suffix: str) -> Content:
    """Download and read a package file. Raises Unreachable, or Corrupt when hash or format are wrong."""
    data = offer.download()
    if hashlib.sha256(data).hexdigest() != offer.package.sha256:
        raise Corrupt(f"sha256 mismatch of {offer.package.filename}")
    try:
        return archives.read(data, suffix=suffix)
    except (tarfile.TarError, OSError, KeyError, ValueError, TypeError, EOFError) as error:
        raise Corrupt(f"cannot read {offer.package.filename}") from error
