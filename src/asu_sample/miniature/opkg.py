"""The opkg flavour: `repositories.conf`, signed indexes, the local index, and opkg's way of installing.

opkg installs one requested name after the other, collects errors and prints them at its end. It never goes
back on a choice.
"""

from __future__ import annotations

import gzip
import os
import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
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
    split_constraint,
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
        return Catalog(offers, version_key)

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


@lru_cache(maxsize=1 << 14)
def version_key(version: str) -> tuple[object, ...]:
    """A sort key in Debian's order of versions: epoch, upstream's part, revision.

    `~` comes before the end of a part.
    """
    epoch, colon, rest = version.rpartition(":")
    upstream, dash, revision = rest.rpartition("-")
    parts = (upstream, revision) if dash else (rest, "")
    return (int(epoch) if colon and epoch.isdigit() else 0, *(_part_key(part) for part in parts))


def _part_key(part: str) -> tuple[object, ...]:
    key: list[object] = []
    for text, digits in re.findall(r"([^0-9]*)([0-9]*)", part):
        weights = (-1 if sign == "~" else ord(sign) + 256 * (not sign.isalpha()) for sign in text)
        key += [(*weights, 0), int(digits or 0)]
    return tuple(key)


def _fits(version: str, sign: str, wanted: str) -> bool:
    """Whether a version has a relation to another one. opkg lets equality through with every sign."""
    ours, theirs = version_key(version), version_key(wanted)
    return not sign or ours == theirs or ("<" in sign if ours < theirs else ">" in sign)


class CannotInstall(Exception):
    """A requested package failed; `lines` say why, in opkg's words without the leading ` * `."""

    def __init__(self, *lines: str) -> None:
        super().__init__("cannot install")
        self.lines = lines


class Installation:
    """One call of `opkg install`: what it takes, in which order, and what it complains about.

    `unpack` installs the files of a package and may raise CannotInstall, `say` gets the lines for stdout.
    """

    def __init__(
        self, catalog: Catalog, unpack: Callable[[Offer], None], say: Callable[[str], None] = lambda _: None
    ) -> None:
        self._catalog = catalog
        self._unpack = unpack
        self._say = say
        self._present: dict[str, Package] = {}
        self._wanted: dict[tuple[str, str], Package] = {}
        """What is installed, or about to be."""
        self._checked: set[str] = set()
        """Names of packages whose dependencies were gathered: opkg does so once."""
        self.installed: list[Package] = []
        self.errors: list[str] = []

    def install(self, names: Iterable[str]) -> None:
        """Installs one name after the other; those that fail are in `errors`."""
        for name in names:
            try:
                self._install_name(name)
            except CannotInstall as failure:
                self.errors += [*failure.lines, f"opkg_install_cmd: Cannot install package {name}."]

    def _called(self, name: str) -> Sequence[str]:
        """Names of packages of which one version at least is called `name` or provides it."""
        return list(dict.fromkeys(offer.package.name for offer in self._catalog.providers(name)))

    def _offers(self, name: str) -> list[Offer]:
        """All versions of these packages: opkg does not ask which of them provides a name."""
        return [
            offer
            for called in self._called(name)
            for offer in self._catalog.providers(called)
            if offer.package.name == called
        ]

    def _install_name(self, name: str) -> None:
        offers = self._offers(name)
        called = any(offer.package.name == name for offer in offers)
        # A package of that name is installed even where another one provides it already.
        for other in [name] if called else self._called(name):
            if present := self._present.get(other):
                self._say(f"Package {present.name} ({present.version}) installed in root is up to date.")
                return
        if not offers:
            self._say(f"Unknown package '{name}'.")
            raise CannotInstall
        lines: list[str] = []
        usable = [offer for offer in offers if not self._complains(offer, lines)]
        if not usable:
            found = f"Packages for {name} found, but incompatible with the architectures configured"
            raise CannotInstall(*lines, f"pkg_hash_fetch_best_installation_candidate: {found}")
        named = [offer for offer in usable if offer.package.name == name]
        self._install(max(named, key=_order) if named else min(usable, key=_order_native_first))

    def _complains(self, offer: Offer, lines: list[str]) -> bool:
        """Whether something that the package needs is nowhere; `lines` get the complaints."""
        complaints = self._gather(offer, [], {offer.package.name})
        lines += complaints
        return bool(complaints)

    def _gather(self, offer: Offer, gathered: list[Offer], seen: set[str]) -> list[str]:
        """Adds what must be installed before a package; complaints about what no package provides.

        Another version of what is `seen` is added too, and so is a package that waits for this one.
        """
        lines = []
        for text in offer.package.depends:
            if self._is_present(text):
                continue
            needed = self._satisfier(text, seen)
            if needed is None:
                missing = f"cannot find dependency {shown(text)} for {offer.package.name}"
                lines.append(f"pkg_hash_check_unresolved: {missing}")
            elif needed is not offer and needed not in gathered:
                if needed.package.name not in seen:
                    seen.add(needed.package.name)
                    lines += self._gather(needed, gathered, seen)
                gathered.append(needed)
        return lines

    def _is_present(self, text: str) -> bool:
        needs = (split_constraint(part) for part in text.split("|"))
        return any(
            _fits(present.version, sign, version)
            for name, sign, version in needs
            for called in self._called(name)
            if (present := self._present.get(called))
        )

    def _satisfier(self, text: str, seen: set[str]) -> Offer | None:
        """Who is installed for a dependency: the newest of that name, else the last provider by name.

        One that needs something that is nowhere comes in only when all do.
        """
        broken: Offer | None = None
        for part in text.split("|"):
            name, sign, version = split_constraint(part)
            offers = self._offers(name)
            fitting = [offer for offer in offers if _fits(offer.package.version, sign, version)]
            whole = [
                offer
                for offer in fitting
                if offer.package.name in seen or not self._gather(offer, [], {*seen, offer.package.name})
            ]
            for some in (whole, fitting):
                if some:
                    best = max(some, key=lambda offer: (offer.package.name == name, _order(offer)))
                    if some is whole:
                        return best
                    broken = broken or best
        return broken

    def _install(self, offer: Offer) -> None:
        package = offer.package
        self._want(offer)
        against = [name for text in package.conflicts if (name := self._conflicting(text, package))]
        if against:
            head = "check_conflicts_for:"
            listed = [f"{head} \t{name} * " for name in dict.fromkeys(against)]
            raise CannotInstall(f"{head} The following packages conflict with {package.name}:", *listed)
        self._say(f"Installing {package.name} ({package.version}) to root...")
        if not offer.location.text.startswith("file:packages"):
            self._say(f"Downloading {offer.location.url}/{package.filename}")
        needed: list[Offer] = []
        if package.name not in self._checked:
            self._checked.add(package.name)
            self._gather(offer, needed, self._checked)
        for other in needed:
            self._want(other)
        for other in needed:
            self._bring(other)
        if self._present.get(package.name) is package:
            return  # what it needs needs it, and has brought it
        self._unpack(offer)
        self._present[package.name] = package
        self.installed.append(package)

    def _want(self, offer: Offer) -> None:
        self._wanted[offer.package.name, offer.package.version] = offer.package

    def _bring(self, offer: Offer) -> None:
        """Installs what another package needs, unless it has come meanwhile; another version stays."""
        present, package = self._present.get(offer.package.name), offer.package
        if present is None:
            self._install(offer)
        elif present.version != package.version:
            versions = f"from {present.version} to {package.version}"
            self._say(f"Not downgrading package {package.name} on root {versions}.")
            raise CannotInstall

    def _conflicting(self, text: str, package: Package) -> str | None:
        """The name of a package that is there or on its way and that `package` cannot stand.

        Only the name of a package counts, not what it provides, and nothing looks the other way round.
        """
        name, sign, version = split_constraint(text)
        there = (other for other in self._wanted.values() if other.name == name and other is not package)
        return name if any(_fits(other.version, sign, version) for other in there) else None


def _order(offer: Offer) -> tuple[object, ...]:
    return offer.package.name, version_key(offer.package.version)


def _order_native_first(offer: Offer) -> tuple[object, ...]:
    return offer.package.architecture in ("all", "noarch"), *_order(offer)


def shown(text: str) -> str:
    """A dependency as opkg prints it: `name`, `name (>= 1)`, `one | other`."""
    parts = (split_constraint(part) for part in text.split("|"))
    return " | ".join(f"{name} ({sign} {version})" if sign else name for name, sign, version in parts)


_INFO = "usr/lib/opkg/info"


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

        def say(line: str) -> None:
            if not quiet:
                out(line)

        run = Installation(self.load(), lambda offer: _unpack(offer, rootfs), say)
        configured = 0
        # The Makefile calls opkg three times: for libc, for kernel, and for all the rest.
        for names in (["libc"], ["kernel"], wanted):
            run.install(names)
            for package in run.installed[configured:]:
                say(f"Configuring {package.name}.")
            configured = len(run.installed)
            _write_status(run.installed, rootfs)
        print_errors(self._repositories.errors + run.errors, err)
        if run.errors:
            raise GoalFailed((RECIPE_LINES["opkg"].package_install, "package_install", 255))
        return run.installed


def print_errors(errors: Sequence[str], write: Callable[[str], None]) -> None:
    """What opkg prints at its end: nothing when nothing failed."""
    if errors:
        write("Collected errors:")
    for line in errors:
        write(line if line.startswith("\t") else f" * {line}")


def _write_status(installed: Iterable[Package], rootfs: Rootfs) -> None:
    stanza = "Status: install user installed\n\n"
    status = "".join(render_paragraph(package) + stanza for package in installed)
    rootfs.write("usr/lib/opkg/status", status.encode())


def _unpack(offer: Offer, rootfs: Rootfs) -> None:
    package = offer.package
    try:
        content = unpack(offer, ".ipk")
        rootfs.install(content)
    except Unreachable as error:
        url = f"{offer.location.url}/{package.filename}"
        raise CannotInstall(
            f"opkg_download: Failed to download {url}, wget returned {wget_code(error)}.",
            f"opkg_install_pkg: Failed to download {package.name}. Perhaps you need to run 'opkg update'?",
        ) from None
    except Corrupt:
        hint = "Either the opkg or the package index are corrupt. Try 'opkg update'."
        text = f"opkg_install_pkg: Package {package.name} sha256sum mismatch. {hint}"
        raise CannotInstall(text) from None
    except FileClash as clash:
        wants = f"Package {package.name} wants to install file {rootfs.path / clash.path}"
        raise CannotInstall(
            f"check_data_file_clashes: {wants}",
            f"\tBut that file is already provided by package  * {clash.owner}",
        ) from None
    rootfs.write(f"{_INFO}/{package.name}.control", render_paragraph(package).encode())
    files = "".join(f"/{name}\n" for name in content.files)
    rootfs.write(f"{_INFO}/{package.name}.list", files.encode())
    if content.postinst is not None:
        rootfs.add_script(f"{_INFO}/{package.name}.postinst", content.postinst)
