"""assemble(settings) → Application: the only module that knows every adapter."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from starlette.types import ASGIApp

from asu_builder import __version__
from asu_builder.adapters.database import Database
from asu_builder.adapters.jobs import SqlJobQueue
from asu_builder.adapters.statistics import SqlStatistics
from asu_builder.adapters.stores import LocalStore
from asu_builder.adapters.upstream import HttpUpstream
from asu_builder.adapters.worker_name import WorkerName
from asu_builder.domain.job import Retention
from asu_builder.ports import Runtime
from asu_builder.services.builds import Builds, Policy
from asu_builder.services.catalog import Catalog
from asu_builder.services.health import Health
from asu_builder.services.housekeeping import Housekeeping
from asu_builder.services.periodic import Periodic
from asu_builder.services.pipeline import Pipeline
from asu_builder.services.worker import WorkerOptions, Workers
from asu_builder.settings import Settings, SettingsProblem
from asu_builder.web.app import Parts, create_app

_HEALTH_SECONDS = 10.0
_FLUSH_SECONDS = 1.0
_TIDY_SECONDS = 30.0
_AFTER_START_SECONDS = 0.5
"""Checks and sweeps load podman-py; they come after the port answers."""


@dataclass(frozen=True, slots=True)
class Application:
    """The assembled service; `app` starts and stops it by its lifespan. `warnings` are the operator's."""

    app: ASGIApp
    warnings: tuple[str, ...]


def assemble(
    settings: Settings,
    *,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    watch: Callable[[Runtime], Runtime] = lambda runtime: runtime,
) -> Application:
    """Everything wired together, nothing started. Raises `SettingsProblem` or `Unavailable`.

    `watch` may wrap the runtime, for whoever wants to see what is asked of it.
    """
    database = Database(settings.database_path)
    name = WorkerName(settings.worker_id, settings.database_path.parent)
    chosen, warnings = choose_runtime(settings, installation=database.installation())
    runtime = watch(chosen)
    store = LocalStore(settings.public_path / "store")
    queue = SqlJobQueue(database)
    statistics = SqlStatistics(database, now=now)
    upstream = HttpUpstream(settings.upstream_url, database, now=now)
    health = Health({"database": database.check, "engine": runtime.check, "store": store.check})
    retention = _retention(settings)
    workers = Workers(
        queue,
        Pipeline(runtime, store, upstream_url=settings.upstream_url, job_timeout=settings.job_timeout),
        health=health,
        statistics=statistics,
        options=WorkerOptions(name.name, settings.worker_concurrent, settings.worker_poll, retention),
        now=now,
    )
    housekeeping = Housekeeping(
        queue, store, runtime, keep_failure_for=retention.failure, now=now, wake=workers.wake
    )
    builds = Builds(
        queue,
        Catalog(upstream),
        store=store,
        statistics=statistics,
        policy=_policy(settings),
        now=now,
        wake=workers.wake,
    )
    life = _Life(
        begin=lambda: housekeeping.recover(worker=name.name),
        workers=workers,
        background=(
            Periodic("health", health.look, seconds=_HEALTH_SECONDS, delay=_AFTER_START_SECONDS),
            Periodic("housekeeping", housekeeping.tidy, seconds=_TIDY_SECONDS, delay=_AFTER_START_SECONDS),
            Periodic("statistics", statistics.flush, seconds=_FLUSH_SECONDS, delay=_FLUSH_SECONDS),
        ),
        end=(upstream.close, statistics.flush, database.close, name.release),
    )
    parts = Parts(builds, health, store, statistics, life.start, life.stop, __version__)
    return Application(create_app(parts), warnings)


@dataclass(frozen=True, slots=True)
class _Life:
    """What runs beside the answers."""

    begin: Callable[[], None]
    workers: Workers
    background: tuple[Periodic, ...]
    end: tuple[Callable[[], object], ...]

    def start(self) -> None:
        """Returns at once."""
        self.begin()
        self.workers.start()
        for periodic in self.background:
            periodic.start()

    def stop(self) -> None:
        """Returns when nothing runs any more."""
        self.workers.stop()
        for periodic in self.background:
            periodic.stop()
        for end in self.end:
            end()


def choose_runtime(settings: Settings, *, installation: str) -> tuple[Runtime, tuple[str, ...]]:
    """The runtime that the settings name, and what the operator should be warned of.

    Chosen by what is configured and which paths exist, never by whether an engine answers: one
    that does not is down, and its sandbox is not dropped for it.
    """
    from asu_builder.adapters.podman_engine import find_socket

    socket = find_socket(settings.container_socket_path)
    local = settings.container_runtime == "local" or (
        settings.container_runtime == "auto" and settings.imagebuilder_path and socket is None
    )
    return _local_runtime(settings) if local else (_podman_runtime(settings, installation), ())


def _podman_runtime(settings: Settings, installation: str) -> Runtime:
    from asu_builder.adapters.podman_engine import PodmanOptions
    from asu_builder.adapters.podman_runtime import PodmanRuntime

    return PodmanRuntime(
        PodmanOptions(
            socket=settings.container_socket_path,
            image_template=settings.imagebuilder_image,
            registry=settings.imagebuilder_registry,
            network=settings.build_network,
            installation=installation,
        )
    )


def _local_runtime(settings: Settings) -> tuple[Runtime, tuple[str, ...]]:
    from asu_builder.adapters.local_runtime import LocalOptions, LocalRuntime
    from asu_builder.adapters.local_sandbox import bubblewrap_works

    if not settings.imagebuilder_path:
        raise SettingsProblem(
            "imagebuilder_path: the local runtime needs the path of an unpacked ImageBuilder"
        )
    sandboxed = bubblewrap_works()
    warnings: tuple[str, ...] = ()
    if not sandboxed:
        if not settings.allow_unsandboxed:
            raise SettingsProblem(
                "allow_unsandboxed: bubblewrap does not work here, so builds would run without a sandbox. "
                "Install bubblewrap or use Podman; set allow_unsandboxed to true only on a machine that "
                "nobody else can reach"
            )
        warnings = (
            "Builds run WITHOUT A SANDBOX: whoever may submit a request may run code on this machine.",
        )
    options = LocalOptions(
        imagebuilder_path=settings.imagebuilder_path,
        scratch=settings.database_path.parent / "builds",
        sandboxed=sandboxed,
        network=settings.build_network != "none",
    )
    return LocalRuntime(options), warnings


def _retention(settings: Settings) -> Retention:
    return Retention(
        build=settings.build_ttl,
        unversioned=settings.build_ttl_unversioned,
        with_defaults=settings.build_defaults_ttl,
        failure=settings.failure_ttl,
    )


def _policy(settings: Settings) -> Policy:
    return Policy(
        allow_defaults=settings.allow_defaults,
        max_defaults_length=settings.max_defaults_length,
        max_custom_rootfs_size_mb=settings.max_custom_rootfs_size_mb,
        repository_allow_list=settings.repository_allow_list,
        max_pending_jobs=settings.max_pending_jobs,
    )
