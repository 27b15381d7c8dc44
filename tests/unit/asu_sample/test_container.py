"""The container image made of host files. Whether Podman runs it is for the integration tests to say."""

import io
import json
import os
import shutil
import socketserver
import struct
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from asu_sample import container
from asu_sample.distribution import Distribution, snapshot_builder

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def root_tar(world: Distribution, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("container") / "root.tar"
    with path.open("wb") as output:
        container.write_root_filesystem(world.imagebuilder("25.12.0", "pico/nine"), output)
    return path


@pytest.fixture(scope="module")
def members(root_tar: Path) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(root_tar) as archive:
        return {member.name: member for member in archive}


def test_it_has_the_programs_and_the_imagebuilder(members: dict[str, tarfile.TarInfo]) -> None:
    wanted = {"usr/bin/sh", "usr/bin/make", "usr/bin/tar", "usr/bin/sleep", "usr/bin/env", "usr/bin/python3"}
    assert wanted <= set(members)
    assert {"builder/Makefile", "builder/repositories", "etc/passwd", "tmp"} <= set(members)
    assert any(name.endswith("/json/__init__.py") for name in members)
    assert not [name for name in members if "site-packages" in name]


def test_the_standard_library_need_not_be_compiled(
    members: dict[str, tarfile.TarInfo], root_tar: Path
) -> None:
    """As far as this host has compiled it; byte code names the time and the size of its source."""
    source = next(name for name in members if name.endswith("/json/decoder.py"))
    cached = f"__pycache__/decoder.{sys.implementation.cache_tag}.pyc"
    compiled = source.replace("decoder.py", cached)
    here = Path(json.decoder.__file__).resolve().parent / cached
    assert (compiled in members) == here.is_file()
    if here.is_file():
        with tarfile.open(root_tar) as archive:
            file = archive.extractfile(compiled)
            assert file is not None
            by_hash, moment, size = struct.unpack("<III", file.read(16)[4:])
        assert by_hash or (moment, size) == (members[source].mtime, members[source].size)


def test_the_imagebuilder_belongs_to_buildbot_and_the_rest_to_root(
    members: dict[str, tarfile.TarInfo],
) -> None:
    owners = {name: member.uid for name, member in members.items()}
    assert {uid for name, uid in owners.items() if name.split("/")[0] == "builder"} == {1000}
    assert {uid for name, uid in owners.items() if name.split("/")[0] != "builder"} == {0}
    assert members["tmp"].mode == 0o1777
    assert not [name for name, member in members.items() if member.mode & 0o6000]


def test_make_info_runs_in_it(root_tar: Path, tmp_path: Path) -> None:
    chroot = shutil.which("chroot", path="/usr/sbin:/usr/bin:/sbin:/bin")
    if os.geteuid() != 0 or chroot is None:
        pytest.skip("only root may chroot")
    root = tmp_path / "root"
    root.mkdir()  # pytest's own folders are closed to other users
    subprocess.run(["tar", "-xf", str(root_tar), "-C", str(root)], check=True)
    script = "cd /builder && make info && id -un"
    words = [chroot, "--userspec=buildbot:buildbot", str(root), "/bin/sh", "-c", script]
    environment = {"PATH": container.PATH}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith('Current Target: "pico/nine"')
    assert done.stdout.endswith("buildbot\n")


def test_a_missing_program_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(container, "_REQUIRED", ("sh", "no-such-program"))
    with pytest.raises(container.ToolMissing, match="no-such-program"):
        container.write_root_filesystem(tmp_path, io.BytesIO())


class _Podman(socketserver.ThreadingUnixStreamServer):
    """Answers the import call as Podman does and keeps what it was sent."""

    daemon_threads = True
    query: dict[str, list[str]]
    body: bytes


class _Answer(BaseHTTPRequestHandler):
    server: _Podman
    protocol_version = "HTTP/1.1"

    def address_string(self) -> str:
        return "socket"

    def log_message(self, format: str, *args: object) -> None:
        return

    def do_POST(self) -> None:
        self.server.query = {"path": [urlsplit(self.path).path], **parse_qs(urlsplit(self.path).query)}
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        self.server.body = b"".join(chunks)
        answer = json.dumps({"Id": "sha256:0123"}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)


@pytest.fixture
def podman(tmp_path: Path) -> Iterator[tuple[_Podman, str]]:
    path = tmp_path / "podman.sock"
    with _Podman(str(path), _Answer) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server, f"unix://{path}"
        server.shutdown()
        thread.join()


def test_a_snapshot_image_is_streamed_to_podman_with_user_directory_path_and_command(
    podman: tuple[_Podman, str], tmp_path: Path
) -> None:
    pytest.importorskip("podman")
    server, url = podman
    assert (
        container.import_image(url, "localhost/sample:one", snapshot_builder(tmp_path / "start"))
        == "sha256:0123"
    )
    assert server.query["path"][0].endswith("/images/import")
    assert server.query["reference"] == ["localhost/sample:one"]
    assert server.query["changes"] == [
        "USER buildbot",
        "WORKDIR /builder",
        "ENV PATH=/usr/sbin:/usr/bin:/sbin:/bin",
        'CMD ["/bin/bash"]',
    ]
    with tarfile.open(fileobj=io.BytesIO(server.body)) as archive:
        names = {name.split("/")[1] for name in archive.getnames() if name.startswith("builder/")}
    assert names == {"setup.sh", "keys"}


def test_a_failure_while_collecting_reaches_the_caller(
    podman: tuple[_Podman, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("podman")
    monkeypatch.setattr(container, "_REQUIRED", ("no-such-program",))
    with pytest.raises(container.ToolMissing):
        container.import_image(podman[1], "localhost/sample:one", tmp_path)
