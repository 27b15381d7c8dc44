"""What people choose from: devices and packages of a version, found as they type."""

import threading
from collections import OrderedDict
from collections.abc import Sequence

from msgspec import Struct

from asu_builder.core.catalog import Catalog, resolve_profile
from asu_builder.domain.errors import BuildNotFound
from asu_builder.domain.search import Device, DeviceIndex, Found, Title, closest

_VERSIONS = 4
"""Versions whose devices are kept prepared; each takes about a megabyte for 2,500 devices."""


_ALIKE = 0.9
"""From 0 to 1: profiles of one vendor are rather alike without meaning each other."""


class DescribedDevice(Struct, frozen=True):
    """One profile with what its images hold before anybody asks for anything."""

    title: str
    target: str
    profile: str
    default_packages: tuple[str, ...]
    device_packages: tuple[str, ...]
    """Beside the default ones; `-name` takes one of them away."""
    supported_devices: tuple[str, ...]


class FoundPackages(Struct, frozen=True):
    """Names and versions, the best first; `more` says whether there are others."""

    packages: tuple[tuple[str, str], ...]
    more: bool


class Search:
    """Answers in milliseconds, from cached metadata alone; safe to use from any thread.

    Everything raises `RequestRejected` for a version that is not offered, and `Unavailable` when
    upstream was never asked and is slow.
    """

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._lock = threading.Lock()
        self._prepared: OrderedDict[str, tuple[Sequence[Device], DeviceIndex]] = OrderedDict()

    def devices(self, version: str, text: str, limit: int) -> Found:
        """The devices of a version that have every word of `text` among their names; the first for ""."""
        return self._index(version).search(text, limit)

    def device(self, version: str, target: str, profile: str) -> DescribedDevice:
        """One device by its profile or a name that it reports.

        Raises `BuildNotFound`; `RequestRejected` for a name of several profiles.
        """
        described = self._catalog.target_profiles(version, target)
        name = resolve_profile(profile, described)
        if name is None:
            raise BuildNotFound(_no_profile(version, target, profile, list(described.profiles)))
        titles = described.titles.get(name) or (Title(name),)
        return DescribedDevice(
            str(titles[0]) or name,
            target,
            name,
            tuple(described.default_packages),
            tuple(described.device_packages.get(name, ())),
            tuple(described.profiles[name]),
        )

    def packages(self, version: str, target: str, text: str, limit: int) -> FoundPackages:
        """Packages that have every word of `text` in their names: those that begin with it come first.

        Those of the target's architecture and its own. Raises `BuildNotFound` for an unknown target.
        """
        release = self._catalog.release(version)
        architecture, own = self._catalog.target_packages(release, target)
        known = {**self._catalog.architecture_packages(release, architecture), **own}
        words = text.casefold().split()
        names = [name for name in known if all(word in name.casefold() for word in words)]
        first = words[0] if words else ""
        names.sort(key=lambda name: (not name.casefold().startswith(first), name))
        return FoundPackages(tuple((name, known[name]) for name in names[:limit]), len(names) > limit)

    def _index(self, version: str) -> DeviceIndex:
        devices = self._catalog.devices(version)
        with self._lock:
            kept = self._prepared.get(version)
            # The same value means that nothing has changed.
            if kept is None or kept[0] is not devices:
                kept = (devices, DeviceIndex(devices))
                self._prepared[version] = kept
            self._prepared.move_to_end(version)
            while len(self._prepared) > _VERSIONS:
                self._prepared.popitem(last=False)
        return kept[1]


def _no_profile(version: str, target: str, profile: str, known: Sequence[str]) -> str:
    sentence = f"{version} has no profile {profile} for {target}."
    meant = closest(profile[:128].replace(",", "_"), known, alike=_ALIKE)
    return f"{sentence} Did you mean {' or '.join(meant)}?" if meant else sentence
