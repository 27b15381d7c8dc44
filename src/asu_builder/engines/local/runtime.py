"""ImageBuilders that lie unpacked on this host: a fresh copy of the directory for each build."""

import errno
import fcntl
import hashlib
import json
import logging
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from threading import Event

from asu_builder.domain.errors import BuildFailed, EngineUnavailable, FailureReason
from asu_builder.domain.health import CheckResult
from asu_builder.domain.make import ContainerSpec
from asu_builder.engines.guard import Guard, Limits, Watch, disk_exhausted
from asu_builder.engines.local.container import BuildDirectory, Commands, Confinement, LocalContainer
from asu_builder.engines.local.sandbox import SandboxProbe, try_sandbox
from asu_builder.engines.output import disk_errors
from asu_builder.engines.removals import Removals
from asu_builder.files import is_abandoned, locked
from asu_builder.settings import Settings

_FICLONE = 0x40049409
_BLOCK = 512
"""What `st_blocks` counts in."""
_CANNOT_CLONE = {errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY, errno.ENOSYS, errno.EPERM}


class TreeCopy:
    """Copies directories, links, plain files, their modes and times (make compares those)."""

    def __init__(self, *, step: Callable[[], None]) -> None:
        """`step` is called before each file; it may raise to stop the copying."""
        self._step = step
        self._clones = True

    def copy(self, source: Path, to: Path) -> None:
        """`to` must not exist. Raises `OSError`; sockets, pipes and devices are left out."""
        to.mkdir()
        with os.scandir(source) as entries:
            for entry in entries:
                self._step()
                target = to / entry.name
                if entry.is_symlink():
                    target.symlink_to(Path(entry.path).readlink())
                elif entry.is_dir():
                    self.copy(Path(entry.path), target)
                elif entry.is_file():
                    self._copy_file(Path(entry.path), target)
        shutil.copystat(source, to)

    def _copy_file(self, source: Path, to: Path) -> None:
        if not (self._clones and self._clone(source, to)):
            shutil.copyfile(source, to)
        shutil.copystat(source, to)

    def _clone(self, source: Path, to: Path) -> bool:
        with source.open("rb") as original, to.open("wb") as copy:
            try:
                fcntl.ioctl(copy, _FICLONE, original.fileno())
            except OSError as error:
                if error.errno not in _CANNOT_CLONE:
                    raise
                self._clones = False
        return self._clones


def disk_use(directory: Path) -> int:
    """Bytes that a tree takes on disk; what vanishes while it is walked does not count."""
    total, waiting = 0, [directory]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    total += entry.stat(follow_symlinks=False).st_blocks * _BLOCK
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(Path(entry.path))
        except FileNotFoundError:
            continue
    return total


def remove_tree(directory: Path) -> None:
    """Removes a tree even where a build has taken away its own rights to it."""

    def retry(function: Callable[[str], object], path: str, _: object) -> None:
        if not os.path.lexists(path):
            return  # somebody was faster
        parent = Path(path).parent
        for place in (parent, Path(path)):
            if place.is_dir() and not place.is_symlink():
                place.chmod(0o700)
        function(path)

    shutil.rmtree(directory, onerror=retry)


log = logging.getLogger(__name__)

_USE_EVERY = timedelta(seconds=0.5)
_LABELS = "labels.json"
_TELLING_FILES = ("Makefile", ".config", ".targetinfo", ".packageinfo", "include/version.mk")


class LocalRuntime:
    """Fulfils `ports.Runtime`; every thread may use it."""

    def __init__(
        self,
        settings: Settings,
        scratch: Path,
        *,
        sandboxed: bool = True,
        proxies: Mapping[str, str] | None = None,
        limits: Limits | None = None,
        disk_every: timedelta = timedelta(seconds=3),
    ) -> None:
        """`scratch` is for the copies, best on the file system of the originals, so that they share blocks.

        Without `sandboxed` commands are not run under bubblewrap and always have the network, with
        `proxies` as variables. Only tests choose `limits` and `disk_every`, the time between two looks
        at what a build has written.
        """
        self._settings = settings
        self._scratch = scratch
        self._sandboxed = sandboxed
        self._network = settings.build_network != "none"
        self._proxies = proxies or {}
        self._limits = limits or Limits()
        self._disk_every = disk_every
        self._probe: SandboxProbe | None = None if sandboxed else SandboxProbe("")
        self._removals = Removals()

    @contextmanager
    def open(self, spec: ContainerSpec, *, stop: Event) -> Iterator[LocalContainer]:
        """The deadline counts from here on, the copying included."""
        if (result := self.check()).status == "error":
            raise EngineUnavailable(result.sentence)
        source = self._source(spec)
        self._removals.wait_for_room(stop, within=spec.deadline)
        # Commands run elsewhere, so a path that begins here would lead them nowhere.
        with self._own_directory(spec.labels) as home:
            place = BuildDirectory(home / "builder", home / "tmp", _identity(source))
            commands = Commands(home, contained=self._sandboxed)
            watches = (
                Watch(_USE_EVERY, partial(commands.look, self._limits)),
                Watch(self._disk_every, _DiskWatch(home, source, self._limits).look),
            )
            with Guard(stop, spec.deadline, kill=commands.kill, watches=watches) as guard:
                with disk_errors():
                    place.temporary.mkdir()
                    TreeCopy(step=guard.raise_if_killed).copy(source, place.builder)
                filtered = self._probe is not None and self._probe.filtered
                confinement = Confinement(self._sandboxed, self._network, self._limits, filtered)
                networked = self._network or not self._sandboxed
                environment = {**(self._proxies if networked else {}), **spec.environment}
                yield LocalContainer(
                    place, confinement, guard=guard, commands=commands, environment=environment
                )

    @contextmanager
    def _own_directory(self, labels: Mapping[str, str]) -> Iterator[Path]:
        """A directory that is ours while this process lives, and removed in the background afterwards."""
        home, lock = _make_directory(self._scratch.absolute(), labels)
        try:
            yield home
        finally:
            self._removals.add(home.name, partial(_remove_directory, home, lock))

    def check_registry(self) -> CheckResult:
        return CheckResult("ok", "ImageBuilders lie on this machine; no registry is asked.")

    def close(self) -> bool:
        return self._removals.close()

    def sweep(self, *, keep: Callable[[Mapping[str, str]], bool]) -> int:
        """Removes what former lives left behind; a copy whose process lives is locked and stays."""
        removed = 0
        with disk_errors(), locked(self._scratch):
            for directory in self._scratch.glob("asu-*"):
                if not keep(_labels(directory)) and is_abandoned(directory):
                    remove_tree(directory)
                    removed += 1
        return removed

    def check(self) -> CheckResult:
        """Whether the sandbox works and the scratch directory can be written."""
        if self._probe is None or self._probe.fault:
            # Remembered once it works: a sandbox is not lost while we run.
            self._probe = try_sandbox(network=self._network)
        if self._probe.fault:
            log.warning("No local builds: %s.", self._probe.fault)
            return CheckResult(
                "error",
                "bubblewrap is missing, or its sandbox does not hold here; install it, or use Podman.",
            )
        base = _fixed_part(self._settings.imagebuilder_path)
        if not base.is_dir():
            return CheckResult("error", f"The ImageBuilder directory {base} does not exist.")
        with suppress(OSError):
            self._scratch.mkdir(parents=True, exist_ok=True)
        if not os.access(self._scratch, os.W_OK | os.X_OK):
            return CheckResult("error", f"The scratch directory {self._scratch} cannot be written.")
        return CheckResult("ok", "ImageBuilder directories are there.")

    def _source(self, spec: ContainerSpec) -> Path:
        target, _, subtarget = spec.target.partition("/")
        source = Path(
            self._settings.imagebuilder_path.format(
                version=spec.release.version, target=target, subtarget=subtarget
            )
        )
        if not source.is_dir():
            raise BuildFailed(
                FailureReason.IMAGEBUILDER_MISSING,
                f"Error: Image not found: no ImageBuilder of {spec.release.version} for {spec.target} is on "
                "this server. Choose another version.",
            )
        return source


class _DiskWatch:
    """Compares the copy with its origin: only what a build adds counts."""

    def __init__(self, home: Path, source: Path, limits: Limits) -> None:
        self._home = home
        self._limit = limits.disk
        self._origin = disk_use(source)

    def look(self) -> BuildFailed | None:
        if disk_use(self._home) - self._origin > self._limit:
            return disk_exhausted(self._limit)
        return None


def _make_directory(scratch: Path, labels: Mapping[str, str]) -> tuple[Path, int]:
    """A new directory and a lock on it, which is held until the last of its content is gone."""
    home = scratch / f"asu-{secrets.token_hex(8)}"
    with disk_errors():
        scratch.mkdir(parents=True, exist_ok=True)
        with locked(scratch):
            home.mkdir(mode=0o700)
            lock = os.open(home, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX)
                (home / _LABELS).write_text(json.dumps(dict(labels)))
            except BaseException:
                os.close(lock)  # for the sweep
                raise
    return home, lock


def _remove_directory(home: Path, lock: int) -> None:
    try:
        remove_tree(home)
    except OSError as error:
        log.warning("could not remove %s: %s", home, error)
    finally:
        os.close(lock)


def _labels(directory: Path) -> Mapping[str, str]:
    try:
        labels = json.loads((directory / _LABELS).read_text())
    except (OSError, ValueError):
        return {}
    return labels if isinstance(labels, dict) else {}


def _identity(source: Path) -> str:
    """Changes when another ImageBuilder is unpacked there, without reading its hundreds of megabytes."""
    facts = [str(source.resolve())]
    for name in _TELLING_FILES:
        if (source / name).is_file():
            found = (source / name).stat()
            facts.append(f"{name} {found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}")
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()


def _fixed_part(template: str) -> Path:
    """The directory above the first part of the template that varies."""
    fixed = template.partition("{")[0]
    return Path(fixed) if fixed == template else Path(fixed + "x").parent
