"""Upstream's documents about profiles and devices. Layout: facts on the ImageBuilder, §5."""

import contextlib
import sys
import threading
from collections import OrderedDict
from collections.abc import Mapping

import msgspec

from asu_builder.adapters.upstream_documents import UpstreamDocuments
from asu_builder.domain.device_search import Device, Title, name_devices
from asu_builder.domain.errors import Unavailable
from asu_builder.domain.release import Release
from asu_builder.ports import TargetProfiles

_ASKED_TARGETS = 8
"""A version with more targets has its unknown ones not asked for: their documents are large."""
_VERSIONS = 4
"""Versions without a list whose devices are put together once and kept."""


class _Profile(msgspec.Struct):
    supported_devices: list[str] = []
    device_packages: list[str] = []
    titles: tuple[Title, ...] = ()


class _Kernel(msgspec.Struct):
    version: str
    release: str
    vermagic: str


class _ProfilesJson(msgspec.Struct):
    version_code: str
    arch_packages: str = ""
    profiles: dict[str, _Profile] = {}
    default_packages: list[str] = []
    linux_kernel: _Kernel | None = None


class _ListedProfile(msgspec.Struct):
    id: str
    target: str
    titles: tuple[Title, ...] = ()


class _OverviewJson(msgspec.Struct):
    profiles: list[_ListedProfile] = []


# Made while this is loaded, by one thread: docs/decisions/values-are-structs.md.
_PROFILES = msgspec.json.Decoder(_ProfilesJson)
_OVERVIEW = msgspec.json.Decoder(_OverviewJson)
_RAW = msgspec.json.Decoder(dict[str, msgspec.Raw])
_RAW_PROFILES = msgspec.json.Decoder(dict[str, dict[str, msgspec.Raw]])


def parse_overview(body: bytes) -> tuple[Device, ...]:
    """The devices of `.overview.json`; words that many of them have are kept once."""
    found = _OVERVIEW.decode(body)
    return tuple(
        device
        for profile in found.profiles
        for device in name_devices(profile.id, sys.intern(profile.target), [*map(_shared, profile.titles)])
    )


def _shared(title: Title) -> Title:
    return Title(title.title, sys.intern(title.vendor), title.model, sys.intern(title.variant))


def parse_profiles_json(body: bytes) -> TargetProfiles:
    """What `profiles.json` says about one target."""
    found = _PROFILES.decode(body)
    profiles = {name: tuple(profile.supported_devices) for name, profile in found.profiles.items()}
    kernel = found.linux_kernel
    return TargetProfiles(
        found.version_code,
        found.arch_packages,
        profiles,
        tuple(found.default_packages),
        {name: tuple(profile.device_packages) for name, profile in found.profiles.items()},
        f"{kernel.version}-{kernel.release}-{kernel.vermagic}" if kernel else "",
        {name: profile.titles for name, profile in found.profiles.items() if profile.titles},
    )


def lift_profile(body: bytes, profile: str) -> bytes | None:
    """`profiles.json` with one profile's keys at the top; None when it has no such profile."""
    document = _RAW.decode(body)
    found = _RAW_PROFILES.decode(document.pop("profiles", msgspec.Raw(b"{}")))
    if profile not in found:
        return None
    return msgspec.json.encode({**document, **found[profile], "id": profile})


class UnlistedDevices:
    """The devices of versions without `.overview.json`, from the profiles of their known targets.

    Of a version with few targets, as a small mirror has, the others are asked for behind.
    """

    def __init__(self, documents: UpstreamDocuments) -> None:
        self._documents = documents
        self._lock = threading.Lock()
        self._made: OrderedDict[str, tuple[tuple[TargetProfiles, ...], tuple[Device, ...]]] = OrderedDict()

    def devices(self, release: Release, targets: Mapping[str, str]) -> tuple[Device, ...]:
        """The devices; the very same value until the known profiles change."""
        known: dict[str, TargetProfiles] = {}
        for target in targets:
            described = self._described(release, target, asked=len(targets) <= _ASKED_TARGETS)
            if described is not None:
                known[target] = described
        sources = tuple(known.values())
        with self._lock:
            made = self._made.get(release.path)
            # Compared one by one by identity: a document that did not change is the same value.
            if made is None or [*map(id, made[0])] != [*map(id, sources)]:
                made = (sources, _devices_of(known))
            self._made[release.path] = made
            self._made.move_to_end(release.path)
            while len(self._made) > _VERSIONS:
                self._made.popitem(last=False)
        return made[1]

    def _described(self, release: Release, target: str, *, asked: bool) -> TargetProfiles | None:
        path = f"{release.path}/targets/{target}/profiles.json"
        if asked:
            with contextlib.suppress(Unavailable):
                return self._documents.get(path, parse_profiles_json, wait=False)
        return self._documents.known(path, parse_profiles_json)


def _devices_of(known: Mapping[str, TargetProfiles]) -> tuple[Device, ...]:
    return tuple(
        device
        for target, described in known.items()
        for profile, aliases in described.profiles.items()
        for device in name_devices(profile, target, described.titles.get(profile, ()), aliases)
    )
