"""opkg's way of installing: one requested name after the other, errors collected and printed at the end."""

from __future__ import annotations

from pathlib import Path

from . import packages as index
from .archives import Content
from .console import GoalFailed, err, out
from .installation import RECIPE_LINES, Corrupt, unpack
from .opkg_repositories import OpkgRepositories, wget_code
from .packages import Package
from .rootfs import FileClash, Rootfs
from .sources import Catalog, Offer, Unreachable

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
        self._errors: list[str] = []
        self._output: list[str] = []

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
        self._print_errors(self._repositories.errors + errors)
        if errors:
            raise GoalFailed((RECIPE_LINES["opkg"].package_install, "package_install", 255))
        return run.installed

    def _print_errors(self, errors: list[str]) -> None:
        if errors:
            err("Collected errors:")
        for line in errors:
            err(line if line.startswith("\t") else f" * {line}")


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
        self._check_conflicts(package)
        self._say(f"Installing {package.name} ({package.version}) to root...")
        if not offer.location.text.startswith("file:packages"):
            self._say(f"Downloading {offer.location.url}/{package.filename}")
        for name in package.names():
            self._provided[name] = package
        try:
            for name in package.depends:
                self._install_dependency(name)
            self._unpack(offer)
        except _CannotInstall:
            self._provided = {name: owner for name, owner in self._provided.items() if owner is not package}
            raise
        self.installed.append(package)

    def _install_dependency(self, name: str) -> None:
        dependency = None if name in self._provided else self._catalog.find(name)
        if dependency:
            self._install(dependency)

    def _check_conflicts(self, package: Package) -> None:
        present = {other.name: other for other in self._provided.values()}
        against = [name for name in present if name in package.conflicts]
        against += [name for name, other in present.items() if package.name in other.conflicts]
        if against:
            head = "check_conflicts_for:"
            names = [f"{head} \t{name} * " for name in dict.fromkeys(against)]
            raise _CannotInstall(f"{head} The following packages conflict with {package.name}:", *names)

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
        self._record(content)

    def _record(self, content: Content) -> None:
        package = content.package
        control = index.render_paragraph(package).encode()
        files = "".join(f"/{name}\n" for name in content.files).encode()
        self._rootfs.write(f"{_INFO}/{package.name}.control", control)
        self._rootfs.write(f"{_INFO}/{package.name}.list", files)
        if content.postinst is not None:
            self._rootfs.add_script(f"{_INFO}/{package.name}.postinst", content.postinst)

    def configure(self) -> None:
        """Print the second half of opkg's progress and write its status file."""
        for package in self.installed[self._configured :]:
            self._say(f"Configuring {package.name}.")
        self._configured = len(self.installed)
        status = "".join(
            index.render_paragraph(package) + "Status: install user installed\n\n"
            for package in self.installed
        )
        self._rootfs.write("usr/lib/opkg/status", status.encode())

    def _say(self, line: str) -> None:
        if not self._quiet:
            out(line)
