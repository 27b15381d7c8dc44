"""The package indexes of real size beside the repository, and what real apk and opkg answered."""

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from asu_builder.domain.package_index import IndexedPackage, PackageIndex, PackageManager
from asu_builder.domain.preflight import PackageIndexes
from asu_builder.upstream.lenient import Notes
from asu_builder.upstream.package_index import read_index

APK, OPKG = PackageManager.APK, PackageManager.OPKG
_RECORDED = Path(__file__).resolve().parents[2] / "shared" / "indexes"
_FOLDERS = {APK: _RECORDED / "25.12.0-x86-64", OPKG: _RECORDED / "24.10.5-x86-64"}
INSTALLED = {"libc": "1.2.5-r4", "kernel": "6.6.66~9aa856cfbbfeb974739bb76ae6c8698a-r1"}
"""What stood as installed where opkg was asked."""

recorded = pytest.mark.skipif(
    not _RECORDED.is_dir(), reason="needs the recorded indexes beside the repository"
)


def index_of(name: str, data: bytes, manager: PackageManager, *, is_foreign: bool = False) -> PackageIndex:
    """An index of these bytes."""
    digest = hashlib.sha256(data).hexdigest()
    return PackageIndex(name, f"http://feeds/{name}", digest, manager, lambda: data, is_foreign)


@cache
def recorded_indexes(manager: PackageManager) -> PackageIndexes:
    """All of one release, the installed packages of opkg as an index of their own."""
    files = sorted(path for path in _FOLDERS[manager].iterdir() if path.suffix in (".adb", ".gz"))
    indexes = [index_of(path.name, path.read_bytes(), manager) for path in files]
    if manager is OPKG:
        text = "".join(
            f"Package: {name}\nVersion: {version}\nArchitecture: x86_64\n\n"
            for name, version in INSTALLED.items()
        )
        indexes.append(index_of("imagebuilder", text.encode(), manager))
    return PackageIndexes(manager, tuple(indexes))


@cache
def recorded_packages(manager: PackageManager) -> tuple[IndexedPackage, ...]:
    """All packages of the indexes."""
    data = (index.read() or b"" for index in recorded_indexes(manager).indexes)
    return tuple(package for bytes_ in data for package in read_index(manager, bytes_, Notes()).packages)


@cache
def recorded_verdicts(manager: PackageManager) -> tuple[dict[str, Any], ...]:
    """Requests, each with the answer of the real program."""
    return tuple(json.loads((_FOLDERS[manager] / "verdicts.json").read_text()))
