"""One command of a local build: its processes, its output, its end."""

import os
import selectors
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from threading import Lock

from asu_builder.adapters.guard import memory_exhausted
from asu_builder.adapters.limits import Limits
from asu_builder.adapters.local_processes import kill_all, members, use
from asu_builder.domain.errors import BuildFailed, FailureReason, Unavailable

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
