"""One folder for each run of the tests; what the run started ends with it, even after SIGKILL.

`TMPDIR` of a run is its folder, and every process of the run inherits that, so a process belongs to a
run when its environment, command line, working directory or mounts name the folder. A watcher
outside the run's process group ends them when the run is gone; the next run does the same once more,
for the case that the watcher was killed too.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_PODMAN_SOCKET = "podman.sock"
_FINISHED = b"finished"
_ROUNDS = 50
_MEMORY, _DISK = Path("/dev/shm"), Path("/tmp")
_ROOM = 12 << 30
"""Bytes that must be free in memory: at most, the files of a run take a third of that."""


class RunFolder:
    """The folder of the run that has made it, until `close`."""

    def __init__(self, base: Path, *others: Path) -> None:
        """Lies in `base`; what earlier runs have left there and in `others` is ended first."""
        base.mkdir(mode=0o755, exist_ok=True)
        for left in [left for folder in (base, *others) if folder.is_dir() for left in folder.iterdir()]:
            if not _is_running(left):
                end_run(left)
        self.path = base / f"{os.getpid():x}.{_start_of(os.getpid()):x}"
        self.path.mkdir()
        # As /tmp: some tests start processes of other users.
        self.path.chmod(0o1777)
        # The watcher's own environment must not name the folder: it would end itself.
        self._watcher = subprocess.Popen(
            [sys.executable, "-I", __file__, self.path],
            stdin=subprocess.PIPE,
            cwd="/",
            start_new_session=True,
        )
        os.environ["TMPDIR"] = tempfile.tempdir = str(self.path)

    def close(self, *, keep: bool) -> None:
        """Ends what the run left; `keep` leaves its files until the next run, to look into failures."""
        end_run(self.path, keep=keep)
        self._watcher.communicate(_FINISHED)


def base_folders() -> list[Path]:
    """Where the runs of this user lie, the best place first.

    In memory if there is room: thousands of databases and container layers are synced to a disk otherwise.
    The names are short, since Podman takes 50 bytes for the folder of its state.
    """
    places = [_MEMORY, _DISK] if _has_room(_MEMORY) else [_DISK, _MEMORY]
    return [place / f"asu-{os.getuid()}" for place in places]


def _has_room(memory: Path) -> bool:
    """Whether the files of a run fit into memory, and programs may be started from there."""
    try:
        found = os.statvfs(memory)
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return False
    available = next((int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:")), 0)
    usable = os.access(memory, os.W_OK) and not found.f_flag & os.ST_NOEXEC
    return usable and min(found.f_bavail * found.f_frsize, available) >= _ROOM


def end_run(folder: Path, *, keep: bool = False) -> None:
    """Kills the processes of a run, removes its containers and mounts, and its files unless kept."""
    _remove_containers(folder)
    for _ in range(_ROUNDS):
        if not (processes := list(_processes_of(folder))):
            break
        for process in processes:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(process, signal.SIGKILL)
        time.sleep(0.1)
    _unmount(folder)
    if not keep:
        shutil.rmtree(folder, ignore_errors=True)


def _is_running(folder: Path) -> bool:
    """Whether the run that made the folder still goes on; a process number alone may be another's."""
    pid, _, started = folder.name.partition(".")
    try:
        return _start_of(int(pid, 16)) == int(started, 16) > 0
    except ValueError:
        return False


def _start_of(pid: int) -> int:
    """When a process started, in ticks since boot; 0 when there is none (proc(5), field 22)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    return int(stat.rpartition(")")[2].split()[19])


def _remove_containers(folder: Path) -> None:
    """Asks Podman first: it also forgets what its runtime and its network noted elsewhere."""
    # Unlike a glob, a walk bears that another run ends the same one, and takes it away meanwhile.
    for place in [Path(name) for name, _, files in os.walk(folder) if _PODMAN_SOCKET in files]:
        if not (place / "root").is_dir():
            continue
        storage = ["--root", str(place / "root"), "--runroot", str(place / "run")]
        networks = ["--network-config-dir", str(place / "networks")]
        with suppress(subprocess.TimeoutExpired, OSError):
            subprocess.run(
                ["podman", *storage, *networks, "rm", "--all", "--force", "--time=0"],
                check=False,
                capture_output=True,
                cwd="/",
                timeout=60,
            )


def _processes_of(folder: Path) -> Iterator[int]:
    """Every process that names the folder, but this one."""
    name = os.fsencode(folder)
    for entry in Path("/proc").glob("[0-9]*"):
        if int(entry.name) == os.getpid() or _is_watcher(entry, name):
            continue
        if any(names_folder(text, name) for text in _texts_of(entry)):
            yield int(entry.name)


def _texts_of(process: Path) -> Iterator[bytes]:
    """What shows to which run a process belongs; empty where it has just ended."""
    for name in ("environ", "cmdline"):
        with suppress(OSError):
            yield (process / name).read_bytes()
    for name in ("cwd", "root"):
        with suppress(OSError):
            yield os.fsencode((process / name).readlink())
    with suppress(OSError):
        # A container's process shows its storage only in what is mounted as its root (proc(5)).
        mounts = (process / "mountinfo").read_bytes().splitlines()
        yield from (line for line in mounts if line.split()[4] == b"/")


def names_folder(text: bytes, folder: bytes) -> bool:
    """Whether a text names the folder itself, not one whose name only begins alike."""
    place = text.find(folder)
    while place >= 0:
        behind = text[place + len(folder) : place + len(folder) + 1]
        if not behind.isalnum():
            return True
        place = text.find(folder, place + 1)
    return False


def _is_watcher(process: Path, folder: bytes) -> bool:
    try:
        command = (process / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return command[-3:-1] == [os.fsencode(__file__), folder]


def _unmount(folder: Path) -> None:
    """Takes away what is mounted below the folder, the innermost first."""
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for point in sorted((point for point in points if point.startswith(f"{folder}/")), reverse=True):
        subprocess.run(["umount", "--lazy", point], check=False, capture_output=True)


def _watch(folder: Path) -> None:
    """Returns when the run has ended, after ending what it left; the pipe closes with its process."""
    if sys.stdin.buffer.read() != _FINISHED:
        end_run(folder)


if __name__ == "__main__":
    _watch(Path(sys.argv[1]))
