"""What is looked at and done in the background, and how often."""

from collections.abc import Callable

from asu_builder.bootstrap.heap import give_back_memory
from asu_builder.bootstrap.world import World
from asu_builder.ports import Runtime, Verdict
from asu_builder.services.catalog import Catalog
from asu_builder.services.health import Health
from asu_builder.services.housekeeping import Housekeeping
from asu_builder.services.interest import Interest
from asu_builder.services.periodic import Periodic

_HEALTH_SECONDS = 10.0
_FLUSH_SECONDS = 1.0
_INTEREST_SECONDS = 5.0
_QUEUE_SECONDS = 10.0
_TIDY_SECONDS = 30.0
_REFRESH_SECONDS = 5.0
_RULES_SECONDS = 10.0
_MEMORY_SECONDS = 30.0
_INTEGRITY_SECONDS = 86400.0
_AFTER_START_SECONDS = 0.5
"""Checks and sweeps load podman-py; they come after the port answers."""


def checks(world: World, runtime: Runtime) -> dict[str, Callable[[], Verdict]]:
    """Each part of the service, and how it is found out whether it works."""
    return {
        "database": world.database.check,
        "engine": runtime.check,
        "registry": runtime.check_registry,
        "store": world.store.check,
        "upstream": world.upstream.check,
        "rules": world.package_changes.check,
        "workers": lambda: _workers_verdict(world),
    }


def _workers_verdict(world: World) -> Verdict:
    pause = world.operations.paused()
    if pause is None:
        return Verdict("ok", "Workers take jobs.")
    since = pause.since.isoformat(timespec="seconds")
    return Verdict("degraded", f"The workers are paused since {since} by {pause.who}; jobs wait.")


def background_work(
    world: World, health: Health, housekeeping: Housekeeping, catalog: Catalog, interest: Interest
) -> tuple[Periodic, ...]:
    """What is done again and again beside the answers."""
    work: list[tuple[str, Callable[[], object], float]] = [
        ("health", health.look, _HEALTH_SECONDS),
        ("queue", housekeeping.look_after_queue, _QUEUE_SECONDS),
        ("housekeeping", housekeeping.tidy, _TIDY_SECONDS),
        ("reconciling", housekeeping.reconcile_when_due, _TIDY_SECONDS),
        ("catalog", catalog.refresh, _REFRESH_SECONDS),
        ("statistics", world.statistics.flush_often, _FLUSH_SECONDS),
        ("interest", interest.flush, _INTEREST_SECONDS),
        ("memory", give_back_memory, _MEMORY_SECONDS),
        ("integrity", world.database.verify, _INTEGRITY_SECONDS),
    ]
    if world.refresh_rules is not None:
        work.insert(0, ("rules", world.refresh_rules, _RULES_SECONDS))
    return tuple(
        Periodic(name, call, seconds=seconds, delay=_AFTER_START_SECONDS) for name, call, seconds in work
    )
