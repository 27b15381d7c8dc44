"""Services, upstreams and engines of the end-to-end tests; those that are shared live as long as the run."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from asu_sample.distribution import Distribution
from asu_sample.server import DownloadServer
from e2e.service import Client, Service
from e2e.slow_imagebuilder import write_slow_imagebuilder
from e2e.terminal import WHERE
from podman_service import APK_VERSION, SAMPLE_REGISTRY, SAMPLE_TARGET

Make = Callable[..., Service]


@pytest.fixture(scope="session")
def upstream(sample_world: Distribution) -> Iterator[DownloadServer]:
    """A download server that always answers."""
    with DownloadServer(sample_world.downloads) as server:
        yield server


def local_settings(world: Distribution, upstream_url: str) -> dict[str, object]:
    """Builds from unpacked ImageBuilders, sandboxed where this host can."""
    return {
        "upstream_url": upstream_url,
        "container_runtime": "local",
        "imagebuilder_path": world.template,
        "build_network": "none",
        "allow_unsandboxed": "true",
        "allow_defaults": "true",
        "worker_concurrent": 2,
    }


def podman_settings(socket: Path, upstream_url: str) -> dict[str, object]:
    """Builds in containers of the private Podman service."""
    return {
        "upstream_url": upstream_url,
        "container_runtime": "podman",
        "container_socket_path": socket,
        "imagebuilder_registry": SAMPLE_REGISTRY,
        "build_network": "none",
        "allow_defaults": "true",
        "worker_concurrent": 2,
    }


@contextmanager
def slow_service(
    world: Distribution,
    upstream: DownloadServer,
    folder: Path,
    *,
    seconds: float,
    longer: Mapping[str, int] | None = None,
    **settings: object,
) -> Iterator[Service]:
    """A running service whose builds stay in each stage for so long; must not print a traceback.

    `longer`: see `write_slow_imagebuilder`.
    """
    template = write_slow_imagebuilder(
        world,
        folder / "builders",
        version=APK_VERSION,
        target=SAMPLE_TARGET,
        seconds=seconds,
        longer=longer,
    )
    chosen = local_settings(world, upstream.url) | {"imagebuilder_path": template, **settings}
    yield from running(Service(folder / "service", chosen))


@pytest.fixture
def make_local(sample_world: Distribution, upstream: DownloadServer, tmp_path: Path) -> Iterator[Make]:
    """Makes services with the local runtime, not yet started, and ends them."""
    made: list[Service] = []

    def make(name: str = "service", *, below: tuple[str, ...] = (), **settings: object) -> Service:
        chosen = local_settings(sample_world, upstream.url) | settings
        made.append(Service(tmp_path / name, chosen, below=below))
        return made[-1]

    yield make
    for service in made:
        service.end()


@pytest.fixture
def make_podman(
    podman_socket: Path, sample_images: str, upstream: DownloadServer, tmp_path: Path
) -> Iterator[Make]:
    """Makes services that build in containers, not yet started, and ends them."""
    made: list[Service] = []

    def make(name: str = "service", **settings: object) -> Service:
        chosen = podman_settings(podman_socket, upstream.url) | settings
        made.append(Service(tmp_path / name, chosen))
        return made[-1]

    yield make
    for service in made:
        service.end()


@pytest.fixture(scope="session")
def local_service(
    sample_world: Distribution, upstream: DownloadServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """One service with the local runtime for many tests; must not have printed a traceback."""
    settings = local_settings(sample_world, upstream.url)
    service = Service(tmp_path_factory.mktemp("local"), settings)
    yield from running(service)


@pytest.fixture(scope="session")
def podman_builder(
    podman_socket: Path,
    sample_images: str,
    upstream: DownloadServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Service]:
    """One service that builds in containers for many tests; must not have printed a traceback."""
    settings = podman_settings(podman_socket, upstream.url)
    yield from running(Service(tmp_path_factory.mktemp("podman"), settings))


def running(service: Service) -> Iterator[Service]:
    """Starts a service and ends it; fails when it printed a traceback."""
    try:
        yield service.start()
    finally:
        service.end()
    assert "Traceback" not in service.stderr()


@pytest.fixture
def local(local_service: Service) -> Iterator[Client]:
    """A connection to the shared service with the local runtime."""
    with local_service.client() as client:
        yield client


@pytest.fixture
def containers(podman_builder: Service) -> Iterator[Client]:
    """A connection to the shared service that builds in containers."""
    with podman_builder.client() as client:
        yield client


@pytest.fixture(params=WHERE)
def where(request: pytest.FixtureRequest) -> str:
    """On the installation, beside the running service, or on the service."""
    return str(request.param)
