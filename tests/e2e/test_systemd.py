"""Under systemd: it says when it is ready and alive, and restarts without refusing anybody."""

import http.client
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.conftest import Make
from e2e.service import Service
from factories import eventually

_BECOME = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
pid = str(os.getpid())
os.environ |= {"LISTEN_PID": pid, "LISTEN_FDS": "1", "WATCHDOG_PID": pid}
os.execv(sys.executable, [sys.executable, "-m", "asu_builder", "serve"])
"""
"""The variables name the process itself, so another program sets them and becomes it."""


class Systemd:
    """What systemd does for one unit: holds the port, hears what is said, starts and stops."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self.port = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.address = self.port.getsockname()
        self._notes = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notes.bind(str(service.directory / "notify"))
        self._notes.settimeout(0.2)
        self.on_output: list[tuple[float, str]] = []
        self._ended = threading.Event()
        self._listener = threading.Thread(target=self._listen)
        self._listener.start()
        self._process: subprocess.Popen[bytes] | None = None

    def _listen(self) -> None:
        while not self._ended.is_set():
            try:
                text = self._notes.recv(4096).decode()
            except TimeoutError:
                continue
            self.on_output += [(time.monotonic(), line) for line in text.splitlines()]

    def said(self, word: str) -> list[float]:
        """When this was said."""
        return [at for at, line in self.on_output if line == word]

    def start(self) -> None:
        """Does not wait for anything."""
        variables = {f"ASU_{name.upper()}": str(value) for name, value in self._service.settings().items()}
        environment = {name: value for name, value in os.environ.items() if not name.startswith("ASU_")}
        environment |= variables | {
            "NOTIFY_SOCKET": str(self._service.directory / "notify"),
            "WATCHDOG_USEC": "3000000",
            "HOME": str(self._service.directory),
        }
        descriptor = self.port.fileno()
        with self._service.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _BECOME, str(descriptor)],
                env=environment,
                cwd=self._service.directory,
                pass_fds=[descriptor],
                stdout=log,
                stderr=log,
            )

    def stop(self) -> int:
        """SIGTERM and wait; the exit status."""
        assert self._process is not None
        self._process.terminate()
        status = self._process.wait(60)
        self._process = None
        return status

    def end(self) -> None:
        """Leaves nothing behind."""
        if self._process is not None:
            self.stop()
        self._ended.set()
        self._listener.join()
        self._notes.close()
        self.port.close()


@pytest.fixture
def systemd(make_local: Make) -> Iterator[Systemd]:
    service = make_local()
    service.directory.mkdir(parents=True)
    running = Systemd(service)
    yield running
    running.end()


def ask(address: tuple[str, int]) -> int:
    connection = http.client.HTTPConnection(*address, timeout=60)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status
    finally:
        connection.close()


def test_ready_is_said_when_the_port_answers_and_alive_again_and_again(systemd: Systemd) -> None:
    systemd.start()
    assert eventually(lambda: len(systemd.said("WATCHDOG=1")) >= 3)
    assert len(systemd.said("READY=1")) == 1
    assert systemd.on_output[0][1] == "READY=1"
    assert ask(systemd.address) in (200, 503)
    assert systemd.said("STOPPING=1") == []
    assert systemd.stop() == 0
    assert eventually(lambda: len(systemd.said("STOPPING=1")) == 1)


def test_whoever_comes_during_a_restart_waits_and_is_answered(systemd: Systemd) -> None:
    systemd.start()
    assert ask(systemd.address) in (200, 503)  # waits in the backlog until it is there
    statuses: list[int | str] = []
    going = threading.Event()

    def keep_asking() -> None:
        while not going.is_set():
            try:
                statuses.append(ask(systemd.address))
            except OSError as error:
                statuses.append(repr(error))

    caller = threading.Thread(target=keep_asking)
    caller.start()
    try:
        assert eventually(lambda: len(statuses) > 5)
        assert systemd.stop() == 0
        before = len(statuses)
        time.sleep(0.3)  # somebody asks while nobody is there
        systemd.start()
        assert eventually(lambda: len(statuses) > before + 5)
    finally:
        going.set()
        caller.join()
    assert set(statuses) <= {200, 503}, statuses


def test_without_systemd_nothing_is_said_and_the_port_is_its_own(make_local: Make, tmp_path: Path) -> None:
    service = make_local().start()
    assert "that was passed" not in service.stderr()
