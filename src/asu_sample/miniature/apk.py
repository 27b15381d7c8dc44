"""apk's way of installing: solve the whole world first, then install in one go, errors named with
versions."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from .apk_repositories import ApkRepositories
from .archives import Content
from .console import GoalFailed, err, out
from .installation import RECIPE_LINES, Corrupt, unpack
from .packages import Package
from .rootfs import FileClash, Rootfs
from .sources import Catalog, Offer, Unreachable

_PINNED = ("base-files", "libc", "kernel")
_INDENT = " " * 15


class Apk:
    """A package manager for the apk flavour of one ImageBuilder directory."""

    def __init__(self, tree: Path) -> None:
        self._repositories = ApkRepositories(tree)
        self._catalog: Catalog | None = None

    def load(self) -> Catalog:
        """Read all repositories; silent unless one of them is bad."""
        if self._catalog is None:
            self._catalog = self._repositories.load()
        return self._catalog

    def banner(self) -> list[str]:
        """The quoted pins of what comes with the ImageBuilder."""
        offers = (self.load().find(name) for name in _PINNED)
        return [f'"{offer.package.name}={offer.package.version}"' for offer in offers if offer]

    def install(self, wanted: list[str], rootfs: Rootfs, *, quiet: bool) -> list[Package]:
        """Install all of `wanted` or raise GoalFailed: nothing is installed unless everything can be
        selected."""
        catalog = self.load()
        for warning in self._repositories.unreachable:
            for (
                _
            ) in wanted:  # each name is looked up for its ABI suffix, and each lookup opens everything again
                err(warning)
        world = sorted(set(wanted))
        if not quiet:
            out("\nOK: 0 B in 0 packages\n\nInstalling packages...")
        selection = _Selection(catalog, world)
        problems = [*selection.missing(), *selection.conflicts()]
        if problems:
            err("ERROR: unable to select packages:")
            for line in problems:
                err(line)
            raise _failure(sum(1 for line in problems if not line.startswith("   ")))
        return _install(selection.offers, rootfs, quiet=quiet)


def _failure(errors: int) -> GoalFailed:
    return GoalFailed((RECIPE_LINES["apk"].package_install, "package_install", errors))


class _Selection:
    """What apk would install for a world: `offers` in order of installation, dependencies first."""

    def __init__(self, catalog: Catalog, world: list[str]) -> None:
        self._catalog = catalog
        self._world = world
        self._missing: dict[str, list[str]] = {}
        self._seen: set[str] = set()
        self.offers: list[Offer] = []
        for name in world:
            self._select(name, f"world[{name}]")

    def _select(self, name: str, required_by: str) -> None:
        offer = self._catalog.find(name, preferred=self._world)
        if offer is None:
            self._missing.setdefault(name, []).append(required_by)
            return
        if offer.package.name in self._seen:
            return
        self._seen.add(offer.package.name)
        for dependency in offer.package.depends:
            self._select(dependency, f"{offer.package.identity}[{dependency}]")
        self.offers.append(offer)

    def missing(self) -> Iterator[str]:
        """The block of each name that no package has."""
        for name in sorted(self._missing):
            yield f"  {name} (no such package):"
            yield from _continued("    required by: ", self._missing[name])

    def conflicts(self) -> Iterator[str]:
        """The mirrored blocks of packages that provide the same name in a version: apk allows only one of
        them."""
        chosen = sorted((offer.package for offer in self.offers), key=lambda package: package.name)
        for package in chosen:
            against = [
                f"{other.identity}[{shared}]"
                for other in chosen
                for shared in _shared(package, other)
                if other is not package
            ]
            if against:
                yield f"  {package.identity}:"
                yield from _continued("    conflicts: ", against)
                yield from _continued("    satisfies: ", list(self._satisfies(package, chosen)))

    def _satisfies(self, package: Package, chosen: list[Package]) -> Iterator[str]:
        names = set(package.names())
        yield from (f"world[{name}]" for name in self._world if name in names)
        for other in chosen:
            yield from (f"{other.identity}[{name}]" for name in other.depends if name in names)


def _shared(package: Package, other: Package) -> list[str]:
    """Versioned names of `other` that `package` has too, as its own name or provided in a version."""
    own = {package.name, *(name.split("=")[0] for name in package.provides if "=" in name)}
    theirs = [f"{other.name}={other.version}", *(name for name in other.provides if "=" in name)]
    return [name for name in theirs if name.split("=")[0] in own][:1]


def _continued(label: str, entries: list[str]) -> Iterator[str]:
    for number, entry in enumerate(entries):
        yield (label if number == 0 else " " * len(label)) + entry


def _install(offers: list[Offer], rootfs: Rootfs, *, quiet: bool) -> list[Package]:
    width, errors, size = len(str(len(offers))), 0, 0
    for number, offer in enumerate(offers, 1):
        package = offer.package
        size += package.installed_size
        if not quiet:
            out(f"({number:{width}}/{len(offers)}) Installing {package.name} ({package.version})")
        try:
            content = unpack(offer, ".apk")
            rootfs.install(content)
        except FileClash as clash:
            owner = next(other.package for other in offers if other.package.name == clash.owner)
            problem = f"trying to overwrite {clash.path} owned by {owner.identity}."
        except (Unreachable, Corrupt) as error:
            problem = str(error)
        else:
            _record(content, rootfs)
            continue
        errors += 1
        err(f"ERROR: {package.identity}: {problem}")
    state = f"{errors} error{'s' * (errors > 1)};" if errors else "OK:"
    if not quiet:
        out(f"{state} {_human(size)} in {len(offers)} packages")
    if errors:
        raise _failure(errors)
    packages = [offer.package for offer in offers]
    _write_database(packages, rootfs)
    return packages


def _human(size: int) -> str:
    if size < 10 * 1024 * 1024:
        return f"{size // 1024} KiB"
    return f"{size / 1024 / 1024:.1f} MiB"


def _record(content: Content, rootfs: Rootfs) -> None:
    if content.postinst is not None:
        digest = hashlib.sha1(content.package.identity.encode()).hexdigest()
        name = f"lib/apk/db/{content.package.identity}.X1{digest}.post-install"
        rootfs.add_script(name, content.postinst)


def _write_database(packages: list[Package], rootfs: Rootfs) -> None:
    paragraphs = []
    for package in packages:
        depends = f"D:{' '.join(package.depends)}\n" if package.depends else ""
        fields = f"P:{package.name}\nV:{package.version}\nA:{package.architecture}\n"
        paragraphs.append(f"{fields}S:{package.size}\nI:{package.installed_size}\n{depends}\n")
    rootfs.write("lib/apk/db/installed", "".join(paragraphs).encode())
    rootfs.write("etc/apk/world", "".join(f"{package.name}\n" for package in packages).encode())
