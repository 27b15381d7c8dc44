"""Containers that stand started before a build, in Podman."""

import logging
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Event

import pytest

from asu_builder.core.imagebuilder import ImageBuilder
from asu_builder.domain.errors import BuildFailed
from asu_builder.engines.podman.runtime import PodmanRuntime
from asu_builder.engines.podman.service import PodmanOptions
from asu_builder.ports import Runtime
from asu_builder.settings import Settings
from asu_sample.distribution import Distribution
from asu_sample.server import DownloadServer
from build_proxy_rig import ProxyBench
from factories import a_request, eventually
from podman_service import APK_VERSION, OPKG_VERSION, SAMPLE_REGISTRY, PodmanService
from runtime_rig import a_spec

log = logging.getLogger(__name__)


class Clock:
    """Seconds that only a test moves."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def runtime(podman_service: PodmanService, tmp_path: Path, clock: Clock) -> Iterator[PodmanRuntime]:
    settings = Settings(
        container_socket_path=str(podman_service.socket),
        imagebuilder_registry=SAMPLE_REGISTRY,
        build_network="none",
    )
    made = PodmanRuntime(PodmanOptions(settings, installation=tmp_path.name), clock=clock)
    yield made
    made.close()


@pytest.fixture
def containers(podman_service: PodmanService, tmp_path: Path) -> "Containers":
    return Containers(podman_service, f"asu.installation={tmp_path.name}")


class Containers:
    """What Podman has of one installation."""

    def __init__(self, service: PodmanService, label: str) -> None:
        self._service = service
        self._label = label

    def __call__(self) -> set[str]:
        return set(self._service.containers(self._label))

    def kill(self, name: str) -> None:
        """As somebody else may do it."""
        command = [*self._service.command(), "rm", "--force", "--time=0", name]
        subprocess.run(command, check=True, capture_output=True, env=self._service.variables())


def name_of(runtime: Runtime, output: Path, version: str = APK_VERSION) -> str:
    """Builds a little: the host name of the container that was used, which Podman names by its id."""
    output.mkdir()
    with runtime.open(a_spec(version), stop=Event()) as container:
        assert not container.exists("left-by-a-build")
        container.write_files({"left-by-a-build": "x"})
        return container.run(["cat", "/etc/hostname"], output=output).stdout.read_text().strip()


def test_a_container_that_stands_is_used_once(
    runtime: PodmanRuntime, containers: Containers, tmp_path: Path
) -> None:
    specs = [a_spec(APK_VERSION), a_spec(OPKG_VERSION)]
    assert runtime.make_ready(specs, warm=3, stop=Event()) == 3
    standing = containers()
    assert len(standing) == 3
    assert runtime.sweep(keep=lambda _: False) == 0, "they have no job, and are no leftovers"
    used = [name_of(runtime, tmp_path / str(number)) for number in range(3)]
    assert len(set(used)) == 3
    taken = {name[:12] for name in standing} & set(used)
    assert len(taken) == 2, "two of three stood for this release"
    runtime.close()
    assert containers() == set()


def test_what_is_made_ready_follows_what_is_wanted_and_is_renewed(
    runtime: PodmanRuntime, containers: Containers, clock: Clock, tmp_path: Path
) -> None:
    runtime.make_ready([a_spec(APK_VERSION)], warm=1, stop=Event())
    first = containers()
    runtime.make_ready([a_spec(APK_VERSION)], warm=1, stop=Event())
    assert containers() == first
    runtime.make_ready([a_spec(OPKG_VERSION)], warm=1, stop=Event())
    assert runtime._removals.close()
    other = containers()
    assert len(other) == 1 and other != first
    clock.now += 31 * 60
    assert name_of(runtime, tmp_path / "late", OPKG_VERSION) not in {name[:12] for name in other}
    runtime.make_ready([a_spec(OPKG_VERSION)], warm=1, stop=Event())
    assert runtime._removals.close()
    assert len(containers() - other) == 1 and not containers() & other


def test_one_that_somebody_has_removed_is_not_taken(
    runtime: PodmanRuntime, containers: Containers, tmp_path: Path
) -> None:
    runtime.make_ready([a_spec()], warm=1, stop=Event())
    (name,) = containers()
    containers.kill(name)
    assert name_of(runtime, tmp_path / "output") != name[:12]


def test_a_target_without_an_image_does_not_keep_others_from_being_ready(
    runtime: PodmanRuntime, containers: Containers, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    specs = [a_spec(target="no/such"), a_spec()]
    assert runtime.make_ready(specs, warm=1, stop=Event()) == 1
    assert f"not made ready for {APK_VERSION} no/such: Error: Image not found" in caplog.text
    with pytest.raises(BuildFailed), runtime.open(specs[0], stop=Event()):
        pass


_FETCH = "import urllib.request as r, sys; sys.stdout.write(r.urlopen(sys.argv[1]).read().decode())"


def test_one_that_stands_has_a_way_out_until_the_proxy_of_builds_ends(
    podman_service: PodmanService, sample_world: Distribution, tmp_path: Path
) -> None:
    with DownloadServer(sample_world.downloads) as server:
        template, socket = sample_world.template, podman_service.socket
        bench = ProxyBench("podman", tmp_path, server.url, podman_socket=socket, template=template)
        runtime, proxy = bench.runtime, bench.proxy
        assert proxy
        try:
            assert runtime.make_ready([a_spec()], warm=1, stop=Event()) == 1
            (standing,) = podman_service.containers(f"asu.installation={tmp_path.name}")
            with runtime.open(a_spec(), stop=Event()) as container:
                container.allow([f"{server.url}/releases"])
                url = f"{server.url}/releases/{APK_VERSION}/.targets.json"
                result = container.run(["python3", "-c", _FETCH, url], output=tmp_path)
                assert '"pico/nine"' in result.stdout.read_text()
                name = container.run(["cat", "/etc/hostname"], output=tmp_path).stdout.read_text().strip()
            assert standing.startswith(name)
            runtime.make_ready([a_spec()], warm=1, stop=Event())
            label = f"asu.installation={tmp_path.name}"
            assert eventually(lambda: len(podman_service.containers(label)) == 1), "the used one is removed"
            (standing,) = podman_service.containers(f"asu.installation={tmp_path.name}")
            assert proxy.pid
            os.kill(proxy.pid, signal.SIGKILL)
            assert eventually(lambda: proxy.pid is None)
            assert not standing.startswith(name_of(runtime, tmp_path / "later"))
        finally:
            bench.close()


@pytest.mark.timed
def test_a_build_is_set_up_much_sooner_in_one_that_stands(
    runtime: PodmanRuntime, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    request = a_request(version=APK_VERSION, target="pico/nine", profile="acme_widget-5", defaults="true")
    took: dict[int, list[float]] = {0: [], 1: []}
    for number in range(10):
        output, warm = tmp_path / str(number), number % 2
        output.mkdir()
        runtime.make_ready([a_spec()], warm=warm, stop=Event())
        began = time.perf_counter()
        with runtime.open(a_spec(), stop=Event()) as container:
            imagebuilder = ImageBuilder(container, request, output, known_info={})
            imagebuilder.set_up(a_spec().release, upstream_url="http://127.0.0.1:9")
            took[warm].append(time.perf_counter() - began)
    log.info(
        "set-up of a build: %.0f ms, in a warm container %.0f ms", *(1e3 * min(it) for it in took.values())
    )
    share = min(took[1]) / min(took[0])
    assert share < 0.5, took
