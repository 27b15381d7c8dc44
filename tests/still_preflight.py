"""The preflight over indexes and a resolver that say what a test wants."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from asu_builder.core.catalog import Catalog
from asu_builder.core.preflight import Preflight
from asu_builder.domain.package_index import PackageIndex, PackageManager
from asu_builder.domain.preflight import Foretold, PackageIndexes, unknown
from asu_builder.domain.release import Release
from asu_builder.ports import PackageChanges

UNTOLD = unknown("")
"""Where nothing was asked."""


class NoIndexes:
    """A download server without any package index."""

    def package_indexes(self, release: Release, target: str, architecture: str) -> PackageIndexes:
        return PackageIndexes(PackageManager.APK, (), "No index is here.")

    def repository_index(self, name: str, url: str, manager: PackageManager) -> PackageIndex | None:
        return None


@dataclass
class Told:
    """A resolver that says what it is told to say, and remembers what it was asked."""

    answer: Foretold = UNTOLD
    asked: list[Sequence[str]] = field(default_factory=list)

    def resolve(self, known: PackageIndexes, names: Sequence[str]) -> Foretold:
        self.asked.append(names)
        return self.answer

    def close(self) -> None:
        pass


def still_preflight(
    catalog: Catalog, changes: PackageChanges, resolver: Told | None = None, *, installs_key: bool = False
) -> Preflight:
    """A preflight that foretells whatever `resolver` says; *unknown* without one."""
    return Preflight(
        catalog,
        changes,
        NoIndexes(),
        resolver or Told(),
        carried_by=lambda *_: None,
        installs_key=installs_key,
    )
