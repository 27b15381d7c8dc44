"""What the download server's documents mean. Layout: facts on the ImageBuilder, §5."""

import re
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

import msgspec

from asu_builder.adapters.database import Database
from asu_builder.adapters.upstream_documents import UpstreamDocuments
from asu_builder.adapters.upstream_profiles import (
    UnlistedDevices,
    lift_profile,
    parse_overview,
    parse_profiles_json,
)
from asu_builder.domain.device_search import Device
from asu_builder.domain.release import Release
from asu_builder.ports import TargetProfiles, Verdict, VersionList


class _Versions(msgspec.Struct):
    versions_list: list[str] = []
    stable_version: str | None = None
    oldstable_version: str | None = None
    upcoming_version: str | None = None


class _Index(msgspec.Struct):
    version: int = 1
    architecture: str = ""
    packages: dict[str, str] = {}


# Made while this is loaded, by one thread: docs/decisions/values-are-structs.md.
_VERSIONS = msgspec.json.Decoder(_Versions)
_TARGETS = msgspec.json.Decoder(dict[str, str])
_INDEX = msgspec.json.Decoder(_Index)


class HttpUpstream:
    """Reads a server of the layout of downloads.openwrt.org; safe to use from any thread."""

    def __init__(
        self,
        url: str,
        database: Database,
        *,
        now: Callable[[], datetime],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`now` is the time on the wall, `clock` counts seconds and never leaps."""
        self._documents = UpstreamDocuments(url, database, now=now, clock=clock)
        self._unlisted = UnlistedDevices(self._documents)

    def check(self) -> Verdict:
        """Degraded when the download server does not answer, so that answers come from memory."""
        return self._documents.check()

    def versions(self) -> VersionList:
        """See `ports.Upstream.versions`."""
        return self._documents.get(".versions.json", parse_versions) or VersionList((), ())

    def targets(self, release: Release, *, wait: bool = True) -> Mapping[str, str] | None:
        """See `ports.Upstream.targets`."""
        return self._documents.get(f"{release.path}/.targets.json", parse_targets, wait=wait)

    def devices(self, release: Release) -> Sequence[Device] | None:
        """See `ports.Upstream.devices`."""
        listed = self._documents.get(f"{release.path}/.overview.json", parse_overview)
        if listed is not None:
            return listed
        targets = self.targets(release)
        return None if targets is None else self._unlisted.devices(release, targets)

    def target_profiles(self, release: Release, target: str) -> TargetProfiles | None:
        """See `ports.Upstream.target_profiles`."""
        return self._documents.get(f"{release.path}/targets/{target}/profiles.json", parse_profiles_json)

    def described_profile(self, release: Release, target: str, profile: str) -> bytes | None:
        """See `ports.Upstream.described_profile`."""
        if self.target_profiles(release, target) is None:
            return None
        body = self._documents.stored(f"{release.path}/targets/{target}/profiles.json")
        return None if body is None else lift_profile(body, profile)

    def architecture_packages(self, release: Release, architecture: str) -> Mapping[str, str] | None:
        """See `ports.Upstream.architecture_packages`."""
        base = f"{release.path}/packages/{architecture}"
        feeds = self._documents.get(f"{base}/feeds.conf", _parse_feeds)
        if feeds is None:
            return None
        merged: dict[str, str] = {}
        for feed in feeds:
            merged |= self._packages(f"{base}/{feed}") or {}
        return merged

    def target_packages(self, release: Release, target: str) -> Mapping[str, str] | None:
        """See `ports.Upstream.target_packages`."""
        base = f"{release.path}/targets/{target}"
        own = self._packages(f"{base}/packages")
        described = self.target_profiles(release, target)
        if own is None or described is None:
            return own
        if not described.kernel_modules:
            return own
        # Kernel modules moved to a directory of their own (since 24.10, 23.05.6 and snapshots).
        return {**own, **(self._packages(f"{base}/kmods/{described.kernel_modules}") or {})}

    def _packages(self, directory: str) -> Mapping[str, str] | None:
        index = self._documents.get(f"{directory}/index.json", _parse_index)
        if index is None or index.version >= 2:
            return None if index is None else index.packages
        # The first edition has names with their ABI suffix; `Packages` says what to take off.
        return self._documents.get(f"{directory}/Packages", _parse_packages) or index.packages

    def close(self) -> None:
        """Ends background work."""
        self._documents.close()


def parse_versions(body: bytes) -> VersionList:
    """`.versions.json`. Raises `msgspec.MsgspecError` for anything else."""
    found = _VERSIONS.decode(body)
    latest = (found.upcoming_version, found.stable_version, found.oldstable_version)
    return VersionList(tuple(found.versions_list), tuple(version for version in latest if version))


def parse_targets(body: bytes) -> dict[str, str]:
    """`.targets.json`: target → architecture. Raises `msgspec.MsgspecError` for anything else."""
    return _TARGETS.decode(body)


def _parse_feeds(body: bytes) -> tuple[str, ...]:
    lines = (line.split() for line in body.decode("utf-8").splitlines())
    named = (words[1] for words in lines if len(words) >= 3 and re.fullmatch(r"[A-Za-z0-9_-]+", words[1]))
    # Not every mirror's list names the feed that every version has.
    return tuple(dict.fromkeys(("base", *named)))


def _parse_index(body: bytes) -> _Index:
    return _INDEX.decode(body)


def _parse_packages(body: bytes) -> dict[str, str]:
    """Names without ABI suffix and versions of an opkg index."""
    packages: dict[str, str] = {}
    for paragraph in body.decode("utf-8", "replace").split("\n\n"):
        fields = dict(
            line.split(": ", 1) for line in paragraph.splitlines() if ": " in line and not line[0].isspace()
        )
        if "Package" in fields and "Version" in fields:
            packages[fields["Package"].removesuffix(fields.get("ABIVersion", ""))] = fields["Version"]
    return packages
