"""The process of the proxy keeps packages: for the next build, and not what a package manager has refused."""

import gzip
import hashlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from adb_writer import packages_text
from asu_builder.proxy.channels import BuildProxy, Channel
from asu_builder.settings import Settings
from asu_sample.server import DownloadServer
from factories import eventually

pytestmark = pytest.mark.process
VIM = b"the vim package" * 5000
RECORDED = Path(__file__).parents[4] / "shared" / "indexes" / "25.12.0-x86-64"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[DownloadServer]:
    feed = tmp_path / "downloads" / "feed"
    feed.mkdir(parents=True)
    named = {"Package": "vim", "Version": "1", "Filename": "vim.ipk", "Size": str(len(VIM))}
    text = packages_text({**named, "SHA256sum": hashlib.sha256(VIM).hexdigest()})
    (feed / "Packages.gz").write_bytes(gzip.compress(text))
    (feed / "vim.ipk").write_bytes(VIM)
    with DownloadServer(feed.parent) as running:
        yield running


@pytest.fixture
def proxy(tmp_path: Path, server: DownloadServer) -> Iterator[BuildProxy]:
    made = BuildProxy(Settings(database_path=tmp_path / "asu.db", upstream_url=server.url))
    yield made
    made.close()


def ask(channel: Channel, url: str) -> bytes:
    # By a descriptor, because the path may be longer than the kernel takes for a socket.
    folder = os.open(channel.socket.parent, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(f"/proc/self/fd/{folder}/{channel.socket.name}")
        os.close(folder)
        client.sendall(f"GET {url} HTTP/1.1\r\n\r\n".encode())
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 "), head
    return body


def test_the_next_build_gets_what_this_one_has_fetched(
    proxy: BuildProxy, server: DownloadServer, tmp_path: Path
) -> None:
    kept = tmp_path / "packages" / "packages"

    def build(*, distrusts: bool = False) -> int:
        """How many requests were answered without the server."""
        channel = proxy.open()
        channel.allow([f"{server.url}/feed"])
        ask(channel, f"{server.url}/feed/Packages.gz")
        assert ask(channel, f"{server.url}/feed/vim.ipk") == VIM
        if distrusts:
            channel.distrust()
        return channel.close().cached

    assert build() == 0
    assert eventually(lambda: any(not path.name.startswith(".") for path in kept.glob("*")))
    assert build() == 2
    assert build(distrusts=True) == 2
    assert build() == 0
    assert server.requests == {"/feed/Packages.gz": 2, "/feed/vim.ipk": 2}
    # Nothing of it is for others on this host.
    assert kept.stat().st_mode & 0o077 == 0


@pytest.mark.skipif(not RECORDED.is_dir(), reason="needs the recorded indexes beside the repository")
def test_it_stays_small_with_the_indexes_of_many_builds(
    proxy: BuildProxy, server: DownloadServer, tmp_path: Path
) -> None:
    for number in range(8):
        channel = proxy.open()
        channel.allow([f"{server.url}/{number}"])
        for path in RECORDED.glob("*.adb"):
            folder = tmp_path / "downloads" / str(number) / path.stem
            folder.mkdir(parents=True)
            (folder / "packages.adb").write_bytes(path.read_bytes() + bytes(number))
            ask(channel, f"{server.url}/{number}/{path.stem}/packages.adb")
    status = Path(f"/proc/{proxy.pid}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmRSS:"))
    assert int(line.split()[1]) <= 40 << 10
