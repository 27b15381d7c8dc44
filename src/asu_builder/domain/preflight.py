"""What can be said about a package selection before it is built. Rules: facts on the preflight."""

import re
from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from functools import partial

from msgspec import Struct, field

from asu_builder.domain.errors import BuildProblem
from asu_builder.domain.package_index import PackageIndex, PackageManager
from asu_builder.domain.release import version_at


class Feasibility(StrEnum):
    """Three answers, never two."""

    FINE = "fine"
    """Everything can be installed together; the exact packages are told."""
    IMPOSSIBLE = "impossible"
    """The package manager would surely refuse."""
    UNKNOWN = "unknown"
    """It cannot be said; the build decides."""


class PackageIndexes(Struct, frozen=True):
    """Everything that a request's packages may come from, as it is known at one moment."""

    manager: PackageManager
    indexes: tuple[PackageIndex, ...]
    """Those of the request's own repositories and of the ImageBuilder itself among them."""
    lacking: str = ""
    """Why nothing certain can be said from them, as a sentence: an index is not readable, or past its
    time, or the ImageBuilder is not known. "" where all are here."""

    @property
    def digest(self) -> str:
        """Names the contents: equal means equal answers. 64 hexadecimal digits."""
        import hashlib  # with OpenSSL, which a start does without

        parts = "\n".join(sorted(f"{index.is_foreign:d} {index.digest}" for index in self.indexes))
        return hashlib.sha256(f"{self.manager}\n{parts}".encode()).hexdigest()


class Foretold(Struct, frozen=True):
    """What the package manager would do with a selection. What does not apply to the verdict is empty."""

    verdict: Feasibility
    reason: str = ""
    """Of *unknown*: why, as a sentence."""
    packages: Mapping[str, str] = field(default_factory=dict)
    """Of *fine*: name and version of everything that would be installed, dependencies included."""
    short: Mapping[str, str] = field(default_factory=dict)
    """Of *fine*: for libraries among these their names without ABI suffix, as `make manifest` tells them."""
    problem: BuildProblem = BuildProblem()
    """Of *impossible*: missing names, who needs them, conflicts, providers to choose from."""
    nearest: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """For a missing name those that exist and are closest to it, best first."""
    brings: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Of *fine*: for each name asked for, what is installed because of it and would not be without it."""
    kept: tuple[str, ...] = ()
    """Names taken away with `-name` that are installed all the same, because others need them."""
    download_size: int = 0
    """Bytes of the package files."""
    installed_size: int = 0
    """Bytes they take once unpacked, before the image compresses them."""
    indexes: str = ""
    """`PackageIndexes.digest` of what it was judged by; "" where nothing was read."""


def unknown(reason: str, problem: BuildProblem | None = None) -> Foretold:
    """The verdict *unknown*, and why."""
    return Foretold(Feasibility.UNKNOWN, reason, problem=problem or BuildProblem())


OWN_INDEX = "imagebuilder"
"""The name of the index of what an ImageBuilder brings along in `packages/`."""
ALWAYS_INSTALLED = ("base-files", "kernel", "libc")
"""The makefile asks for these beside the default packages (facts on the ImageBuilder, §2.3)."""


class CarriedPackages(Struct, frozen=True):
    """What an ImageBuilder brings along, learnt once from the ImageBuilder itself."""

    identity: str
    """Of its content, as of a `Container`; for one that `setup.sh` has downloaded its revision."""
    revision: str
    """As `make info` says it, for example r28959-29397011cc."""
    manager: PackageManager
    index: bytes
    """The index of its `packages/` folder, as apk or opkg reads it (`libc`, `kernel`, `base-files` …)."""
    repositories: tuple[str, ...]
    """Addresses of the repositories that it is configured with, as its own file names them."""
    folders: Mapping[str, bytes] = field(default_factory=dict)
    """Further folders that it installs from beside `packages/`, with the index of each."""
    pins: Mapping[str, str] = field(default_factory=dict)
    """Names that its makefile asks for in one version only, and that version, as a build of it has shown.

    Empty until one has. Without them more seems possible than is, never less.
    """

    def indexes(self) -> list[PackageIndex]:
        """The index of what it brings along, called `imagebuilder`, and those of its other folders."""
        import hashlib

        named = {OWN_INDEX: self.index, **self.folders}
        return [
            PackageIndex(name, "", hashlib.sha256(data).hexdigest(), self.manager, partial(bytes, data))
            for name, data in named.items()
        ]


class PreflightMode(StrEnum):
    """What a verdict is good for."""

    ENFORCE = "enforce"
    """A request that is surely impossible is refused."""
    ADVISE = "advise"
    """It is told, and built all the same."""
    OFF = "off"
    """Nothing is foretold."""


class TargetRecord(Struct, frozen=True):
    """How right *impossible* was for one release and target, as far as builds were compared with it."""

    release_path: str
    target: str
    mode: PreflightMode
    since: datetime
    """When it came into this mode."""
    sampled: int = 0
    """How many builds were compared that were foretold as impossible."""
    disagreements: int = 0
    """How many of these the package manager accepted."""
    last_disagreement: str = ""
    """What was foretold of the latest of them, and what the build did."""

    @property
    def version(self) -> str:
        """The version that lies at this path."""
        return version_at(self.release_path)


def manifest_of(installed: Mapping[str, str], foretold: Foretold) -> dict[str, str]:
    """What `make manifest` says of packages, by their whole names and what was foretold of the image.

    A library that was foretold with another ABI is called like that one.
    """
    bases = set(foretold.short.values())
    versions = {}
    for name, version in installed.items():
        base = foretold.short.get(name, name)
        if name not in foretold.packages:
            for place in range(len(name) - 1, 0, -1):
                if name[:place] in bases and _ABI_SUFFIX.fullmatch(name, place):
                    base = name[:place]
                    break
        versions[base] = version
    return dict(sorted(versions.items()))


_ABI_SUFFIX = re.compile(r"-?[0-9][A-Za-z0-9._-]{0,63}")


def differing_packages(foretold: Mapping[str, str], manifest: Mapping[str, str]) -> tuple[str, ...]:
    """Names that only one of the two has, or has in another version.

    A manifest may leave the ABI suffix of a name out: `libubus` for `libubus20241020` of the same version.
    """
    left = {name: version for name, version in manifest.items() if foretold.get(name) != version}
    differing = []
    for name, version in sorted(foretold.items()):
        if manifest.get(name) != version:
            for place in range(len(name) - 1, 0, -1):
                if left.get(name[:place]) == version and _ABI_SUFFIX.fullmatch(name, place):
                    del left[name[:place]]
                    break
            else:
                differing.append(name)
    return tuple(sorted({*differing, *left}))
