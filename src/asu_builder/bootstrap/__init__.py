"""assemble(settings) → Application: the only module that knows every adapter."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from starlette.types import ASGIApp

from asu_builder import __version__
from asu_builder.adapters.database import Database
from asu_builder.adapters.jobs import SqlJobQueue
from asu_builder.adapters.package_changes import LocalPackageChanges, RemotePackageChanges
from asu_builder.adapters.statistics import SqlStatistics
from asu_builder.adapters.stores import LocalStore
from asu_builder.adapters.upstream import HttpUpstream
from asu_builder.adapters.worker_name import WorkerName
from asu_builder.bootstrap.choices import announcement, policy, worker_options
from asu_builder.bootstrap.runtimes import choose_runtime
from asu_builder.domain.branches import Branches
from asu_builder.ports import Runtime
from asu_builder.services.builds import Builds
from asu_builder.services.catalog import Catalog
from asu_builder.services.charts import Charts
from asu_builder.services.health import Health
from asu_builder.services.housekeeping import Housekeeping
from asu_builder.services.periodic import Periodic
from asu_builder.services.pipeline import Pipeline
from asu_builder.services.preview import Preview
from asu_builder.services.worker import Workers
from asu_builder.settings import Settings
from asu_builder.web.app import Parts, create_app

_HEALTH_SECONDS = 10.0
_FLUSH_SECONDS = 1.0
_TIDY_SECONDS = 30.0
_REFRESH_SECONDS = 5.0
_RULES_SECONDS = 10.0
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
    queue, store, statistics = world.queue, world.store, world.statistics
    changes = world.package_changes
    catalog = Catalog(world.upstream, Branches(settings.branches), changes)
    health = _health(world, runtime)
    workers = Workers(
        queue,
        _pipeline(settings, runtime, world, catalog),
        health=health,
        statistics=statistics,
        options=worker_options(settings, world.name.name),
        now=now,
    )
    housekeeping = Housekeeping(
        queue, store, runtime, keep_failure_for=settings.failure_ttl, now=now, wake=workers.wake
    )
    builds = Builds(
        queue,
        catalog,
        package_changes=changes,
        store=store,
        statistics=statistics,
        policy=policy(settings),
        now=now,
        wake=workers.wake,
    )
    life = _Life(
        begin=lambda: housekeeping.recover(worker=world.name.name),
        workers=workers,
        background=_background(world, health, housekeeping, catalog),
        end=(world.upstream.close, changes.close, statistics.flush, world.database.close, world.name.release),
    )
    parts = Parts(
        builds=builds,
        health=health,
        store=store,
        statistics=statistics,
        catalog=catalog,
        charts=Charts(statistics, now=now),
        preview=Preview(catalog, changes),
        announcement=announcement(settings),
        start=life.start,
        stop=life.stop,
        version=__version__,
        cors=settings.cors,
    )
    return Application(create_app(parts), world.warnings)


def _pipeline(settings: Settings, runtime: Runtime, world: "_World", catalog: Catalog) -> Pipeline:
    return Pipeline(
        runtime,
        world.store,
        release=catalog.branches.release,
        package_changes=world.package_changes,
        baseline=catalog.baseline,
        upstream_url=settings.upstream_url,
        job_timeout=settings.job_timeout,
    )


def _health(world: "_World", runtime: Runtime) -> Health:
    return Health(
        {
            "database": world.database.check,
            "engine": runtime.check,
            "store": world.store.check,
            "rules": world.package_changes.check,
        }
    )


def _background(
    world: "_World", health: Health, housekeeping: Housekeeping, catalog: Catalog
) -> tuple[Periodic, ...]:
    work: list[tuple[str, Callable[[], object], float]] = [
        ("health", health.look, _HEALTH_SECONDS),
        ("housekeeping", housekeeping.tidy, _TIDY_SECONDS),
        ("catalog", catalog.refresh, _REFRESH_SECONDS),
        ("statistics", world.statistics.flush, _FLUSH_SECONDS),
    ]
    if isinstance(world.package_changes, RemotePackageChanges):
        work.insert(0, ("rules", world.package_changes.refresh, _RULES_SECONDS))
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
    package_changes: LocalPackageChanges | RemotePackageChanges


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
        package_changes=_package_changes(settings),
    )


def _package_changes(settings: Settings) -> LocalPackageChanges | RemotePackageChanges:
    path = settings.package_changes_path
    local = LocalPackageChanges(Path(path).expanduser() if path else None)
    return (
        RemotePackageChanges(settings.package_changes_url, local) if settings.package_changes_url else local
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
