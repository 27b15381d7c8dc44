"""The sample ImageBuilder's `make info`, `make manifest` and `make image` as function calls.

A few milliseconds each, no process. Text and files are those of the real goals, and so is the choice of
packages. The images are a list of what they would hold, without a file system, signature or metadata.
Sizes and file clashes are not looked at.
"""

import gzip
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from asu_sample.miniature import MARKER, goals, opkg, solver
from asu_sample.miniature import images as image_files
from asu_sample.miniature import packages as package_files
from asu_sample.miniature.configuration import Arguments, Profile, load, read_arguments
from asu_sample.miniature.images import Image
from asu_sample.miniature.packages import Catalog, Location, Offer, Package

_GOALS = ("info", "manifest", "image")
_VARIABLES = {
    *("PROFILE", "PACKAGES", "STRIP_ABI", "EXTRA_IMAGE_NAME", "BIN_DIR", "FILES"),
    *("ROOTFS_PARTSIZE", "ROOTFS_FILESYSTEM"),
}


@dataclass(frozen=True, slots=True)
class Made:
    """How one call ended: status and output, as make's own."""

    status: int
    stdout: str = ""
    stderr: str = ""


class FakeMake:
    """`make` of one unpacked sample ImageBuilder, which is read once and never written; for any thread."""

    def __init__(self, tree: Path) -> None:
        self._configuration = load(tree)
        self._is_apk = self._configuration.package_manager == "apk"
        order = solver.version_key if self._is_apk else opkg.version_key
        self._catalog = Catalog(_offers(tree), order)
        self._universe = solver.Universe([offer.package for offer in self._catalog.offers])
        self._info = "".join(f"{line}\n" for line in goals.describe(self._configuration))

    def understands(self, command: Sequence[str]) -> bool:
        """Whether `command` is a goal with variables that are imitated here; all else needs the real make."""
        if tuple(command[:1]) != ("make",) or tuple(command[1:2]) not in {(goal,) for goal in _GOALS}:
            return False
        asked = _read(command)
        names = {word.partition("=")[0] for word in command[2:]}
        faulty = any(
            offer.package.fault for name in asked.packages if (offer := self._catalog.find(name)) is not None
        )
        return names <= _VARIABLES and not faulty and (command[1] != "image" or asked.bin_dir.startswith("/"))

    def run(self, command: Sequence[str]) -> Made:
        """Reaches the goal of a command that is understood; images go to its `BIN_DIR`."""
        if command[1] == "info":
            return Made(0, self._info)
        asked = _read(command)
        profile = self._configuration.profile(asked.profile)
        if profile is None:
            return Made(2, f'Profile "{asked.profile}" does not exist!\n')
        chosen, complaint = self._choose(goals.wanted(self._configuration, profile, asked.packages))
        if complaint:
            return Made(2, "", _lines(complaint))
        if command[1] == "manifest":
            return Made(0, _lines(self._manifest(chosen, strip_abi=asked.strip_abi)))
        self._write(asked, profile, chosen)
        installed = (f"Installing {package.name} ({package.version})" for package in chosen)
        return Made(0, _lines(["Installing packages...", *installed, "Building images..."]))

    def _choose(self, names: Sequence[str]) -> tuple[list[Package], list[str]]:
        """The packages of a request, or none and what the manager prints about it."""
        complaint: list[str] = []
        if self._is_apk:
            numbers, problems = solver.select(self._universe, names)
            complaint = [solver.HEADING, *problems] if problems else []
            return [self._universe.packages[number] for number in numbers], complaint
        run = opkg.Installation(self._catalog, lambda _: None)
        run.install(("libc", "kernel", *names))
        opkg.print_errors(run.errors, complaint.append)
        return run.installed, complaint

    def _manifest(self, packages: Sequence[Package], *, strip_abi: bool) -> list[str]:
        separator = self._configuration.manifest_separator
        return image_files.manifest_lines(packages, separator=separator, strip_abi=strip_abi)

    def _write(self, asked: Arguments, profile: Profile, packages: Sequence[Package]) -> None:
        folder = Path(asked.bin_dir)
        folder.mkdir(parents=True, exist_ok=True)
        prefix = self._configuration.file_prefix(asked.extra_image_name)
        manifest = self._manifest(packages, strip_abi=False)
        content = _lines([MARKER, *manifest, *_overlay(asked.files)])
        images = list(self._images(asked, profile, folder / f"{prefix}-{profile.id}", content=content))
        for name in self._unlisted(profile, f"{prefix}-{profile.id}"):
            (folder / name).write_text(f"{MARKER}\n")
        (folder / f"{prefix}-{profile.id.lower()}.manifest").write_text(_lines(manifest))
        image_files.write_sbom(folder / f"{prefix}-{profile.id.lower()}.bom.cdx.json", packages)
        image_files.write_profiles_json(
            folder / "profiles.json", self._configuration, profile, prefix, images
        )
        image_files.write_checksums(folder)

    def _unlisted(self, profile: Profile, prefix: str) -> Iterator[str]:
        """Files for devices that profiles.json does not mention."""
        if profile.rootfs_tarball:
            yield f"{prefix}-rootfs.tar.gz"
        if profile.kernel:
            yield f"{prefix}-kernel.bin"

    def _images(self, asked: Arguments, profile: Profile, prefix: Path, *, content: str) -> Iterator[Image]:
        chosen = asked.rootfs_filesystem if self._configuration.selects_filesystem else ""
        for recipe in profile.images:
            if chosen in ("", recipe.filesystem):
                name = f"{prefix.name}-{recipe.filesystem}-{recipe.name}"
                image = f"{name}\n{content}".encode()
                image = gzip.compress(image, 1, mtime=0) if name.endswith(".gz") else image
                if recipe.gzip_later:
                    (prefix.parent / f"{name}.gz").write_bytes(gzip.compress(image, 1, mtime=0))
                else:
                    (prefix.parent / name).write_bytes(image)
                yield _described(name, recipe.name.split(".")[0], recipe.filesystem, image)
        for artifact in profile.artifacts:
            image = f"{MARKER}\n{artifact}\n".encode()
            (prefix.parent / f"{prefix.name}-{artifact}").write_bytes(image)
            yield _described(f"{prefix.name}-{artifact}", artifact, "", image)


def _offers(tree: Path) -> Iterator[Offer]:
    """Every package of the tree, from the files themselves: its indexes are made by the real make only."""
    for folder in (tree / "packages", *sorted((tree / "feeds").iterdir())):
        location = Location(str(folder), tree)
        for path in sorted(folder.iterdir()):
            if path.suffix in (".apk", ".ipk"):
                data = path.read_bytes()
                content = package_files.read_package(data, suffix=path.suffix)
                yield Offer(package_files.described(content, path.name, data), location)


def _read(command: Sequence[str]) -> Arguments:
    variables = (word.partition("=") for word in command[2:])
    return read_arguments({f"MINIATURE_{name}": value for name, _, value in variables})


def _overlay(files: str) -> Iterator[str]:
    """The files of an overlay, by path and digest."""
    root = Path(files)
    for path in sorted(root.rglob("*")) if files else ():
        if path.is_file():
            yield f"{path.relative_to(root)} {hashlib.sha256(path.read_bytes()).hexdigest()}"


def _described(name: str, kind: str, filesystem: str, image: bytes) -> Image:
    digest = hashlib.sha256(image).hexdigest()
    return Image(name, kind, filesystem, digest, digest, len(image))


def _lines(lines: Sequence[str]) -> str:
    return "".join(f"{line}\n" for line in lines)
