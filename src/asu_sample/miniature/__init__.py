"""A miniature ImageBuilder of our own: THE IMAGES IT MAKES FLASH NOTHING.

These modules are copied into the directory of every sample ImageBuilder and started by its Makefile with
whatever CPython (3.9 or newer) is there, so they use the standard library only and import each other
relatively. Shapes of texts, exit codes and files follow OpenWrt's ImageBuilder; all content is made up.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

MARKER = "ASU-BUILDER-SAMPLE: this image flashes nothing"


def resolve(manager: str, indexes: Sequence[bytes], names: Iterable[str]) -> tuple[str, dict[str, str], str]:
    """What a package manager, `apk` or `opkg`, would do with a request: verdict, packages, text.

    `indexes` are whole files, `packages.adb` or `Packages` (also gzipped), the first one preferred;
    signatures are not looked at. The verdict is `fine`, with versions by name in the order of installation,
    or `impossible`, with the manager's complaint. Raises ValueError for a broken index.
    """
    # Late: `make info` needs none of it, and pays for every module.
    from .packages import Package

    offers: Any = _offers(manager, tuple(indexes))
    chosen: list[Package]
    if manager == "apk":
        from . import solver

        try:
            numbers, problems = solver.select(offers, names)
        except ValueError as error:
            return "impossible", {}, f"ERROR: {error}\n"
        lines = [solver.HEADING, *problems] if problems else []
        chosen = [offers.packages[number] for number in numbers]
    else:
        from . import opkg

        run = opkg.Installation(offers, lambda _: None)
        run.install(names)
        lines = []
        opkg.print_errors(run.errors, lines.append)
        chosen = run.installed
    if lines:
        return "impossible", {}, "".join(f"{line}\n" for line in lines)
    return "fine", {package.name: package.version for package in chosen}, ""


@lru_cache(maxsize=4)
def _offers(manager: str, indexes: tuple[bytes, ...]) -> Any:
    """The `Universe` or `Catalog` of some indexes."""
    if manager == "apk":
        from . import adb, solver

        return solver.Universe([package for data in indexes for package in adb.read_index(data) or ()])
    import gzip
    from pathlib import Path

    from . import opkg, packages

    texts = (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data for data in indexes)
    nowhere = packages.Location("", Path())
    offers = [
        packages.Offer(package, nowhere)
        for text in texts
        for package in packages.parse_paragraphs(text.decode())
    ]
    return packages.Catalog(offers, opkg.version_key)


def local_proxies() -> dict[str, str]:
    """The proxies of the environment that lie on this machine, by scheme.

    wget obeys any. A sample must not leave the machine by chance, and a build has its proxy beside it.
    """
    named = {scheme: os.environ.get(f"{scheme}_proxy", "") for scheme in ("http", "https")}
    return {scheme: url for scheme, url in named.items() if url.startswith("http://127.0.0.1:")}
