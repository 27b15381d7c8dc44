"""The directories: may they be written, is there room, do sync and shared memory work on their disks?

Nothing appears in them: what is written to try is a file without a name (`O_TMPFILE`).
"""

import contextlib
import errno
import mmap
import os
from pathlib import Path

from asu_builder.adapters.durable import DISK_FULL
from asu_builder.doctor.scene import Scene
from asu_builder.domain.diagnosis import Finding, doubtful, well, worst, wrong

_REMOTE = frozenset(
    ("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "fuse.sshfs", "fuse.s3fs", "fuse.rclone")
)
"""SQLite's log needs memory shared between processes, which a network's file system does not give."""
_BUILD_NEEDS = 1 << 30
"""A build's images and its copy of them take less, with room for the container's own layer."""


def check_database_directory(scene: Scene) -> Finding:
    """Whether the database can be written where it is to lie."""
    path = scene.settings.database_path
    found = _directory(path.parent, setting="database_path", user=scene.user)
    remote = _file_system(existing(path.parent))
    if remote in _REMOTE:
        found = worst(
            [
                found,
                doubtful(
                    f"The database {path} lies on a network's file system ({remote}), where SQLite may lose "
                    "rows.",
                    "Name a database_path on a local disk.",
                ),
            ]
        )
    return found


def check_store(scene: Scene) -> Finding:
    """Whether images can be stored."""
    return _directory(scene.store, setting="public_path", user=scene.user)


def check_disk(scene: Scene) -> Finding:
    """Whether the disks of database and store have room above the floor."""
    places = dict.fromkeys((existing(scene.store), existing(scene.settings.database_path.parent)))
    return worst([_room(place, int(scene.settings.disk_floor)) for place in places])


def existing(path: Path) -> Path:
    """The directory itself, or where it would be made, the nearest one above that is there."""
    path = path.absolute()
    for candidate in (path, *path.parents):
        with contextlib.suppress(OSError):
            if candidate.exists():
                return candidate
    return Path("/")


def _directory(path: Path, *, setting: str, user: str) -> Finding:
    place = existing(path)
    if not place.is_dir():
        return wrong(f"{place} is no directory.", f"Move it away, or name another {setting}.")
    problem = _try_writing(place)
    will = "" if place == path.absolute() else f"; {path} will be made below it"
    if problem == 0:
        return well(f"{place} can be written{will}.")
    if problem == errno.EROFS:
        return wrong(
            f"{place} lies on a disk that is mounted read-only.",
            f"mount -o remount,rw {_mount_of(place)}   (or name another {setting}; under systemd add "
            "ReadWritePaths= to the unit)",
        )
    if problem in (errno.EACCES, errno.EPERM):
        return wrong(f"{place} may not be written by user {user}.", f"chown -R {user} {place}")
    if problem in DISK_FULL:
        return wrong(
            f"The disk of {place} is full.", f"Make room on it (asu-builder gc), or name another {setting}."
        )
    return wrong(
        f"{place} takes no file: {os.strerror(problem)}.",
        f"Look for errors of its disk: dmesg | tail   (or name another {setting})",
    )


def _try_writing(place: Path) -> int:
    """The number of the error with which writing, syncing and sharing memory ends; 0 for none."""
    try:
        descriptor = os.open(place, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT):
            return error.errno or errno.EIO
        # A file system without nameless files: the rights alone are looked at.
        return 0 if os.access(place, os.W_OK | os.X_OK) else errno.EACCES
    try:
        os.write(descriptor, bytes(4096))
        os.fsync(descriptor)
        with mmap.mmap(descriptor, 4096) as shared:
            shared[0] = 1
    except OSError as error:
        return error.errno or errno.EIO
    finally:
        os.close(descriptor)
    return 0


def _room(place: Path, floor: int) -> Finding:
    facts = os.statvfs(place)
    free = facts.f_bavail * facts.f_frsize
    sentence = f"The disk of {place} has {free >> 20} MiB free"
    if free <= floor:
        return wrong(
            f"{sentence}, and new builds are refused below disk_floor ({floor >> 20} MiB).",
            "Make room: asu-builder gc   (or set store_max_size so that it does not come to this, or lower "
            "disk_floor)",
        )
    if facts.f_files and facts.f_favail < 1000:
        return wrong(
            f"The disk of {place} has only {facts.f_favail} files left to give.",
            f"Find where they are: du --inodes -x {_mount_of(place)} | sort -n | tail",
        )
    if free <= floor + _BUILD_NEEDS:
        return doubtful(
            f"{sentence}; that is little above disk_floor ({floor >> 20} MiB).",
            "Make room, or set store_max_size so that old results give way earlier.",
        )
    return well(f"{sentence}.")


def _mounts() -> list[tuple[Path, str]]:
    found = []
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/mountinfo").read_text().splitlines():
            before, _, after = line.partition(" - ")
            found.append((Path(before.split()[4].replace("\\040", " ")), after.split()[0]))
    return found


def _mount_of(place: Path) -> Path:
    resolved = place.resolve()
    above = [path for path, _ in _mounts() if resolved.is_relative_to(path)]
    return max(above, key=lambda path: len(path.parts), default=Path("/"))


def _file_system(place: Path) -> str:
    mount = _mount_of(place)
    # The last one mounted there covers the others.
    return next((kind for path, kind in reversed(_mounts()) if path == mount), "")
