"""The fake beside the real ImageBuilder: the same answers, without a copy and without a process."""

import json
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from asu_builder.domain.make import CommandResult
from asu_builder.engines.guard import Limits
from asu_builder.engines.local.runtime import LocalRuntime
from asu_builder.ports import Container, Runtime
from asu_builder.settings import Settings
from asu_sample.distribution import Distribution
from fake_runtime import FakeRuntime
from podman_service import APK_VERSION, OPKG_VERSION
from runtime_rig import a_spec

_PROFILE = "acme_small"


@pytest.fixture
def fake(sample_world: Distribution, tmp_path: Path) -> FakeRuntime:
    return FakeRuntime(sample_world.template, tmp_path / "fakes")


@pytest.fixture
def plain(sample_world: Distribution, tmp_path: Path) -> LocalRuntime:
    settings = Settings(imagebuilder_path=sample_world.template)
    return LocalRuntime(settings, tmp_path / "copies", sandboxed=False, limits=Limits())


def made(runtime: Runtime, output: Path, *command: str, version: str = APK_VERSION) -> CommandResult:
    """What a command leaves in a fresh container."""
    output.mkdir()
    with runtime.open(a_spec(version), stop=Event()) as container:
        return container.run(command, output=output)


def images(runtime: Runtime, place: Path, *, version: str) -> tuple[set[str], Any]:
    """Names of the files of a build, and its profiles.json without what no two builds share."""
    into = place / "into"
    into.mkdir(parents=True)
    with runtime.open(a_spec(version), stop=Event()) as container:
        bin_dir = f"{container.workdir}/out"
        command = ("make", "image", f"PROFILE={_PROFILE}", "PACKAGES=vim", f"BIN_DIR={bin_dir}")
        result = container.run((*command, "EXTRA_IMAGE_NAME=0123"), output=place)
        assert result.exit_code == 0, result.stderr.read_text()
        names = set(container.collect(bin_dir, into))
    document = json.loads((into / "profiles.json").read_text())
    for image in document["profiles"][_PROFILE]["images"]:
        assert image.pop("sha256") and image.pop("sha256_unsigned")
        image.pop("size", None)
    return names, document


def is_copied(container: Container) -> bool:
    """Whether the ImageBuilder lies in the container's directory."""
    return Path(container.workdir, "Makefile").exists()


@pytest.mark.parametrize("version", [APK_VERSION, OPKG_VERSION])
@pytest.mark.parametrize(
    "command",
    [
        ("make", "info"),
        ("make", "manifest", f"PROFILE={_PROFILE}", "PACKAGES=vim tmux -ppp luci", "STRIP_ABI=1"),
        ("make", "manifest", "PROFILE=acme_widget-5", "PACKAGES="),
    ],
)
def test_its_answers_are_the_imagebuilder_s(
    fake: FakeRuntime, plain: LocalRuntime, tmp_path: Path, version: str, command: tuple[str, ...]
) -> None:
    ours = made(fake, tmp_path / "fake", *command, version=version)
    real = made(plain, tmp_path / "plain", *command, version=version)
    assert ours.exit_code == real.exit_code == 0, real.stderr.read_text()
    assert ours.stdout.read_text() == real.stdout.read_text()


@pytest.mark.parametrize("version", [APK_VERSION, OPKG_VERSION])
def test_its_images_are_described_as_the_imagebuilder_describes_them(
    fake: FakeRuntime, plain: LocalRuntime, tmp_path: Path, version: str
) -> None:
    names, document = images(fake, tmp_path / "fake", version=version)
    real_names, real_document = images(plain, tmp_path / "plain", version=version)
    assert document == real_document
    assert names == real_names


@pytest.mark.parametrize("version", [APK_VERSION, OPKG_VERSION])
def test_a_package_that_does_not_exist_fails_in_both(
    fake: FakeRuntime, plain: LocalRuntime, tmp_path: Path, version: str
) -> None:
    command = ("make", "manifest", f"PROFILE={_PROFILE}", "PACKAGES=nosuch")
    ours = made(fake, tmp_path / "fake", *command, version=version)
    real = made(plain, tmp_path / "plain", *command, version=version)
    assert ours.exit_code != 0 and real.exit_code != 0
    assert "nosuch" in ours.stderr.read_text()


def test_a_whole_build_needs_neither_a_copy_nor_a_process(
    fake: FakeRuntime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr("subprocess.Popen", refuse)
    with fake.open(a_spec(), stop=Event()) as container:
        assert container.exists("Makefile")
        container.write_files({"asu-files/etc/uci-defaults/99": "exit 0\n"})
        bin_dir = f"BIN_DIR={container.workdir}/out"
        files = f"FILES={container.workdir}/asu-files"
        selection = (f"PROFILE={_PROFILE}", "PACKAGES=vim")
        for command in (("info",), ("manifest", *selection), ("image", *selection, bin_dir, files)):
            assert container.run(("make", *command), output=tmp_path).exit_code == 0
        (image,) = Path(container.workdir, "out").glob("*sysupgrade.bin")
        assert "etc/uci-defaults/99" in image.read_text()
        assert not is_copied(container)


@pytest.mark.parametrize(
    "command",
    [
        ("true",),
        ("make", "clean"),
        ("make", "image", "BIN_DIR=relative"),
        ("make", "manifest", "PACKAGES=sample-slow-1"),
        ("make", "info", "DISABLED_SERVICES=dnsmasq"),
    ],
)
def test_what_it_does_not_imitate_is_done_for_real(
    fake: FakeRuntime, tmp_path: Path, command: tuple[str, ...]
) -> None:
    with fake.open(a_spec(), stop=Event()) as container:
        container.run(command, output=tmp_path)
        assert is_copied(container)
