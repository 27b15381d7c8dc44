"""The units under a real systemd: process 1 of a container with this machine's programs and nothing else."""

import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from asu_sample.server import DownloadServer
from e2e.conftest import podman_settings
from e2e.service import Client
from factories import eventually
from packaging_rig import run
from podman_service import APK_VERSION, PodmanService
from ports import free_port
from tools import require_tool, tool_missing

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

NAME = "asu-units-under-test"
INIT = "/usr/lib/systemd/systemd"
PROXY = "/usr/lib/systemd/systemd-socket-proxyd"
# Podman's own socket with our file beside it is what is tried; behind it, the engine of the tests.
ENGINE = f"""\
[Service]
ExecStart=
ExecStart={PROXY} /engine/podman.sock
Type=simple
"""
# What sets up a kernel or its devices is the real machine's.
MASKED = ("systemd-sysctl", "systemd-udevd", "systemd-udev-trigger", "systemd-modules-load")
# Debian's: the directory is closed to all but root, as after a start of the machine.
CLOSED = "d /run/podman 0700 root root\n"


def require_machine() -> None:
    """What the container borrows of this machine."""
    require_tool("systemd", "systemd-analyze", "useradd")
    for path in (INIT, PROXY, "/usr/lib/systemd/system/podman.socket", "/usr/bin/python3.11"):
        if not Path(path).exists():
            tool_missing("systemd", f"{path} is not there")
    if os.getuid() != 0:
        tool_missing("systemd", "only root may start a container in which systemd can set up its sandboxes")


def write_root(root: Path, settings: dict[str, object]) -> None:
    """A machine that was just installed: its programs come from here, all else is new."""
    for name in ("usr", "etc/asu", "etc/systemd/system/podman.service.d", "etc/tmpfiles.d", "var", "run"):
        (root / name).mkdir(parents=True)
    for name in ("tmp", "proc", "sys", "dev", "engine", "root"):
        (root / name).mkdir()
    for name in ("bin", "sbin", "lib", "lib64"):
        (root / name).symlink_to(f"usr/{name}")
    for name, text in {
        "passwd": "root:x:0:0:root:/root:/bin/sh\n",
        "group": "root:x:0:\n",
        "shadow": "root:*:19000::::::\n",
        "gshadow": "root:*::\n",
        "machine-id": "",
        "tmpfiles.d/podman.conf": CLOSED,
        "systemd/system/podman.service.d/engine.conf": ENGINE,
        "asu/config.yaml": "".join(f"{name}: {value}\n" for name, value in settings.items()),
    }.items():
        (root / "etc" / name).write_text(text)
    for name in MASKED:
        (root / f"etc/systemd/system/{name}.service").symlink_to("/dev/null")
    shutil.copy("/etc/ld.so.cache", root / "etc/ld.so.cache")
    root.chmod(0o755)


class Machine:
    """A container with systemd as process 1, and the commands of its operator."""

    def __init__(self, podman: PodmanService, root: Path, program: Path) -> None:
        self._podman = podman
        self.port = free_port()
        self.podman(
            *("run", "--detach", "--name", NAME, "--systemd=always", "--privileged", "--network", "host"),
            *("--volume", "/usr:/usr:ro", "--volume", f"{program}:/opt/asu-builder:ro"),
            *("--volume", f"{podman.directory}:/engine", "--stop-timeout", "5"),
            *("--rootfs", str(root), INIT, "--unit=basic.target"),
        )

    def podman(self, *arguments: str) -> str:
        """What a command of Podman printed."""
        return run(*self._podman.command(), *arguments, env=self._podman.variables()).stdout

    def sh(self, line: str) -> str:
        """What an operator's line printed; it must succeed."""
        return self.podman("exec", NAME, "sh", "-c", line).strip()

    def is_booted(self) -> bool:
        """Whether systemd takes orders."""
        asked = subprocess.run(
            [*self._podman.command(), "exec", NAME, "systemctl", "is-active", "basic.target"],
            env=self._podman.variables(),
            capture_output=True,
            text=True,
            check=False,
        )
        return asked.stdout.strip() == "active"

    def install(self) -> None:
        """As docs/how-to/install.md says: the command, and each line that it prints."""
        told = self.sh(f"/opt/asu-builder install-service --listen 127.0.0.1:{self.port}")
        lines = told.partition("Now type:\n")[2].splitlines()
        assert len(lines) >= 3, told
        for line in lines:
            self.sh(f"{line} || {{ journalctl --no-pager -n 30; false; }}")

    def show(self, name: str) -> str:
        """A property of the service's unit."""
        return self.sh(f"systemctl show --value --property {shlex.quote(name)} asu-builder.service")

    def journal(self) -> str:
        """What the service has written."""
        return self.sh("journalctl --no-pager --unit asu-builder.service")


@pytest.fixture(scope="module")
def machine(
    podman_service: PodmanService, sample_images: str, upstream: DownloadServer, single_file: Path
) -> Iterator[Machine]:
    require_machine()
    settings = podman_settings(Path("/run/podman/podman.sock"), upstream.url)
    del settings["container_socket_path"]
    root = Path(tempfile.mkdtemp(prefix="asu-machine-"))
    write_root(root, settings)
    try:
        machine = Machine(podman_service, root, single_file)
        assert eventually(machine.is_booted), machine.podman("logs", NAME)
        machine.install()
        yield machine
    finally:
        removal = [*podman_service.command(), "rm", "--force", "--volumes", "--time=5", NAME]
        subprocess.run(removal, env=podman_service.variables(), check=False, capture_output=True)
        shutil.rmtree(root)


def test_after_the_printed_lines_it_is_ready_sandboxed_and_builds(machine: Machine) -> None:
    assert machine.show("ActiveState") == "active", machine.journal()
    assert machine.sh("systemctl show --value --property User asu-builder.service") == "asu"
    status = machine.sh(f"cat /proc/{machine.show('MainPID')}/status")
    assert "CapEff:\t0000000000000000" in status and "NoNewPrivs:\t1" in status
    request = {
        "version": APK_VERSION,
        "target": "pico/nine",
        "profile": "acme,widget-5",
        "packages": ["tmux"],
    }
    with Client(machine.port) as client:
        answer = client.build(request)
        assert answer.status == 200, (answer.body, machine.journal())
    # Where its state is, and nowhere else.
    # The engine removes the build's container meanwhile.
    elsewhere = r"\( -path /proc -o -path /usr -o -path /engine \) -prune"
    found = machine.sh(f"find / -xdev {elsewhere} -o -user asu -print").splitlines()
    assert found
    assert all(path.startswith(("/var/lib/asu-builder", "/var/cache/asu-builder")) for path in found), found


def test_a_restart_refuses_nobody_and_a_stop_ends_well(machine: Machine) -> None:
    before = machine.show("MainPID")
    asking = 'for i in $(seq 40); do python3.11 -c "$ASK" || exit 1; sleep 0.03; done'
    ask = f"import urllib.request as r; r.urlopen('http://127.0.0.1:{machine.port}/health', timeout=60)"
    machine.sh(f'export ASK="{ask}"; ({asking}) & systemctl restart asu-builder.service && wait $!')
    assert machine.show("MainPID") != before
    machine.sh("systemctl stop asu-builder.service")
    assert (machine.show("Result"), machine.show("ExecMainStatus")) == ("success", "0"), machine.journal()
    # systemd still holds the port: whoever asks starts it.
    with Client(machine.port) as client:
        assert client.get("/health").status == 200
    assert machine.show("ActiveState") == "active"


def test_a_service_that_no_longer_turns_is_started_again(machine: Machine) -> None:
    machine.sh("mkdir -p /run/systemd/system/asu-builder.service.d")
    machine.sh("printf '[Service]\\nWatchdogSec=3\\n' > /run/systemd/system/asu-builder.service.d/soon.conf")
    machine.sh("systemctl daemon-reload && systemctl restart asu-builder.service")
    machine.sh("kill -STOP $(systemctl show --value --property MainPID asu-builder.service)")
    assert eventually(lambda: machine.show("NRestarts") == "1"), machine.journal()
    assert "Failed with result 'watchdog'" in machine.journal()
    with Client(machine.port) as client:
        assert client.get("/health").status == 200


def test_a_wrong_setting_ends_the_start_and_is_not_tried_for_ever(machine: Machine) -> None:
    machine.sh("cp /etc/asu/config.yaml /etc/asu/kept && echo 'job_timeout: soon' >> /etc/asu/config.yaml")
    machine.sh("systemctl restart asu-builder.service; true")
    try:
        assert machine.show("ActiveState") == "failed"
        assert machine.show("ExecMainStatus") == "2"
        assert "job_timeout" in machine.journal()
        # Whoever asks is not kept waiting for a service that will not come.
        with Client(machine.port) as client, pytest.raises(OSError):
            client.get("/health")
    finally:
        # An operator takes longer than the ten seconds in which systemd allows five starts.
        machine.sh("mv /etc/asu/kept /etc/asu/config.yaml && systemctl reset-failed")
        machine.sh("systemctl restart asu-builder.service")
    with Client(machine.port) as client:
        assert client.get("/health").status == 200
