"""The opkg flavour: `repositories.conf`, signed indexes, the local index, and opkg's way of installing.

opkg installs one requested name after the other, collects errors and prints them at its end.
"""

from __future__ import annotations

import gzip
import os
import time
from dataclasses import dataclass
from pathlib import Path

from . import usign
from .console import RECIPE_LINES, GoalFailed, err, out
from .packages import (
    Catalog,
    Corrupt,
    Location,
    Offer,
    Package,
    Unreachable,
    parse_paragraphs,
    read_folder,
    render_paragraph,
    unpack,
    write_opkg_index,
)
from .rootfs import FileClash, Rootfs


@dataclass(frozen=True)
class Source:
    """A `src` line: name, folder, and whether the index is compressed (`src/gz`)."""

    name: str
    location: Location
    compressed: bool

    @property
    def index_name(self) -> str:
        """`Packages.gz` or `Packages`."""
        return "Packages.gz" if self.compressed else "Packages"


class OpkgRepositories:
    """The repositories of an opkg ImageBuilder directory. `errors` collects what opkg prints at its end."""

    def __init__(self, tree: Path) -> None:
        self._tree = tree
        self.errors: list[str] = []

    def load(self) -> Catalog:
        """Fetch and check all indexes, with opkg's chatter on stderr; bad repositories are dropped, never
        fatal."""
        key = self.local_key()
        folder = self._tree / "packages"
        err("Package list missing or not up-to-date, generating it.\n")
        err("Building package index...")
        write_opkg_index(folder, read_folder(folder, suffix=".ipk"), key)
        sources, check = self._read_configuration()
        (self._tree / "dl").mkdir(exist_ok=True)
        offers: list[Offer] = []
        for source in sources:
            text = self._fetch_index(source, check=check)
            if text is not None:
                offers.extend(Offer(package, source.location) for package in parse_paragraphs(text))
        return Catalog(offers)

    def _read_configuration(self) -> tuple[list[Source], bool]:
        sources: dict[str, Source] = {}
        check = False
        for line in (self._tree / "repositories.conf").read_text().splitlines():
            words = line.split()
            if words[:1] == ["option"]:
                check = check or words[1:2] == ["check_signature"]
            elif len(words) == 3 and words[0] in ("src", "src/gz"):
                _, name, url = words
                if name in sources:
                    declared = f"({name} {url}). Skipping."
                    self.errors.append(f"opkg_conf_parse_file: Duplicate src declaration {declared}")
                    continue
                sources[name] = Source(name, Location(url.rstrip("/"), self._tree), words[0] == "src/gz")
        return list(sources.values()), check

    def _fetch_index(self, source: Source, *, check: bool) -> str | None:
        # Local `src` folders are printed as they are written, remote and `src/gz` ones as URLs.
        shown = source.location.url if source.compressed else source.location.text
        url = f"{shown}/{source.index_name}"
        err(f"Downloading {url}")
        try:
            data = source.location.fetch(source.index_name)
            text = gzip.decompress(data) if source.compressed else data
        except (Unreachable, OSError, EOFError) as error:
            err(f"*** Failed to download the package list from {url}\n")
            self.errors.append(f"opkg_download: Failed to download {url}, wget returned {wget_code(error)}.")
            return None
        (self._tree / "dl" / source.name).write_bytes(text)
        err(f"Updated list of available packages in {self._tree / 'dl' / source.name}")
        if check and not self._is_trusted(source, text, shown):
            err("Remove wrong Signature file.")
            return None
        return text.decode()

    def _is_trusted(self, source: Source, text: bytes, shown: str) -> bool:
        err(f"Downloading {shown}/Packages.sig")
        try:
            signature = source.location.fetch("Packages.sig").decode()
            # Only the name counts: opkg looks up keys/<id named in the signature> (its keys are files, not a
            # set).
            key = (self._tree / "keys" / usign.signer(signature)).read_text()
            good = usign.verify(usign.parse_public(key)[1], text, signature)
        except Unreachable as error:
            err("Signature file download failed.")
            failed = f"Failed to download {shown}/Packages.sig, wget returned {wget_code(error)}."
            self.errors.append(f"opkg_download: {failed}")
            return False
        except (OSError, ValueError):
            good = False
        err("Signature check passed." if good else "Signature check failed.")
        return good

    def local_key(self) -> usign.SigningKey:
        """The throw-away key of this directory; made at first use, with its certificate, its public half
        trusted."""
        path = self._tree / "key-build"
        if path.exists():
            return usign.parse_secret(path.read_text())
        err("Generate local signing keys...")
        key = usign.SigningKey(seed=os.urandom(32), key_id=os.urandom(8))
        path.write_text(key.secret_text())
        path.chmod(0o600)
        (self._tree / "key-build.pub").write_text(key.public_text())
        err("Generate local certificate...")
        certificate = usign.certificate(key, key, issued_at=int(time.time()))
        (self._tree / "key-build.ucert").write_bytes(certificate)
        (self._tree / "key-build.ucert.revoke").write_bytes(b"")
        (self._tree / "keys" / key.fingerprint).write_text(key.public_text())
        return key


def wget_code(error: Exception) -> int:
    """With which number wget ends: 8 where a server answered with an error, 4 where none answered."""
    return 8 if getattr(error, "answered", False) else 4


_INFO = "usr/lib/opkg/info"


class _CannotInstall(Exception):
    """A requested package failed; `lines` say why, in opkg's words without the leading ` * `."""

    def __init__(self, *lines: str) -> None:
        super().__init__("cannot install")
        self.lines = lines


class Opkg:
    """A package manager for the opkg flavour of one ImageBuilder directory."""

    def __init__(self, tree: Path) -> None:
        self._repositories = OpkgRepositories(tree)

    def load(self) -> Catalog:
        """Read all repositories, with opkg's chatter on stderr."""
        return self._repositories.load()

    def banner(self) -> list[str]:
        """opkg pins nothing."""
        return []

    def install(self, wanted: list[str], rootfs: Rootfs, *, quiet: bool) -> list[Package]:
        """Install every name it can; raise GoalFailed at the end when one could not be installed."""
        run = _Run(self.load(), rootfs, quiet=quiet)
        errors: list[str] = []
        # The Makefile calls opkg three times: for libc, for kernel, and for all the rest.
        for names in (["libc"], ["kernel"], wanted):
            for name in names:
                try:
                    run.install(name)
                except _CannotInstall as failure:
                    errors += [*failure.lines, f"opkg_install_cmd: Cannot install package {name}."]
            run.configure()
        printed = self._repositories.errors + errors
        if printed:
            err("Collected errors:")
        for line in printed:
            err(line if line.startswith("\t") else f" * {line}")
        if errors:
            raise GoalFailed((RECIPE_LINES["opkg"].package_install, "package_install", 255))
        return run.installed


class _Run:
    """One call of `opkg install`."""

    def __init__(self, catalog: Catalog, rootfs: Rootfs, *, quiet: bool) -> None:
        self._catalog = catalog
        self._rootfs = rootfs
        self._quiet = quiet
        self._provided: dict[str, Package] = {}
        self._configured = 0
        self.installed: list[Package] = []

    def install(self, name: str) -> None:
        """Install `name` with all it depends on. Raises _CannotInstall."""
        if name in self._provided:
            present = self._provided[name]
            self._say(f"Package {present.name} ({present.version}) installed in root is up to date.")
            return
        offer = self._catalog.find(name)
        if offer is None:
            self._say(f"Unknown package '{name}'.")
            raise _CannotInstall
        unresolved = self._unresolved(offer, set())
        if unresolved:
            found = (
                f"Packages for {offer.package.name} found, but incompatible with the architectures configured"
            )
            raise _CannotInstall(*unresolved, f"pkg_hash_fetch_best_installation_candidate: {found}")
        self._install(offer)

    def _unresolved(self, offer: Offer, seen: set[str]) -> list[str]:
        seen.add(offer.package.name)
        lines = []
        for name in offer.package.depends:
            dependency = self._catalog.find(name)
            if dependency is None and name not in self._provided:
                lines.append(
                    f"pkg_hash_check_unresolved: cannot find dependency {name} for {offer.package.name}"
                )
            elif dependency and dependency.package.name not in seen:
                lines += self._unresolved(dependency, seen)
        return lines

    def _install(self, offer: Offer) -> None:
        package = offer.package
        present = {other.name: other for other in self._provided.values()}
        against = [name for name in present if name in package.conflicts]
        against += [name for name, other in present.items() if package.name in other.conflicts]
        if against:
            head = "check_conflicts_for:"
            names = [f"{head} \t{name} * " for name in dict.fromkeys(against)]
            raise _CannotInstall(f"{head} The following packages conflict with {package.name}:", *names)
        self._say(f"Installing {package.name} ({package.version}) to root...")
        if not offer.location.text.startswith("file:packages"):
            self._say(f"Downloading {offer.location.url}/{package.filename}")
        for name in package.names():
            self._provided[name] = package
        try:
            for name in package.depends:
                dependency = None if name in self._provided else self._catalog.find(name)
                if dependency:
                    self._install(dependency)
            self._unpack(offer)
        except _CannotInstall:
            self._provided = {name: owner for name, owner in self._provided.items() if owner is not package}
            raise
        self.installed.append(package)

    def _unpack(self, offer: Offer) -> None:
        package = offer.package
        try:
            content = unpack(offer, ".ipk")
            self._rootfs.install(content)
        except Unreachable as error:
            url = f"{offer.location.url}/{package.filename}"
            raise _CannotInstall(
                f"opkg_download: Failed to download {url}, wget returned {wget_code(error)}.",
                f"opkg_install_pkg: Failed to download {package.name}. "
                "Perhaps you need to run 'opkg update'?",
            ) from None
        except Corrupt:
            hint = "Either the opkg or the package index are corrupt. Try 'opkg update'."
            text = f"opkg_install_pkg: Package {package.name} sha256sum mismatch. {hint}"
            raise _CannotInstall(text) from None
        except FileClash as clash:
            wants = f"Package {package.name} wants to install file {self._rootfs.path / clash.path}"
            raise _CannotInstall(
                f"check_data_file_clashes: {wants}",
                f"\tBut that file is already provided by package  * {clash.owner}",
            ) from None
        self._rootfs.write(f"{_INFO}/{package.name}.control", render_paragraph(package).encode())
        files = "".join(f"/{name}\n" for name in content.files)
        self._rootfs.write(f"{_INFO}/{package.name}.list", files.encode())
        if content.postinst is not None:
            self._rootfs.add_script(f"{_INFO}/{package.name}.postinst", content.postinst)

    def configure(self) -> None:
        """Print the second half of opkg's progress and write its status file."""
        for package in self.installed[self._configured :]:
            self._say(f"Configuring {package.name}.")
        self._configured = len(self.installed)
        stanza = "Status: install user installed\n\n"
        status = "".join(render_paragraph(package) + stanza for package in self.installed)
        self._rootfs.write("usr/lib/opkg/status", status.encode())

    def _say(self, line: str) -> None:
        if not self._quiet:
            out(line)
