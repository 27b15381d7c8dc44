"""Package files, made once and hard-linked wherever they are wanted: a whole world in seconds and few
megabytes."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from .miniature import apk
from .miniature import packages as index
from .miniature.packages import Content, Package
from .releases import Release


class Pool:
    """Package files of one world. `epoch` (Unix seconds) is the time of everything inside them."""

    def __init__(self, folder: Path, *, epoch: int) -> None:
        self._folder = folder
        self._epoch = epoch
        self._known: dict[tuple[Package, str], Package] = {}

    def place(self, contents: Iterable[Content], folder: Path, *, suffix: str) -> list[Package]:
        """Put a package file per content into `folder`; returns them as an index lists them, sorted by
        name."""
        folder.mkdir(parents=True, exist_ok=True)
        packages = []
        for content in contents:
            # opkg knows no versions of provided names, so what its index says is what its packages say.
            key = (content.package, suffix)
            if key not in self._known:
                data = index.write_package(content, suffix=suffix, epoch=self._epoch)
                made = content.package
                name = f"{made.identity}.apk"
                if suffix == ".ipk":
                    name = f"{made.name}_{made.version}_{made.architecture}.ipk"
                package = index.described(content, name, data, hashlib.sha256(data).hexdigest())
                self._folder.mkdir(parents=True, exist_ok=True)
                self._path(package).write_bytes(data)
                self._known[key] = package
            package = self._known[key]
            link(self._path(package), folder / package.filename)
            packages.append(package)
        return sorted(packages, key=lambda package: package.name)

    def _path(self, package: Package) -> Path:
        return self._folder / f"{package.sha256[:16]}-{package.filename}"


def link(source: Path, target: Path) -> None:
    """A second name for a file that never changes; a copy where the file system has no hard links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def write_index(folder: Path, packages: list[Package], release: Release, architecture: str) -> None:
    """The index files of a package folder: `Packages*` and index.json v1 for opkg, `packages.adb` and v2
    for apk."""
    key = release.signing_key()
    if release.package_manager == "apk":
        data = apk.render_index(index.render_json(packages), key)
        (folder / apk.INDEX).write_bytes(data)
        names = {package.base_name: package.version for package in packages}
        document = {"version": 2, "architecture": architecture, "packages": names}
        (folder / "index.json").write_text(json.dumps(document, indent=2) + "\n")
        return
    text = index.render_paragraphs(replace(package, fault=package.fault) for package in packages).encode()
    (folder / "Packages").write_bytes(text)
    (folder / "Packages.gz").write_bytes(gzip.compress(text, mtime=0))
    (folder / "Packages.sig").write_text(key.sign(text))
    (folder / "Packages.manifest").write_bytes(text)
    names = {package.name: package.version for package in packages}
    document = {"architecture": architecture, "packages": names}
    (folder / "index.json").write_text(json.dumps(document, separators=(",", ":")))
