"""A server process: started, watched through /proc, ended."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_START_SECONDS = 30.0
_SETTLE_SECONDS = 60.0
_RESTING = 0.02
"""CPU seconds in a second; an idle service needs a tenth of it."""


@dataclass(frozen=True)
class Server:
    """A running server and what its start took, from exec to the first answer."""

    pid: int
    port: int
    start_wall: float = 0.0
    start_cpu: float = 0.0


def free_port() -> int:
    """A port that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def serving(
    arguments: Sequence[str],
    port: int,
    *,
    environment: dict[str, str] | None = None,
    path: str = "/",
    folder: Path | None = None,
    log: Path | None = None,
) -> Iterator[Server]:
    """Runs `python -m <arguments>` until the block ends; ready when `path` has been answered.

    What it says goes to `log`, if there is one. A server that does not stop when asked is an error.
    """
    command = [sys.executable, "-m", *arguments]
    with running(command, port, environment=environment, path=path, folder=folder, log=log) as server:
        yield server


@contextlib.contextmanager
def running(
    command: Sequence[str],
    port: int,
    *,
    environment: dict[str, str] | None = None,
    path: str = "/",
    folder: Path | None = None,
    log: Path | None = None,
) -> Iterator[Server]:
    """Runs any server by its command, as `serving` runs a module of Python."""
    began = time.perf_counter()
    with contextlib.ExitStack() as opened:
        quiet = None if os.environ.get("BENCH_VERBOSE") else subprocess.DEVNULL
        process = subprocess.Popen(
            command,
            env=_clean_environment() | (environment or {}),
            cwd=folder,
            stdout=subprocess.DEVNULL,
            stderr=opened.enter_context(log.open("wb")) if log else quiet,
        )
    try:
        _wait_for_answer(process, port, path, log)
        wall = time.perf_counter() - began
        yield Server(process.pid, port, wall, cpu_seconds(process.pid))
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise SystemExit("The server did not stop when it was asked to.") from None


def _clean_environment() -> dict[str, str]:
    """Ours without what would change the server: its settings, and Python's word not to keep bytecode."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("ASU_") and name != "PYTHONDONTWRITEBYTECODE"
    }


def _wait_for_answer(process: subprocess.Popen[bytes], port: int, path: str, log: Path | None) -> None:
    deadline = time.perf_counter() + _START_SECONDS
    request = f"GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n".encode()
    while time.perf_counter() < deadline:
        if process.poll() is not None:
            why = log.read_text(errors="replace")[-2000:] if log else "BENCH_VERBOSE=1 shows why."
            raise SystemExit(f"The server ended with {process.returncode}. {why}")
        try:
            with socket.create_connection(("127.0.0.1", port), 1) as connection:
                connection.sendall(request)
                if connection.recv(16).startswith(b"HTTP/1.1 "):
                    return
        except OSError:
            time.sleep(0.001)
    raise SystemExit("The server does not answer; BENCH_VERBOSE=1 shows why.")


def cpu_seconds(pid: int) -> float:
    """CPU time of a process, its threads and its children, ended ones included."""
    return sum(_cpu_of(member) for member in _family(pid))


def settle(server: Server) -> None:
    """Waits until the server has done what it does after a start, and rests."""
    until = time.monotonic() + _SETTLE_SECONDS
    before = cpu_seconds(server.pid)
    while time.monotonic() < until:
        time.sleep(1.0)
        now = cpu_seconds(server.pid)
        if now - before < _RESTING:
            return
        before = now
    raise SystemExit(f"The server is still busy {_SETTLE_SECONDS:.0f} seconds after its start.")


def resident_bytes(pid: int) -> int:
    """Resident memory of a process and its children."""
    return sum(
        int(Path(f"/proc/{member}/statm").read_text(encoding="ascii").split()[1]) * _PAGE
        for member in _family(pid)
    )


def _cpu_of(pid: int) -> float:
    fields = _stat(pid)
    waited_for = sum(int(ticks) for ticks in fields[13:15]) / _TICKS
    # Nanoseconds where the kernel keeps them; threads that have ended are only in the ticks.
    try:
        tasks = Path(f"/proc/{pid}/task").iterdir()
        exact = sum(int((task / "schedstat").read_text(encoding="ascii").split()[0]) for task in tasks) / 1e9
    except OSError:
        exact = 0.0
    ticked = sum(int(ticks) for ticks in fields[11:13]) / _TICKS
    return waited_for + max(exact, ticked - 0.02 if exact else ticked)


def _family(pid: int) -> list[int]:
    members = [pid]
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, IndexError):
                parents[int(entry.name)] = int(_stat(int(entry.name))[1])
    for member in members:
        members += [child for child, parent in parents.items() if parent == member]
    return members


def _stat(pid: int) -> list[str]:
    """The fields behind the name, from the state on (proc(5) counts it as the third)."""
    return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(") ")[2].split()
