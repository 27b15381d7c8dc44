"""The apk flavour: `repositories` with their signed indexes, and apk's way of installing.

The texts and rules are apk's: one index URL per line, keys tried by content, untrusted or unreachable
repositories ignored with a warning; the whole world is solved first and then installed in one go, errors are
named with versions.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from . import adb, solver, usign
from .configuration import load
from .console import RECIPE_LINES, GoalFailed, err, out
from .packages import Catalog, Corrupt, Location, Offer, Package, Unreachable, read_folder, unpack
from .rootfs import FileClash, Rootfs


class ApkRepositories:
    """The repositories of an apk ImageBuilder directory; `unreachable` are those that warn again at every
    lookup."""

    def __init__(self, tree: Path) -> None:
        self._tree = tree
        self.unreachable: list[str] = []

    def load(self) -> Catalog:
        """Fetch and check all indexes; the local one comes first, added by the Makefile and not by the
        file."""
        key = self.local_key()
        folder = self._tree / "packages"
        if not (folder / adb.FILE_NAME).exists():
            err(f"WARNING: opening {folder / adb.FILE_NAME}: No such file or directory")
            err("Package list missing or not up-to-date, generating it.\n")
            err("Building package index...")
            (folder / adb.FILE_NAME).write_bytes(adb.write_index(read_folder(folder, suffix=".apk"), key))
        trusted = []
        for path in sorted((self._tree / "keys").iterdir()):
            try:
                trusted.append(usign.parse_pem(path.read_text()))
            except (ValueError, OSError):
                continue
        offers: list[Offer] = []
        for line in ("packages/" + adb.FILE_NAME, *self._lines()):
            if not line.endswith(".adb"):
                # A directory, in which apk looks for an index of the second format.
                index_v2 = f"{line.rstrip('/')}/{load(self._tree).architecture}/APKINDEX.tar.gz"
                warning = f"WARNING: updating and opening {index_v2}: unexpected end of file"
                err(warning)
                self.unreachable.append(warning)
                continue
            url, _, name = line.rpartition("/")
            location = Location(url, self._tree)
            try:
                packages = adb.read_index(location.fetch(name), trusted)
            except ValueError:
                packages = None
            except Unreachable as error:
                warning = f"{location.url}/{name}: {error}"
                err(f"WARNING: updating and opening {warning}")
                self.unreachable.append(f"WARNING: opening {warning}")
                continue
            if packages is None:
                err(f"WARNING: opening {location.url}/{name}: UNTRUSTED signature")
                continue
            offers.extend(Offer(package, location) for package in packages)
        return Catalog(offers, solver.version_key)

    def _lines(self) -> list[str]:
        path = self._tree / "repositories"
        if not path.exists():  # a standalone ImageBuilder of the apk flavour has none
            return []
        lines = (line.strip() for line in path.read_text().splitlines())
        words = (line.split() for line in lines if line and not line.startswith("#"))
        # `@tag url` names a pinned repository, `set` and `v3` lines are apk's own business: only the URL
        # matters here.
        return [parts[-1] for parts in words if "/" in parts[-1]]

    def local_key(self) -> usign.SigningKey:
        """The key that signs the local index, made at first use; it lies in `keys/`, as in the real tree."""
        private = self._tree / "keys" / "local-private-key.pem"
        if private.exists():
            return usign.parse_secret(private.read_text())
        err("Generate local signing keys...")
        err("read EC key")
        err("writing EC key")
        key = usign.SigningKey(seed=os.urandom(32), key_id=os.urandom(8))
        private.write_text(key.secret_text())
        private.chmod(0o600)
        (self._tree / "keys" / "local-public-key.pem").write_text(key.public_pem())
        return key


_PINNED = ("base-files", "libc", "kernel")
_MIB = 1024 * 1024


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
            # Each name is looked up for its ABI suffix, and each lookup opens everything again.
            for _ in wanted:
                err(warning)
        if not quiet:
            out("\nOK: 0 B in 0 packages\n\nInstalling packages...")
        packages = [offer.package for offer in catalog.offers]
        try:
            numbers, problems = solver.select(solver.Universe(packages), wanted)
        except ValueError as error:
            err(f"ERROR: {error}")
            raise _failure(1) from error
        if problems:
            err(solver.HEADING)
            for line in problems:
                err(line)
            raise _failure(sum(1 for line in problems if not line.startswith("   ")))
        return _install([catalog.offers[number] for number in numbers], rootfs, quiet=quiet)


def _failure(errors: int) -> GoalFailed:
    return GoalFailed((RECIPE_LINES["apk"].package_install, "package_install", errors))


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
            if content.postinst is not None:
                digest = hashlib.sha1(package.identity.encode()).hexdigest()
                script = f"lib/apk/db/{package.identity}.X1{digest}.post-install"
                rootfs.add_script(script, content.postinst)
            continue
        errors += 1
        err(f"ERROR: {package.identity}: {problem}")
    state = f"{errors} error{'s' * (errors > 1)};" if errors else "OK:"
    if not quiet:
        human = f"{size // 1024} KiB" if size < 10 * _MIB else f"{size / _MIB:.1f} MiB"
        out(f"{state} {human} in {len(offers)} packages")
    if errors:
        raise _failure(errors)
    packages = [offer.package for offer in offers]
    paragraphs = []
    for package in packages:
        depends = f"D:{' '.join(package.depends)}\n" if package.depends else ""
        fields = f"P:{package.name}\nV:{package.version}\nA:{package.architecture}\n"
        paragraphs.append(f"{fields}S:{package.size}\nI:{package.installed_size}\n{depends}\n")
    rootfs.write("lib/apk/db/installed", "".join(paragraphs).encode())
    rootfs.write("etc/apk/world", "".join(f"{package.name}\n" for package in packages).encode())
    return packages
