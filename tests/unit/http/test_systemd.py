"""The two small protocols of systemd."""

import asyncio
import os
import socket
from pathlib import Path

import pytest

from asu_builder.http.server import Supervisor, inherited_sockets


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"LISTEN_FDS": "1"},
        {"LISTEN_PID": "1", "LISTEN_FDS": "1"},
        {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "0"},
    ],
)
def test_a_socket_that_was_meant_for_no_process_or_another_is_left_alone(environment: dict[str, str]) -> None:
    assert inherited_sockets(environment) == []


@pytest.mark.parametrize("abstract", [False, True])
def test_ready_is_said_once_and_alive_each_time(tmp_path: Path, abstract: bool) -> None:
    name = f"@asu-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind("\0" + name[1:] if abstract else name)
        listener.settimeout(5)
        supervisor = Supervisor({"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "30000000"})
        assert supervisor.listens and supervisor.seconds == 10
        asyncio.run(supervisor.alive())
        asyncio.run(supervisor.alive())
        supervisor.stopping()
        assert [listener.recv(100) for _ in range(3)] == [
            b"READY=1\nWATCHDOG=1",
            b"WATCHDOG=1",
            b"STOPPING=1",
        ]


def test_a_watchdog_of_another_process_is_none_of_ours() -> None:
    supervisor = Supervisor({"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"})
    assert supervisor.seconds == 3600


def test_a_supervisor_that_has_gone_disturbs_nothing() -> None:
    supervisor = Supervisor({"NOTIFY_SOCKET": "/nonexistent/notify"})
    asyncio.run(supervisor.alive())
    assert not Supervisor({}).listens
