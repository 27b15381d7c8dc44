"""What the doctor says of archives that stand in for container images."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from asu_builder.doctor.engine import check_archives
from asu_builder.doctor.scene import Scene
from asu_builder.domain.health import CheckResult
from asu_builder.settings.reading import survey_settings
from asu_builder.signing.usign import SecretKey, make_key
from asu_sample.server import DownloadServer
from fake_engine import Answer, FakeEngine

FOLDER = "releases/24.10.5/targets/x86/64"
NAME = "openwrt-imagebuilder-24.10.5-x86-64.Linux-x86_64.tar.zst"


@pytest.fixture
def key() -> SecretKey:
    return make_key()


@pytest.fixture
def mirror(tmp_path: Path, key: SecretKey) -> Iterator[DownloadServer]:
    root = tmp_path / "mirror"
    (root / FOLDER).mkdir(parents=True)
    (root / ".versions.json").write_text('{"stable_version": "24.10.5", "versions_list": ["24.10.5"]}')
    (root / "releases/24.10.5/.targets.json").write_text('{"x86/64": "x86_64"}')
    sums = f"{'a' * 64} *{NAME}\n".encode()
    (root / FOLDER / "sha256sums").write_bytes(sums)
    (root / FOLDER / "sha256sums.sig").write_text(key.sign(sums).text())
    with DownloadServer(root) as server:
        yield server


def said(mirror: DownloadServer, keys: dict[str, str], **settings: str) -> CheckResult:
    environment = {
        "ASU_UPSTREAM_URL": mirror.url,
        "ASU_IMAGEBUILDER_KEYS": json.dumps(keys),
        "ASU_IMAGEBUILDER_BASE": "base.example/base:1",
        **{f"ASU_{name.upper()}": value for name, value in settings.items()},
    }
    return check_archives(Scene(survey_settings(environment, ()), environment={}, url=""))


def test_without_keys_it_says_that_nothing_stands_in(mirror: DownloadServer) -> None:
    found = said(mirror, {})
    assert found.status == "ok" and "imagebuilder_keys is empty" in found.sentence


def test_keys_that_are_none_and_lines_without_one_are_errors(mirror: DownloadServer, key: SecretKey) -> None:
    assert said(mirror, {"24.10": "RWQ"}).sentence.startswith("imagebuilder_keys.24.10: it is nothing")
    found = said(mirror, {"23.05": key.public.text()})
    assert found.status == "error" and "imagebuilder_keys has no key for 24.10" in found.sentence
    found = said(mirror, {"24.10": make_key().public.text()})
    assert found.status == "error" and "is not signed by the key" in found.sentence


def test_a_release_without_an_archive_and_a_server_that_fails_are_warnings(
    mirror: DownloadServer, key: SecretKey
) -> None:
    (mirror.root / FOLDER / "sha256sums").unlink()
    keys = {"24.10": key.public.text()}
    found = said(mirror, keys)
    assert found.status == "warning" and "lists no ImageBuilder of 24.10.5 for x86/64" in found.sentence
    mirror.broken = True
    found = said(mirror, keys)
    assert found.status == "warning" and "No archive was looked for" in found.sentence


def test_the_local_runtime_unpacks_none(mirror: DownloadServer, key: SecretKey) -> None:
    found = said(mirror, {"24.10": key.public.text()}, container_runtime="local", imagebuilder_path="/x")
    assert found.status == "warning" and "unpacked by Podman only" in found.sentence


@pytest.mark.parametrize(("status", "expected"), [(204, "ok"), (404, "warning")])
def test_the_base_must_be_there(
    mirror: DownloadServer, key: SecretKey, tmp_path: Path, status: int, expected: str
) -> None:
    with FakeEngine(tmp_path / "podman.sock") as engine:
        engine.faults[r"GET .*/version"] = Answer(body={"Version": "4.3.1"})
        engine.faults[r"GET .*/exists"] = Answer(status)
        found = said(mirror, {"24.10": key.public.text()}, container_socket_path=str(engine.socket))
    assert found.status == expected, found
