"""The local runtime's directories: what is refused, what is swept, what another process keeps."""

import json
import subprocess
import sys
from pathlib import Path
from threading import Event

import pytest

from asu_builder.domain.errors import BuildFailed, EngineUnavailable, FailureReason
from asu_builder.engines.local.runtime import LocalRuntime
from asu_builder.engines.local.sandbox import bubblewrap_works
from asu_builder.settings import Settings
from factories import eventually
from runtime_rig import a_spec
from tools import require_tool


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """One directory that could be an ImageBuilder, used without a sandbox."""
    builder = tmp_path / "builders/25.12.0/pico-nine"
    builder.mkdir(parents=True)
    (builder / "Makefile").write_text("all:\n")
    template = f"{tmp_path}/builders/{{version}}/{{target}}-{{subtarget}}"
    return Settings(imagebuilder_path=template, build_network="none")


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    return tmp_path / "scratch"


@pytest.fixture
def runtime(settings: Settings, scratch: Path) -> LocalRuntime:
    return LocalRuntime(settings, scratch, sandboxed=False)


def test_the_template_names_version_target_and_subtarget(runtime: LocalRuntime) -> None:
    with runtime.open(a_spec("25.12.0"), stop=Event()) as container:
        assert container.read_bytes("Makefile") == b"all:\n"
    for missing in (a_spec("25.12.1"), a_spec("25.12.0", target="pico/ten")):
        with pytest.raises(BuildFailed) as failure, runtime.open(missing, stop=Event()):
            pass
        assert failure.value.reason == FailureReason.IMAGEBUILDER_MISSING


@pytest.mark.process
def test_copies_may_be_made_below_a_directory_that_is_named_from_here(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_tool("bwrap")
    monkeypatch.chdir(tmp_path)
    runtime = LocalRuntime(settings, Path("data/builds"))
    with runtime.open(a_spec("25.12.0"), stop=Event()) as container:
        result = container.run(["sh", "-c", "cat Makefile; echo > /tmp/written"], output=tmp_path)
    assert (result.exit_code, result.stdout.read_text()) == (0, "all:\n")


def test_another_imagebuilder_in_the_same_place_has_another_identity(
    runtime: LocalRuntime, tmp_path: Path
) -> None:
    seen = []
    for content in ("all:\n", "all:\n", "other:\n"):
        makefile = tmp_path / "builders/25.12.0/pico-nine/Makefile"
        if makefile.read_text() != content:
            makefile.write_text(content)
        with runtime.open(a_spec("25.12.0"), stop=Event()) as container:
            seen.append(container.identity)
    assert seen[0] == seen[1] != seen[2]


def test_without_a_sandbox_that_works_nothing_runs(
    settings: Settings, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    runtime = LocalRuntime(settings, scratch)
    assert not bubblewrap_works()
    assert runtime.check().status == "error"
    with pytest.raises(EngineUnavailable, match="bubblewrap"), runtime.open(a_spec(), stop=Event()):
        pass


def test_a_missing_directory_of_imagebuilders_is_down(tmp_path: Path) -> None:
    settings = Settings(imagebuilder_path=f"{tmp_path}/none/{{version}}")
    result = LocalRuntime(settings, tmp_path / "scratch", sandboxed=False).check()
    assert result.status == "error" and str(tmp_path / "none") in result.sentence


def test_a_scratch_directory_that_cannot_be_made_is_down(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    runtime = LocalRuntime(settings, tmp_path / "file" / "scratch", sandboxed=False)
    result = runtime.check()
    assert result.status == "error" and "scratch" in result.sentence


def test_what_a_former_life_left_is_swept_unless_it_is_kept(runtime: LocalRuntime, scratch: Path) -> None:
    for number in ("1", "2"):
        left = scratch / f"asu-{number}"
        (left / "builder").mkdir(parents=True)
        (left / "labels.json").write_text(json.dumps({"asu.job": number}))
    (scratch / "asu-3").mkdir()  # died before it had labels
    (scratch / "other").mkdir()
    removed = runtime.sweep(keep=lambda labels: labels.get("asu.job") == "2")
    assert removed == 2
    assert sorted(path.name for path in scratch.iterdir()) == [".lock", "asu-2", "other"]


_HOLDER = """
import sys
from pathlib import Path
from threading import Event
from runtime_rig import a_spec
from tools import require_tool
from asu_builder.engines.local.runtime import LocalRuntime
from asu_builder.settings import Settings
runtime = LocalRuntime(Settings(imagebuilder_path=sys.argv[1]), Path(sys.argv[2]), sandboxed=False)
with runtime.open(a_spec("25.12.0"), stop=Event()):
    print("open", flush=True)
    sys.stdin.read()
"""


@pytest.mark.process
def test_the_copy_of_a_living_process_is_never_swept_and_that_of_a_dead_one_is(
    runtime: LocalRuntime, settings: Settings, scratch: Path
) -> None:
    tests = str(Path(__file__).parents[3])
    with subprocess.Popen(
        [sys.executable, "-c", _HOLDER, settings.imagebuilder_path, str(scratch)],
        env={"PYTHONPATH": tests, "PATH": "/usr/bin:/bin"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"open\n"
        assert runtime.sweep(keep=lambda labels: False) == 0
        assert len(list(scratch.glob("asu-*/builder/Makefile"))) == 1
        holder.kill()
    assert runtime.sweep(keep=lambda labels: False) == 1


_REMOVER = """
import sys
from pathlib import Path
from threading import Event
from runtime_rig import a_spec
from asu_builder.engines.local import runtime as local_runtime
from asu_builder.engines.local.runtime import LocalRuntime
from asu_builder.settings import Settings

def half(directory):
    for path in ("labels.json", "builder/Makefile"):
        (directory / path).unlink()
    print("half", flush=True)
    Event().wait()

local_runtime.remove_tree = half
runtime = LocalRuntime(Settings(imagebuilder_path=sys.argv[1]), Path(sys.argv[2]), sandboxed=False)
with runtime.open(a_spec("25.12.0"), stop=Event()):
    pass
Event().wait()
"""


@pytest.mark.process
def test_what_is_being_removed_is_never_swept_unless_its_process_was_killed(
    runtime: LocalRuntime, settings: Settings, scratch: Path
) -> None:
    tests = str(Path(__file__).parents[3])
    with subprocess.Popen(
        [sys.executable, "-c", _REMOVER, settings.imagebuilder_path, str(scratch)],
        env={"PYTHONPATH": tests, "PATH": "/usr/bin:/bin"},
        stdout=subprocess.PIPE,
    ) as remover:
        assert remover.stdout is not None and remover.stdout.readline() == b"half\n"
        assert runtime.sweep(keep=lambda labels: False) == 0
        remover.kill()
    assert runtime.sweep(keep=lambda labels: False) == 1
    assert [path.name for path in scratch.iterdir()] == [".lock"]


def test_a_build_waits_for_no_removal_and_what_fails_is_left_to_the_sweep(
    runtime: LocalRuntime, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked = Event()

    def fail(directory: Path) -> None:
        asked.wait()
        raise OSError("the disk is gone")

    monkeypatch.setattr("asu_builder.engines.local.runtime.remove_tree", fail)
    with runtime.open(a_spec("25.12.0"), stop=Event()):
        pass
    assert runtime.sweep(keep=lambda labels: False) == 0
    asked.set()
    assert eventually(runtime.close)
    assert "the disk is gone" in caplog.text
    monkeypatch.undo()
    assert runtime.sweep(keep=lambda labels: False) == 1


@pytest.mark.process
def test_a_link_left_by_a_build_leads_nowhere(runtime: LocalRuntime, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "key").write_text("secret")
    with runtime.open(a_spec("25.12.0"), stop=Event()) as container:
        script = f"ln -s {secret} out; ln -s {secret}/key key; ln -s {secret} files"
        assert container.run(["sh", "-c", script], output=tmp_path).exit_code == 0
        for attempt in (
            lambda: container.collect(f"{container.workdir}/out", tmp_path),
            lambda: container.read_bytes("key"),
            lambda: container.read_bytes("files/key"),
            lambda: container.write_files({"files/new": "x"}),
            lambda: container.write_files({"key": "x"}),
        ):
            with pytest.raises(BuildFailed) as failure:
                attempt()
            assert failure.value.reason == FailureReason.UNTRUSTED_OUTPUT
    assert [path.name for path in secret.iterdir()] == ["key"]
    assert (secret / "key").read_text() == "secret"
