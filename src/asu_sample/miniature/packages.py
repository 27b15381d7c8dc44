"""Packages: how indexes describe them, and package files.

Indexes are opkg's `Packages` paragraphs and our own JSON for the apk flavour. An .ipk is a gzipped tar of
`debian-binary`, `control.tar.gz` and `data.tar.gz`. Real apk v3 packages are ADB files; ours are a gzipped
tar that starts with `.SAMPLE.json`. Nothing outside this package reads them.
"""

from __future__ import annotations

import gzip
import io
import json
import re
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any


@dataclass(frozen=True)
class Package:
    """One binary package. `size` is that of its file, `installed_size` that of its content, both in bytes.

    `name` carries the ABI suffix, `provides` may hold `name=version`. `fault` is ours: what `make image`
    shall suffer when the package is installed, see `faults`.
    """

    name: str
    version: str
    architecture: str
    description: str = ""
    depends: tuple[str, ...] = ()
    provides: tuple[str, ...] = ()
    conflicts: tuple[str, ...] = ()
    abi_version: str = ""
    fault: str = ""
    filename: str = ""
    size: int = 0
    installed_size: int = 0
    sha256: str = ""

    @property
    def identity(self) -> str:
        """`name-version`, apk's way of naming one package."""
        return f"{self.name}-{self.version}"

    @property
    def base_name(self) -> str:
        """The name without the ABI suffix."""
        suffix = self.abi_version
        return self.name[: -len(suffix)] if suffix and self.name.endswith(suffix) else self.name

    def names(self) -> Iterator[str]:
        """Every name this package answers to."""
        yield self.name
        for provided in self.provides:
            yield provided.split("=")[0]


def version_key(version: str) -> list[tuple[int, int, str]]:
    """Sort key that puts 1.10 after 1.9; enough for sample versions, not for apk's full rules."""
    parts = re.findall(r"\d+|[A-Za-z]+", version)
    return [(1, int(part), "") if part.isdigit() else (0, 0, part) for part in parts]


_FIELDS = (
    ("Package", "name"),
    ("Version", "version"),
    ("Depends", "depends"),
    ("Conflicts", "conflicts"),
    ("Provides", "provides"),
    ("ABIVersion", "abi_version"),
    ("Sample-Fault", "fault"),
    ("Section", ""),
    ("Architecture", "architecture"),
    ("Installed-Size", "installed_size"),
    ("Filename", "filename"),
    ("Size", "size"),
    ("SHA256sum", "sha256"),
    ("Description", "description"),
)
_LISTS = {"depends", "conflicts", "provides"}
_NUMBERS = {"size", "installed_size"}


def render_paragraph(package: Package) -> str:
    """The paragraph of a package in `Packages`, or its `control` file while size and hash are not known
    yet."""
    fields = asdict(package)
    lines = []
    for label, key in _FIELDS:
        value = "sample" if not key else fields[key]
        if key == "provides":
            # opkg of these releases knows provided names only, no versions.
            value = [provided.split("=")[0] for provided in value]
        if key in _LISTS:
            value = ", ".join(value)
        if value:
            lines.append(f"{label}: {value}\n")
    return "".join(lines)


def render_paragraphs(packages: Iterable[Package]) -> str:
    """The text of a `Packages` file: paragraphs, each followed by an empty line."""
    return "".join(render_paragraph(package) + "\n" for package in packages)


def parse_paragraphs(text: str) -> list[Package]:
    """Packages of a `Packages` or `control` file; unknown fields and continuation lines are skipped."""
    keys = {label: key for label, key in _FIELDS if key}
    packages = []
    for paragraph in text.split("\n\n"):
        fields: dict[str, str] = {}
        for line in paragraph.splitlines():
            label, colon, value = line.partition(":")
            if colon and label in keys:
                fields[keys[label]] = value.strip()
        if "name" in fields:
            packages.append(_package(fields))
    return packages


def _package(fields: dict[str, str]) -> Package:
    """A package of the texts in a paragraph.

    `libc, kernel (= 6.6.66)`: constraints are dropped, sample packages have none that could fail.
    """
    values: dict[str, Any] = dict(fields)
    values.setdefault("version", "")
    values.setdefault("architecture", "all")
    for key in _LISTS.intersection(values):
        values[key] = tuple(word.split()[0] for word in values[key].split(",") if word.strip())
    for key in _NUMBERS.intersection(values):
        values[key] = int(values[key])
    return Package(**values)


def render_json(packages: Iterable[Package]) -> str:
    """Our stand-in for the database block of apk's index."""
    return json.dumps([asdict(package) for package in packages], sort_keys=True, separators=(",", ":"))


def parse_json(text: str) -> list[Package]:
    """The packages of `render_json`. Raises ValueError or TypeError for anything else."""
    packages = []
    for fields in json.loads(text):
        values: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()
        }
        packages.append(Package(**values))
    return packages


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


def write_package(content: Content, *, suffix: str, epoch: int) -> bytes:
    """The bytes of a package file; `suffix` is `.ipk` or `.apk`."""
    script = None if content.postinst is None else PackageFile(content.postinst.encode(), 0o755)
    if suffix == ".apk":
        members = {_APK_CONTROL: PackageFile(render_json([content.package]).encode())}
        members.update({} if script is None else {_APK_SCRIPT: script})
        return _compress(tar({**members, **content.files}, epoch=epoch))
    control = {"./control": PackageFile(render_paragraph(content.package).encode())}
    control.update({} if script is None else {"./postinst": script})
    data = {f"./{name}": file for name, file in content.files.items()}
    members = {
        "./debian-binary": PackageFile(b"2.0\n"),
        "./data.tar.gz": PackageFile(_compress(tar(data, epoch=epoch))),
        "./control.tar.gz": PackageFile(_compress(tar(control, epoch=epoch))),
    }
    return _compress(tar(members, epoch=epoch))


def read_package(data: bytes, *, suffix: str) -> Content:
    """Parse a package file. Raises tarfile.TarError, OSError, KeyError or ValueError when it is broken."""
    members = _untar(data)
    if suffix == ".apk":
        package = parse_json(members.pop(_APK_CONTROL).content.decode())[0]
        files, script = members, members.pop(_APK_SCRIPT, None)
    else:
        control = _untar(members["control.tar.gz"].content)
        package = parse_paragraphs(control["control"].content.decode())[0]
        files, script = _untar(members["data.tar.gz"].content), control.get("postinst")
    return Content(package, files, script.content.decode() if script else None)


def described(content: Content, filename: str, data: bytes, sha256: str) -> Package:
    """The package as an index lists it, with name, size and hash of its file."""
    installed = sum(len(file.content) for file in content.files.values())
    return replace(
        content.package, filename=filename, size=len(data), sha256=sha256, installed_size=max(installed, 1)
    )
