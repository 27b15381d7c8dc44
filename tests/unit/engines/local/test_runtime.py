"""The local runtime's directories: what is refused, what is swept, what another process keeps."""

import json
import subprocess
import sys
from pathlib import Path
from threading import Event

import pytest
from msgspec.structs import replace

from asu_builder.domain.errors import BuildFailed, EngineUnavailable, FailureReason
from asu_builder.engines.local.runtime import LocalOptions, LocalRuntime
from asu_builder.engines.local.sandbox import bubblewrap_works
from factories import eventually
from runtime_rig import a_spec
from tools import require_tool


@pytest.fixture
def options(tmp_path: Path) -> LocalOptions:
    """One directory that could be an ImageBuilder, used without a sandbox."""
    builder = tmp_path / "builders/25.12.0/pico-nine"
    builder.mkdir(parents=True)
    (builder / "Makefile").write_text("all:\n")
    template = f"{tmp_path}/builders/{{version}}/{{target}}-{{subtarget}}"
    return LocalOptions(template, tmp_path / "scratch", sandboxed=False)


def test_the_template_names_version_target_and_subtarget(options: LocalOptions) -> None:
    runtime = LocalRuntime(options)
    with runtime.open(a_spec("25.12.0"), stop=Event()) as container:
        assert container.read_text("Makefile") == "all:\n"
    for missing in (a_spec("25.12.1"), a_spec("25.12.0", target="pico/ten")):
        with pytest.raises(BuildFailed) as failure, runtime.open(missing, stop=Event()):
            pass
        assert failure.value.reason == FailureReason.IMAGEBUILDER_MISSING


@pytest.mark.process
def test_copies_may_be_made_below_a_directory_that_is_named_from_here(
    options: LocalOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_tool("bwrap")
    monkeypatch.chdir(tmp_path)
    runtime = LocalRuntime(replace(options, scratch=Path("data/builds"), sandboxed=True))
    with runtime.open(a_spec("25.12.0"), stop=Event()) as container:
        result = container.run(["sh", "-c", "cat Makefile; echo > /tmp/written"], output=tmp_path)
    assert (result.exit_code, result.stdout.read_text()) == (0, "all:\n")


def test_another_imagebuilder_in_the_same_place_has_another_identity(
    options: LocalOptions, tmp_path: Path
) -> None:
    runtime, seen = LocalRuntime(options), []
    for content in ("all:\n", "all:\n", "other:\n"):
        makefile = tmp_path / "builders/25.12.0/pico-nine/Makefile"
        if makefile.read_text() != content:
            makefile.write_text(content)
        with runtime.open(a_spec("25.12.0"), stop=Event()) as container:
            seen.append(container.identity)
    assert seen[0] == seen[1] != seen[2]


def test_without_a_sandbox_that_works_nothing_runs(
    options: LocalOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    runtime = LocalRuntime(LocalOptions(options.imagebuilder_path, options.scratch, sandboxed=True))
    assert not bubblewrap_works()
    assert runtime.check().status == "down"
    with pytest.raises(EngineUnavailable, match="bubblewrap"), runtime.open(a_spec(), stop=Event()):
        pass


def test_a_missing_directory_of_imagebuilders_is_down(tmp_path: Path) -> None:
    options = LocalOptions(f"{tmp_path}/none/{{version}}", tmp_path / "scratch", sandboxed=False)
    verdict = LocalRuntime(options).check()
    assert verdict.status == "down" and str(tmp_path / "none") in verdict.sentence


def test_a_scratch_directory_that_cannot_be_made_is_down(options: LocalOptions, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    runtime = LocalRuntime(replace(options, scratch=tmp_path / "file" / "scratch"))
    verdict = runtime.check()
    assert verdict.status == "down" and "scratch" in verdict.sentence


def test_what_a_former_life_left_is_swept_unless_it_is_kept(options: LocalOptions) -> None:
    for number in ("1", "2"):
        left = options.scratch / f"asu-{number}"
        (left / "builder").mkdir(parents=True)
        (left / "labels.json").write_text(json.dumps({"asu.job": number}))
    (options.scratch / "asu-3").mkdir()  # died before it had labels
    (options.scratch / "other").mkdir()
    removed = LocalRuntime(options).sweep(keep=lambda labels: labels.get("asu.job") == "2")
    assert removed == 2
    assert sorted(path.name for path in options.scratch.iterdir()) == [".lock", "asu-2", "other"]


_HOLDER = """
import sys
from msgspec.structs import replace
from pathlib import Path
from threading import Event
from runtime_rig import a_spec
from tools import require_tool
from asu_builder.engines.local.runtime import LocalOptions, LocalRuntime
runtime = LocalRuntime(LocalOptions(sys.argv[1], Path(sys.argv[2]), sandboxed=False))
with runtime.open(a_spec("25.12.0"), stop=Event()):
    print("open", flush=True)
    sys.stdin.read()
"""


@pytest.mark.process
def test_the_copy_of_a_living_process_is_never_swept_and_that_of_a_dead_one_is(
    options: LocalOptions,
) -> None:
    runtime = LocalRuntime(options)
    tests = str(Path(__file__).parents[3])
    with subprocess.Popen(
        [sys.executable, "-c", _HOLDER, options.imagebuilder_path, str(options.scratch)],
        env={"PYTHONPATH": tests, "PATH": "/usr/bin:/bin"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"open\n"
        assert runtime.sweep(keep=lambda labels: False) == 0
        assert len(list(options.scratch.glob("asu-*/builder/Makefile"))) == 1
        holder.kill()
    assert runtime.sweep(keep=lambda labels: False) == 1


_REMOVER = """
import sys
from pathlib import Path
from threading import Event
from runtime_rig import a_spec
from asu_builder.engines.local import runtime as local_runtime
from asu_builder.engines.local.runtime import LocalOptions, LocalRuntime

def half(directory):
    for path in ("labels.json", "builder/Makefile"):
        (directory / path).unlink()
    print("half", flush=True)
    Event().wait()

local_runtime.remove_tree = half
runtime = LocalRuntime(LocalOptions(sys.argv[1], Path(sys.argv[2]), sandboxed=False))
with runtime.open(a_spec("25.12.0"), stop=Event()):
    pass
Event().wait()
"""


@pytest.mark.process
def test_what_is_being_removed_is_never_swept_unless_its_process_was_killed(options: LocalOptions) -> None:
    runtime = LocalRuntime(options)
    tests = str(Path(__file__).parents[3])
    with subprocess.Popen(
        [sys.executable, "-c", _REMOVER, options.imagebuilder_path, str(options.scratch)],
        env={"PYTHONPATH": tests, "PATH": "/usr/bin:/bin"},
        stdout=subprocess.PIPE,
    ) as remover:
        assert remover.stdout is not None and remover.stdout.readline() == b"half\n"
        assert runtime.sweep(keep=lambda labels: False) == 0
        remover.kill()
    assert runtime.sweep(keep=lambda labels: False) == 1
    assert [path.name for path in options.scratch.iterdir()] == [".lock"]


def test_a_build_waits_for_no_removal_and_what_fails_is_left_to_the_sweep(
    options: LocalOptions, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked = Event()

    def fail(directory: Path) -> None:
        asked.wait()
        raise OSError("the disk is gone")

    runtime = LocalRuntime(options)
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
def test_a_link_left_by_a_build_leads_nowhere(options: LocalOptions, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "key").write_text("secret")
    with LocalRuntime(options).open(a_spec("25.12.0"), stop=Event()) as container:
        script = f"ln -s {secret} out; ln -s {secret}/key key; ln -s {secret} files"
        assert container.run(["sh", "-c", script], output=tmp_path).exit_code == 0
        for attempt in (
            lambda: container.collect(f"{container.workdir}/out", tmp_path),
            lambda: container.read_text("key"),
            lambda: container.read_text("files/key"),
            lambda: container.write_files({"files/new": "x"}),
            lambda: container.write_files({"key": "x"}),
        ):
            with pytest.raises(BuildFailed) as failure:
                attempt()
            assert failure.value.reason == FailureReason.UNTRUSTED_OUTPUT
    assert [path.name for path in secret.iterdir()] == ["key"]
    assert (secret / "key").read_text() == "secret"
