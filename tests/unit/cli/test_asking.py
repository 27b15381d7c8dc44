import io
import json
import sys
from pathlib import Path
from typing import Any

import click
import pytest

from asu_builder.cli.build import BuildOptions, body_of
from asu_builder.http.api.body import parse_request

PLACE = {"version": "24.10.5", "target": "pico/nine", "profile": "acme_widget-5"}


def asked(**options: Any) -> dict[str, Any]:
    body = body_of(BuildOptions(**options))
    parse_request(body)
    document = json.loads(body)
    assert document.pop("client").startswith("asu-builder/")
    return dict(document)


def written(folder: Path, text: str, name: str = "request.yaml") -> str:
    (folder / name).write_text(text)
    return str(folder / name)


def test_options_are_fields_of_the_request(tmp_path: Path) -> None:
    options = {
        **PLACE,
        "packages": ["luci", "-ppp tmux,vim"],
        "diff_packages": True,
        "defaults_file": written(tmp_path, "uci commit\n", "defaults"),
        "rootfs_size_mb": 256,
        "filesystem": "ext4",
        "version_code": "r1-abc",
        "repositories": ["mine=https://repo.example.org/x"],
        "repositories_mode": "append",
        "repository_key_files": [written(tmp_path, "a key", "key")],
    }
    assert asked(**options) == {
        **PLACE,
        "packages": ["luci", "-ppp", "tmux", "vim"],
        "diff_packages": True,
        "defaults": "uci commit\n",
        "rootfs_size_mb": 256,
        "filesystem": "ext4",
        "version_code": "r1-abc",
        "repositories": {"mine": "https://repo.example.org/x"},
        "repositories_mode": "append",
        "repository_keys": ["a key"],
    }


def test_what_nobody_says_is_not_sent() -> None:
    assert asked(**PLACE) == PLACE


@pytest.mark.parametrize(
    "text", [json.dumps(PLACE), "version: 24.10.5\ntarget: pico/nine\nprofile: acme_widget-5"]
)
def test_a_file_is_json_or_yaml(tmp_path: Path, text: str) -> None:
    assert asked(request_file=written(tmp_path, text)) == PLACE


def test_options_go_above_a_file_and_packages_come_in_addition(tmp_path: Path) -> None:
    file = written(tmp_path, json.dumps({**PLACE, "packages": ["luci"], "filesystem": "ext4"}))
    found = asked(request_file=file, packages=["vim"], filesystem="squashfs")
    assert (found["packages"], found["filesystem"]) == (["luci", "vim"], "squashfs")


def test_a_version_that_looks_like_a_number_is_text(tmp_path: Path) -> None:
    body = body_of(BuildOptions(request_file=written(tmp_path, "{version: 24.1, target: a/b, profile: c}")))
    assert json.loads(body)["version"] == "24.1"


def test_standard_input_is_a_file_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(PLACE)))
    assert asked(request_file="-") == PLACE


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{versoin: 1}", "there is no field versoin; did you mean version"),
        ("[1, 2]", "expected an object"),
        ("{", "neither JSON nor YAML"),
    ],
)
def test_a_file_that_cannot_be_meant_is_told(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(click.UsageError, match=sentence):
        asked(request_file=written(tmp_path, text), **PLACE)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"version": "24.10.5"}, "give --target, --profile"),
        ({**PLACE, "request_file": "/nowhere"}, "/nowhere cannot be read: No such file"),
        ({**PLACE, "defaults_file": "/"}, "cannot be read"),
        ({**PLACE, "request_file": "-", "defaults_file": "-"}, "standard input"),
        ({**PLACE, "repositories": ["https://x"]}, "NAME=ADDRESS"),
    ],
)
def test_options_that_cannot_be_meant_are_told(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(click.UsageError, match=sentence):
        body_of(BuildOptions(**options))
