"""assemble(settings) → Application: the only module that knows every adapter."""

import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial

from msgspec import Struct
from msgspec.structs import replace
from starlette.types import ASGIApp

from asu_builder import __version__
from asu_builder.app.adapters import Adapters, open_adapters
from asu_builder.app.background import Rounds, background_work, checks
from asu_builder.app.doors import Answering, make_builds, make_cancellation, make_door
from asu_builder.app.lifecycle import Lifecycle
from asu_builder.core.catalog import Catalog
from asu_builder.core.health import Health
from asu_builder.core.housekeeping import Housekeeping
from asu_builder.core.live import LiveBuilds, Notifier, Recorder
from asu_builder.core.metrics import Durations, EventCounts
from asu_builder.core.operator import Crowds, Operator
from asu_builder.core.pipeline import Pipeline
from asu_builder.core.preflight import Preview
from asu_builder.core.statistics import Charts
from asu_builder.core.submit import AccessTracker, Cancellation
from asu_builder.core.worker import Workers
from asu_builder.domain.access import Token
from asu_builder.domain.release import Branches
from asu_builder.http.api.metrics import MetricsCollector
from asu_builder.http.api.operator import ConfigurationDocument
from asu_builder.http.app import Parts, create_app
from asu_builder.http.callers import Callers
from asu_builder.http.door import Door
from asu_builder.ports import Runtime
from asu_builder.rate_limits import PreviewsLimit
from asu_builder.settings import LoadedSettings, Settings
from asu_builder.upstream.repository_status import RepositoryStatus

_log = logging.getLogger(__name__)

_REST = timedelta(seconds=0.1)
"""Between each thousand results when all are looked at: a tenth of one processor at most."""


class Application(Struct, frozen=True):
    """The assembled service; `app` starts and stops it by its lifespan. `warnings` are the operator's."""

    app: ASGIApp
    warnings: tuple[str, ...]
    drain: Callable[[], None]
    """Takes no more jobs; returns when none is being built or the grace is over."""
    end_streams: Callable[[], None]
    """Ends the answers that would last, on the event loop."""
    door: Door
    """What the server lets in."""
    workers: Workers
    health: Health
    catalog: Catalog


def assemble(
    settings: Settings,
    *,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    watch: Callable[[Runtime], Runtime] = lambda runtime: runtime,
    origins: Mapping[str, str] | None = None,
    rounds: Rounds | None = None,
    own_tokens: Sequence[Token] = (),
) -> Application:
    """Everything wired together, nothing started. Raises `SettingsProblem` or `Unavailable`.

    `watch` may wrap the runtime, for whoever wants to see what is asked of it. `origins` says where
    settings were chosen, `rounds` how often background work comes; `own_tokens` are known
    beside those of the settings.
    """
    counts = EventCounts()
    adapters = open_adapters(settings, now, note=counts.note)
    runtime = watch(adapters.runtime)
    adapters = replace(adapters, runtime=runtime)
    catalog = Catalog(adapters.upstream, Branches(settings.branches), adapters.package_changes)
    health = Health(checks(adapters, runtime), has_room=lambda: adapters.store.room() > 0)
    notifier = Notifier()
    recorder = Recorder(adapters.log, now=now, notify=notifier.notify)
    pipeline = make_pipeline(settings, runtime, adapters, catalog)
    workers = _workers(settings, adapters, pipeline, health=health, recorder=recorder, now=now)
    housekeeping = make_housekeeping(settings, adapters, runtime, rest=_REST)
    interest = AccessTracker(adapters.queue)
    cancellation = make_cancellation(settings, adapters, workers.stop_lost_builds)
    answering = Answering(catalog, health, interest)
    builds = make_builds(settings, adapters, answering, now=now, cancellation=cancellation)
    background = background_work(adapters, health, housekeeping, catalog, interest, rounds or Rounds())
    lifecycle = Lifecycle(
        begin=partial(housekeeping.recover, worker=adapters.name.name),
        workers=workers,
        background=background,
        end=(recorder.stop, interest.flush, adapters.statistics.flush, adapters.close),
        cancel=(housekeeping.stop, adapters.database.stop_verifying),
    )
    parts = Parts(
        builds=builds,
        live=LiveBuilds(builds, adapters.log, notifier),
        health=health,
        store=adapters.store,
        statistics=adapters.statistics,
        catalog=catalog,
        charts=Charts(adapters.statistics, now=now),
        preview=Preview(catalog, adapters.package_changes, other_names=adapters.upstream.other_names),
        operator=make_operator(adapters, cancellation),
        crowds=Crowds(adapters.operations, adapters.queue, now=now),
        configuration=lambda: _describe_settings(LoadedSettings(settings, origins or {})),
        metrics=MetricsCollector(
            adapters.operations,
            workers,
            housekeeping,
            health=health,
            store=adapters.store,
            statistics=adapters.statistics,
            counts=counts,
            version=__version__,
            now=now,
        ),
        callers=Callers((*settings.tokens, *own_tokens), settings.trusted_proxies),
        limit_previews=PreviewsLimit().admit,
        limit_fetches=adapters.fetch_limit.admit,
        settings=settings,
        revoked=adapters.revocations.current,
        start=lifecycle.start,
        stop=lifecycle.stop,
        version=__version__,
    )
    app = create_app(parts)
    drain = partial(workers.drain, settings.shutdown_grace)
    return Application(
        app,
        adapters.warnings,
        drain,
        app.end_streams,
        make_door(parts, app),
        workers=workers,
        health=health,
        catalog=catalog,
    )


def _describe_settings(loaded: LoadedSettings) -> ConfigurationDocument:
    from asu_builder.http.api.configuration import describe_settings  # words that a start does not need

    return describe_settings(loaded)


def make_housekeeping(
    settings: Settings,
    adapters: Adapters,
    runtime: Runtime,
    *,
    rest: timedelta = timedelta(0),
) -> Housekeeping:
    """Housekeeping alone, for the service and for the command line, which need not `rest`."""
    return Housekeeping(
        adapters.queue,
        adapters.retention,
        adapters.store,
        runtime,
        statistics=adapters.statistics,
        settings=settings,
        rest=rest,
    )


def make_operator(
    adapters: Adapters,
    cancellation: Cancellation,
) -> Operator:
    """The operator's hand alone, for the service and for the command line."""
    return Operator(
        adapters.operations,
        adapters.queue,
        retention=adapters.retention,
        store=adapters.store,
        statistics=adapters.statistics,
        cancellation=cancellation,
    )


def _workers(
    settings: Settings,
    adapters: Adapters,
    pipeline: Pipeline,
    *,
    health: Health,
    recorder: Recorder,
    now: Callable[[], datetime],
) -> Workers:
    return Workers(
        adapters.queue,
        pipeline,
        health=health,
        statistics=adapters.statistics,
        recorder=recorder,
        durations=Durations(),
        settings=settings,
        name=adapters.name.name,
        now=now,
    )


def make_pipeline(settings: Settings, runtime: Runtime, adapters: Adapters, catalog: Catalog) -> Pipeline:
    """What turns a request into published images."""
    return Pipeline(
        runtime,
        adapters.store,
        release=catalog.branches.release,
        package_changes=adapters.package_changes,
        baseline=catalog.baseline,
        announced=catalog.announced,
        released_revision=catalog.released_revision,
        repository_status=RepositoryStatus(settings.upstream_url).ask,
        upstream_url=settings.upstream_url,
        job_timeout=settings.job_timeout,
    )
