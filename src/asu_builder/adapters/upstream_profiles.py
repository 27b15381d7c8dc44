"""The devices of versions that upstream has no list of."""

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Mapping

from asu_builder.adapters.lenient import LeftOut
from asu_builder.adapters.upstream_documents import UpstreamDocuments
from asu_builder.adapters.upstream_formats import parse_profiles_json
from asu_builder.domain.device_search import Device, name_devices
from asu_builder.domain.errors import Unavailable
from asu_builder.domain.release import Release
from asu_builder.ports import TargetProfiles

_ASKED_TARGETS = 8
"""A version with more targets has its unknown ones not asked for: their documents are large."""
_VERSIONS = 4
"""Versions without a list whose devices are put together once and kept."""


class UnlistedDevices:
    """The devices of versions without `.overview.json`, from the profiles of their known targets.

    Of a version with few targets, as a small mirror has, the others are asked for behind.
    """

    def __init__(self, documents: UpstreamDocuments, left_out: LeftOut) -> None:
        self._documents = documents
        self._left_out = left_out
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
        parse = self._left_out.noting(path, parse_profiles_json)
        if asked:
            with contextlib.suppress(Unavailable):
                return self._documents.get(path, parse, wait=False)
        return self._documents.known(path, parse)


def _devices_of(known: Mapping[str, TargetProfiles]) -> tuple[Device, ...]:
    return tuple(
        device
        for target, described in known.items()
        for profile, aliases in described.profiles.items()
        for device in name_devices(profile, target, described.titles.get(profile, ()), aliases)
    )
