"""Builds that last: locks, signals, delays, floods of output."""

import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from factories import sooner_than
from sample_make import command, make

pytestmark = pytest.mark.process

Trees = Callable[..., Path]
BOTH = pytest.mark.parametrize("version", ["24.10.5", "25.12.0"])


def test_the_second_build_in_a_directory_fails_while_the_first_one_goes_on(
    tree: Trees, tmp_path: Path
) -> None:
    folder = tree("25.12.0")
    words = command("image", {"PACKAGES": "sample-slow-5", "BIN_DIR": str(tmp_path / "out")})
    with subprocess.Popen(words, cwd=folder, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout
        _read_until(first.stdout.readline, "sample: slept 1 of 5 seconds")
        second = make(folder, "manifest")
        assert (second.status, second.stdout) == (2, "")
        assert "another make is running" in second.stderr
        first.terminate()
        assert first.wait(timeout=60) != 0


@pytest.mark.parametrize("package", ["sample-slow-60", "sample-silent-hang"])
def test_a_build_dies_cleanly_on_sigterm_and_the_next_one_works(tree: Trees, package: str) -> None:
    folder = tree("25.12.0")
    with subprocess.Popen(
        command("image", {"PACKAGES": package}), cwd=folder, stdout=subprocess.PIPE, text=True
    ) as build:
        assert build.stdout
        _read_until(build.stdout.readline, "Building images...")
        build.send_signal(signal.SIGTERM)
        with sooner_than(60):
            build.stdout.read()  # ends when no process of the build holds the pipe any more
            assert build.wait(timeout=60) != 0
    assert make(folder, "manifest").status == 0


def test_a_slow_package_takes_its_seconds_and_says_so(tree: Trees) -> None:
    began = time.monotonic()
    run = make(tree("25.12.0"), "image", {"PACKAGES": "sample-slow-1"})
    assert run.status == 0
    assert time.monotonic() - began >= 1
    assert "sample: slept 1 of 1 seconds\n" in run.stdout


def test_a_chatty_package_prints_about_twenty_megabytes(tree: Trees) -> None:
    run = make(tree("25.12.0"), "image", {"PACKAGES": "sample-chatty"})
    assert run.status == 0
    assert 19_000_000 < len(run.stdout) < 22_000_000


def _read_until(readline: Callable[[], str], wanted: str) -> None:
    for line in iter(readline, ""):
        if line.rstrip() == wanted:
            return
    raise AssertionError(f"no line {wanted!r}")
