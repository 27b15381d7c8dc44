"""Write the whole made-up world below a folder: a download tree and unpacked ImageBuilders.

IMAGES FLASH NOTHING. Package files are made once and hard-linked wherever they are wanted: a whole world in
seconds and few megabytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from .miniature import adb
from .miniature import configuration as configuration_file
from .miniature import packages as index
from .miniature.configuration import Configuration
from .miniature.images import Image, profile_entry, render_profiles
from .miniature.packages import Content, Package
from .offers import FEEDS, feed_contents, local_contents
from .releases import EPOCH, RELEASES, TARGETS, Release, configuration

_SOURCES = Path(__file__).parent / "miniature"
_SETUP_MODULES = ("__init__", "usign", "snapshot")
_VERSIONS = {
    "stable_version": "25.12.0",
    "oldstable_version": "24.10.5",
    "upcoming_version": "25.12.0-rc1",
    "versions_list": [release.version for release in RELEASES if not release.is_snapshot],
}


@dataclass(frozen=True)
class Distribution:
    """A written world.

    `downloads` is what a download server serves, `imagebuilders` holds unpacked ImageBuilders.
    """

    root: Path
    downloads: Path
    imagebuilders: Path
    versions: tuple[str, ...]
    targets: Mapping[str, tuple[str, ...]]
    epoch: int

    @property
    def template(self) -> str:
        """Path of any ImageBuilder with the placeholders {version}, {target} and {subtarget}."""
        return f"{self.imagebuilders}/{{version}}/{{target}}/{{subtarget}}"

    def imagebuilder(self, version: str, target: str) -> Path:
        """The unpacked ImageBuilder of a version and target. Raises KeyError for one that does not exist."""
        if target not in self.targets[version]:
            raise KeyError(f"no {target} in {version}")
        return self.imagebuilders / version / target

    def version_path(self, version: str) -> str:
        """Path of a version below `downloads`: `snapshots` or `releases/<version>`. Raises KeyError."""
        return _release(version).version_path

    def profiles_of(self, target: str) -> tuple[str, ...]:
        """Profile names of a target, in the order of `make info`."""
        return tuple(profile.id for profile in configuration(RELEASES[0], target, epoch=self.epoch).profiles)


def write_distribution(
    root: Path, *, epoch: int = EPOCH, repositories_url: str | None = None, archives: bool = True
) -> Distribution:
    """Write the world below `root`, which may exist but must not hold one already.

    `epoch` (Unix seconds) dates all content: same epoch, same bytes. ImageBuilders carry their packages and
    run without any network; with `repositories_url`, the address of a server of `root/downloads`, they
    install from there instead. `archives=False` leaves out the packed ImageBuilders that snapshot containers
    download, and saves a second.
    """
    downloads, imagebuilders = root / "downloads", root / "imagebuilders"
    pool = Pool(root / "pool", epoch=epoch)
    for release in RELEASES:
        folder = downloads / release.version_path
        profiles = []
        for target in release.targets:
            architecture = TARGETS[target]
            for source in repositories(release, target):
                contents = feed_contents(release, target, source.folder.removeprefix("feeds/"))
                packages = pool.place(contents, downloads / source.path, suffix=release.suffix)
                write_index(downloads / source.path, packages, release, architecture)
            lines = []
            for feed in FEEDS:
                commit = hashlib.sha1(f"{release.version} {feed}".encode()).hexdigest()
                lines.append(f"src-git {feed} https://sample.invalid/{feed}.git^{commit}\n")
            (folder / "packages" / architecture / "feeds.conf").write_text("".join(lines))
            tree = imagebuilders / release.version / target
            made_for = configuration(release, target, epoch=epoch)
            _write_imagebuilder(tree, release, made_for, pool, downloads, repositories_url)
            _write_target(folder / "targets" / target, release, made_for, tree if archives else None)
            profiles += [
                {"id": profile.id, "target": target, "titles": list(profile.titles)}
                for profile in made_for.profiles
            ]
        _write_json(folder / ".targets.json", {target: TARGETS[target] for target in release.targets})
        _write_json(folder / ".overview.json", {"release": release.version, "profiles": profiles})
    _write_json(downloads / ".versions.json", _VERSIONS)
    targets = {release.version: release.targets for release in RELEASES}
    return Distribution(root, downloads, imagebuilders, tuple(targets), targets, epoch)


def snapshot_builder(folder: Path, *, version: str = "SNAPSHOT") -> Path:
    """Write `setup.sh` and `keys/` into `folder`: what a container of the snapshot flavour starts with.

    Run as `sh setup.sh` with UPSTREAM_URL, TARGET and VERSION_PATH in the environment. Raises KeyError for an
    unknown version. Returns `folder`.
    """
    release = _release(version)
    folder.mkdir(parents=True, exist_ok=True)
    _write_keys(folder, release)
    key = release.signing_key()
    # sha256sums is signed by usign in both flavours; real containers check a GPG signature instead.
    (folder / "keys" / f"{key.fingerprint}.usign").write_text(key.public_text())
    modules = ""
    for module in _SETUP_MODULES:
        text = (_SOURCES / f"{module}.py").read_text()
        modules += f"cat > .setup/miniature/{module}.py <<'END_OF_MODULE'\n{text}END_OF_MODULE\n"
    (folder / "setup.sh").write_text(_SETUP_HEAD + modules + _SETUP_TAIL)
    return folder


def _release(version: str) -> Release:
    return {release.version: release for release in RELEASES}[version]


@dataclass(frozen=True)
class Repository:
    """A package folder: opkg's name for it, its path below the download root, its folder in a standalone
    tree."""

    name: str
    path: str
    folder: str


def repositories(release: Release, target: str) -> list[Repository]:
    """What an ImageBuilder of `target` installs from, in upstream's order: core, base, kmods, feeds."""
    kernel = release.kernel(target)
    kmods = f"{kernel['version']}-{kernel['release']}-{kernel['vermagic']}"
    top = f"{release.version_path}/targets/{target}"
    packages = f"{release.version_path}/packages/{TARGETS[target]}"
    feeds = [Repository(f"openwrt_{feed}", f"{packages}/{feed}", f"feeds/{feed}") for feed in FEEDS]
    core = Repository("openwrt_core", f"{top}/packages", "feeds/target")
    return [core, feeds[0], Repository("openwrt_kmods", f"{top}/kmods/{kmods}", "feeds/kmods"), *feeds[1:]]


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
                package = index.described(content, name, data)
                self._folder.mkdir(parents=True, exist_ok=True)
                self._path(package).write_bytes(data)
                self._known[key] = package
            package = self._known[key]
            _link(self._path(package), folder / package.filename)
            packages.append(package)
        return sorted(packages, key=lambda package: package.name)

    def _path(self, package: Package) -> Path:
        return self._folder / f"{package.sha256[:16]}-{package.filename}"


def write_index(folder: Path, packages: list[Package], release: Release, architecture: str) -> None:
    """The index files of a package folder: `Packages*` and index.json v1 for opkg, `packages.adb` and v2
    for apk."""
    key = release.signing_key()
    if release.package_manager == "apk":
        (folder / adb.FILE_NAME).write_bytes(adb.write_index(packages, key))
        names = {package.base_name: package.version for package in packages}
        document = {"version": 2, "architecture": architecture, "packages": names}
        (folder / "index.json").write_text(json.dumps(document, indent=2) + "\n")
        return
    text = index.write_opkg_index(folder, packages, key)
    (folder / "Packages.manifest").write_bytes(text)
    names = {package.name: package.version for package in packages}
    _write_json(folder / "index.json", {"architecture": architecture, "packages": names})


def _write_imagebuilder(
    tree: Path,
    release: Release,
    made_for: Configuration,
    pool: Pool,
    downloads: Path,
    repositories_url: str | None,
) -> None:
    """An unpacked ImageBuilder in `tree`, which must not exist yet."""
    target = made_for.target
    tree.mkdir(parents=True)
    (tree / configuration_file.FILE_NAME).write_text(configuration_file.render(made_for))
    (tree / "README").write_text(_README.format(version=release.version, target=target))
    shutil.copyfile(_SOURCES / "Makefile", tree / "Makefile")
    scripts = tree / "scripts" / "miniature"
    scripts.mkdir(parents=True)
    for source in sorted(_SOURCES.glob("*.py")):
        shutil.copyfile(source, scripts / source.name)
    _write_keys(tree, release)
    pool.place(local_contents(release, target), tree / "packages", suffix=release.suffix)
    lines = []
    for repository in repositories(release, target):
        place = f"{repositories_url}/{repository.path}"
        if repositories_url is None:
            place = repository.folder if release.package_manager == "apk" else f"file:{repository.folder}"
            (tree / repository.folder).mkdir(parents=True)
            for path in sorted((downloads / repository.path).iterdir()):
                # Indexes are copied: a test may spoil one without spoiling them all.
                put = _link if path.suffix in (".ipk", ".apk") else shutil.copyfile
                put(path, tree / repository.folder / path.name)
        if release.package_manager == "apk":
            lines.append(f"{place}/{adb.FILE_NAME}\n")
        else:
            lines.append(f"src/gz {repository.name} {place}\n")
    if release.package_manager == "apk":
        (tree / "repositories").write_text(_APK_HEAD + "".join(lines))
    else:
        (tree / "repositories.conf").write_text(_OPKG_HEAD + "".join(lines) + _OPKG_TAIL)


def _write_target(folder: Path, release: Release, made_for: Configuration, tree: Path | None) -> None:
    """What upstream publishes for a target: profiles.json, the packed `tree`, and signed checksums."""
    prefix = made_for.file_prefix("")
    profiles: dict[str, object] = {}
    for profile in made_for.profiles:
        # The images that profiles.json promises do not exist: a second one that flashes nothing is of no use.
        promised = [
            (f"{recipe.filesystem}-{recipe.name}", recipe.name.split(".")[0], recipe.filesystem, 100_000)
            for recipe in profile.images
        ]
        if profile.supported_devices:
            promised.append(("initramfs-kernel.bin", "kernel", "initramfs", 100_000))
        promised += [(artifact, artifact, "", 20_000) for artifact in profile.artifacts]
        listed = []
        for name, kind, filesystem, size in promised:
            full = f"{prefix}-{profile.id}-{name}"
            digest = hashlib.sha256(f"{made_for.version} {full}".encode()).hexdigest()
            listed.append(Image(full, kind, filesystem, digest, digest, size))
        profiles[profile.id] = profile_entry(made_for, profile, prefix, listed)
    (folder / "profiles.json").write_text(render_profiles(made_for, profiles))
    (folder / "version.buildinfo").write_text(f"{made_for.revision}\n")
    if tree:
        _write_archive(tree, folder, release, made_for)
    lines = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        lines.append(f"{hashlib.sha256(path.read_bytes()).hexdigest()} *{name}\n")
    sums = "".join(lines).encode()
    (folder / "sha256sums").write_bytes(sums)
    (folder / "sha256sums.sig").write_text(release.signing_key().sign(sums))


def _write_archive(tree: Path, folder: Path, release: Release, made_for: Configuration) -> None:
    """Pack an unpacked ImageBuilder under one leading folder.

    The name has no version on the main branch. Real ones are .tar.zst; the standard library has xz.
    """
    version = "" if release.version == "SNAPSHOT" else f"{release.version}-"
    top = f"openwrt-imagebuilder-{version}{made_for.target.replace('/', '-')}.Linux-x86_64"

    def plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.uid = entry.gid = 0
        entry.uname = entry.gname = "root"
        entry.mtime = made_for.epoch
        return entry

    with tarfile.open(folder / f"{top}.tar.xz", "w:xz", preset=0, format=tarfile.GNU_FORMAT) as archive:
        for member in sorted(tree.rglob("*")):
            archive.add(member, f"{top}/{member.relative_to(tree)}", recursive=False, filter=plain)


def _write_keys(tree: Path, release: Release) -> None:
    """The public key of the release in `keys/`: PEM for apk, named by its fingerprint for opkg."""
    key = release.signing_key()
    folder = tree / "keys"
    folder.mkdir(parents=True, exist_ok=True)
    if release.package_manager == "apk":
        (folder / "sample-release.pem").write_text(key.public_pem())
    else:
        (folder / key.fingerprint).write_text(key.public_text())


def _write_json(path: Path, document: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, separators=(",", ":")))


def _link(source: Path, target: Path) -> None:
    """A second name for a file that never changes; a copy where the file system has no hard links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


_README = """\
SAMPLE ImageBuilder of ASU Builder, made up: version {version}, target {target}.

ITS IMAGES FLASH NOTHING. They hold a line of text where a kernel belongs. Do not write them to any device.
"""

_OPKG_HEAD = """\
## SAMPLE of ASU Builder. Place your custom repositories here, they must match the architecture and version.
# src custom file:///usr/src/openwrt/bin/x86/packages

## Package repositories
"""

_OPKG_TAIL = """
## This is the local package repository, do not remove!
src imagebuilder file:packages

option check_signature
"""

_APK_HEAD = """\
# SAMPLE of ASU Builder: add your custom package feeds here
# http://example.com/path/to/packages.adb
"""

_SETUP_HEAD = """\
# SAMPLE of ASU Builder: fetches, verifies and unpacks a made-up ImageBuilder. ITS IMAGES FLASH NOTHING.
# Run as: sh setup.sh. Reads UPSTREAM_URL or FILE_HOST, TARGET, VERSION_PATH and DOWNLOAD_FILE.
set -e
mkdir -p .setup/miniature
"""

_SETUP_TAIL = """\
PYTHONPATH=.setup PYTHONDONTWRITEBYTECODE=1 python3 -m miniature.snapshot
rm -rf .setup
"""
