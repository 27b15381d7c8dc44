"""The command that a build's page tells is run, in a real container of Podman."""

import hashlib
import html
import json
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from e2e.service import Client
from podman_service import APK_VERSION, OPKG_VERSION, PodmanService


@pytest.mark.long
@pytest.mark.parametrize("version", [APK_VERSION, OPKG_VERSION])
def test_the_command_on_a_build_s_page_makes_the_same_images(
    version: str, containers: Client, podman_service: PodmanService, tmp_path: Path
) -> None:
    body = {
        "version": version,
        "target": "pico/nine",
        "profile": "acme_widget-5",
        "packages": ["luci", "tmux"],
    }
    build = containers.build(body).json
    page = containers.get(f"/build/{build['request_hash']}").body.decode()
    told = re.search(r'<code id="reproduce"[^>]*>(.*?)</code>', page, re.DOTALL)
    assert told
    name, *options = podman_service.command()
    program = shutil.which(name)
    assert program
    ours = shlex.join((program, *options))
    podman = tmp_path / "podman"
    podman.write_text(f'#!/bin/sh\nexec {ours} "$@"\n')
    podman.chmod(0o755)
    home = tmp_path / "home"
    home.mkdir()
    ended = subprocess.run(
        ["sh", "-c", html.unescape(told[1])],
        cwd=home,
        env=podman_service.variables() | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    folder = home / "images"
    described = json.loads((folder / "profiles.json").read_text())["profiles"]["acme_widget-5"]["images"]
    unsigned = {image["name"]: image["sha256_unsigned"] for image in described}
    assert build["images"]
    for image in build["images"]:
        assert unsigned[image["name"]] == image["sha256_unsigned"], image["name"]
        # With opkg each ImageBuilder signs by a key of its own.
        if version == APK_VERSION:
            made = hashlib.sha256((folder / image["name"]).read_bytes()).hexdigest()
            assert made == image["sha256"], image["name"]
