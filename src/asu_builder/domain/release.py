"""Version names: which branch and path they belong to, which ImageBuilder builds them, their order."""

import re

from msgspec import Struct

from asu_builder.domain.errors import RequestRejected

_RELEASE = re.compile(r"(\d{1,4})\.(\d{1,4})\.(\d{1,4})(?:-rc(\d{1,4}))?", re.ASCII)
_BRANCH_SNAPSHOT = re.compile(r"(\d{1,4}\.\d{1,4})-SNAPSHOT", re.ASCII)
MAIN = "SNAPSHOT"


class Release(Struct, frozen=True):
    """One version of OpenWrt by its name (source: facts on upstream's layout and image tags).

    `branch` is `24.10` or `SNAPSHOT`; `path` is where the download server keeps it, relative and
    without slashes at the ends; `tag` is the part of the container image's tag after the target.
    """

    version: str
    branch: str
    path: str
    tag: str
    moving: bool
    """Whether the same name means other sources tomorrow (every snapshot)."""
    own_numbering: bool = False
    """Whether its ImageBuilder may number versions and revisions in its vendor's own way."""

    @property
    def order(self) -> tuple[int, ...]:
        """Sorts old before new: release candidate, release, branch snapshot; main after all."""
        if self.version == MAIN:
            return (10_000,)
        if match := _RELEASE.fullmatch(self.version):
            year, month, patch, candidate = match.groups()
            return (int(year), int(month), 0, int(patch), int(candidate) if candidate else 10_000)
        year, month = self.branch.split(".")
        return (int(year), int(month), 1)


def parse_release(version: str) -> Release:
    """The release a version name means; `RequestRejected` for a name of no known form."""
    if version == MAIN:
        return Release(version, MAIN, "snapshots", "master", moving=True)
    if match := _RELEASE.fullmatch(version):
        branch = f"{match[1]}.{match[2]}"
        return Release(version, branch, f"releases/{version}", f"v{version}", moving=False)
    if match := _BRANCH_SNAPSHOT.fullmatch(version):
        return Release(version, match[1], f"releases/{version}", f"openwrt-{match[1]}", moving=True)
    raise RequestRejected(f"Unsupported branch: {version}", field="version")
