"""One copy of an ImageBuilder directory, used as if it were a container."""

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from msgspec import Struct

from asu_builder.adapters import archive
from asu_builder.adapters.guard import Guard
from asu_builder.adapters.limits import Limits
from asu_builder.adapters.local_command import Commands
from asu_builder.adapters.local_sandbox import DEFAULT_PATH, INNER_WORKDIR, limited, sandboxed
from asu_builder.adapters.output import CappedFile, disk_errors, ends_with_full_disk, overheard
from asu_builder.domain.errors import BuildFailed, FailureReason, NoRoom
from asu_builder.ports import CommandResult, Heard
from asu_builder.ports.containers import STDERR, STDOUT

_HOST_DISK_RESERVE = 64 << 20


class Place(Struct, frozen=True):
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
        place: Place,
        confinement: Confinement,
        *,
        guard: Guard,
        commands: Commands,
        environment: Mapping[str, str],
    ) -> None:
        """`environment` is added to the few variables that every command gets."""
        self.identity = place.identity
        self.workdir = INNER_WORKDIR if confinement.sandboxed else str(place.builder)
        self._place = place
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
        heard: Heard | None = None,
    ) -> CommandResult:
        """Streams the command's output to `output/<n>.stdout` and `<n>.stderr`."""
        self._count += 1
        limit = self._limits.log
        stdout = CappedFile(output / f"{self._count}.stdout", limit)
        stderr = CappedFile(output / f"{self._count}.stderr", limit)
        variables = self._environment | dict(environment or {})
        with self._guard.covering():
            with stdout, stderr:
                code = self._commands.run(
                    self._limited(arguments, variables),
                    directory=self._place.builder,
                    environment=variables,
                    write={
                        "stdout": overheard(stdout.write, STDOUT, heard),
                        "stderr": overheard(stderr.write, STDERR, heard),
                    },
                )
            if code and ends_with_full_disk(stderr.path) and self._free() < _HOST_DISK_RESERVE:
                raise NoRoom("The server's disk is full; the operator has to make room.")
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
        filtered = self._confinement.sandboxed and self._confinement.filtered
        return limited(self._confined(arguments, environment), self._limits, filtered=filtered)

    def _confined(self, arguments: Sequence[str], environment: Mapping[str, str]) -> Sequence[str]:
        if not self._confinement.sandboxed:
            return arguments
        return sandboxed(
            arguments,
            self._place.builder,
            temporary=self._place.temporary,
            network=self._confinement.network,
            environment=environment,
            filtered=self._confinement.filtered,
            processes=self._limits.processes,
        )

    def _free(self) -> int:
        with disk_errors():
            return shutil.disk_usage(self._place.builder).free

    @contextmanager
    def _inside(self, path: str) -> Iterator[Path]:
        """An inner path on this host. What a link leads out of the copy is refused."""
        with self._guard.covering():
            root = self._place.builder.resolve()
            found = root / Path(path).relative_to(self.workdir)
            if not found.parent.resolve().is_relative_to(root) or found.is_symlink():
                raise BuildFailed(
                    FailureReason.UNTRUSTED_OUTPUT,
                    f"Error: The build's output was refused: {path} leads out of its directory.",
                )
            yield found
