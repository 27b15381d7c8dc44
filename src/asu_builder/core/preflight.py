"""What a build would say about a package selection, told before it is built; and what is learnt for that."""

import logging
from collections.abc import Callable, Mapping
from typing import NamedTuple

from msgspec.structs import replace

from asu_builder.core.catalog import Catalog, Resolved
from asu_builder.domain.errors import AsuError
from asu_builder.domain.package_index import PackageIndex, PackageManager
from asu_builder.domain.packages import PackageSelection
from asu_builder.domain.preflight import ALWAYS_INSTALLED, CarriedPackages, Foretold, PackageIndexes
from asu_builder.domain.release import Release
from asu_builder.domain.repositories import APK, OPKG, listed_repositories
from asu_builder.domain.request import BuildRequest
from asu_builder.ports import (
    Container,
    PackageChanges,
    PackageIndexSource,
    PackageResolver,
    PreflightRecords,
)

_log = logging.getLogger(__name__)

CarriedBy = Callable[[str, str], CarriedPackages | None]
"""What the ImageBuilder of a release (its path) and target carries; None where it never ran here."""


class Foresight(NamedTuple):
    """What make would be told, and what the package manager would make of it."""

    selection: PackageSelection
    foretold: Foretold


class Preflight:
    """Answers from the package indexes as they are known here; safe to use from any thread.

    Each answer costs some milliseconds of waiting for another process, so it is not for the event loop.
    """

    def __init__(
        self,
        catalog: Catalog,
        package_changes: PackageChanges,
        source: PackageIndexSource,
        resolver: PackageResolver,
        *,
        carried_by: CarriedBy,
    ) -> None:
        self._catalog = catalog
        self._package_changes = package_changes
        self._source = source
        self._resolver = resolver
        self._carried_by = carried_by

    def foretell(self, found: Resolved, *, known: PackageIndexes | None = None) -> Foresight:
        """What make would be told for a resolved request, and its verdict by `known` or today's indexes."""
        request = found.request
        defaults = self._catalog.default_packages(found)
        baseline = self._catalog.baseline(request) if request.diff_packages else None
        selection = self._package_changes.apply(request, default_packages=defaults, baseline=baseline)
        known = known or self.indexes(found)
        carried = self._carried_by(found.release.path, request.target)
        pins = carried.pins if carried and known.manager is PackageManager.APK else {}
        always = [f"{name}={pins[name]}" if name in pins else name for name in ALWAYS_INSTALLED]
        names = dict.fromkeys((*selection.packages, *defaults, *always))
        return Foresight(selection, self._resolver.resolve(known, tuple(names)))

    def indexes(self, found: Resolved) -> PackageIndexes:
        """All that the packages of a resolved request may come from, as it is known now."""
        request, release = found.request, found.release
        known = self._source.package_indexes(release, request.target, found.architecture)
        lacking = [known.lacking] if known.lacking else []
        indexes = list(known.indexes)
        carried = self._carried_by(release.path, request.target)
        if carried is None:
            lacking.append("The ImageBuilder of this version and target has not been used here yet.")
        else:
            own = PackageIndex(
                "imagebuilder", "", carried.index_digest, carried.manager, lambda: carried.index
            )
            read = {place for url in carried.repositories if (place := _place(url, release.path))}
            indexes = [index for index in indexes if _place(index.address, release.path) in read]
            if unread := read - {_place(index.address, release.path) for index in indexes}:
                lacking.append(
                    f"The ImageBuilder reads {', '.join(sorted(unread)[:3])}, which is not known here."
                )
            revision = self._catalog.released_revision(request) or found.revision
            if revision and carried.revision and revision != carried.revision:
                lacking.append("There is another ImageBuilder by now, which has not been used here yet.")
            indexes.append(own)
        if request.repositories:
            if request.repositories_mode == "replace":
                indexes = [index for index in indexes if not index.address]
            for name, url in sorted(request.repositories.items()):
                index = self._source.repository_index(name, url, known.manager)
                if index is None:
                    lacking.append(f"The repository {name} cannot be read.")
                else:
                    indexes.append(replace(index, is_foreign=True))
        return PackageIndexes(known.manager, tuple(indexes), " ".join(lacking))


def _place(url: str, release_path: str) -> str:
    """Where an index or its directory lies below a release, the same on every mirror; the address elsewhere.

    "" for the folder `packages` of the ImageBuilder, whose index is learnt. No index of another one is known.
    """
    directory = url.rstrip("/")
    if directory.endswith((".adb", "/Packages", "/Packages.gz")):
        directory = directory.rpartition("/")[0]
    if not url.startswith(("http://", "https://")):
        return "" if directory.removeprefix("file:").removeprefix("./") == "packages" else directory
    _, found, place = directory.partition(f"/{release_path}/")
    return place if found else directory


_OWN_INDEXES = (
    (PackageManager.APK, "packages/packages.adb", APK),
    (PackageManager.OPKG, "packages/Packages", OPKG),
)


def learn_carried(
    records: PreflightRecords,
    container: Container,
    request: BuildRequest,
    release: Release,
    *,
    identity: str,
    revision: str,
    manifest: Mapping[str, str],
) -> None:
    """Keeps what an ImageBuilder brings along, once for each; to be called after `make manifest`.

    `manifest` is what the goal has told, if anything. An index that cannot be read, or is too large, is not
    kept, and never fails the build.
    """
    # With repositories of the caller's own neither the list nor what lies in there is the ImageBuilder's.
    if request.repositories:
        return
    try:
        known = records.carried(release.path, request.target)
        if known is not None and known.identity == identity and (known.pins or not manifest):
            return
        for manager, index, file in _OWN_INDEXES:
            if container.exists(index):
                listed = container.read_bytes(file.name) if container.exists(file.name) else b""
                repositories = listed_repositories(listed.decode(), file)
                pins = {name: manifest[name] for name in ALWAYS_INSTALLED if name in manifest}
                carried = CarriedPackages(
                    identity, revision, manager, container.read_bytes(index), repositories, pins
                )
                records.learn(release.path, request.target, carried)
                return
    except (AsuError, ValueError) as error:
        _log.info("What the ImageBuilder brings along was not learnt: %s", error)
