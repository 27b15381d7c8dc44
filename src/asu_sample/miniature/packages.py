"""Packages: opkg's paragraphs about them, package files, and the repositories they come from.

An .ipk is a gzipped tar of `debian-binary`, `control.tar.gz` and `data.tar.gz`. Real apk v3 packages are ADB
files as their index is (`adb`); ours are a gzipped tar that starts with `.SAMPLE.json`. Nothing outside this
package reads them.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import re
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from . import local_proxies
from .usign import SigningKey


@dataclass(frozen=True)
class Package:
    """One binary package. `size` is that of its file, `installed_size` that of its content, both in bytes.

    `name` carries the ABI suffix, `provides` may hold `name=version`. `depends` is written as apk writes it:
    `name`, `name>=1.2`, `!name` (apk's only), `one|other` (opkg's only). Only opkg reads `conflicts`, only
    apk the priority. `fault` is ours: what `make image` shall suffer when the package is installed, see
    `faults`.
    """

    name: str
    version: str
    architecture: str
    description: str = ""
    depends: tuple[str, ...] = ()
    provides: tuple[str, ...] = ()
    conflicts: tuple[str, ...] = ()
    replaces: tuple[str, ...] = ()
    provider_priority: int = 0
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

    def needs(self) -> Iterator[str]:
        """The names this package depends on, without versions."""
        for text in self.depends:
            for need in text.split("|"):
                if not need.startswith("!"):
                    yield split_constraint(need)[0]


_CONSTRAINT = re.compile(r"([^=<>~ (]+) *\(?([=<>~]*) *([^)]*)\)?")
_SIGNS = {"=": "=", "<": "<<", ">": ">>", "<=": "<=", ">=": ">="}
"""Relations as we and apk write them, and as opkg does."""


def split_constraint(text: str) -> tuple[str, str, str]:
    """Name, relation and version of `name`, `name>=1` or `name (>= 1)`; the last two are empty for any."""
    found = _CONSTRAINT.fullmatch(text.strip())
    return (found[1], found[2], found[3].strip()) if found else (text.strip(), "", "")


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
        if key == "depends":
            value = [" | ".join(map(_as_opkg, text.split("|"))) for text in value]
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
            values: dict[str, Any] = {"version": "", "architecture": "all", **fields}
            for key in _LISTS.intersection(fields):
                values[key] = tuple(_from_opkg(text) for text in fields[key].split(",") if text.strip())
            for key in _NUMBERS.intersection(fields):
                values[key] = int(fields[key])
            packages.append(Package(**values))
    return packages


def _as_opkg(text: str) -> str:
    name, sign, version = split_constraint(text)
    return f"{name} ({_SIGNS[sign]}{version})" if sign else name


def _from_opkg(text: str) -> str:
    signs = {theirs: ours for ours, theirs in _SIGNS.items()}
    parts = (split_constraint(part) for part in text.split("|"))
    return "|".join(f"{name}{signs.get(sign, sign)}{version}" for name, sign, version in parts)


def write_opkg_index(folder: Path, packages: Iterable[Package], key: SigningKey) -> bytes:
    """Write `Packages` of a folder, packed and signed beside it; returns its text."""
    text = render_paragraphs(packages).encode()
    (folder / "Packages").write_bytes(text)
    (folder / "Packages.gz").write_bytes(gzip.compress(text, mtime=0))
    (folder / "Packages.sig").write_text(key.sign(text))
    return text


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
        text = json.dumps(asdict(content.package), sort_keys=True, separators=(",", ":"))
        members = {_APK_CONTROL: PackageFile(text.encode())}
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
        fields: dict[str, Any] = json.loads(members.pop(_APK_CONTROL).content)
        fields.update({key: tuple(value) for key, value in fields.items() if isinstance(value, list)})
        package = Package(**fields)
        files, script = members, members.pop(_APK_SCRIPT, None)
    else:
        control = _untar(members["control.tar.gz"].content)
        package = parse_paragraphs(control["control"].content.decode())[0]
        files, script = _untar(members["data.tar.gz"].content), control.get("postinst")
    return Content(package, files, script.content.decode() if script else None)


def described(content: Content, filename: str, data: bytes) -> Package:
    """The package as an index lists it, with name, size and hash of its file."""
    installed = sum(len(file.content) for file in content.files.values())
    return replace(
        content.package,
        filename=filename,
        size=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        installed_size=max(installed, 1),
    )


def read_folder(folder: Path, *, suffix: str) -> list[Package]:
    """The packages of the files in a folder, as an index lists them, sorted by file name."""
    packages = []
    for path in sorted(folder.glob(f"*{suffix}")):
        data = path.read_bytes()
        packages.append(described(read_package(data, suffix=suffix), path.name, data))
    return packages


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
        # Late: only some ImageBuilders go to the network, and these imports take as long as all others
        # together.
        import http.client
        import urllib.error
        import urllib.request

        # As wget, through which real package managers go.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler(local_proxies()))
        try:
            with opener.open(f"{self.text}/{name}", timeout=TIMEOUT) as answer:
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


class Catalog:
    """All offers of all accepted repositories, in their order. `order` is the manager's order of versions."""

    def __init__(self, offers: Iterable[Offer], order: Callable[[str], Any]) -> None:
        self.offers = list(offers)
        self._by_name: dict[str, Offer] = {}
        self._providers: dict[str, list[Offer]] = {}
        for offer in self.offers:
            name, version = offer.package.name, offer.package.version
            known = self._by_name.get(name)
            if known is None or order(known.package.version) < order(version):
                self._by_name[name] = offer
            for provided in dict.fromkeys(offer.package.names()):
                self._providers.setdefault(provided, []).append(offer)

    def find(self, name: str) -> Offer | None:
        """The newest offer called `name`, else the first provider by name."""
        if name in self._by_name:
            return self._by_name[name]
        return min(self._providers.get(name, ()), key=lambda offer: offer.package.name, default=None)

    def providers(self, name: str) -> Sequence[Offer]:
        """Everything that is called `name` or provides it."""
        return self._providers.get(name, ())

    def dependents(self, name: str) -> list[Package]:
        """Packages that depend on `name` directly, sorted by name."""
        offers = (self._by_name[key] for key in sorted(self._by_name))
        return [offer.package for offer in offers if name in offer.package.needs()]

    def packages(self) -> list[Package]:
        """Every package on offer, sorted by name."""
        return [self._by_name[name].package for name in sorted(self._by_name)]


class Corrupt(Exception):
    """A downloaded package file does not fit its index or cannot be read."""


def unpack(offer: Offer, suffix: str) -> Content:
    """Download and read a package file. Raises Unreachable, or Corrupt when hash or format are wrong."""
    data = offer.location.fetch(offer.package.filename)
    if hashlib.sha256(data).hexdigest() != offer.package.sha256:
        raise Corrupt(f"sha256 mismatch of {offer.package.filename}")
    try:
        return read_package(data, suffix=suffix)
    except (tarfile.TarError, OSError, KeyError, ValueError, TypeError, EOFError) as error:
        raise Corrupt(f"cannot read {offer.package.filename}") from error
