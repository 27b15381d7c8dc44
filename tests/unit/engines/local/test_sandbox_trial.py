"""The sandbox's test of itself: it holds here, and each hole in it is found."""

import os
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from asu_builder.engines.guard import Limits
from asu_builder.engines.local import sandbox
from asu_builder.engines.local.runtime import LocalRuntime
from asu_builder.engines.local.sandbox import (
    DEFAULT_PATH,
    Confinement,
    bubblewrap_works,
    confined,
    try_sandbox,
)
from asu_builder.settings import Settings
from runtime_rig import a_spec
from tools import require_tool

pytestmark = pytest.mark.process


@pytest.fixture(autouse=True)
def bubblewrap() -> None:
    require_tool("bwrap")
    if not bubblewrap_works():
        pytest.skip("bubblewrap may not create its sandbox here")


def _without(*options: str) -> Any:
    """A sandbox that lacks these options, one after another as they are."""

    def leaky(arguments: Sequence[str], directory: Path, confinement: Confinement, **rest: Any) -> list[str]:
        command = confined(arguments, directory, confinement, **rest)
        for start in range(len(command)):
            if command[start : start + len(options)] == list(options):
                return command[:start] + command[start + len(options) :]
        raise AssertionError(f"{options} are not in the command")

    return leaky


def _with(*options: str) -> Any:
    def leaky(arguments: Sequence[str], directory: Path, confinement: Confinement, **rest: Any) -> list[str]:
        command = confined(arguments, directory, confinement, **rest)
        at = command.index("--remount-ro")
        return [*command[:at], *options, *command[at:]]

    return leaky


def test_it_holds_here() -> None:
    assert try_sandbox().fault == ""
    assert try_sandbox(network=True).fault == ""


_HOLES = [
    (_with("--share-net"), "it can connect to the host"),
    (_with("--ro-bind", "/tmp", "/tmp2", "--ro-bind", "/etc", "/etc"), "it sees what only root should"),
    (_with("--bind", "/etc/passwd", "/etc/passwd"), "it can write to /etc/passwd"),
    (_with("--bind", "/usr", "/usr"), "it can write to /usr/bin/env"),
    (_with("--bind", "/sys", "/sys"), "it can write to /sys/kernel/uevent_helper"),
]


@pytest.mark.parametrize(("leaky", "breach"), _HOLES)
def test_a_hole_is_found(leaky: Any, breach: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As root here: to others the host's own rights refuse most of it anyway."""
    if os.getuid() != 0 and "write" in breach:
        pytest.skip("only root may write there in any case")
    if "uevent" in breach and not Path("/sys/kernel/uevent_helper").exists():
        pytest.skip("this kernel has no such file")
    monkeypatch.setattr(sandbox, "confined", leaky)
    assert breach in try_sandbox().fault
    assert not bubblewrap_works()


def test_settings_of_the_kernel_that_can_be_written_are_a_hole(monkeypatch: pytest.MonkeyPatch) -> None:
    if os.getuid() != 0:
        pytest.skip("only root may write there in any case")
    read_only = ("--ro-bind", "/proc/sys", "/proc/sys", "--remount-ro", "/proc")
    monkeypatch.setattr(sandbox, "confined", _without(*read_only))
    assert "it can write to /proc/sys/kernel/core_pattern" in try_sandbox().fault


def test_a_runtime_whose_sandbox_has_a_hole_is_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "confined", _with("--share-net"))
    runtime = LocalRuntime(
        Settings(imagebuilder_path=f"{tmp_path}/{{version}}", build_network="none"), tmp_path / "scratch"
    )
    assert runtime.check().status == "error"


def test_a_build_cannot_change_the_kernels_settings(tmp_path: Path) -> None:
    (tmp_path / "25.12.0").mkdir()
    runtime = LocalRuntime(
        Settings(imagebuilder_path=f"{tmp_path}/{{version}}", build_network="none"), tmp_path / "scratch"
    )
    tries = "for file in core_pattern hostname; do ( : >> /proc/sys/kernel/$file ) && echo $file; done; true"
    with runtime.open(a_spec("25.12.0"), stop=Event()) as container:
        result = container.run(["sh", "-c", tries], output=tmp_path)
    assert (result.exit_code, result.stdout.read_text()) == (0, "")


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the numbers are those of x86-64")
@pytest.mark.parametrize(
    ("call", "error"),
    [
        ("250, 0, -3, 1", 1),  # keyctl
        ("425, 1, 0", 1),  # io_uring_setup
        ("272, 0x10000000", 1),  # unshare, users
        ("435, 0, 0", 38),  # clone3
        ("41, 40, 1, 0", 97),  # a socket to a virtual machine's host
        ("41, 2, 1, 0", 0),  # one as everybody has
    ],
)
def test_system_calls_are_filtered(tmp_path: Path, call: str, error: int) -> None:
    require_tool("perl")
    if not try_sandbox().filtered:
        pytest.skip("bubblewrap cannot filter system calls here")
    program = f"my $r = syscall({call}); exit($r == -1 ? $!+0 : 0)"
    command = confined(
        ["perl", "-e", program],
        tmp_path,
        Confinement(sandboxed=True, network=False, limits=Limits(), filtered=True),
        temporary=tmp_path,
        environment={"PATH": DEFAULT_PATH},
    )
    assert subprocess.run(command, check=False).returncode == error


def test_processes_have_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the kernel counts those of the sandbox alone, and not for root, whom it exempts."""
    monkeypatch.setattr("os.getuid", lambda: 1000)
    monkeypatch.setattr("os.uname", lambda: os.uname_result(("Linux", "x", "6.1.0-9-amd64", "", "")))
    command = confined(
        ["sh", "-c", "cat /proc/self/limits"],
        tmp_path,
        Confinement(sandboxed=True, network=False, limits=Limits(processes=77), filtered=False),
        temporary=tmp_path,
        environment={"PATH": DEFAULT_PATH},
    )
    limits = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    (line,) = (line for line in limits.splitlines() if line.startswith("Max processes"))
    assert line.split()[2:4] == ["77", "77"]
