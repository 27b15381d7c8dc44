"""One copy of an ImageBuilder directory, used as if it were a container: its commands and their processes."""

import os
import selectors
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from time import monotonic, sleep

from msgspec import Struct

from asu_builder.domain.errors import BuildFailed, FailureReason, NoRoom, Unavailable
from asu_builder.domain.make import STDERR, STDOUT, CommandResult, OutputCallback
from asu_builder.engines import archive
from asu_builder.engines.guard import Guard, Limits, memory_exhausted
from asu_builder.engines.local.sandbox import DEFAULT_PATH, INNER_WORKDIR, limited, sandboxed
from asu_builder.engines.output import SERVER_DISK_FULL, CappedFile, disk_errors, ends_with_full_disk, tee

_PAGE = os.sysconf("SC_PAGE_SIZE")
_PROC = Path("/proc")
_DEAD_WITHIN = 2.0
_STATE, _PARENT, _SESSION = 0, 1, 3
"""Fields of `/proc/<pid>/stat` after the command's name."""


class Use(Struct, frozen=True):
    """What a build's processes use together; `memory` is resident bytes, shared pages counted twice."""

    processes: int
    memory: int


def members(leader: int, home: Path | None = None) -> set[int]:
    """The leader, its descendants, its session, and each process that works below `home`.

    The last two catch daemons that left their parents; inside bubblewrap none can.
    """
    parents, found = {}, set()
    for entry in _PROC.iterdir():
        if entry.name.isdigit() and (fields := _stat(entry)) and fields[_STATE] != "Z":
            process = int(entry.name)
            parents[process] = int(fields[_PARENT])
            if leader in (process, int(fields[_SESSION])) or _works_below(entry, home):
                found.add(process)
    while grown := {child for child, parent in parents.items() if parent in found} - found:
        found |= grown
    return found - {os.getpid()}


def use(processes: set[int]) -> Use:
    """Sums what the processes hold; one that is gone holds nothing."""
    return Use(len(processes), sum(_resident(process) for process in processes))


def kill_all(leader: int, home: Path | None = None) -> None:
    """Kills until no process is left, since a process may fork while it is being looked for.

    The leader must not have been reaped: its number would be free for somebody else.
    """
    ends = monotonic() + _DEAD_WITHIN
    while (alive := members(leader, home)) and monotonic() < ends:
        for process in alive:
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:
                continue
        sleep(0.02)


def _stat(process: Path) -> list[str] | None:
    try:
        # The name in parentheses may itself hold spaces and parentheses, or be no text at all.
        return (process / "stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None


def _resident(process: int) -> int:
    try:
        return int((_PROC / str(process) / "statm").read_text().split()[1]) * _PAGE
    except (OSError, IndexError):
        return 0


def _works_below(process: Path, home: Path | None) -> bool:
    try:
        return home is not None and (process / "cwd").readlink().is_relative_to(home)
    except OSError:
        return False


_CHUNK = 1 << 16
_DRAIN_SECONDS = 1.0
_KILLED = 128 + 9


class Commands:
    """Runs one command at a time and can end it from another thread."""

    def __init__(self, home: Path, *, contained: bool) -> None:
        """`home` holds the build's directories; `contained`: no process can leave its parents."""
        self._strays = None if contained else home
        self._lock = Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._killed = False

    def run(
        self,
        arguments: Sequence[str],
        *,
        directory: Path,
        environment: Mapping[str, str],
        write: Mapping[str, Callable[[bytes], None]],
    ) -> int:
        """The exit code, as a shell counts it; output goes to `write["stdout"]` and `["stderr"]`."""
        with self._lock:
            if self._killed:
                return _KILLED
            process = self._process = _start(arguments, directory, environment)
        try:
            _pump(process, write)
            _has_ended(process, wait=True)
        finally:
            # Also what the command left behind: nothing of a build outlives its command.
            kill_all(process.pid, self._strays)
            with self._lock:
                self._process = None
            # Reaped last: until now its number could not become somebody else's.
            with process:
                process.wait()
        return process.returncode if process.returncode >= 0 else 128 - process.returncode

    def kill(self) -> None:
        """Ends every process of the build, now and for good."""
        with self._lock:
            self._killed = True
            if self._process is not None:
                kill_all(self._process.pid, self._strays)

    def look(self, limits: Limits) -> BuildFailed | None:
        """What the guard asks: have the processes become too many or too big?"""
        with self._lock:
            if self._process is None:
                return None
            found = use(members(self._process.pid, self._strays))
        if found.memory > limits.memory:
            return memory_exhausted(limits.memory)
        if found.processes > limits.processes:
            return BuildFailed(
                FailureReason.MAKE_FAILED,
                f"Error: The build started more than {limits.processes} processes and was stopped.",
            )
        return None


def _start(
    arguments: Sequence[str], directory: Path, environment: Mapping[str, str]
) -> "subprocess.Popen[bytes]":
    try:
        return subprocess.Popen(
            arguments,
            cwd=directory,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as error:
        raise Unavailable(f"The server could not start a command: {error.strerror}.") from error


def _pump(process: "subprocess.Popen[bytes]", write: Mapping[str, Callable[[bytes], None]]) -> None:
    """Passes output on until both pipes end, or the command has and its heirs are silent."""
    with selectors.DefaultSelector() as selector:
        for name in ("stdout", "stderr"):
            selector.register(getattr(process, name), selectors.EVENT_READ, write[name])
        while selector.get_map():
            ready = selector.select(_DRAIN_SECONDS)
            if not ready and _has_ended(process):
                return
            for key, _ in ready:
                if chunk := os.read(key.fd, _CHUNK):
                    key.data(chunk)
                else:
                    selector.unregister(key.fileobj)


def _has_ended(process: "subprocess.Popen[bytes]", *, wait: bool = False) -> bool:
    """Whether the command has ended; it is not reaped by asking."""
    flags = os.WEXITED | os.WNOWAIT | (0 if wait else os.WNOHANG)
    return os.waitid(os.P_PID, process.pid, flags) is not None


_HOST_DISK_RESERVE = 64 << 20


class BuildDirectory(Struct, frozen=True):
    """Where a build works on this host; `temporary` is its private `/tmp`."""

    builder: Path
    temporary: Path
    identity: str
    """Of the directory that `builder` is a copy of."""


class Confinement(Struct, frozen=True):
    """How its commands are started."""

    sandboxed: bool
    network: bool
    limits: Limits
    filtered: bool = False
    """Whether some system calls are refused; only in the sandbox."""


class LocalContainer:
    """Fulfils `ports.Container`; made by `LocalRuntime.open`, watched by its guard."""

    warnings: Sequence[str] = ()

    def __init__(
        self,
        place: BuildDirectory,
        confinement: Confinement,
        *,
        guard: Guard,
        commands: Commands,
        environment: Mapping[str, str],
    ) -> None:
        """`environment` is added to the few variables that every command gets."""
        self.identity = place.identity
        self.workdir = INNER_WORKDIR if confinement.sandboxed else str(place.builder)
        self._directory = place
        self._confinement = confinement
        self._limits = confinement.limits
        self._guard = guard
        self._commands = commands
        self._count = 0
        temporary = "/tmp" if confinement.sandboxed else str(place.temporary)
        self._environment = {
            "PATH": DEFAULT_PATH,
            "HOME": self.workdir,
            "LANG": "C.UTF-8",
            "TMPDIR": temporary,
            **environment,
        }

    def run(
        self,
        arguments: Sequence[str],
        *,
        output: Path,
        environment: Mapping[str, str] | None = None,
        on_output: OutputCallback | None = None,
    ) -> CommandResult:
        """Streams the command's output to `output/<n>.stdout` and `<n>.stderr`."""
        self._count += 1
        limit = self._limits.log
        stdout = CappedFile(output / f"{self._count}.stdout", limit)
        stderr = CappedFile(output / f"{self._count}.stderr", limit)
        variables = self._environment | dict(environment or {})
        with self._guard.step():
            with stdout, stderr:
                code = self._commands.run(
                    self._limited(arguments, variables),
                    directory=self._directory.builder,
                    environment=variables,
                    write={
                        "stdout": tee(stdout.write, STDOUT, on_output),
                        "stderr": tee(stderr.write, STDERR, on_output),
                    },
                )
            if code and ends_with_full_disk(stderr.path) and self._free() < _HOST_DISK_RESERVE:
                raise NoRoom(SERVER_DISK_FULL)
        return CommandResult(code, stdout.path, stderr.path)

    def exists(self, path: str) -> bool:
        """Links do not count, wherever they lead."""
        with self._inside(f"{self.workdir}/{path}") as found:
            return found.is_file() and not found.is_symlink()

    def read_text(self, path: str) -> str:
        """Undecodable bytes become replacement characters."""
        with self._inside(f"{self.workdir}/{path}") as found:
            return archive.read_plain(found, limit=self._limits.text).decode(errors="replace")

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
            return archive.gather(found, into, limits=self._limits) if found.is_dir() else []

    def _limited(self, arguments: Sequence[str], environment: Mapping[str, str]) -> Sequence[str]:
        if not self._confinement.sandboxed:
            return limited(arguments, self._limits)
        command = sandboxed(
            arguments,
            self._directory.builder,
            temporary=self._directory.temporary,
            network=self._confinement.network,
            environment=environment,
            filtered=self._confinement.filtered,
            processes=self._limits.processes,
        )
        return limited(command, self._limits, filtered=self._confinement.filtered)

    def _free(self) -> int:
        with disk_errors():
            return shutil.disk_usage(self._directory.builder).free

    @contextmanager
    def _inside(self, path: str) -> Iterator[Path]:
        """An inner path on this host. What a link leads out of the copy is refused."""
        with self._guard.step():
            root = self._directory.builder.resolve()
            found = root / Path(path).relative_to(self.workdir)
            if not found.parent.resolve().is_relative_to(root) or found.is_symlink():
                raise BuildFailed(
                    FailureReason.UNTRUSTED_OUTPUT,
                    f"Error: The build's output was refused: {path} leads out of its directory.",
                )
            yield found
