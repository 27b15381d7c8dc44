"""One file: it starts where only CPython is, unpacks once, and then starts as fast as installed."""

import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from statistics import median

import pytest
from packaging.requirements import Requirement
from packaging.tags import compatible_tags, cpython_tags
from packaging.utils import canonicalize_name, parse_wheel_filename

from packaging_rig import ROOT, run

_SPEC = spec_from_file_location("fetch_wheels", ROOT / "deploy" / "fetch_wheels.py")
assert _SPEC is not None and _SPEC.loader is not None
fetch_wheels = module_from_spec(_SPEC)
_SPEC.loader.exec_module(fetch_wheels)

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

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


MINORS = (11, 12, 13, 14)


def test_its_name_says_which_pythons_it_is_for(single_file: Path) -> None:
    assert single_file.name == f"asu-builder-py3.{MINORS[0]}-3.{MINORS[-1]}"


@pytest.mark.parametrize("minor", MINORS)
def test_every_locked_wheel_is_there_for_a_version(single_file: Path, wheels: Path, minor: int) -> None:
    """pip has fetched them for that version, by the hashes of the lock file; here they are counted."""
    tags = set(cpython_tags((3, minor), platforms=_platforms()))
    tags |= set(compatible_tags((3, minor), f"cp3{minor}", _platforms()))
    there = {
        (name, str(version))
        for name, version, _, of_wheel in (parse_wheel_filename(path.name) for path in wheels.glob("*.whl"))
        if of_wheel & tags
    }
    lock = (ROOT / "locks/cluster.txt").read_text()
    locked = [Requirement(line.partition(" ")[0]) for line in fetch_wheels.locked_for(lock, f"3.{minor}")]
    assert len(locked) > 25
    for requirement in locked:
        (pinned,) = requirement.specifier
        assert (canonicalize_name(requirement.name), pinned.version) in there, requirement


def _platforms() -> list[str]:
    return [fetch_wheels.PLATFORM, *fetch_wheels._OLDER]


@pytest.mark.parametrize("minor", MINORS)
def test_it_runs_on_a_version_that_is_here(
    single_file: Path, bare_environment: Environment, minor: int
) -> None:
    python = shutil.which(f"python3.{minor}")
    if python is None or subprocess.run([python, "--version"], capture_output=True).returncode:
        pytest.skip(f"there is no CPython 3.{minor} here")
    done = run(python, single_file, "--version", env=bare_environment())
    assert done.stdout.startswith("asu-builder, version")


def test_without_python_it_says_what_it_looked_for(single_file: Path, tmp_path: Path) -> None:
    nothing = {"HOME": str(tmp_path), "PATH": str(tmp_path)}
    done = subprocess.run([single_file], env=nothing, capture_output=True, text=True)
    assert done.returncode != 0 and "python3.11" in done.stderr
