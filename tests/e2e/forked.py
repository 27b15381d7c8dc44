"""`python -m MODULE …` as a fork of a process that has imported the project already.

Starting an interpreter and importing is most of what a command, or a service that is asked little,
costs. The fork is a process like any other: its settings, directory, output, signals and end are its own.
Only what an interpreter reads at its start, the variables `PYTHON…` and the locale, is that of the tests.
"""

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Thread
from time import monotonic
from typing import TextIO

_IMPORTED = [
    *("asu_builder.app", "asu_builder.cli.serving", "asu_builder.http.app", "asu_builder.http.server"),
    *("asu_builder.http.routes", "anyio.to_thread", "uvicorn.lifespan.on", "uvicorn.loops.uvloop", "uvloop"),
    *("asu_builder.cli.admin", "asu_builder.cli.build", "asu_builder.cli.builds", "asu_builder.cli.search"),
    *("podman", "cryptography.hazmat.primitives.asymmetric.ec", "jinja2", "yaml"),
]
_STARTER = multiprocessing.get_context("forkserver")
_STARTER.set_forkserver_preload(_IMPORTED)
# Its socket lies in the run's folder, which is removed before this process ends.
multiprocessing.current_process()._config["tempdir"] = tempfile.mkdtemp()  # type: ignore[attr-defined]
_AS_SHELLS_LEAVE_THEM = (signal.SIGINT, signal.SIGHUP)
"""Signals that the one who starts a process may let it ignore, and that tests send."""


class Forked:
    """A running process, with as much of `subprocess.Popen` as tests use."""

    def __init__(
        self,
        module: str,
        *arguments: str,
        environment: Mapping[str, str],
        directory: Path,
        log: Path | None = None,
    ) -> None:
        """What is printed is appended to `log`, or else read from `stdout` and `stderr`."""
        self.stdout: TextIO | None = None
        self.stderr: TextIO | None = None
        if log is not None:
            output = Connection(os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644), readable=False)
            outputs = [output, output]
        else:
            (out, first), (err, second) = (multiprocessing.Pipe(duplex=False) for _ in range(2))
            outputs = [first, second]
            self.stdout, self.stderr = (_text_of(reader) for reader in (out, err))
        ignored = [number for number in _AS_SHELLS_LEAVE_THEM if signal.getsignal(number) == signal.SIG_IGN]
        self._process = _STARTER.Process(
            target=_become,
            args=(module, arguments, dict(environment), str(directory), outputs, ignored),
            daemon=True,  # which means no more than that it is ended with the tests
        )
        self._process.start()
        for output in outputs:
            output.close()
        self._read: dict[str, str] = {}
        self._readers: list[Thread] = []

    @property
    def pid(self) -> int:
        """Its number."""
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """Its exit status, a signal's number below zero, or None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """As `returncode`."""
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Its exit status; raises `subprocess.TimeoutExpired`."""
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Everything it still prints, once it has ended; raises `subprocess.TimeoutExpired`."""
        if not self._readers:
            self._readers = [Thread(target=self._read_all, args=(name,)) for name in ("stdout", "stderr")]
            for reader in self._readers:
                reader.start()
        began = monotonic()
        for reader in self._readers:
            reader.join(None if timeout is None else max(0.0, began + timeout - monotonic()))
            if reader.is_alive():
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0)
        self.wait(None if timeout is None else max(0.0, began + timeout - monotonic()))
        return self._read["stdout"], self._read["stderr"]

    def _read_all(self, name: str) -> None:
        with getattr(self, name) as file:
            self._read[name] = file.read()

    def send_signal(self, number: int) -> None:
        """Does nothing once it has ended."""
        if self.returncode is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)


def run_forked(
    module: str, *arguments: str, environment: Mapping[str, str], directory: Path, seconds: float
) -> "subprocess.CompletedProcess[str]":
    """A process, run to its end; raises `subprocess.TimeoutExpired` when it has not come after so long."""
    process = Forked(module, *arguments, environment=environment, directory=directory)
    try:
        out, err = process.communicate(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return subprocess.CompletedProcess([module, *arguments], process.wait(), out, err)


def _text_of(reader: Connection) -> TextIO:
    file = os.fdopen(os.dup(reader.fileno()), "r")
    reader.close()
    return file


def _become(
    module: str,
    arguments: Sequence[str],
    environment: Mapping[str, str],
    directory: str,
    outputs: Sequence[Connection],
    ignored: Sequence[signal.Signals],
) -> None:
    """In the fork: the process that the command would have been."""
    for number, output in enumerate(outputs, start=1):
        os.dup2(output.fileno(), number)
    for output in outputs:
        output.close()
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = [module, *arguments]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        # As at the end of every interpreter: what is left to do ends by the signal itself.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
