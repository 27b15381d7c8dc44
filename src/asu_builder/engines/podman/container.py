"""One running container: commands, files in, files out."""

import json
import re
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from threading import Event
from time import monotonic
from typing import IO, cast

from asu_builder.domain.errors import EngineUnavailable, NoRoom, Unavailable
from asu_builder.domain.job import Traffic
from asu_builder.domain.make import STDERR, STDOUT, CommandResult, OutputCallback
from asu_builder.engines import transfer
from asu_builder.engines.guard import Guard, Limits, memory_exhausted
from asu_builder.engines.podman.calls import ContainerCalls, connection_lost
from asu_builder.engines.podman.images import Image
from asu_builder.engines.podman.service import one_line
from asu_builder.engines.podman.streams import Demultiplexer, Stream
from asu_builder.engines.transfer import ENGINE_DISK_FULL, CappedFile, ends_with_full_disk
from asu_builder.engines.way_out import WayOut

_HOST_DISK_RESERVE = 64 << 20
_CHUNK = 1 << 20
_KILLED = 128 + 9
"""The exit code of a command that SIGKILL has ended; nothing in a build sends that to make."""
_HAS_READ = (0, 1)
"""How `cat` ends: with 1 where one of several files is missing."""
_NOTICED_SECONDS = 3.0
_OOM_KILLS = re.compile(rb"^oom_kill (\d+)$", re.MULTILINE)
_OOM_FILES = ("/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control")


class PodmanContainer:
    """Fulfils `ports.Container`; made by `PodmanRuntime.open`, watched by its guard."""

    def __init__(
        self,
        calls: ContainerCalls,
        image: Image,
        *,
        guard: Guard,
        limits: Limits,
        environment: Mapping[str, str],
        way_out: WayOut,
        on_command: Callable[[], None],
    ) -> None:
        """`environment` is what every command gets; nothing of the image's own is added.

        `on_command` is called when a command has begun to run.
        """
        self.identity = image.id
        self.origin = image.origin
        self.workdir = image.workdir
        self.warnings: Sequence[str] = (image.warning,) if image.warning else ()
        self._calls = calls
        self._guard = guard
        self._limits = limits
        self._environment = dict(environment)
        self._on_command = on_command
        self._commands = 0
        self._way_out = way_out
        self.is_proxied = way_out.is_proxied

    @property
    def traffic(self) -> Traffic | None:
        return self._way_out.traffic

    def allow(self, urls: Sequence[str]) -> None:
        """Nothing is asked of Podman: the socket is there from the start."""
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
        with self._guard.step():
            with (
                CappedFile(path.with_suffix(".stdout"), limit, STDOUT, on_output) as stdout,
                CappedFile(path.with_suffix(".stderr"), limit, STDERR, on_output) as stderr,
            ):
                way_out = self._way_out
                shown = {STDOUT: way_out.restore(stdout.write), STDERR: way_out.restore(stderr.write)}
                variables = {**self._environment, **way_out.variables, **(environment or {})}
                writers = {stream: text.write for stream, text in shown.items()}
                code = self._execute(way_out.wrap(arguments), writers, variables)
                for text in shown.values():
                    text.end()
                way_out.finish(code, stderr)
            if code:
                # A command that failed for want of memory or the host's disk must not pass for the user's.
                self._require_running()
                if self._kernel_has_killed():
                    raise memory_exhausted(self._limits.memory)
                if code == _KILLED:
                    raise _ended_by_another()
                if ends_with_full_disk(stderr.path) and self._calls.host_disk_free() < _HOST_DISK_RESERVE:
                    raise NoRoom(ENGINE_DISK_FULL)
        return CommandResult(code, stdout.path, stderr.path)

    def exists(self, path: str) -> bool:
        """Asks Podman's archive call, which is far cheaper than a command."""
        with self._guard.step():
            return self._calls.is_plain_file(f"{self.workdir}/{path}")

    def read_bytes(self, path: str) -> bytes:
        """By Podman's archive call."""
        with self._guard.step(), self._calls.archive(f"{self.workdir}/{path}") as stream:
            if not self._begin_reading(stream, path):
                # Not the engine's doing, so it counts as a failure of this build.
                raise Unavailable(f"There is no file {path} in the container; trying again.")
            return transfer.read_one(cast(IO[bytes], stream), limit=self._limits.read_size)

    def write_files(self, files: Mapping[str, str]) -> None:
        """Podman gives new files and directories to the container's user, old ones stay as they are."""
        with self._guard.step():
            self._calls.put(self.workdir, transfer.pack(files))

    def put_file(self, name: str, content: IO[bytes], size: int) -> str:
        """Streams a file of this host into the container; its absolute path there."""
        path = f"{self.workdir}/{name}"

        def tar() -> Iterator[bytes]:
            member = tarfile.TarInfo(path.lstrip("/"))
            member.size, member.mode = size, 0o644
            yield member.tobuf(tarfile.GNU_FORMAT)
            while chunk := content.read(_CHUNK):
                self._guard.raise_if_killed()
                yield chunk
            yield bytes(-size % tarfile.BLOCKSIZE + 2 * tarfile.BLOCKSIZE)

        with self._guard.step():
            self._calls.put_stream("/", tar())
        return path

    def commit(self, reference: str, labels: Mapping[str, str]) -> None:
        """Makes an image of this name of what is in the container now, for builds to start from."""
        changes = [f"LABEL {name}={json.dumps(value)}" for name, value in labels.items()]
        with self._guard.step():
            self._calls.commit(reference, [*changes, f"WORKDIR {self.workdir}", 'CMD ["/bin/sh"]'])

    def collect(self, directory: str, into: Path) -> Sequence[str]:
        """Unpacks Podman's archive of the directory while it arrives."""
        with self._guard.step(), self._calls.archive(directory) as stream:
            if not self._begin_reading(stream, directory):
                return []
            try:
                names = transfer.unpack(cast(IO[bytes], stream), into, limits=self._limits)
            except EngineUnavailable as error:
                if not stream.is_complete:
                    raise
                # Podman has ended the archive in good order, and it is broken all the same. Either the
                # container was taken away meanwhile, or something in it still changes its files. The
                # latter is no sign of an ill engine, or one build could keep all others waiting.
                self._calls.inspect()
                sentence = f"{error} Something changed the files while they were read; trying again."
                raise Unavailable(sentence) from error
            # Files that vanish while a directory is read are left out without a word.
            self._calls.inspect()
            return names

    def _begin_reading(self, stream: Stream, path: str) -> bool:
        """Whether the path exists, in which case its archive follows."""
        status = stream.begin()
        if status == 404:
            self._calls.inspect()  # 404 is also the answer when the container itself is gone
            return False
        if status >= 400:
            raise EngineUnavailable(f"Podman could not read {path}: {one_line(stream.refusal())}.")
        return True

    def _execute(
        self,
        arguments: Sequence[str],
        writers: Mapping[int, Callable[[bytes], None]],
        environment: Mapping[str, str],
    ) -> int:
        """Runs to the end and returns the exit code, passing output on as it comes."""
        # `env -i`, because what image and engine put into the environment cannot be unset otherwise.
        variables = [f"{name}={value}" for name, value in environment.items()]
        session = self._calls.create_exec(["env", "-i", *variables, *arguments], self.workdir)
        with self._calls.sentinel() as sentinel:
            with self._calls.stream("POST", "exec", session, "start") as stream:
                if stream.begin({"Detach": False, "Tty": False}) >= 400:
                    self._calls.inspect()  # says so if the container itself is gone
                    raise EngineUnavailable(f"Podman could not run a command: {one_line(stream.refusal())}.")
                self._on_command()
                frames = Demultiplexer(writers)
                while chunk := stream.read_some():
                    frames.feed(chunk)
            # After a kill nothing more is asked of an engine that may itself be what hangs.
            self._guard.raise_if_killed()
            if not frames.is_between_frames:
                raise connection_lost()
            return self._calls.exit_code(session, sentinel)

    def _require_running(self) -> None:
        state = self._calls.inspect().get("State") or {}
        if state.get("OOMKilled"):
            raise memory_exhausted(self._limits.memory)
        if not state.get("Running"):
            raise _ended_by_another()

    def _kernel_has_killed(self) -> bool:
        """Whether the kernel killed anything for want of memory, which make reports as any failure.

        Podman says `OOMKilled` only when the container itself has ended, so its cgroup is asked.
        """
        counts: list[bytes] = []
        exit_code = self._execute(["cat", *_OOM_FILES], {STDOUT: counts.append}, self._environment)
        if exit_code not in _HAS_READ:
            # Nothing can be run in there: it holds as many processes as it may, or it was killed, with
            # the command in it, and Podman takes a moment to notice.
            until = monotonic() + _NOTICED_SECONDS
            while monotonic() < until:
                self._require_running()
                Event().wait(_NOTICED_SECONDS / 10)
        return any(int(count) for count in _OOM_KILLS.findall(b"".join(counts)))


def _ended_by_another() -> EngineUnavailable:
    return EngineUnavailable("The container was ended by somebody else while a command ran.")
