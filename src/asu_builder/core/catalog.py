"""What can be built here: upstream's offer, under our branches, resolved for one request."""

import contextlib
from collections.abc import Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace

from asu_builder.domain.errors import BuildNotFound, RequestRejected, Unavailable
from asu_builder.domain.make import Announced
from asu_builder.domain.packages import Baseline
from asu_builder.domain.profiles_json import filesystems_of
from asu_builder.domain.reading import Reading, read_whole
from asu_builder.domain.release import (
    MAIN,
    Branch,
    Branches,
    ClientChange,
    Release,
    TargetProfiles,
    told_by,
    version_at,
)
from asu_builder.domain.request import BuildRequest
from asu_builder.domain.search import Device
from asu_builder.ports import PackageChanges, Upstream

_MOST_MEANT = 20
"""Profiles in a sentence."""


class BranchOffer(Struct, frozen=True):
    """A branch with what upstream has of it now: versions newest first, its snapshot last."""

    branch: Branch
    versions: tuple[str, ...]
    targets: Mapping[str, str]
    changes: tuple[ClientChange, ...]
    """What its clients are told about package names."""
    complete: bool
    """Whether everything about it was known; otherwise more is on its way."""
    unpublished: frozenset[str] = frozenset()
    """Versions that are announced and have no target yet, as far as that is known."""


class Resolved(Struct, frozen=True):
    """A request whose profile is the real one."""

    request: BuildRequest
    release: Release
    architecture: str
    revision: str
    """Upstream's current one for a moving version, "" for a release."""


class Catalog:
    """Answers from cached metadata, by names that upstream lists: no other is ever asked of it.

    What is not here is noted in the caller's `Reading`; a caller without one waits.
    """

    def __init__(self, upstream: Upstream, branches: Branches, package_changes: PackageChanges) -> None:
        self._package_changes = package_changes
        self._upstream = upstream
        self.branches = branches

    def resolve(self, request: BuildRequest) -> Resolved:
        """The request with its real profile, and what upstream knows beside it.

        Raises `RequestRejected` for an unknown version, target or profile, with the texts that
        users of the predecessor search for; `Unavailable` when upstream was never asked and is slow.
        """
        release = self.release(request.version)
        described = self._described(release, request.target)
        if described is None:
            raise RequestRejected(
                f"Unsupported target: {request.target}. The requested target was either dropped, is still "
                "being built or is not supported by the selected version. Please check the forums or try "
                "again later.",
                field="target",
            )
        profile = resolve_profile(request.profile, described)
        if profile is None:
            raise RequestRejected(
                f"Unsupported profile: {request.profile}. The requested profile was either dropped or never "
                "existed. Please check the forums for more information.",
                field="profile",
            )
        # A new value is checked again, which an unchanged one need not be.
        resolved = request if profile == request.profile else replace(request, profile=profile)
        revision = described.revision if release.moving else ""
        return Resolved(resolved, release, described.architecture, revision)

    def default_packages(self, found: Resolved) -> tuple[str, ...]:
        """Default and device packages of a resolved request, as upstream describes them."""
        described = self._upstream.target_profiles(found.release, found.request.target)
        return () if described is None else described.packages_of(found.request.profile)

    def baseline(self, request: BuildRequest) -> Baseline | None:
        """What the device had if it ran the previous branch's last release; None when that is unknown."""
        try:
            listed = self._upstream.versions().listed
            previous = self.branches.release_before(self.branches.release(request.version), listed)
            described = previous and self._described(previous, request.target)
        except (RequestRejected, Unavailable):
            return None
        if not (previous and described and request.profile in described.profiles):
            return None
        return Baseline(previous.version, described.packages_of(request.profile))

    def released_revision(self, request: BuildRequest) -> str:
        """The revision of a fixed release as upstream says it; "" where it cannot be compared."""
        with contextlib.suppress(RequestRejected, Unavailable):
            release = self.branches.release(request.version)
            if not (release.moving or release.own_numbering):
                described = self._upstream.target_profiles(release, request.target)
                return "" if described is None else described.revision
        return ""

    def announced(self, request: BuildRequest) -> Announced:
        """What this server tells about a request's version and target now, as far as it knows."""
        target, revision, filesystems = request.target, "", frozenset[str]()
        packages: dict[str, str] | None = None
        with contextlib.suppress(RequestRejected, Unavailable):
            release = self.branches.release(request.version)
            described = self._upstream.target_profiles(release, target)
            if described is None:
                return Announced()
            revision = described.revision
            profile = self._upstream.described_profile(release, target, request.profile)
            filesystems = filesystems_of(profile or b"{}")
            shared = self._upstream.architecture_packages(release, described.architecture)
            own = self._upstream.target_packages(release, target)
            packages = {**(shared or {}), **(own or {})} or None
        return Announced(revision, packages, filesystems)

    def release(self, version: str) -> Release:
        """The release of a version that is offered. Raises `RequestRejected`."""
        release = self.branches.release(version)
        if release.version == MAIN or release.version in self._upstream.versions().listed:
            return release
        # A branch snapshot is in no list: upstream has it if it has targets.
        if release.moving and self._upstream.targets(release):
            return release
        raise RequestRejected(f"Unsupported version: {release.version}", field="version")

    def release_at(self, path: str) -> Release:
        """The offered release that lies at this path upstream. Raises `BuildNotFound`.

        Paths come from clients; nothing but a known one is ever passed on.
        """
        try:
            release = self.release(version_at(path))
        except RequestRejected:
            release = None
        if release is None or release.path != path:
            raise BuildNotFound(f"There is no version at {path}")
        return release

    def revision(self, version: str, target: str) -> str:
        """Upstream's current revision. Raises `RequestRejected` or `BuildNotFound`."""
        described = self._described(self.release(version), target)
        if described is None or not described.revision:
            raise BuildNotFound(f"Failed to fetch revision for {version}/{target}")
        return described.revision

    def devices(self, version: str) -> Sequence[Device]:
        """Every device of an offered version, the same value until upstream's list changes.

        Raises `RequestRejected`; `Unavailable` when upstream was never asked and is slow.
        """
        return self._upstream.devices(self.release(version)) or ()

    def target_profiles(self, version: str, target: str) -> TargetProfiles:
        """The profiles of a target. Raises `RequestRejected` or `BuildNotFound`."""
        release = self.release(version)
        described = self._described(release, target)
        if described is None:
            raise _no_target(release, target)
        return described

    def described_profile(self, release: Release, target: str, profile: str) -> bytes | None:
        """Upstream's description of one profile as JSON, found by alias too; None when unknown.

        So is a name of several profiles: auc knows no other refusal here.
        """
        described = self._described(release, target)
        resolved = None
        with contextlib.suppress(RequestRejected):
            resolved = None if described is None else resolve_profile(profile, described)
        return None if resolved is None else self._upstream.described_profile(release, target, resolved)

    def architecture_packages(self, release: Release, architecture: str) -> Mapping[str, str]:
        """Package names and versions of an architecture. Raises `BuildNotFound`."""
        if architecture not in (self._upstream.targets(release) or {}).values():
            raise BuildNotFound(f"{release.version} has no architecture {architecture}")
        return self._upstream.architecture_packages(release, architecture) or {}

    def target_packages(self, release: Release, target: str) -> tuple[str, Mapping[str, str]]:
        """Architecture, and names and versions of a target's own packages. Raises `BuildNotFound`."""
        architecture = (self._upstream.targets(release) or {}).get(target)
        if architecture is None:
            raise _no_target(release, target)
        return architecture, self._upstream.target_packages(release, target) or {}

    def offers(self) -> list[BranchOffer]:
        """Every offered branch, newest first. One that upstream cannot tell about is empty, no more."""
        # A list may name a version twice.
        offered = list(dict.fromkeys(self.branches.offered(self._upstream.versions().listed)))
        found = []
        for branch in self.branches:
            releases = [release for release in offered if release.branch == branch.name]
            moving = self.branches.moving_release(branch)
            snapshot_targets = self._known_targets(moving)
            # A release can be announced before it is published: then the newest published one speaks.
            targets = snapshot_targets
            unpublished = set() if snapshot_targets or snapshot_targets is None else {moving.version}
            for release in releases:
                newest = self._known_targets(release)
                if newest is None or newest:
                    targets = newest
                    break
                unpublished.add(release.version)
            versions = [release.version for release in releases]
            if snapshot_targets or branch.name == MAIN:
                versions.append(moving.version)
            complete = targets is not None and snapshot_targets is not None
            changes = told_by(branch, self._package_changes.client_changes())
            offer = BranchOffer(
                branch, tuple(versions), targets or {}, changes, complete, frozenset(unpublished)
            )
            found.append(offer)
        return found

    def refresh(self) -> None:
        """Asks for what every client wants to know, so that it is there before somebody asks."""
        with contextlib.suppress(Unavailable):
            read_whole(self.offers, Reading())

    def latest(self) -> list[str]:
        """The upcoming release if there is any, the stable and the old stable one; offered ones only."""
        versions = self._upstream.versions()
        return [
            release.version
            for release in self.branches.offered(versions.latest)
            # LuCI sorts as text and would offer a candidate to a device that has its release.
            if release.version.partition("-rc")[0] == release.version
            or release.version.partition("-rc")[0] not in versions.listed
        ]

    def _known_targets(self, release: Release) -> Mapping[str, str] | None:
        """{} when upstream has no such version, None when it is not known yet."""
        with contextlib.suppress(Unavailable):
            return self._upstream.targets(release, wait=False) or {}
        return None

    def _described(self, release: Release, target: str) -> TargetProfiles | None:
        """The profiles of a target that upstream lists; no other is asked for."""
        targets = self._upstream.targets(release) or {}
        described = self._upstream.target_profiles(release, target) if target in targets else None
        if described is None or described.architecture:
            return described
        return replace(described, architecture=targets[target])


def _no_target(release: Release, target: str) -> BuildNotFound:
    return BuildNotFound(f"{release.version} has no target {target}")


def resolve_profile(asked: str, described: TargetProfiles) -> str | None:
    """The profile that a name means: itself, a supported device's, or the only one, `generic`.

    Devices report `vendor,model`; profiles are written with `_` for each comma. The first of a
    profile's names is its own, the others are former ones. Raises `RequestRejected` for a name that
    several profiles have, because a wrong image may brick the device.
    """
    name = asked.replace(",", "_")
    if name in described.profiles:
        return name
    called = {
        profile: [device.replace(",", "_") for device in devices]
        for profile, devices in described.profiles.items()
    }
    meant = [profile for profile, names in called.items() if name in names]
    own = [profile for profile in meant if called[profile][0] == name]
    if len(meant) > 1 and len(own) != 1:
        named = [
            f"{profile} ({' / '.join(map(str, described.titles.get(profile, ()))) or 'without a title'})"
            for profile in meant[:_MOST_MEANT]
        ]
        more = f" and {len(meant) - _MOST_MEANT} more" if len(meant) > _MOST_MEANT else ""
        raise RequestRejected(
            f"Unsupported profile: {asked} is the name of several profiles: {', '.join(named)}{more}. "
            "Send one of their ids as the profile."
        )
    if meant:
        return (own or meant)[0]
    return "generic" if list(described.profiles) == ["generic"] else None
