"""The doors: to the queue, for the service and for the command line, and the server's."""

from collections.abc import Callable
from datetime import datetime

from msgspec import Struct

from asu_builder.app.adapters import Adapters
from asu_builder.core.catalog import Catalog
from asu_builder.core.health import Health
from asu_builder.core.submit import AccessTracker, Builds, Cancellation, Forecast
from asu_builder.http.app import Parts
from asu_builder.http.door import Door
from asu_builder.http.fast_path import FastPath
from asu_builder.settings import Settings


class Answering(Struct, frozen=True):
    """What answers about builds, apart from the queue."""

    catalog: Catalog
    health: Health
    interest: AccessTracker


def make_builds(
    settings: Settings,
    adapters: Adapters,
    answering: Answering,
    *,
    now: Callable[[], datetime],
    cancellation: Cancellation,
) -> Builds:
    """Submit, look, cancel."""
    return Builds(
        adapters.queue,
        answering.catalog,
        package_changes=adapters.package_changes,
        store=adapters.store,
        statistics=adapters.statistics,
        interest=answering.interest,
        forecast=_forecast(settings, adapters, answering.health, now),
        cancellation=cancellation,
        settings=settings,
        limit=adapters.limit.admit,
        waiting_for=lambda: "paused" if adapters.operations.paused() else answering.health.hindrance(),
    )


def make_cancellation(
    settings: Settings, adapters: Adapters, stop_lost_builds: Callable[[], None] = lambda: None
) -> Cancellation:
    """The one way to end a build before its time; without workers, others see it in the queue."""
    return Cancellation(
        adapters.queue,
        adapters.operations,
        statistics=adapters.statistics,
        settings=settings,
        stop_lost_builds=stop_lost_builds,
    )


def make_door(parts: Parts, app: FastPath) -> Door:
    """What the server lets in to this application."""
    return Door(
        parts.settings,
        counted_as=parts.callers.counted_as,
        large_bodies=app.takes_large_bodies,
        refuse=app.turn_away,
    )


def _forecast(
    settings: Settings, adapters: Adapters, health: Health, now: Callable[[], datetime]
) -> Forecast:
    def working() -> bool:
        return health.builds_run() and adapters.operations.paused() is None

    return Forecast(adapters.queue, workers=settings.worker_concurrent, working=working, now=now)
