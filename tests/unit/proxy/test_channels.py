"""The process of the proxy: started when it is needed, small, and started again when it has ended."""

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from asu_builder.domain.job import Traffic
from asu_builder.proxy.channels import BuildProxy, ProxyLost
from asu_builder.settings import Settings
from factories import eventually

pytestmark = pytest.mark.process


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[BuildProxy]:
    made = BuildProxy(Settings(database_path=tmp_path / "asu.db", proxy_directory=str(tmp_path / "p")))
    yield made
    made.close()


def ask(path: Path, request: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX) as client:
        directory = os.open(path.parent, os.O_DIRECTORY)  # paths of tests may be longer than a socket's
        try:
            client.connect(f"/proc/self/fd/{directory}/{path.name}")
        finally:
            os.close(directory)
        client.sendall(request)
        return b"".join(iter(lambda: client.recv(65536), b""))


def test_a_build_is_refused_in_its_own_words(proxy: BuildProxy) -> None:
    assert proxy.pid is None
    channel, other = proxy.open(), proxy.open()
    channel.allow(["https://a.example/x"])
    assert ask(channel.socket, b"GET http://b.example/y HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 403 ")
    told: list[str] = []

    def is_told() -> bool:
        told.extend(channel.notes())
        return bool(told)

    assert eventually(is_told)
    assert told == ["refused: http://b.example/y is not below a repository of this build"]
    assert other.notes() == []
    assert channel.close() == Traffic(refused=1)
    assert other.close() == Traffic()
    assert proxy.totals.traffic == Traffic(refused=1)
    assert not channel.socket.exists()


def test_it_stays_small(proxy: BuildProxy) -> None:
    channel = proxy.open()
    # Nothing listens at that port, which is told only after everything that HTTPS needs is loaded.
    channel.allow(["https://127.0.0.1:9/x"])
    ask(channel.socket, b"GET http://127.0.0.1:9/x HTTP/1.1\r\n\r\n")
    status = Path(f"/proc/{proxy.pid}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    assert int(line.split()[1]) <= 40 << 10
    command = Path(f"/proc/{proxy.pid}/cmdline").read_text().split("\0")
    assert "asu-builder proxy" in command


def test_one_that_is_killed_is_noticed_and_started_again(proxy: BuildProxy) -> None:
    channel = proxy.open()
    channel.require()
    assert proxy.pid
    os.kill(proxy.pid, signal.SIGKILL)
    with pytest.raises(ProxyLost):
        while True:
            channel.allow(["https://a.example/x"])
    with pytest.raises(ProxyLost):
        channel.require()
    again = proxy.open()
    again.require()
    assert proxy.totals.starts == 2
    assert channel.close() == Traffic()
    assert not channel.socket.exists()
    assert again.close() == Traffic()


def test_it_ends_with_the_service(proxy: BuildProxy) -> None:
    proxy.open()
    number = proxy.pid
    proxy.close()
    assert not Path(f"/proc/{number}").exists()
    assert proxy.pid is None


def test_where_no_socket_can_be_made_it_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    proxy = BuildProxy(Settings(proxy_directory=str(tmp_path / "file")))
    with pytest.raises(ProxyLost, match="cannot be started: File exists"):
        proxy.open()
