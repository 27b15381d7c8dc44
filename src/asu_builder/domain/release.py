"""Version names and branches: what they belong to, where they lie upstream, and which this server offers;
and what upstream says of them."""

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from msgspec import Struct, field
from msgspec.structs import replace

from asu_builder.domain.errors import RequestRejected
from asu_builder.domain.search import Title

_RELEASE = re.compile(r"(\d{1,4})\.(\d{1,4})\.(\d{1,4})(?:-rc(\d{1,4}))?", re.ASCII)
_BRANCH_SNAPSHOT = re.compile(r"(\d{1,4}\.\d{1,4})-SNAPSHOT", re.ASCII)
MAIN = "SNAPSHOT"
_MAIN_PATH = "snapshots"


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
        return Release(version, MAIN, _MAIN_PATH, "master", moving=True)
    if match := _RELEASE.fullmatch(version):
        branch = f"{match[1]}.{match[2]}"
        return Release(version, branch, f"releases/{version}", f"v{version}", moving=False)
    if match := _BRANCH_SNAPSHOT.fullmatch(version):
        return Release(version, match[1], f"releases/{version}", f"openwrt-{match[1]}", moving=True)
    raise RequestRejected(f"Unsupported branch: {version}", field="version")


def version_at(path: str) -> str:
    """The name of the version that the download server keeps at this path."""
    return MAIN if path == _MAIN_PATH else path.rpartition("/")[2]


class Branch(Struct, frozen=True):
    """One line of versions.

    `path` is upstream's directory with the placeholder `{version}`. `branch_off_rev` is the count in
    the revision at which the branch left main; None where it never did. With `own_numbering` its
    ImageBuilders may tell other versions and revisions than upstream's metadata.
    """

    name: str
    path: str = "releases/{version}"
    enabled: bool = True
    snapshot: bool = False
    branch_off_rev: int | None = None
    own_numbering: bool = False


BUILT_IN: Mapping[str, Branch] = {
    branch.name: branch
    for branch in (
        Branch(MAIN, _MAIN_PATH, snapshot=True),
        Branch("25.12", branch_off_rev=32295),
        Branch("24.10", branch_off_rev=27990),
        Branch("23.05", branch_off_rev=23069),
        Branch("22.03", branch_off_rev=19160),
        Branch("21.02", branch_off_rev=15812),
    )
}
"""Source of the numbers: facts on package changes, §2."""


class ClientChange(Struct, frozen=True):
    """What a client does to its package list from a revision on, when it plans an upgrade.

    With a `target` the source is replaced, without one it is removed.
    """

    source: str
    revision: int
    target: str | None = None
    mandatory: bool = False


def told_by(branch: Branch, changes: Iterable[ClientChange]) -> tuple[ClientChange, ...]:
    """What a branch tells its clients: everything up to where it left main, or all of it."""
    limit = branch.branch_off_rev
    return tuple(change for change in changes if limit is None or change.revision <= limit)


class Branches:
    """The branches of this server: the built-in ones under the operator's changes."""

    def __init__(self, changed: Mapping[str, Mapping[str, object]] | None = None) -> None:
        merged = dict(BUILT_IN)
        for name, values in (changed or {}).items():
            merged[name] = replace(merged.get(name, Branch(name)), **values)
        self._branches = {name: branch for name, branch in merged.items() if branch.enabled}

    def __iter__(self) -> Iterator[Branch]:
        """Newest first."""
        return iter(sorted(self._branches.values(), key=lambda branch: _order(branch.name), reverse=True))

    def release(self, version: str) -> Release:
        """The release a version name means. Raises `RequestRejected` for one of no offered branch."""
        release = parse_release(version)
        branch = self._branches.get(release.branch)
        if branch is None:
            raise RequestRejected(f"Unsupported branch: {version}", field="version")
        return replace(release, path=branch.path.format(version=version), own_numbering=branch.own_numbering)

    def offered(self, versions: Iterable[str]) -> list[Release]:
        """The releases of these names, newest first; names of no offered branch are left out."""
        releases = []
        for version in versions:
            with contextlib.suppress(RequestRejected):
                releases.append(self.release(version))
        return sorted(releases, key=lambda release: release.order, reverse=True)

    def release_before(self, release: Release, listed: Iterable[str]) -> Release | None:
        """The last release of the branch before this one's, among upstream's listed versions."""
        own = _order(release.branch)
        earlier = (found for found in self.offered(listed) if _order(found.branch) < own)
        return next((found for found in earlier if "-rc" not in found.version), None)

    def moving_release(self, branch: Branch) -> Release:
        """The snapshot of a branch."""
        return self.release(MAIN if branch.name == MAIN else f"{branch.name}-SNAPSHOT")


def _order(name: str) -> tuple[int, ...]:
    if name == MAIN:
        return (10_000,)
    return tuple(int(part) if part.isdigit() else 0 for part in name.split("."))


class Archive(Struct, frozen=True):
    """A packed ImageBuilder on the download server, as the signed list of checksums names it."""

    path: str
    """Relative to the server's address."""
    digest: str
    """SHA-256, 64 hexadecimal digits."""

    @property
    def is_zstd(self) -> bool:
        """Whether it is packed with zstd; else with xz."""
        return self.path.endswith(".zst")


def find_archive(sums: str, release: Release, target: str) -> Archive | None:
    """The ImageBuilder's archive in the `sha256sums` of a target (source: facts on archive names, §1.4).

    Its name says version and target, so a list that was signed for others names none. A vendor with a
    separate numbering is not asked for the version.
    """
    version = "" if release.version == MAIN else f"{re.escape(release.version)}-"
    if release.own_numbering:
        version = "(?:[A-Za-z0-9._-]{1,64}-)?"
    place = re.escape(target.replace("/", "-"))
    listed = re.compile(
        rf"^([0-9a-f]{{64}}) [ *]([A-Za-z0-9][A-Za-z0-9._]{{0,64}}+-imagebuilder-{version}{place}"
        r"\.Linux-x86_64\.tar\.(zst|xz))\r?$",
        re.ASCII | re.MULTILINE,
    )
    found: dict[str, Archive] = {}
    for line in listed.finditer(sums):
        digest, name, kind = line.groups()
        found.setdefault(kind, Archive(f"{release.path}/targets/{target}/{name}", digest))
    return found.get("zst") or found.get("xz")


class VersionList(Struct, frozen=True):
    """What upstream says about its releases (`.versions.json`)."""

    listed: Sequence[str]
    latest: Sequence[str]
    """The upcoming one if there is any, the stable and the old stable one."""


class TargetProfiles(Struct, frozen=True):
    """What upstream says about one target of one version (`profiles.json`)."""

    revision: str
    architecture: str
    profiles: Mapping[str, Sequence[str]]
    """Profile → the device names it supports, as upstream writes them."""
    default_packages: Sequence[str] = ()
    device_packages: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Profile → its packages beside the default ones; may hold `-name`."""
    kernel_modules: str = ""
    """The directory below `kmods/` that holds them; "" where they lie among the other packages."""
    titles: Mapping[str, Sequence[Title]] = field(default_factory=dict)
    """Profile → what its devices are called."""

    def packages_of(self, profile: str) -> tuple[str, ...]:
        """The default packages and those of one profile."""
        return (*self.default_packages, *self.device_packages.get(profile, ()))
