"""Packages as indexes describe them: opkg's `Packages` paragraphs and our own JSON for the apk flavour."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass


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
    lists = {key: _words(fields.pop(key, "")) for key in _LISTS}
    numbers = {key: int(fields.pop(key, "0")) for key in _NUMBERS}
    return Package(
        name=fields.pop("name"),
        version=fields.pop("version", ""),
        architecture=fields.pop("architecture", "all"),
        depends=lists["depends"],
        conflicts=lists["conflicts"],
        provides=lists["provides"],
        size=numbers["size"],
        installed_size=numbers["installed_size"],
        abi_version=fields.pop("abi_version", ""),
        fault=fields.pop("fault", ""),
        filename=fields.pop("filename", ""),
        sha256=fields.pop("sha256", ""),
        description=fields.pop("description", ""),
    )


def _words(text: str) -> tuple[str, ...]:
    # `libc, kernel (= 6.6.66)`: constraints are dropped, sample packages have none that could fail.
    return tuple(word.split()[0] for word in text.split(",") if word.strip())


def render_json(packages: Iterable[Package]) -> str:
    """Our stand-in for the database block of apk's index."""
    return json.dumps([asdict(package) for package in packages], sort_keys=True, separators=(",", ":"))


def parse_json(text: str) -> list[Package]:
    """The packages of `render_json`. Raises ValueError or TypeError for anything else."""
    packages: list[dict[str, object]] = json.loads(text)
    return [Package(**{key: _tuple(value) for key, value in fields.items()}) for fields in packages]  # type: ignore[arg-type]


def _tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value
