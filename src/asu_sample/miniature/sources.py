"""Where packages come from, and what both package managers share: fetching, the catalog, unpacking."""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Container, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from .packages import Content, Package, read_package, version_key
from .rootfs import Rootfs

TIMEOUT = 10.0
"""Seconds without an answer after which a repository counts as unreachable."""


class Unreachable(Exception):
    """A file could not be fetched; the text says why, and `answered` whether a server said so."""

    def __init__(self, why: str, *, answered: bool = False) -> None:
        super().__init__(why)
        self.answered = answered


@dataclass(frozen=True)
class Location:
    """The folder of a repository: an http(s) URL, `file:` with a path, or a path.

    Relative paths start at the tree.
    """

    text: str
    tree: Path

    @property
    def url(self) -> str:
        """How package managers print it: local folders as `file://` with the whole path."""
        return self.text if self._is_remote else f"file://{self._path}"

    @property
    def _is_remote(self) -> bool:
        return self.text.startswith(("http://", "https://"))

    @property
    def _path(self) -> Path:
        text = self.text[len("file:") :] if self.text.startswith("file:") else self.text
        return self.tree / (text[2:] if text.startswith("//") else text)

    def fetch(self, name: str) -> bytes:
        """The bytes of a file in this folder. Raises Unreachable."""
        if not self._is_remote:
            try:
                return (self._path / name).read_bytes()
            except OSError as error:
                raise Unreachable(error.strerror or "I/O error") from error
        return _download(f"{self.text}/{name}")


def _download(url: str) -> bytes:
    # Late: only some ImageBuilders go to the network, and these imports take as long as all others together.
    import http.client
    import urllib.error
    import urllib.request

    # Real package managers go through wget, which obeys proxy variables; a sample must not leave the machine
    # by chance.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=TIMEOUT) as answer:
            data: bytes = answer.read()
    except urllib.error.HTTPError as error:
        error.close()
        raise Unreachable(f"HTTP {error.code}: {error.reason}", answered=True) from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise Unreachable("temporary error (try again later)") from error
    return data


@dataclass(frozen=True)
class Offer:
    """A package and the repository that has it."""

    package: Package
    location: Location

    def download(self) -> bytes:
        """The package file. Raises Unreachable."""
        return self.location.fetch(self.package.filename)


class Catalog:
    """All offers of all accepted repositories, by name and by provided name."""

    def __init__(self, offers: Iterable[Offer]) -> None:
        self._by_name: dict[str, Offer] = {}
        self._providers: dict[str, list[Offer]] = {}
        for offer in offers:
            name = offer.package.name
            known = self._by_name.get(name)
            if known and version_key(known.package.version) >= version_key(offer.package.version):
                continue
            self._by_name[name] = offer
            for provided in offer.package.names():
                others = [other for other in self._providers.get(provided, []) if other.package.name != name]
                self._providers[provided] = [*others, offer]

    def find(self, name: str, *, preferred: Container[str] = ()) -> Offer | None:
        """The offer called `name`, else a provider of it: a preferred one first, else the first by name."""
        if name in self._by_name:
            return self._by_name[name]
        providers = sorted(self._providers.get(name, []), key=lambda offer: offer.package.name)
        chosen = [offer for offer in providers if offer.package.name in preferred] or providers
        return chosen[0] if chosen else None

    def dependents(self, name: str) -> list[Package]:
        """Packages that depend on `name` directly, sorted by name."""
        offers = (self._by_name[key] for key in sorted(self._by_name))
        return [offer.package for offer in offers if name in offer.package.depends]

    def packages(self) -> list[Package]:
        """Every package on offer, sorted by name."""
        return [self._by_name[name].package for name in sorted(self._by_name)]


class Corrupt(Exception):
    """A downloaded package file does not fit its index or cannot be read."""


class PackageManager(Protocol):
    """What the goals need of opkg and apk."""

    def load(self) -> Catalog:
        """Read all repositories, with the manager's chatter."""
        ...

    def install(self, wanted: list[str], rootfs: Rootfs, *, quiet: bool) -> list[Package]:
        """Install into `rootfs`; `quiet` keeps stdout silent.

        Raises GoalFailed with the manager's error texts.
        """
        ...

    def banner(self) -> list[str]:
        """Words that follow the package names in the `Packages:` line of `make image`."""
        ...


@dataclass(frozen=True)
class Word:
    """Where the nested makes of a flavour stop: recipe lines, copied from recorded output."""

    package_install: int
    manifest: int
    image: int
    check_profile: int
    prepare_rootfs: int
    build_image: int


RECIPE_LINES = {
    "opkg": Word(227, 166, 156, 294, 238, 259),
    "apk": Word(254, 193, 183, 323, 267, 282),
}


def unpack(offer: Offer, suffix: str) -> Content:
    """Download and read a package file. Raises Unreachable, or Corrupt when hash or format are wrong."""
    data = offer.download()
    if hashlib.sha256(data).hexdigest() != offer.package.sha256:
        raise Corrupt(f"sha256 mismatch of {offer.package.filename}")
    try:
        return read_package(data, suffix=suffix)
    except (tarfile.TarError, OSError, KeyError, ValueError, TypeError, EOFError) as error:
        raise Corrupt(f"cannot read {offer.package.filename}") from error
