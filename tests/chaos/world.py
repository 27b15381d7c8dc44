"""Everything that may break: engine, registry, upstream, disk, clock and server, set up and taken away."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from asu_sample.distribution import write_distribution
from asu_sample.server import DownloadServer
from chaos.clock import Clock
from chaos.disk import SmallDisk
from chaos.engine import Engine, make_certificate, push_images, reference_of
from chaos.ledger import Ledger
from chaos.links import Link
from chaos.servers import Servers
from podman_service import APK_VERSION, OPKG_VERSION, service_folder, start_with_images
from registry import Registry

VERSIONS = (APK_VERSION, OPKG_VERSION)
_DISK_MEBIBYTES = 512
_FLOOR_MEBIBYTES = 4


class NotRoot(Exception):
    """The small disk is mounted, which only root may do."""


@dataclass(frozen=True)
class World:
    """One server and what it needs; each part can be broken and healed."""

    engine: Engine
    images: tuple[str, ...]
    """References of the ImageBuilders' container images, in the registry behind its link."""
    job_timeout: int
    """Seconds a build may take; an engine that hangs for longer must not cost a job."""
    registry: Link
    upstream: Link
    disk: SmallDisk
    clock: Clock
    servers: Servers
    ledger: Ledger


@contextmanager
def open_world(*, job_timeout: int) -> Iterator[World]:
    """A healthy world with a running server. Whatever happens inside, nothing of it is left behind."""
    if os.geteuid():
        raise NotRoot("The chaos suite mounts a small disk; run it as root.")
    with ExitStack() as stack:
        place = Path(tempfile.mkdtemp(prefix="asu-chaos-"))
        stack.callback(shutil.rmtree, place, ignore_errors=True)
        clock = Clock(place)
        distribution = write_distribution(place / "world")
        certificate = make_certificate(place)
        (place / "registry").mkdir()
        behind = stack.enter_context(Registry(place / "registry"))
        registry = stack.enter_context(Link(behind.port, certificate=str(certificate)))
        engine = Engine(service_folder())
        stack.callback(engine.remove)
        engine.trust(certificate)
        local = start_with_images(engine, distribution, *VERSIONS)
        push_images(engine, local, f"{behind.address}/sample")
        downloads = stack.enter_context(DownloadServer(distribution.downloads))
        upstream = stack.enter_context(Link(int(downloads.url.rpartition(":")[2])))
        disk = stack.enter_context(SmallDisk(place / "disk", mebibytes=_DISK_MEBIBYTES))
        repository = f"127.0.0.1:{registry.port}/sample"
        settings = _settings(place, engine.socket, upstream_port=upstream.port, repository=repository)
        settings["job_timeout"] = f"{job_timeout}s"
        servers = Servers(place, settings, clock=clock)
        stack.callback(servers.end)
        servers.current.start()
        images = tuple(reference_of(repository, version) for version in VERSIONS)
        yield World(engine, images, job_timeout, registry, upstream, disk, clock, servers, Ledger())


def _settings(place: Path, socket: Path, *, upstream_port: int, repository: str) -> dict[str, object]:
    (place / "data").mkdir()
    return {
        "database_path": place / "data" / "asu-builder.db",
        "public_path": place / "disk",
        "upstream_url": f"http://127.0.0.1:{upstream_port}",
        "container_runtime": "podman",
        "container_socket_path": socket,
        "imagebuilder_registry": repository,
        "build_network": "none",
        "worker_id": "chaos",
        "worker_concurrent": 3,
        "shutdown_grace": "2s",
        "new_builds_limit": "",
        "disk_floor": f"{_FLOOR_MEBIBYTES}MiB",
        # The clock leaps by hours; nothing may pass its time by that.
        "idle_deprioritized_after": "520w",
        "idle_expires_after": "521w",
        "failure_ttl": "520w",
        "build_ttl": "520w",
        "build_ttl_unversioned": "520w",
        "statistics_ttl": "520w",
    }
