"""Everything that may break on one host, set up and taken away; `cluster` has what many hosts share."""

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from asu_sample.distribution import write_distribution
from asu_sample.server import DownloadServer
from chaos.clock import Clock, find_library
from chaos.disk import SmallDisk
from chaos.engine import Engine, make_certificate, push_images, reference_of
from chaos.ledger import Ledger
from chaos.links import Link
from chaos.servers import Server, Servers
from podman_service import APK_VERSION, OPKG_VERSION, service_folder, start_with_images
from registry import Registry

VERSIONS = (APK_VERSION, OPKG_VERSION)
_DISK_MEBIBYTES = 512
_FLOOR_MEBIBYTES = 4


class NotRoot(Exception):
    """The small disk is mounted, which only root may do."""


@dataclass(frozen=True)
class Surroundings:
    """What builds need from elsewhere; each part can be broken and healed."""

    place: Path
    engine: Engine
    images: tuple[str, ...]
    """References of the ImageBuilders' container images, in the registry behind its link."""
    registry: Link
    upstream: Link
    settings: Mapping[str, object]
    """Where a server finds all that, and what all servers of this suite have in common."""


@dataclass(frozen=True)
class World:
    """Servers, their surroundings, and what is known of their clients."""

    around: Surroundings
    job_timeout: int
    """Seconds a build may take; an engine that hangs for longer must not cost a job."""
    servers: Servers
    ledger: Ledger

    def heal(self) -> None:
        """Everything works again, whatever was broken; servers are started by `faults.heal`."""
        self.around.registry.become("fine")
        self.around.upstream.become("fine")
        engine = self.around.engine
        with suppress(ProcessLookupError):
            engine.thaw()
        if engine.process is None:
            engine.start()

    def is_meant(self, line: str) -> bool:
        """Whether a server may log this line, though it is an error."""
        return False

    def may_refuse_to_start(self) -> bool:
        """Whether a server that has just refused to start had a reason."""
        return False


@dataclass(frozen=True)
class OneHost(World):
    """One server on a small disk, with a clock that leaps."""

    disk: SmallDisk
    clock: Clock

    def heal(self) -> None:
        """See the base."""
        super().heal()
        self.disk.release()
        self.clock.set(0.0)


@contextmanager
def open_surroundings() -> Iterator[Surroundings]:
    """All of it works. Whatever happens inside, nothing of it is left behind."""
    with ExitStack() as stack:
        place = Path(tempfile.mkdtemp(prefix="asu-chaos-"))
        stack.callback(shutil.rmtree, place, ignore_errors=True)
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
        repository = f"127.0.0.1:{registry.port}/sample"
        images = tuple(reference_of(repository, version) for version in VERSIONS)
        settings = _settings(engine.socket, upstream_port=upstream.port, repository=repository)
        yield Surroundings(place, engine, images, registry, upstream, settings)


@contextmanager
def open_world(*, job_timeout: int) -> Iterator[OneHost]:
    """A healthy world with a running server. Whatever happens inside, nothing of it is left behind."""
    if os.geteuid():
        raise NotRoot("The chaos suite mounts a small disk; run it as root.")
    find_library()
    with ExitStack() as stack:
        around = stack.enter_context(open_surroundings())
        place, clock = around.place, Clock(around.place)
        disk = stack.enter_context(SmallDisk(place / "disk", mebibytes=_DISK_MEBIBYTES))
        (place / "data").mkdir()
        settings = {
            **around.settings,
            "database_path": place / "data" / "asu-builder.db",
            "public_path": place / "disk",
            "worker_id": "chaos",
            "worker_concurrent": 3,
            "job_timeout": f"{job_timeout}s",
        }
        servers = Servers(*(Server(place, name, settings, clock=clock) for name in ("one", "two")))
        stack.callback(servers.end)
        servers.current.start()
        yield OneHost(around, job_timeout, servers, Ledger(), disk, clock)


def _settings(socket: Path, *, upstream_port: int, repository: str) -> dict[str, object]:
    return {
        "upstream_url": f"http://127.0.0.1:{upstream_port}",
        "container_runtime": "podman",
        "container_socket_path": socket,
        "imagebuilder_registry": repository,
        "build_network": "none",
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
