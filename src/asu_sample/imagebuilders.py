"""Unpacked sample ImageBuilders, their archives, and the nearly empty directory that snapshot containers
start with."""

from __future__ import annotations

import io
import shutil
import tarfile
from dataclasses import dataclass
from pathlib import Path

from .miniature import configuration as configuration_file
from .offers import FEEDS, local_contents
from .pool import Pool, link
from .releases import Release, configuration

_SOURCES = Path(__file__).parent / "miniature"
_SETUP_MODULES = ("__init__", "ed25519", "usign", "snapshot")


@dataclass(frozen=True)
class Repository:
    """A package folder: opkg's name for it, its path below the download root, its folder in a standalone
    tree."""

    name: str
    path: str
    folder: str


def repositories(release: Release, target: str, architecture: str) -> list[Repository]:
    """What an ImageBuilder of `target` installs from, in upstream's order: core, base, kmods, feeds."""
    kernel = release.kernel(target)
    kmods = f"{kernel['version']}-{kernel['release']}-{kernel['vermagic']}"
    top = f"{release.version_path}/targets/{target}"
    feeds = [
        Repository(
            f"openwrt_{feed}", f"{release.version_path}/packages/{architecture}/{feed}", f"feeds/{feed}"
        )
        for feed in FEEDS
    ]
    core = Repository("openwrt_core", f"{top}/packages", "feeds/target")
    return [core, feeds[0], Repository("openwrt_kmods", f"{top}/kmods/{kmods}", "feeds/kmods"), *feeds[1:]]


@dataclass(frozen=True)
class Workshop:
    """Makes ImageBuilder trees of one world.

    `repositories_url` is the download server's, None for standalone trees.
    """

    downloads: Path
    pool: Pool
    epoch: int
    repositories_url: str | None

    def write(self, tree: Path, release: Release, target: str) -> None:
        """An unpacked ImageBuilder in `tree`, which must not exist yet."""
        made_for = configuration(release, target, epoch=self.epoch)
        tree.mkdir(parents=True)
        (tree / configuration_file.FILE_NAME).write_text(configuration_file.render(made_for))
        (tree / "README").write_text(_README.format(version=release.version, target=target))
        shutil.copyfile(_SOURCES / "Makefile", tree / "Makefile")
        scripts = tree / "scripts" / "miniature"
        scripts.mkdir(parents=True)
        for source in sorted(_SOURCES.glob("*.py")):
            shutil.copyfile(source, scripts / source.name)
        write_keys(tree, release)
        self.pool.place(local_contents(release, target), tree / "packages", suffix=release.suffix)
        self._write_repositories(tree, release, repositories(release, target, made_for.architecture))

    def _write_repositories(self, tree: Path, release: Release, sources: list[Repository]) -> None:
        lines = []
        for source in sources:
            remote = f"{self.repositories_url}/{source.path}"
            place = source.folder if self.repositories_url is None else remote
            if self.repositories_url is None:
                (tree / source.folder).mkdir(parents=True)
                for path in sorted((self.downloads / source.path).iterdir()):
                    if path.suffix in (".ipk", ".apk"):
                        link(path, tree / source.folder / path.name)
                    else:  # indexes are copied: a test may spoil one without spoiling them all
                        shutil.copyfile(path, tree / source.folder / path.name)
            if release.package_manager == "apk":
                lines.append(f"{place}/packages.adb\n")
            else:
                prefix = "file:" if self.repositories_url is None else ""
                lines.append(f"src/gz {source.name} {prefix}{place}\n")
        if release.package_manager == "apk":
            (tree / "repositories").write_text(_APK_HEAD + "".join(lines))
        else:
            (tree / "repositories.conf").write_text(_OPKG_HEAD + "".join(lines) + _OPKG_TAIL)


def write_keys(tree: Path, release: Release) -> None:
    """The public key of the release in `keys/`: PEM for apk, named by its fingerprint for opkg."""
    key = release.signing_key()
    folder = tree / "keys"
    folder.mkdir(parents=True, exist_ok=True)
    if release.package_manager == "apk":
        (folder / "sample-release.pem").write_text(key.public_pem())
    else:
        (folder / key.fingerprint).write_text(key.public_text())


def archive_name(release: Release, target: str) -> str:
    """`openwrt-imagebuilder-[<version>-]<target>-<subtarget>.Linux-x86_64.tar.xz`, without version on the
    main branch."""
    version = "" if release.version == "SNAPSHOT" else f"{release.version}-"
    return f"openwrt-imagebuilder-{version}{target.replace('/', '-')}.Linux-x86_64.tar.xz"


def write_archive(tree: Path, path: Path, *, epoch: int) -> None:
    """Pack an unpacked ImageBuilder under one leading folder.

    Real ones are .tar.zst; the standard library has xz.
    """
    top = path.name.removesuffix(".tar.xz")

    def plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.uid = entry.gid = 0
        entry.uname = entry.gname = "root"
        entry.mtime = epoch
        return entry

    with tarfile.open(path, "w:xz", preset=0, format=tarfile.GNU_FORMAT) as archive:
        for member in sorted(tree.rglob("*")):
            archive.add(member, f"{top}/{member.relative_to(tree)}", recursive=False, filter=plain)


def write_snapshot_start(folder: Path, release: Release) -> None:
    """The directory of a container of the snapshot flavour: `setup.sh` and `keys/`, no ImageBuilder yet."""
    folder.mkdir(parents=True, exist_ok=True)
    write_keys(folder, release)
    key = release.signing_key()
    # sha256sums is signed by usign in both flavours; real containers check a GPG signature instead.
    (folder / "keys" / f"{key.fingerprint}.usign").write_text(key.public_text())
    script = io.StringIO()
    script.write(_SETUP_HEAD)
    for module in _SETUP_MODULES:
        text = (_SOURCES / f"{module}.py").read_text()
        script.write(f"cat > .setup/miniature/{module}.py <<'END_OF_MODULE'\n{text}END_OF_MODULE\n")
    script.write(_SETUP_TAIL)
    (folder / "setup.sh").write_text(script.getvalue())


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
