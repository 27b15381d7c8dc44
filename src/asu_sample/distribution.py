"""Write the whole made-up world below a folder: a download tree and unpacked ImageBuilders.

IMAGES FLASH NOTHING.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from .imagebuilders import (
    Workshop,
    archive_name,
    repositories,
    write_archive,
    write_snapshot_start,
)
from .miniature.configuration import Configuration, Profile
from .miniature.images import Image, profile_entry, render_profiles
from .offers import FEEDS, feed_contents
from .pool import Pool, write_index
from .releases import EPOCH, RELEASES, TARGETS, Release, configuration


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
    workshop = Workshop(downloads, pool, epoch, repositories_url)
    for release in RELEASES:
        _write_packages(downloads, pool, release)
        for target in release.targets:
            tree = imagebuilders / release.version / target
            workshop.write(tree, release, target)
            _write_target(
                downloads, release, configuration(release, target, epoch=epoch), tree if archives else None
            )
        _write_overview(downloads, release)
    _write_json(downloads / ".versions.json", _VERSIONS)
    targets = {release.version: release.targets for release in RELEASES}
    return Distribution(root, downloads, imagebuilders, tuple(targets), targets, epoch)


def snapshot_builder(folder: Path, *, version: str = "SNAPSHOT") -> Path:
    """Write `setup.sh` and `keys/` into `folder`: what a container of the snapshot flavour starts with.

    Run as `sh setup.sh` with UPSTREAM_URL, TARGET and VERSION_PATH in the environment. Raises KeyError for an
    unknown version. Returns `folder`.
    """
    write_snapshot_start(folder, _release(version))
    return folder


def _release(version: str) -> Release:
    return {release.version: release for release in RELEASES}[version]


_VERSIONS = {
    "stable_version": "25.12.0",
    "oldstable_version": "24.10.5",
    "upcoming_version": "25.12.0-rc1",
    "versions_list": [release.version for release in RELEASES if not release.is_snapshot],
}


def _write_json(path: Path, document: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, separators=(",", ":")))


def _write_packages(downloads: Path, pool: Pool, release: Release) -> None:
    for target in release.targets:
        for source in repositories(release, target, TARGETS[target]):
            feed = source.folder.removeprefix("feeds/")
            folder = downloads / source.path
            packages = pool.place(feed_contents(release, target, feed), folder, suffix=release.suffix)
            write_index(folder, packages, release, TARGETS[target])
        lines = []
        for feed in FEEDS:
            commit = hashlib.sha1(f"{release.version} {feed}".encode()).hexdigest()
            lines.append(f"src-git {feed} https://sample.invalid/{feed}.git^{commit}\n")
        path = downloads / release.version_path / "packages" / TARGETS[target] / "feeds.conf"
        path.write_text("".join(lines))


def _write_overview(downloads: Path, release: Release) -> None:
    folder = downloads / release.version_path
    _write_json(folder / ".targets.json", {target: TARGETS[target] for target in release.targets})
    profiles = [
        {"id": profile.id, "target": target, "titles": list(profile.titles)}
        for target in release.targets
        for profile in configuration(release, target, epoch=EPOCH).profiles
    ]
    _write_json(folder / ".overview.json", {"release": release.version, "profiles": profiles})


def _write_target(downloads: Path, release: Release, made_for: Configuration, tree: Path | None) -> None:
    folder = downloads / release.version_path / "targets" / made_for.target
    prefix = made_for.file_prefix("")
    profiles: dict[str, object] = {}
    for profile in made_for.profiles:
        listed = [*_promised_images(made_for, profile, prefix)]
        profiles[profile.id] = profile_entry(made_for, profile, prefix, listed)
    (folder / "profiles.json").write_text(render_profiles(made_for, profiles))
    (folder / "version.buildinfo").write_text(f"{made_for.revision}\n")
    if tree:
        write_archive(tree, folder / archive_name(release, made_for.target), epoch=made_for.epoch)
    lines = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        lines.append(f"{hashlib.sha256(path.read_bytes()).hexdigest()} *{name}\n")
    sums = "".join(lines).encode()
    (folder / "sha256sums").write_bytes(sums)
    (folder / "sha256sums.sig").write_text(release.signing_key().sign(sums))


def _promised_images(made_for: Configuration, profile: Profile, prefix: str) -> Iterator[Image]:
    """What upstream says it built.

    The files do not exist: a second image that flashes nothing is of no use.
    """
    entries = [(recipe.name.split(".")[0], recipe.filesystem, recipe.name) for recipe in profile.images]
    if profile.supported_devices:
        entries.append(("kernel", "initramfs", "kernel.bin"))
    for kind, filesystem, name in entries:
        full = f"{prefix}-{profile.id}-{filesystem}-{name}"
        digest = hashlib.sha256(f"{made_for.version} {full}".encode()).hexdigest()
        yield Image(full, kind, filesystem, digest, digest, 100_000)
    for artifact in profile.artifacts:
        full = f"{prefix}-{profile.id}-{artifact}"
        digest = hashlib.sha256(f"{made_for.version} {full}".encode()).hexdigest()
        yield Image(full, artifact, "", digest, digest, 20_000)
