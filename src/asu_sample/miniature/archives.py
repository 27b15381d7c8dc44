"""Package files: real .ipk files, and a made-up container with the suffix .apk.

An .ipk is a gzipped tar of `debian-binary`, `control.tar.gz` and `data.tar.gz`. Real apk v3 packages are ADB
files; ours are a gzipped tar that starts with `.SAMPLE.json`. Nobody outside this package reads them.
"""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from . import packages as index
from .packages import Package

_APK_CONTROL, _APK_SCRIPT = ".SAMPLE.json", ".post-install"


@dataclass(frozen=True)
class PackageFile:
    """One file of a package: content and permission bits."""

    content: bytes
    mode: int = 0o644


@dataclass(frozen=True)
class Content:
    """What a package file holds: its description, files by path without leading slash, post-install
    script."""

    package: Package
    files: Mapping[str, PackageFile] = field(default_factory=dict)
    postinst: str | None = None


def tar(members: Mapping[str, PackageFile], *, epoch: int) -> bytes:
    """An uncompressed tar with root as owner and `epoch` (Unix seconds) as time of every member."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, member in members.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode, entry.mtime = len(member.content), member.mode, epoch
            entry.uname = entry.gname = "root"
            archive.addfile(entry, io.BytesIO(member.content))
    return buffer.getvalue()


def _untar(data: bytes) -> dict[str, PackageFile]:
    files = {}
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        for entry in archive:
            handle = archive.extractfile(entry) if entry.isreg() else None
            if handle is not None:
                name = entry.name[2:] if entry.name.startswith("./") else entry.name
                files[name] = PackageFile(handle.read(), entry.mode)
    return files


def _compress(data: bytes) -> bytes:
    return gzip.compress(data, compresslevel=6, mtime=0)


def write(content: Content, *, suffix: str, epoch: int) -> bytes:
    """The bytes of a package file; `suffix` is `.ipk` or `.apk`."""
    return _write_ipk(content, epoch) if suffix == ".ipk" else _write_apk(content, epoch)


def read(data: bytes, *, suffix: str) -> Content:
    """Parse a package file. Raises tarfile.TarError, OSError, KeyError or ValueError when it is broken."""
    return _read_ipk(data) if suffix == ".ipk" else _read_apk(data)


def _write_ipk(content: Content, epoch: int) -> bytes:
    control = {"./control": PackageFile(index.render_paragraph(content.package).encode())}
    if content.postinst is not None:
        control["./postinst"] = PackageFile(content.postinst.encode(), 0o755)
    data = {f"./{name}": file for name, file in content.files.items()}
    members = {
        "./debian-binary": PackageFile(b"2.0\n"),
        "./data.tar.gz": PackageFile(_compress(tar(data, epoch=epoch))),
        "./control.tar.gz": PackageFile(_compress(tar(control, epoch=epoch))),
    }
    return _compress(tar(members, epoch=epoch))


def _read_ipk(data: bytes) -> Content:
    members = _untar(data)
    control = _untar(members["control.tar.gz"].content)
    package = index.parse_paragraphs(control["control"].content.decode())[0]
    script = control.get("postinst")
    return Content(
        package, _untar(members["data.tar.gz"].content), script.content.decode() if script else None
    )


def _write_apk(content: Content, epoch: int) -> bytes:
    members = {_APK_CONTROL: PackageFile(index.render_json([content.package]).encode())}
    if content.postinst is not None:
        members[_APK_SCRIPT] = PackageFile(content.postinst.encode(), 0o755)
    members.update(content.files)
    return _compress(tar(members, epoch=epoch))


def _read_apk(data: bytes) -> Content:
    members = _untar(data)
    package = index.parse_json(members.pop(_APK_CONTROL).content.decode())[0]
    script = members.pop(_APK_SCRIPT, None)
    return Content(package, members, script.content.decode() if script else None)


def described(content: Content, filename: str, data: bytes, sha256: str) -> Package:
    """The package as an index lists it, with name, size and hash of its file."""
    installed = sum(len(file.content) for file in content.files.values())
    return replace(
        content.package, filename=filename, size=len(data), sha256=sha256, installed_size=max(installed, 1)
    )
