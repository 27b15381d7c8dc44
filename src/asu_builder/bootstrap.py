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
from asu_builder.domain.branches import Branches
from asu_builder.domain.job import Retention
from asu_builder.ports import Runtime
from asu_builder.services.builds import Builds, Policy
from asu_builder.services.catalog import Catalog
from asu_builder.services.charts import Charts
from asu_builder.services.health import Health
from asu_builder.services.housekeeping import Housekeeping
from asu_builder.services.periodic import Periodic
from asu_builder.services.pipeline import Pipeline
from asu_builder.services.worker import WorkerOptions, Workers
from asu_builder.settings import Settings, SettingsProblem
from asu_builder.web.app import Parts, create_app
from asu_builder.web.metadata import Announcement

_HEALTH_SECONDS = 10.0
_FLUSH_SECONDS = 1.0
_TIDY_SECONDS = 30.0
_REFRESH_SECONDS = 5.0
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
    world = _reach(settings, now)
    runtime = watch(world.runtime)
    branches = Branches(settings.branches)
    queue, store, statistics = world.queue, world.store, world.statistics
    health = Health({"database": world.database.check, "engine": runtime.check, "store": store.check})
    workers = Workers(
        queue,
        _pipeline(settings, runtime, store, branches),
        health=health,
        statistics=statistics,
        options=_worker_options(settings, world.name.name),
        now=now,
    )
    housekeeping = Housekeeping(
        queue, store, runtime, keep_failure_for=settings.failure_ttl, now=now, wake=workers.wake
    )
    catalog = Catalog(world.upstream, branches)
    builds = Builds(
        queue,
        catalog,
        store=store,
        statistics=statistics,
        policy=_policy(settings),
        now=now,
        wake=workers.wake,
    )
    life = _Life(
        begin=lambda: housekeeping.recover(worker=world.name.name),
        workers=workers,
        background=_background(health, housekeeping, catalog, statistics),
        end=(world.upstream.close, statistics.flush, world.database.close, world.name.release),
    )
    parts = Parts(
        builds=builds,
        health=health,
        store=store,
        statistics=statistics,
        catalog=catalog,
        charts=Charts(statistics, now=now),
        announcement=_announcement(settings),
        start=life.start,
        stop=life.stop,
        version=__version__,
        cors=settings.cors,
    )
    return Application(create_app(parts), world.warnings)


def _background(
    health: Health, housekeeping: Housekeeping, catalog: Catalog, statistics: SqlStatistics
) -> tuple[Periodic, ...]:
    work = (
        ("health", health.look, _HEALTH_SECONDS),
        ("housekeeping", housekeeping.tidy, _TIDY_SECONDS),
        ("catalog", catalog.refresh, _REFRESH_SECONDS),
        ("statistics", statistics.flush, _FLUSH_SECONDS),
    )
    return tuple(
        Periodic(name, call, seconds=seconds, delay=_AFTER_START_SECONDS) for name, call, seconds in work
    )


@dataclass(frozen=True, slots=True)
class _World:
    """The adapters, opened."""

    database: Database
    name: WorkerName
    runtime: Runtime
    warnings: tuple[str, ...]
    queue: SqlJobQueue
    store: LocalStore
    statistics: SqlStatistics
    upstream: HttpUpstream


def _reach(settings: Settings, now: Callable[[], datetime]) -> _World:
    database = Database(settings.database_path)
    name = WorkerName(settings.worker_id, settings.database_path.parent)
    runtime, warnings = choose_runtime(settings, installation=database.installation())
    return _World(
        database=database,
        name=name,
        runtime=runtime,
        warnings=warnings,
        queue=SqlJobQueue(database),
        store=LocalStore(settings.public_path / "store"),
        statistics=SqlStatistics(database, now=now),
        upstream=HttpUpstream(settings.upstream_url, database, now=now),
    )


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


def _worker_options(settings: Settings, name: str) -> WorkerOptions:
    retention = Retention(
        build=settings.build_ttl,
        unversioned=settings.build_ttl_unversioned,
        with_defaults=settings.build_defaults_ttl,
        failure=settings.failure_ttl,
    )
    return WorkerOptions(name, settings.worker_concurrent, settings.worker_poll, retention)


def _pipeline(settings: Settings, runtime: Runtime, store: LocalStore, branches: Branches) -> Pipeline:
    return Pipeline(
        runtime,
        store,
        release=branches.release,
        upstream_url=settings.upstream_url,
        job_timeout=settings.job_timeout,
    )


def _announcement(settings: Settings) -> Announcement:
    return Announcement(
        version=__version__,
        upstream_url=settings.public_upstream_url or settings.upstream_url,
        contact=settings.contact,
        allow_defaults=settings.allow_defaults,
        repository_allow_list=settings.repository_allow_list,
        max_custom_rootfs_size_mb=settings.max_custom_rootfs_size_mb,
        max_defaults_length=settings.max_defaults_length,
    )


def _policy(settings: Settings) -> Policy:
    return Policy(
        allow_defaults=settings.allow_defaults,
        max_defaults_length=settings.max_defaults_length,
        max_custom_rootfs_size_mb=settings.max_custom_rootfs_size_mb,
        repository_allow_list=settings.repository_allow_list,
        max_pending_jobs=settings.max_pending_jobs,
    )
