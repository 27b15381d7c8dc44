"""The service in a container: read-only, without rights, and still building through Podman's socket."""

import hashlib
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from asu_sample.server import DownloadServer
from e2e.conftest import podman_settings
from e2e.service import Client
from factories import eventually
from packaging_rig import ROOT, run
from podman_service import APK_VERSION, PodmanService
from ports import free_port
from tools import require_tool

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

OFFICIAL = "docker.io/library/python:3.11-slim-bookworm"
NAME = "asu-builder-under-test"


def reachable(host: str) -> bool:
    """Whether a registry answers at all."""
    try:
        socket.create_connection((host, 443), timeout=3).close()
    except OSError:
        return False
    return True


@pytest.fixture(scope="module")
def base(podman_service: PodmanService, sample_images: str) -> str:
    """The official image of Python; Debian's own where no registry is reached."""
    if reachable("registry-1.docker.io"):
        return OFFICIAL
    require_tool("debootstrap")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "debian"
        run("debootstrap", "--variant=minbase", "--include=python3", "bookworm", root, timeout=600)
        archive = Path(folder) / "debian.tar"
        run("tar", "-C", root, "-cf", archive, ".")
        run(*podman_service.command(), "import", archive, "localhost/debian-python:3.11", timeout=300)
    return "localhost/debian-python:3.11"


@pytest.fixture(scope="module")
def image(podman_service: PodmanService, base: str, single_file: Path) -> str:
    """Built from the Containerfile as it is."""
    options = ("--format", "docker", "--build-arg", f"BASE={base}", "--tag", "localhost/asu-builder:test")
    run(*podman_service.command(), "build", *options, ROOT, env=podman_service.variables(), timeout=600)
    return "localhost/asu-builder:test"


class Running:
    """One container of the service."""

    def __init__(self, podman: PodmanService, image: str, upstream: str) -> None:
        self._podman = podman
        self.port = free_port()
        # The user in the container is not the one who started Podman here.
        podman.socket.chmod(0o666)
        settings = podman_settings(Path("/run/podman/podman.sock"), upstream)
        variables = {f"ASU_{name.upper()}": str(value) for name, value in settings.items()}
        variables |= {"ASU_SERVER_PORT": str(self.port), "ASU_SERVER_HOST": "127.0.0.1"}
        self.podman(
            *("run", "--detach", "--name", NAME, "--read-only", "--tmpfs", "/tmp", "--network", "host"),
            *("--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
            *("--volume", "asu-data:/app/data", "--volume", "asu-public:/app/public"),
            *("--volume", f"{podman.socket}:/run/podman/podman.sock"),
            *(part for name, value in variables.items() for part in ("--env", f"{name}={value}")),
            image,
        )

    def podman(self, *arguments: str) -> str:
        """What a command of Podman printed."""
        return run(*self._podman.command(), *arguments, env=self._podman.variables()).stdout

    def answers(self) -> bool:
        """Whether the port does."""
        try:
            with Client(self.port) as client:
                return client.get("/health?for=build").status == 200
        except OSError:
            return False


@pytest.fixture
def running(podman_service: PodmanService, image: str, upstream: DownloadServer) -> Iterator[Running]:
    service = Running(podman_service, image, upstream.url)
    try:
        assert eventually(service.answers, seconds=60), service.podman("logs", NAME)
        yield service
    finally:
        subprocess.run(
            [*podman_service.command(), "rm", "--force", "--volumes", "--time=5", NAME],
            env=podman_service.variables(),
            check=False,
            capture_output=True,
        )


def test_it_builds_a_real_image_through_the_mounted_socket(running: Running) -> None:
    request = {
        "version": APK_VERSION,
        "target": "pico/nine",
        "profile": "acme,widget-5",
        "packages": ["tmux"],
    }
    with Client(running.port) as client:
        answer = client.build(request, seconds=120)
        assert answer.status == 200, (answer.body, running.podman("logs", NAME))
        assert answer.json["images"]
        for entry in answer.json["images"]:
            body = client.get(f"/store/{answer.json['bin_dir']}/{entry['name']}").body
            assert hashlib.sha256(body).hexdigest() == entry["sha256"]


def test_it_has_no_rights_and_writes_only_where_it_should(running: Running) -> None:
    assert running.podman("exec", NAME, "id", "-u").strip() == "1000"
    written = "touch /app/x /usr/x 2>/dev/null && echo bad; touch /app/data/x /app/public/x && echo good"
    assert running.podman("exec", NAME, "sh", "-c", written).split() == ["good"]
    status = running.podman("exec", NAME, "cat", "/proc/1/status")
    assert "CapEff:\t0000000000000000" in status and "NoNewPrivs:\t1" in status


def test_it_says_whether_it_is_healthy_and_stops_when_it_is_told(running: Running) -> None:
    running.podman("healthcheck", "run", NAME)
    running.podman("stop", "--time", "30", NAME)
    assert running.podman("inspect", "--format", "{{.State.ExitCode}}", NAME).strip() == "0"
