"""One file: it starts where only CPython 3.11 is, unpacks once, and then starts as fast as installed."""

import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median

from packaging_rig import run

Environment = Callable[..., dict[str, str]]


def test_it_unpacks_once_into_the_cache_directory(single_file: Path, bare_environment: Environment) -> None:
    environment = bare_environment()
    assert run(single_file, "--version", env=environment).stdout.startswith("asu-builder, version")
    cache = Path(environment["HOME"]) / ".cache/asu-builder"
    first = sorted(str(path) for path in cache.rglob("asu_builder/__init__.py"))
    assert first
    run(single_file, "--version", env=environment)
    assert sorted(str(path) for path in cache.rglob("asu_builder/__init__.py")) == first


def test_it_builds_a_real_image_with_nothing_installed(
    single_file: Path, bare_environment: Environment, tmp_path: Path
) -> None:
    done = run(single_file, "demo", env=bare_environment(XDG_RUNTIME_DIR=str(tmp_path)), cwd=tmp_path)
    assert "squashfs-sysupgrade" in done.stdout and "SHA-256 verified" in done.stdout


def cpu_of(command: list[str], environment: dict[str, str]) -> float:
    """Seconds of CPU that a command and its children took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, env=environment, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_from_the_second_start_on_it_is_as_fast_as_an_installed_package(
    single_file: Path, bare_environment: Environment
) -> None:
    environment = bare_environment()
    ours, installed = (
        [str(single_file), "jobs", "--help"],
        [sys.executable, "-m", "asu_builder", "jobs", "--help"],
    )
    cpu_of(ours, environment)
    pairs = [(cpu_of(ours, environment), cpu_of(installed, environment)) for _ in range(9)]
    assert median(file / package for file, package in pairs) <= 1.5, pairs


def test_without_python_it_says_what_it_looked_for(single_file: Path, tmp_path: Path) -> None:
    nothing = {"HOME": str(tmp_path), "PATH": str(tmp_path)}
    done = subprocess.run([single_file], env=nothing, capture_output=True, text=True)
    assert done.returncode != 0 and "python3.11" in done.stderr
