"""The units that are written for systemd."""

import shutil
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from asu_builder.cli import main
from asu_builder.cli.install_service import make_units
from tools import require_tool


def written(folder: Path, *, user: bool, worker: bool = False) -> Path:
    """The units in a directory, with a program that exists."""
    program = shutil.which("true") or "/bin/true"
    units = make_units(executable=program, listen="127.0.0.1:8080", user=user, worker=worker)
    for name, text in units.files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    return folder / "asu-builder.service"


@pytest.mark.parametrize("user", [False, True])
@pytest.mark.process
def test_systemd_finds_no_fault_with_the_units(tmp_path: Path, user: bool) -> None:
    require_tool("systemd", "systemd-analyze")
    service = written(tmp_path, user=user)
    checked = subprocess.run(
        ["systemd-analyze", "verify", str(service.with_suffix(".socket")), str(service)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert (checked.returncode, checked.stderr) == (0, "")


@pytest.mark.parametrize("user", [False, True])
@pytest.mark.process
def test_systemd_finds_no_fault_with_the_unit_of_a_worker(tmp_path: Path, user: bool) -> None:
    require_tool("systemd", "systemd-analyze")
    written(tmp_path, user=user, worker=True)
    assert not (tmp_path / "asu-builder.socket").exists(), "no client waits at its port"
    unit = tmp_path / "asu-builder-worker.service"
    assert f"ExecStart={shutil.which('true')} worker\n" in unit.read_text()
    checked = subprocess.run(
        ["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, cwd=tmp_path
    )
    assert (checked.returncode, checked.stderr) == (0, "")


@pytest.mark.process
def test_the_system_unit_leaves_little_to_attack(tmp_path: Path) -> None:
    require_tool("systemd", "systemd-analyze")
    written(tmp_path, user=False)
    rated = subprocess.run(
        [
            "systemd-analyze",
            "security",
            "--offline=true",
            "--threshold=25",
            "--no-pager",
            "./asu-builder.service",
        ],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert rated.returncode == 0, rated.stdout[-400:]
    assert "Overall exposure level" in rated.stdout


@pytest.mark.parametrize("options", [[], ["--user"]])
def test_printing_shows_both_units_and_what_to_type_and_writes_nothing(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    shown = CliRunner().invoke(main, ["install-service", "--print", *options])
    assert shown.exit_code == 0
    for text in (
        "asu-builder.socket",
        "Type=notify",
        "WatchdogSec=",
        "ListenStream=127.0.0.1:8080",
        "enable --now",
    ):
        assert text in shown.output
    assert list(tmp_path.iterdir()) == []


def test_of_a_worker_one_unit_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    result = CliRunner().invoke(main, ["install-service", "--user", "--worker", "--executable", "/x/y"])
    assert result.exit_code == 0, result.output
    assert "enable --now podman.socket asu-builder-worker.service\n" in result.output
    written = [path.name for path in (tmp_path / ".config/systemd/user").iterdir()]
    assert written == ["asu-builder-worker.service"]


def test_a_users_units_are_written_where_its_systemd_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    result = CliRunner().invoke(
        main, ["install-service", "--user", "--listen", "0.0.0.0:80", "--executable", "/x/y"]
    )
    assert result.exit_code == 0, result.output
    folder = tmp_path / ".config/systemd/user"
    assert "ListenStream=0.0.0.0:80" in (folder / "asu-builder.socket").read_text()
    assert "ExecStart=/x/y serve" in (folder / "asu-builder.service").read_text()


def test_who_may_not_write_is_told_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".config").write_text("a file where a directory should be")
    monkeypatch.setenv("HOME", str(tmp_path))
    result = CliRunner().invoke(main, ["install-service", "--user"])
    assert result.exit_code == 1
    assert "cannot be written" in result.output
