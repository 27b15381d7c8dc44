"""The command that repeats a build at home."""

import shlex
import subprocess
from pathlib import Path

import pytest

from asu_builder.domain.make import make_arguments
from asu_builder.domain.release import parse_release
from asu_builder.domain.request import BuildRequest
from asu_builder.http.pages.build_page import Reproduction, image_reference, reproduce
from factories import a_request

_TEMPLATE = "registry.example.org/imagebuilder:{target}-{subtarget}-{tag}"
_UPSTREAM = "https://downloads.example.org"


def reproduced(request: BuildRequest, *packages: str, files: str | None = None) -> Reproduction:
    command = make_arguments(
        "image", request.profile, packages, bin_dir="/srv/asu-images", extra_name="abc123", files=files
    )
    release = parse_release(request.version)
    return reproduce(request, command, release=release, template=_TEMPLATE, upstream_url=_UPSTREAM)


def run_with_fake_podman(command: str, folder: Path) -> list[list[str]]:
    """What a shell makes of the command: the arguments of every call of Podman."""
    podman = folder / "podman"
    podman.write_text('#!/bin/sh\nprintf "%s\\n" "$#" "$@" >> "$CALLS"\n')
    podman.chmod(0o755)
    environment = {"PATH": f"{folder}:/usr/bin:/bin", "CALLS": str(folder / "calls")}
    subprocess.run(["sh", "-e", "-c", command], env=environment, check=True, cwd=folder)
    lines = (folder / "calls").read_text().splitlines()
    calls = []
    while lines:
        count = int(lines.pop(0))
        calls.append(lines[:count])
        del lines[:count]
    return calls


@pytest.mark.process
def test_a_shell_gives_podman_the_very_arguments_that_ran(tmp_path: Path) -> None:
    found = reproduced(a_request(), "luci", "-ppp", "libstdc++")
    run, copy, remove = run_with_fake_podman(found.command, tmp_path)
    at = run.index("make")
    assert run[:at] == ["run", "--name", "asu-again", "registry.example.org/imagebuilder:pico-nine-v24.10.5"]
    assert run[at:] == [
        "make",
        "image",
        "PROFILE=acme_widget-5",
        "PACKAGES=luci -ppp libstdc++",
        "EXTRA_IMAGE_NAME=abc123",
        "BIN_DIR=/builder/images",
    ]
    assert copy == ["cp", "asu-again:/builder/images", "."]
    assert remove == ["rm", "asu-again"]


def test_nothing_of_the_server_s_own_paths_is_told() -> None:
    found = reproduced(a_request(defaults="secret"), "luci", files="/srv/asu-files")
    assert "/srv" not in found.command and "secret" not in found.command
    assert "first-boot" in found.left_out[0] and "secret" not in str(found.left_out)


@pytest.mark.process
def test_a_snapshot_s_imagebuilder_is_loaded_first(tmp_path: Path) -> None:
    found = reproduced(a_request(version="24.10-SNAPSHOT"), "luci")
    run, *_ = run_with_fake_podman(found.command, tmp_path)
    assert "VERSION_PATH=releases/24.10-SNAPSHOT" in run and f"UPSTREAM_URL={_UPSTREAM}" in run
    shell = run.index("sh")
    assert run[shell - 1] == "registry.example.org/imagebuilder:pico-nine-openwrt-24.10"
    assert run[shell + 1] == "-c" and run[shell + 4 : shell + 6] == ["make", "image"]
    # What the container's shell does: set up where it must, then make.
    for there, expected in (("touch Makefile", "image"), ("echo echo set up > setup.sh", "set up\nimage")):
        inside = shlex.join(["sh", "-c", run[shell + 2], "sh", "echo", "image"])
        folder = tmp_path / str(len(expected))
        folder.mkdir()
        result = subprocess.run(
            ["sh", "-c", f"{there}; {inside}"], cwd=folder, check=True, capture_output=True, text=True
        )
        assert result.stdout.strip() == expected
    assert any("snapshot moves" in sentence for sentence in found.left_out)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"repositories": {"own": "https://feeds.example.org/x"}}, "repositories"),
        ({"repository_keys": ("key",)}, "keys"),
    ],
)
def test_what_the_command_leaves_out_is_said(changes: dict[str, object], words: str) -> None:
    assert words in reproduced(a_request(**changes)).left_out[0]


def test_a_plain_request_leaves_out_nothing() -> None:
    assert reproduced(a_request(), "luci").left_out == ()


def test_a_template_may_name_the_version() -> None:
    release = parse_release("24.10.5")
    assert image_reference("r/{version}:{target}", release, "pico/nine") == "r/24.10.5:pico"
