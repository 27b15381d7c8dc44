"""A whole service that builds the sample distribution: with the fake runtime, or in a Podman of its own."""

import contextlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from asu_sample.distribution import Distribution, write_distribution
from asu_sample.server import DownloadServer
from bench.process import Server, free_port, serving

_TESTS = Path(__file__).parents[1] / "tests"
"""Where the fake runtime and the private Podman are; the benchmarks borrow them."""
VERSION, TARGET = "25.12.0", "pico/nine"
PROFILES = ("acme_small", "acme_widget-5")
WORKERS = 4


@dataclass(frozen=True)
class World:
    """A running service and where its files are; `log` is what it printed."""

    server: Server
    database: Path
    log: Path


@contextlib.contextmanager
def faked(folder: Path, *, pace: float = 0.0) -> Iterator[World]:
    """Builds take a few milliseconds and at least `pace` seconds; nothing is started for them."""
    with _sample(folder) as (world, upstream):
        settings = stub_settings(world, upstream, pace=pace)
        with service(folder, "fake_runtime", settings=settings) as running:
            yield running


def stub_settings(world: Distribution, upstream: str, *, pace: float = 0.0) -> dict[str, str]:
    """The environment of `python -m fake_runtime`, whose builds take at least `pace` seconds."""
    return {
        "ASU_UPSTREAM_URL": upstream,
        "ASU_CONTAINER_RUNTIME": "local",
        "ASU_IMAGEBUILDER_PATH": world.template,
        "ASU_ALLOW_UNSANDBOXED": "true",
        "FAKE_PACE": f"{pace}s",
        "PYTHONPATH": os.pathsep.join(filter(None, (str(_TESTS), os.environ.get("PYTHONPATH")))),
    }


@contextlib.contextmanager
def unpacked(folder: Path, *, prepare: Callable[[Distribution], None]) -> Iterator[World]:
    """Builds run in the local runtime, from ImageBuilders that `prepare` may have changed."""
    with _sample(folder) as (world, upstream):
        prepare(world)
        settings = {
            "ASU_UPSTREAM_URL": upstream,
            "ASU_CONTAINER_RUNTIME": "local",
            "ASU_IMAGEBUILDER_PATH": world.template,
            "ASU_ALLOW_UNSANDBOXED": "true",
            "ASU_ALLOW_DEFAULTS": "true",
            "ASU_TRUSTED_PROXIES": "127.0.0.1",
        }
        with service(folder, "asu_builder", "serve", settings=settings) as running:
            yield running


@contextlib.contextmanager
def in_podman(folder: Path) -> Iterator[World]:
    """Builds run in containers of a Podman service that is this benchmark's alone."""
    with _sample(folder) as (world, upstream), own_podman(world) as (socket, registry):
        settings = {
            "ASU_UPSTREAM_URL": upstream,
            "ASU_CONTAINER_RUNTIME": "podman",
            "ASU_CONTAINER_SOCKET_PATH": str(socket),
            "ASU_IMAGEBUILDER_REGISTRY": registry,
        }
        with service(folder, "asu_builder", "serve", settings=settings) as running:
            yield running


@contextlib.contextmanager
def _sample(folder: Path) -> Iterator[tuple[Distribution, str]]:
    world = write_distribution(folder / "world", archives=False)
    with DownloadServer(world.downloads) as upstream:
        yield world, upstream.url


@contextlib.contextmanager
def service(folder: Path, *module: str, settings: dict[str, str]) -> Iterator[World]:
    """A service over these files, whatever it builds with."""
    port = free_port()
    database, log = folder / "data" / "bench.db", folder / "service.log"
    environment = common_settings(folder) | settings
    environment |= {"ASU_SERVER_PORT": str(port), "ASU_DATABASE_PATH": str(database)}
    with serving(module, port, environment=environment, path="/health", folder=folder, log=log) as server:
        yield World(server, database, log)


def common_settings(folder: Path) -> dict[str, str]:
    """The environment of every service over these files, but for its ports and its database."""
    return {
        "ASU_PUBLIC_PATH": str(folder / "public"),
        "ASU_BUILD_NETWORK": "none",
        "ASU_NEW_BUILDS_LIMIT": "",
        "ASU_MAX_PENDING_JOBS": "2000",
        "ASU_SHUTDOWN_GRACE": "2s",
        "ASU_WORKER_CONCURRENT": str(WORKERS),
        "ASU_WORKER_ID": "bench",
        # No settings and no engine of whoever runs this.
        "HOME": str(folder),
        "XDG_RUNTIME_DIR": str(folder),
    }


@contextlib.contextmanager
def own_podman(world: Distribution) -> Iterator[tuple[Path, str]]:
    """Its socket, and the registry name under which the sample ImageBuilder is present.

    Raises `RuntimeError` or `FileNotFoundError` where there is no Podman that starts containers.
    """
    sys.path.append(str(_TESTS))
    from podman_service import SAMPLE_REGISTRY, PodmanService, start_with_images

    service = PodmanService(Path(tempfile.mkdtemp(prefix="asu-", dir="/tmp")))
    try:
        start_with_images(service, world, VERSION)
        yield service.socket, SAMPLE_REGISTRY
    finally:
        service.remove()
