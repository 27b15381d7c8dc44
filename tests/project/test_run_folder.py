"""A run of the tests that is killed leaves nothing behind."""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from asu_sample.distribution import Distribution
from factories import eventually
from podman_service import APK_VERSION, PodmanService, service_folder, start_with_images
from run_folder import end_run, names_folder
from tools import require_tool, tool_missing

_TESTS = Path(__file__).parents[1]
_RUN = """
import os, signal, subprocess, sys
from pathlib import Path
from run_folder import RunFolder

run = RunFolder(Path(sys.argv[1]))
sleep = ["sleep", "600"]
children = [
    subprocess.Popen(sleep),
    subprocess.Popen(sleep, env={}, cwd=run.path),
    subprocess.Popen(["env", "-i", "sh", "-c", "sleep 600; :", str(run.path)], start_new_session=True),
]
print(run.path, run._watcher.pid, *(child.pid for child in children), flush=True)
signal.pause()
"""
_PROCESSES = "{{.State.Pid}} {{.State.ConmonPid}}"
_SHORT_RUN = """
import sys
from pathlib import Path
from run_folder import RunFolder

run = RunFolder(Path(sys.argv[1]))
(run.path / "note").touch()
run.close(keep=sys.argv[2] == "keep")
"""


class Run:
    """Another run of the tests, with processes of three kinds: usual, without its variables, detached."""

    def __init__(self, base: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", _RUN, base],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(_TESTS)},
        )
        assert self.process.stdout is not None
        folder, watcher, *children = self.process.stdout.readline().split()
        self.process.stdout.close()
        self.folder, self.watcher, self.children = Path(folder), int(watcher), [int(pid) for pid in children]

    def kill(self) -> None:
        """As the kernel ends it when memory is short."""
        self.process.kill()
        self.process.wait()

    def living(self) -> list[int]:
        """Which of its processes have not ended."""
        return [pid for pid in self.children if _lives(pid)]


def _lives(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def test_what_a_killed_run_started_ends_at_once(tmp_path: Path) -> None:
    run = Run(tmp_path / "runs")
    assert run.living() == run.children
    run.kill()
    assert eventually(lambda: not run.living() and not run.folder.exists(), seconds=60)


def test_what_a_run_and_its_watcher_left_is_ended_by_the_next_run(tmp_path: Path) -> None:
    run = Run(tmp_path / "runs")
    # The watcher first, or it would do its work.
    os.kill(run.watcher, signal.SIGKILL)
    run.kill()
    assert run.living() == run.children
    following = Run(tmp_path / "runs")
    assert run.living() == []
    assert [folder.name for folder in (tmp_path / "runs").iterdir()] == [following.folder.name]
    assert following.living() == following.children
    following.kill()
    assert eventually(lambda: not following.living(), seconds=60)


def test_a_run_that_ends_by_itself_keeps_its_files_only_when_asked(tmp_path: Path) -> None:
    for keep in ("keep", "forget"):
        command = [sys.executable, "-c", _SHORT_RUN, str(tmp_path / keep), keep]
        subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": str(_TESTS)}, timeout=120)
    assert len(list((tmp_path / "keep").glob("*/note"))) == 1
    assert list((tmp_path / "forget").iterdir()) == []


@pytest.mark.long
def test_containers_of_a_run_are_ended_with_it(sample_world: Distribution) -> None:
    require_tool("podman")
    folder = service_folder()
    service = PodmanService(folder)
    try:
        (reference,) = start_with_images(service, sample_world, APK_VERSION)
    except RuntimeError as error:
        service.remove()
        tool_missing("podman", str(error))
    started = subprocess.run(
        [*service.command(), "run", "--detach", "--network", "none", reference, "sleep", "600"],
        capture_output=True,
        text=True,
        env=service.variables(),
    )
    assert started.returncode == 0, started.stderr
    inspected = subprocess.run(
        [
            *service.command(),
            "inspect",
            "--format",
            "{{.State.Pid}} {{.State.ConmonPid}}",
            started.stdout.strip(),
        ],
        capture_output=True,
        text=True,
        check=True,
        env=service.variables(),
    )
    pids = [int(pid) for pid in inspected.stdout.split()]
    assert all(_lives(pid) for pid in pids)
    # The service itself has gone, as after a SIGKILL of everything that pytest started.
    service.stop()
    end_run(folder)
    assert not any(_lives(pid) for pid in pids)
    assert not folder.exists()
    assert str(folder) not in Path("/proc/self/mountinfo").read_text()


def test_podman_accepts_the_state_of_a_service_in_the_longest_folder_of_a_run() -> None:
    largest_pid, ticks_of_twenty_years = (1 << 22) - 1, 20 * 365 * 86_400 * 100
    run = f"/dev/shm/asu-65534/{largest_pid:x}.{ticks_of_twenty_years:x}"
    assert len(f"{run}/{service_folder().name}/run") <= 50


@pytest.mark.parametrize(
    ("text", "belongs"),
    [
        (b"/runs/1.2", True),
        (b"TMPDIR=/runs/1.2\0HOME=/", True),
        (b"/runs/1.2/t", True),
        (b"/runs/1.23", False),
        (b"/runs/1", False),
        (b"/runs/1.23 /runs/1.2", True),
    ],
)
def test_a_folder_is_told_from_one_whose_name_begins_alike(text: bytes, belongs: bool) -> None:
    assert names_folder(text, b"/runs/1.2") is belongs
