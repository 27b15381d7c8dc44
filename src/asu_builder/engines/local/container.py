"""One copy of an ImageBuilder directory, used as if it were a container: its commands and their processes."""

import errno
import fcntl
import hashlib
import os
import selectors
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from threading import Event, Lock
from time import monotonic, sleep

from asu_builder.domain.errors import BuildFailed, FailureReason, NoRoom, Unavailable
from asu_builder.domain.job import Traffic
from asu_builder.domain.make import STDERR, STDOUT, CommandResult, Origin, OutputCallback
from asu_builder.engines import transfer
from asu_builder.engines.guard import Guard, Watch, disk_exhausted, memory_exhausted
from asu_builder.engines.local.sandbox import DEFAULT_PATH, INNER_WORKDIR, Confinement, confined
from asu_builder.engines.transfer import SERVER_DISK_FULL, CappedFile, disk_errors, ends_with_full_disk
from asu_builder.engines.way_out import WayOut

_USE_EVERY = timedelta(seconds=0.5)
_TELLING_FILES = ("Makefile", ".config", ".targetinfo", ".packageinfo", "include/version.mk")
_CHUNK = 1 << 16
_DRAIN_SECONDS = 1.0
_KILLED = 128 + 9
_HOST_DISK_RESERVE = 64 << 20


class LocalContainer:
    """Fulfils `ports.Container`; made by `LocalRuntime.open`, which enters its guard."""

    warnings: Sequence[str] = ()

    def __init__(
        self,
        home: Path,
        source: Path,
        confinement: Confinement,
        *,
        environment: Mapping[str, str],
        way_out: WayOut,
        stop: Event,
        deadline: timedelta,
        disk_every: timedelta,
    ) -> None:
        """A build works below `home` with a copy of `source`. The deadline counts from here on.

        `environment` is added to the few variables that every command gets.
        """
        # Changes when another ImageBuilder is unpacked there; its hundreds of megabytes are not read.
        facts = [str(source.resolve())]
        for name in _TELLING_FILES:
            if (source / name).is_file():
                found = (source / name).stat()
                facts.append(f"{name} {found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}")
        self.identity = hashlib.sha256("\n".join(facts).encode()).hexdigest()
        self.origin = Origin("sandbox" if confinement.sandboxed else "none")
        self.builder, self.temporary = home / "builder", home / "tmp"
        self.workdir = INNER_WORKDIR if confinement.sandboxed else str(self.builder)
        self._home = home
        self._confinement = confinement
        self._limits = confinement.limits
        self._environment = {
            "PATH": DEFAULT_PATH,
            "HOME": self.workdir,
            "LANG": "C.UTF-8",
            "TMPDIR": "/tmp" if confinement.sandboxed else str(self.temporary),
            **environment,
        }
        self._commands = 0
        self._way_out = way_out
        self.is_proxied = way_out.is_proxied
        # Outside of the sandbox processes can leave their parents; they are found by where they work.
        self._strays = None if confinement.sandboxed else home
        self._lock = Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._killed = False
        self._source_size = disk_use(source)
        watches = (Watch(_USE_EVERY, self._look_at_processes), Watch(disk_every, self._look_at_disk))
        self.guard = Guard(stop, deadline, kill=self._kill, watches=watches)

    @property
    def traffic(self) -> Traffic | None:
        return self._way_out.traffic

    def allow(self, urls: Sequence[str]) -> None:
        """The socket is bound into each sandbox."""
        self._way_out.allow(urls)

    def run(
        self,
        arguments: Sequence[str],
        *,
        output: Path,
        environment: Mapping[str, str] | None = None,
        on_output: OutputCallback | None = None,
    ) -> CommandResult:
        """Streams the command's output to `output/<n>.stdout` and `<n>.stderr`."""
        self._commands += 1
        path, limit = output / str(self._commands), self._limits.log
        way_out = self._way_out
        variables = {**self._environment, **way_out.variables, **(environment or {})}
        with self.guard.step():
            arguments = confined(
                way_out.wrap(arguments),
                self.builder,
                self._confinement,
                temporary=self.temporary,
                environment=variables,
                proxy_socket=way_out.socket,
            )
            with (
                CappedFile(path.with_suffix(".stdout"), limit, STDOUT, on_output) as stdout,
                CappedFile(path.with_suffix(".stderr"), limit, STDERR, on_output) as stderr,
            ):
                shown = way_out.restore(stdout.write), way_out.restore(stderr.write)
                code = self._execute(arguments, variables, *(text.write for text in shown))
                for text in shown:
                    text.end()
                way_out.finish(code, stderr)
            if code and ends_with_full_disk(stderr.path):
                with disk_errors():
                    free = shutil.disk_usage(self.builder).free
                if free < _HOST_DISK_RESERVE:
                    raise NoRoom(SERVER_DISK_FULL)
        return CommandResult(code, stdout.path, stderr.path)

    def exists(self, path: str) -> bool:
        """Links do not count, wherever they lead."""
        with self._inside(f"{self.workdir}/{path}") as found:
            return found.is_file() and not found.is_symlink()

    def read_bytes(self, path: str) -> bytes:
        """Never by way of a link."""
        with self._inside(f"{self.workdir}/{path}") as found:
            return transfer.read_plain(found, limit=self._limits.read_size)

    def write_files(self, files: Mapping[str, str]) -> None:
        """Never through a link that an earlier command has left."""
        for path, text in files.items():
            with self._inside(f"{self.workdir}/{path}") as place, disk_errors():
                place.parent.mkdir(parents=True, exist_ok=True)
                flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
                with os.fdopen(os.open(place, flags, 0o644), "wb") as file:
                    file.write(text.encode())

    def collect(self, directory: str, into: Path) -> Sequence[str]:
        """Copies, so that nothing shares a file with the build's directory."""
        with self._inside(directory) as found:
            return transfer.gather(found, into, limits=self._limits) if found.is_dir() else []

    @contextmanager
    def _inside(self, path: str) -> Iterator[Path]:
        """An inner path on this host. What a link leads out of the copy is refused."""
        with self.guard.step():
            root = self.builder.resolve()
            found = root / Path(path).relative_to(self.workdir)
            if not found.parent.resolve().is_relative_to(root) or found.is_symlink():
                raise BuildFailed(
                    FailureReason.UNTRUSTED_OUTPUT,
                    f"Error: The build's output was refused: {path} leads out of its directory.",
                )
            yield found

    def _execute(
        self,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        stdout: Callable[[bytes], None],
        stderr: Callable[[bytes], None],
    ) -> int:
        """Runs one command, which `_kill` can end; its exit code, as a shell counts it."""
        with self._lock:
            if self._killed:
                return _KILLED
            try:
                process = self._process = subprocess.Popen(
                    arguments,
                    cwd=self.builder,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    start_new_session=True,
                )
            except OSError as error:
                raise Unavailable(f"The server could not start a command: {error.strerror}.") from error
        # It is not reaped by asking whether it has ended.
        has_ended = os.WEXITED | os.WNOWAIT
        try:
            with selectors.DefaultSelector() as selector:
                for name, write in (("stdout", stdout), ("stderr", stderr)):
                    selector.register(getattr(process, name), selectors.EVENT_READ, write)
                # Until both pipes end, or the command has and its heirs are silent.
                while selector.get_map():
                    ready = selector.select(_DRAIN_SECONDS)
                    if not ready and os.waitid(os.P_PID, process.pid, has_ended | os.WNOHANG):
                        break
                    for key, _ in ready:
                        if chunk := os.read(key.fd, _CHUNK):
                            key.data(chunk)
                        else:
                            selector.unregister(key.fileobj)
            os.waitid(os.P_PID, process.pid, has_ended)
        finally:
            # Also what the command left behind: nothing of a build outlives its command.
            kill_all(process.pid, self._strays)
            with self._lock:
                self._process = None
            # Reaped last: until now its number could not become somebody else's.
            with process:
                process.wait()
        return process.returncode if process.returncode >= 0 else 128 - process.returncode

    def _kill(self) -> None:
        """Ends every process of the build, now and for good."""
        with self._lock:
            self._killed = True
            if self._process is not None:
                kill_all(self._process.pid, self._strays)

    def _look_at_processes(self) -> BuildFailed | None:
        """Whether they have become too many or too big."""
        with self._lock:
            if self._process is None:
                return None
            found = members(self._process.pid, self._strays)
        if sum(found.values()) > self._limits.memory:
            return memory_exhausted(self._limits.memory)
        if len(found) > self._limits.processes:
            return BuildFailed(
                FailureReason.MAKE_FAILED,
                f"Error: The build started more than {self._limits.processes} processes and was stopped.",
            )
        return None

    def _look_at_disk(self) -> BuildFailed | None:
        """Compares the copy with its origin: only what a build adds counts."""
        if disk_use(self._home) - self._source_size > self._limits.disk:
            return disk_exhausted(self._limits.disk)
        return None


_PAGE = os.sysconf("SC_PAGE_SIZE")
_PROC = Path("/proc")
_DEAD_WITHIN = 2.0
_STATE, _PARENT, _SESSION, _RESIDENT = 0, 1, 3, 21
"""Fields of `/proc/<pid>/stat` after the command's name."""


def members(leader: int, home: Path | None = None) -> dict[int, int]:
    """The leader, its descendants, its session, and each process that works below `home`.

    The last two catch daemons that left their parents; inside bubblewrap none can. Each comes with the
    bytes that it holds; shared pages are counted for every process.
    """
    parents, sizes, found = {}, {}, set()
    for entry in _PROC.iterdir():
        if not entry.name.isdigit():
            continue
        # A process may be gone by now; where it works, it may keep from us.
        with suppress(OSError):
            # The name in parentheses may itself hold spaces and parentheses, or be no text at all.
            fields = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
            if fields and fields[_STATE] != "Z":
                process = int(entry.name)
                parents[process] = int(fields[_PARENT])
                sizes[process] = int(fields[_RESIDENT]) * _PAGE
                if leader in (process, int(fields[_SESSION])) or (
                    home is not None and (entry / "cwd").readlink().is_relative_to(home)
                ):
                    found.add(process)
    while grown := {child for child, parent in parents.items() if parent in found} - found:
        found |= grown
    return {process: sizes[process] for process in found - {os.getpid()}}


def kill_all(leader: int, home: Path | None = None) -> None:
    """Kills until no process is left, since a process may fork while it is being looked for.

    The leader must not have been reaped: its number would be free for somebody else.
    """
    ends = monotonic() + _DEAD_WITHIN
    while (alive := members(leader, home)) and monotonic() < ends:
        for process in alive:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        sleep(0.02)


_FICLONE = 0x40049409
_BLOCK = 512
"""What `st_blocks` counts in."""
_CANNOT_CLONE = {errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY, errno.ENOSYS, errno.EPERM}


def copy_tree(source: Path, to: Path, *, step: Callable[[], None]) -> None:
    """Copies directories, links, plain files, their modes and times (make compares those).

    `to` must not exist; `step` is called before each file and may raise to stop the copying.
    Raises `OSError`; sockets, pipes and devices are left out.
    """
    to.mkdir()
    directories, clones = [(source, to)], True
    for directory, copy in directories:
        with os.scandir(directory) as entries:
            for entry in entries:
                step()
                original, target = Path(entry.path), copy / entry.name
                if entry.is_symlink():
                    target.symlink_to(original.readlink())
                elif entry.is_dir():
                    target.mkdir()
                    directories.append((original, target))
                elif entry.is_file():
                    if clones:
                        with original.open("rb") as content, target.open("wb") as clone:
                            try:
                                fcntl.ioctl(clone, _FICLONE, content.fileno())
                            except OSError as error:
                                if error.errno not in _CANNOT_CLONE:
                                    raise
                                clones = False
                    if not clones:
                        shutil.copyfile(original, target)
                    shutil.copystat(original, target)
    # Last and from below: making an entry changes its directory's time, and needs the right to write.
    for directory, copy in reversed(directories):
        shutil.copystat(directory, copy)


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
