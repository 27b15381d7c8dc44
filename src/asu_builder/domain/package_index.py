"""One package as an index of apk or opkg describes it, and an index as it is known by its digest.

Sources: facts on the preflight, §3 and §4.
"""

from collections.abc import Callable, Mapping
from enum import StrEnum

from msgspec import Struct


class PackageManager(StrEnum):
    """Which program installs packages: it decides how an index reads and what a dependency means."""

    APK = "apk"
    OPKG = "opkg"


class Relation(Struct, frozen=True, omit_defaults=True):
    """A name that a package needs, provides or excludes, perhaps in some versions only.

    `operator` is "", `=`, `<`, `<=`, `>`, `>=` or `~` (apk: begins with); "" means any version, and then
    `version` is "". `excludes` says that the name must not be there (apk's `!name` in a dependency).
    `others` are alternatives, any of which will do (opkg's `a | b`).
    """

    name: str
    operator: str = ""
    version: str = ""
    excludes: bool = False
    others: tuple["Relation", ...] = ()


class IndexedPackage(Struct, frozen=True, omit_defaults=True):
    """A package of an index. Sizes are in bytes; what the index does not say is empty or 0."""

    name: str
    version: str
    depends: tuple[Relation, ...] = ()
    provides: tuple[Relation, ...] = ()
    conflicts: tuple[Relation, ...] = ()
    """Of opkg; apk writes them into the dependencies."""
    replaces: tuple[Relation, ...] = ()
    install_if: tuple[Relation, ...] = ()
    recommends: tuple[Relation, ...] = ()
    provider_priority: int | None = None
    architecture: str = ""
    size: int = 0
    """Of its file."""
    installed_size: int = 0
    licence: str = ""
    cpe: str = ""
    origin: str = ""
    """The source package or its path."""
    filename: str = ""
    hash: str = ""
    """Hexadecimal. Of opkg the SHA-256 of the file; of apk the digest of the package's metadata, which is
    not the file's."""
    abi: str = ""
    """How the name of a library ends, where manifests leave that out: `20241020` of `libubus20241020`."""


class PackageIndex(Struct, frozen=True):
    """One index file as it is known here. Equal digests mean equal bytes."""

    name: str
    """For people: the feed, `target`, `kmods`, the name of a repository or `imagebuilder`."""
    address: str
    """Where it was read; "" for what an ImageBuilder carries."""
    digest: str
    """SHA-256 of the bytes, hexadecimal."""
    manager: PackageManager
    read: Callable[[], bytes | None]
    """Its bytes as they were read, perhaps from the database; None when they are gone by now."""
    is_foreign: bool = False
    """Whether it is of a repository that the request itself names."""


class FoundPackage(Struct, frozen=True):
    """What one of the indexes says of a package of an image."""

    package: IndexedPackage
    index: str
    """Its name, for people."""
    is_foreign: bool = False
    """Whether it is of a repository that the request itself names."""


class FoundPackages(Struct, frozen=True):
    """What the indexes say of the packages of an image, by the names in its manifest."""

    manager: PackageManager | None = None
    """None where no index is known."""
    packages: Mapping[str, FoundPackage] = {}
    indexes: tuple[PackageIndex, ...] = ()
    """All that were known, also those that say nothing of these packages."""
