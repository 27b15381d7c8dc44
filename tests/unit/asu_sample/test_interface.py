"""How a sample ImageBuilder is driven: goals, variables, exit codes."""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from asu_sample.distribution import Distribution
from asu_sample.miniature import MARKER
from sample_make import make

pytestmark = pytest.mark.process

Trees = Callable[..., Path]
BOTH = pytest.mark.parametrize("version", ["24.10.5", "25.12.0"])


@BOTH
def test_a_directory_has_what_drivers_look_for(tree: Trees, version: str) -> None:
    folder = tree(version)
    present = {path.name for path in folder.iterdir()}
    assert {"keys", "packages", "Makefile"} <= present
    expected = "repositories.conf" if version.startswith("24") else "repositories"
    assert {"repositories.conf", "repositories"} & present == {expected}
    names = {path.name.split("_")[0].split("-")[0] for path in (folder / "packages").iterdir()}
    assert names == {"libc", "kernel", "base"}


@BOTH
def test_without_a_goal_it_prints_help_and_succeeds(tree: Trees, version: str) -> None:
    folder = tree(version)
    # Without what a make above us would pass on to one that it started.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    done = subprocess.run(["make"], cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Available Commands:")
    assert make(folder, "help").stdout == done.stdout


@BOTH
def test_exit_codes_are_0_or_2_and_a_failure_ends_with_the_trace_line(tree: Trees, version: str) -> None:
    folder = tree(version)
    failures = [
        ("manifest", {"PROFILE": "nope"}),
        ("manifest", {"PACKAGES": "nope"}),
        ("package_depends", {}),
        ("no_such_goal", {}),
    ]
    for goal, variables in failures:
        run = make(folder, goal, variables)
        assert run.status == 2
        last = run.stderr.rstrip().splitlines()[-1]
        assert re.fullmatch(
            rf"make: \*\*\* (\[Makefile:\d+: {goal}\] Error 2|No rule to make target .*)", last
        )
    assert make(folder, "manifest").status == 0


def test_info_keeps_the_trailing_space_of_empty_packages_and_drops_empty_device_lists(tree: Trees) -> None:
    text = make(tree("25.12.0"), "info").stdout
    assert "acme_small:\n    Acme Small\n    Packages: \n    hasImageMetadata: 1\n" in text
    assert "Acme_OLD-board:\n    Acme Old Board\n    Packages: \n    hasImageMetadata: 0\nacme_tiny:" in text
    assert "\nAvailable Profiles:\n\nacme_widget-5:\n" in text
    assert 'Current Target: "pico/nine"\nCurrent Architecture: "pico"\nCurrent Revision: "r' in text


def test_info_exists_with_and_without_the_architecture_line(tree: Trees) -> None:
    assert "Current Architecture" in make(tree("24.10.4"), "info").stdout
    assert "Current Architecture" not in make(tree("24.10.4", "nano/tiny"), "info").stdout


@BOTH
def test_info_writes_nothing_to_stderr(tree: Trees, version: str) -> None:
    assert make(tree(version), "info").stderr == ""


def test_the_regular_expressions_of_the_reference_driver_match_info(tree: Trees) -> None:
    text = make(tree("25.12.0"), "info").stdout
    assert re.search(r'Current Revision: "(r.+)"', text)
    assert re.search(r"Default Packages: (.*)\n", text)
    found = re.search(r"acme_widget-5:\n    .+\n    Packages: (.*?)\n", text)
    assert found and found.group(1) == "kmod-acme-usb -ppp"


@BOTH
def test_unknown_variables_are_ignored_and_the_first_profile_is_the_default(
    tree: Trees, version: str
) -> None:
    folder = tree(version)
    plain = make(folder, "manifest").stdout
    assert make(folder, "manifest", {"NO_SUCH_VARIABLE": "x", "PROFILE": ""}).stdout == plain
    assert make(folder, "manifest", {"PROFILE": "acme_widget-5"}).stdout == plain
    assert "kmod-acme-usb" in plain


@BOTH
def test_a_profile_may_be_written_with_its_device_prefix(tree: Trees, version: str) -> None:
    folder = tree(version)
    written = make(folder, "manifest", {"PROFILE": "DEVICE_acme_small"})
    assert (written.status, written.stdout) == (0, make(folder, "manifest", {"PROFILE": "acme_small"}).stdout)


@BOTH
@pytest.mark.parametrize("goal", ["manifest", "image"])
def test_an_unknown_profile_is_named_on_stdout(tree: Trees, version: str, goal: str) -> None:
    run = make(tree(version), goal, {"PROFILE": "nope"})
    assert run.status == 2
    assert run.stdout == (
        'Profile "nope" does not exist!\nUse "make info" to get a list of available profile names.\n'
    )


def test_profile_counts_from_the_environment_and_packages_does_not(tree: Trees) -> None:
    folder = tree("25.12.0")
    environment = {"PATH": os.environ["PATH"], "PROFILE": "acme_small", "PACKAGES": "vim"}
    done = subprocess.run(
        ["make", "manifest"], cwd=folder, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == make(folder, "manifest", {"PROFILE": "acme_small"}).stdout


def test_a_new_builder_refuses_unknown_and_multiple_filesystems_on_stdout(tree: Trees) -> None:
    folder = tree("SNAPSHOT")
    unknown = make(folder, "image", {"ROOTFS_FILESYSTEM": "zfs"})
    text = 'Filesystem "zfs" is not available!\nAvailable filesystems: squashfs ext4 targz\n'
    assert (unknown.status, unknown.stdout) == (2, text)
    several = make(folder, "image", {"ROOTFS_FILESYSTEM": "squashfs ext4"})
    text = 'ROOTFS_FILESYSTEM must be a single value, got "squashfs ext4"\n'
    assert (several.status, several.stdout) == (2, text)


def test_a_new_builder_makes_only_the_chosen_filesystem(tree: Trees, tmp_path: Path) -> None:
    folder, out = tree("SNAPSHOT", "x86/64"), tmp_path / "out"
    run = make(folder, "image", {"ROOTFS_FILESYSTEM": "squashfs", "BIN_DIR": str(out)})
    assert run.status == 0
    assert list(out.glob("*squashfs*")) and not list(out.glob("*ext4*"))


def test_an_old_builder_ignores_the_filesystem_without_a_word(tree: Trees, tmp_path: Path) -> None:
    folder, out = tree("25.12.0", "x86/64"), tmp_path / "out"
    run = make(folder, "image", {"ROOTFS_FILESYSTEM": "zfs", "BIN_DIR": str(out)})
    assert run.status == 0
    assert list(out.glob("*squashfs*")) and list(out.glob("*ext4*"))
    assert "ROOTFS_FILESYSTEM" not in run.stdout + run.stderr


def test_it_says_what_it_is(world: Distribution, tree: Trees, tmp_path: Path) -> None:
    folder = tree("25.12.0")
    assert "FLASH NOTHING" in (folder / "README").read_text()
    assert "flash nothing" in make(folder, "help").stdout
    assert make(folder, "image", {"BIN_DIR": str(tmp_path / "out")}).status == 0
    for image in tmp_path.glob("out/*.bin"):
        assert image.read_bytes().startswith(MARKER.encode())
    manual = Path(__file__).parents[3] / "docs" / "sample-distribution.md"
    assert "flash nothing" in manual.read_text().lower()


@BOTH
def test_clean_echoes_its_command_and_removes_what_builds_left(tree: Trees, version: str) -> None:
    folder = tree(version)
    assert make(folder, "image").status == 0
    assert (folder / "bin").is_dir()
    run = make(folder, "clean")
    assert run.status == 0
    assert run.stdout.startswith("rm -rf ")
    assert not any((folder / name).exists() for name in ("bin", "tmp", "dl", "build_dir"))


def test_clean_spares_folders_outside_of_its_directory(tree: Trees, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    assert make(tree("25.12.0"), "clean", {"BIN_DIR": str(outside)}).status == 0
    assert outside.is_dir()


def test_it_needs_nothing_but_the_standard_library(world: Distribution) -> None:
    """Containers have nothing else, and what it answers must be its own."""
    scripts = sorted((world.imagebuilder("25.12.0", "x86/64") / "scripts/miniature").glob("*.py"))
    assert len(scripts) > 10
    for path in scripts:
        for node in ast.walk(ast.parse(path.read_text(), feature_version=(3, 9))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [str(node.module)]
            assert {name.split(".")[0] for name in names} <= sys.stdlib_module_names, path.name
