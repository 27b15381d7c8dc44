"""Releases without a container image: the ImageBuilder's archive stands in for it, in Podman."""

import hashlib
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from threading import Event

import pytest
from msgspec.structs import replace

from asu_builder.app.runtimes import open_archives
from asu_builder.domain.errors import BuildFailed, FailureReason
from asu_builder.domain.make import parse_info
from asu_builder.engines.podman.runtime import PodmanRuntime
from asu_builder.engines.podman.service import PodmanOptions
from asu_builder.settings import Settings
from asu_sample.distribution import Distribution
from asu_sample.releases import RELEASES
from asu_sample.server import DownloadServer
from podman_service import APK_VERSION, SAMPLE_REGISTRY, SAMPLE_TARGET, PodmanService
from runtime_rig import a_spec

VERSION = "24.10.4"
"""A release of the sample that no test makes a container image of."""
INSTALLATION = "archives"
FOLDER = f"releases/{VERSION}/targets/{SAMPLE_TARGET}"
NAME = f"openwrt-imagebuilder-{VERSION}-pico-nine.Linux-x86_64.tar.xz"
KEY = next(release for release in RELEASES if release.version == VERSION).signing_key()


@pytest.fixture(scope="module")
def base(podman_service: PodmanService) -> str:
    """A container image with what an ImageBuilder needs, and none where it works."""
    from podman import PodmanClient

    with PodmanClient(base_url=f"unix://{podman_service.socket}", timeout=120) as client:
        image = f"{SAMPLE_REGISTRY}:{SAMPLE_TARGET.replace('/', '-')}-v{APK_VERSION}"
        container = client.containers.create(image, command=["true"], network_mode="none")
        changes = ["WORKDIR /srv/empty"]
        query = {"container": container.id, "repo": "localhost/sample-base", "tag": "1", "changes": changes}
        client.api.post("/commit", params=query).raise_for_status()
        container.remove(force=True, v=True)
    return "localhost/sample-base:1"


@pytest.fixture
def mirror(sample_world: Distribution, tmp_path: Path) -> Iterator[DownloadServer]:
    """A download server with the one target that the tests ask for."""
    shutil.copytree(sample_world.downloads / FOLDER, tmp_path / "mirror" / FOLDER)
    with DownloadServer(tmp_path / "mirror") as server:
        yield server


@pytest.fixture
def make_runtime(
    mirror: DownloadServer, base: str, podman_service: PodmanService, tmp_path: Path
) -> Callable[..., PodmanRuntime]:
    settings = Settings(
        container_socket_path=str(podman_service.socket),
        imagebuilder_registry=SAMPLE_REGISTRY,
        imagebuilder_keys={"24.10": KEY.public_text()},
        imagebuilder_base=base,
        database_path=tmp_path / "data" / "asu.db",
        upstream_url=mirror.url,
        build_network="none",
    )
    options = PodmanOptions(settings, installation=INSTALLATION, archives=open_archives(settings))
    return partial(PodmanRuntime, options)


def test_an_archive_stands_in_for_an_image_that_is_missing_and_is_unpacked_once(
    make_runtime: Callable[[], PodmanRuntime], mirror: DownloadServer, base: str, tmp_path: Path
) -> None:
    seen = []
    for number in range(2):
        output = tmp_path / str(number)
        output.mkdir()
        with make_runtime().open(a_spec(VERSION), stop=Event()) as container:
            info = container.run(["make", "info"], output=output).stdout.read_text()
            others = container.run(["find", ".", "!", "-user", "buildbot"], output=output).stdout.read_text()
            assert others == "" and not container.exists("imagebuilder.archive")
            origin = replace(container.origin, pull_seconds=0.0)
            seen.append((container.identity, origin, list(container.warnings), parse_info(info)))
    assert seen[0] == seen[1]
    _, origin, warnings, found = seen[0]
    assert found.target == SAMPLE_TARGET
    archive = mirror.root / FOLDER / NAME
    assert (origin.image, origin.archive) == (base, hashlib.sha256(archive.read_bytes()).hexdigest())
    assert [text.partition(",")[0] for text in warnings] == [
        f"The container image sample:pico-nine-v{VERSION} is not published"
    ]
    assert mirror.requests[f"/{FOLDER}/{NAME}"] == 1


def test_an_archive_with_a_device_is_refused_and_left_alone_for_a_while(
    make_runtime: Callable[[], PodmanRuntime],
    mirror: DownloadServer,
    podman_service: PodmanService,
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = mirror.root / FOLDER
    with tarfile.open(folder / NAME, "w:xz") as archive:
        device = tarfile.TarInfo("openwrt-imagebuilder/null")
        device.type = tarfile.CHRTYPE
        archive.addfile(device)
    digest = hashlib.sha256((folder / NAME).read_bytes()).hexdigest()
    sums = f"{digest} *{NAME}\n".encode()
    (folder / "sha256sums").write_bytes(sums)
    (folder / "sha256sums.sig").write_text(KEY.sign(sums))
    runtime = make_runtime()
    for _ in range(2):
        with pytest.raises(BuildFailed) as failure, runtime.open(a_spec(VERSION), stop=Event()):
            pass
        assert failure.value.reason is FailureReason.IMAGEBUILDER_MISSING
        assert failure.value.detail.startswith(f"Error: Image not found: sample:pico-nine-v{VERSION}. ")
    assert "'openwrt-imagebuilder/null' is no file, folder or link" in caplog.text
    assert mirror.requests[f"/{FOLDER}/{NAME}"] == 1
    assert runtime.close(), "its container is removed"
    assert podman_service.containers(f"asu.installation={INSTALLATION}") == []


def test_images_of_archives_go_after_a_week_without_use(
    make_runtime: Callable[..., PodmanRuntime], podman_service: PodmanService
) -> None:
    now = 1000.0
    runtime = make_runtime(clock=lambda: now)

    def images() -> int:
        found = subprocess.run(
            [*podman_service.command(), "images", "--quiet", "localhost/asu-builder/imagebuilder"],
            check=True,
            capture_output=True,
            text=True,
            env=podman_service.variables(),
        )
        return len(found.stdout.split())

    for days, left in ((0, 1), (6, 1), (2, 0)):
        now += timedelta(days=days).total_seconds()
        if not days:
            with runtime.open(a_spec(VERSION), stop=Event()):
                pass
            assert runtime.close()
        runtime.sweep(keep=lambda _: True)
        assert images() == left, days
