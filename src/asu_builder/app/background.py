"""What runs in the background, how often, and in which order it starts and stops."""

import contextlib
import ctypes
import logging
import threading
from collections.abc import Callable
from datetime import timedelta
from functools import partial

from msgspec import Struct

from asu_builder import __version__
from asu_builder.app.adapters import Adapters
from asu_builder.core.catalog import Catalog
from asu_builder.core.current_packages import CurrentPackages
from asu_builder.core.health import Health, Periodic
from asu_builder.core.housekeeping import Housekeeping
from asu_builder.core.live import Recorder
from asu_builder.core.preflight import PreflightProof
from asu_builder.core.presence import Presence
from asu_builder.core.readiness import Readiness
from asu_builder.core.submit import AccessTracker
from asu_builder.core.worker import Workers
from asu_builder.domain.errors import AsuError
from asu_builder.settings import Settings

_log = logging.getLogger(__name__)

_ARENA_MAX = -8
"""Of malloc.h."""


def use_one_heap() -> None:
    """Lets all threads share one heap: glibc gives each its own, and keeps what each has freed."""
    _tell_libc("mallopt", _ARENA_MAX, 1)


def give_back_memory() -> None:
    """Returns free pages to the system, also those between used ones, which glibc keeps; takes about 1 ms.

    What a burst of requests has taken would stay with the process for good.
    """
    _tell_libc("malloc_trim", 0)


def _tell_libc(name: str, *arguments: int) -> None:
    with contextlib.suppress(OSError, AttributeError):  # another C library
        getattr(ctypes.CDLL(None), name)(*arguments)


_AFTER_START_SECONDS = 0.5
"""Checks and sweeps load podman-py; they come after the port answers."""
_VERIFY_AFTER_SECONDS = 600.0
"""After a stop in order. After a crash or a power cut every page is looked at as soon as the port answers."""


class Rounds(Struct, frozen=True):
    """Seconds between two rounds of each kind of background work. Only tests choose other numbers."""

    health: float = 10.0
    disks: float = 1.0
    queue: float = 10.0
    nodes: float = 5.0
    tidy: float = 30.0
    catalog: float = 5.0
    warmth: float = 1.0
    """At most one document a second is asked for so that no client waits for it."""
    statistics: float = 1.0
    interest: float = 5.0
    memory: float = 30.0
    integrity: float = 86400.0
    rules: float = 10.0
    copies: float = 1.0
    preflight: float = 1.0
    readiness: float = 5.0


def _look_at_disks(adapters: Adapters, health: Health) -> None:
    """What can fill up within a moment; two system calls while all is well."""
    health.check_room()
    if adapters.database.disk_is_full() or health.is_down("database"):
        health.check("database")


def make_housekeeping(
    settings: Settings, adapters: Adapters, *, rest: timedelta = timedelta(0)
) -> Housekeeping:
    """Housekeeping alone, for the service and for the command line, which need not `rest`."""
    return Housekeeping(
        adapters.queue,
        adapters.retention,
        adapters.store,
        adapters.runtime,
        statistics=adapters.statistics,
        settings=settings,
        required_key=lambda: adapters.key_id if settings.signing_required else "",
        requires_statement=settings.signing_required and adapters.attestation is not None,
        rest=rest,
    )


def make_presence(adapters: Adapters, workers: Workers, health: Health, *, begins: bool) -> Presence:
    """The sign of life of this process. Raises `Unavailable` where one that `begins` has another's name."""
    name, role = adapters.name.name, adapters.role
    if begins:
        try:
            adapters.nodes.require_free(name, adapters.machine)
        except BaseException:
            adapters.close()
            raise
    return Presence(
        adapters.nodes,
        workers,
        name=name,
        machine=adapters.machine,
        version=__version__,
        answers=role.answers,
        builds=role.builds,
        health=health,
        store=adapters.store,
        rules=adapters.package_changes.present,
    )


def background_work(
    adapters: Adapters,
    health: Health,
    housekeeping: Housekeeping,
    catalog: Catalog,
    current: CurrentPackages,
    interest: AccessTracker,
    proof: PreflightProof,
    presence: Presence,
    rounds: Rounds | None,
    readiness: Readiness | None = None,
) -> tuple[Periodic, ...]:
    """What is done again and again beside the answers, by what this process is for."""
    rounds = rounds or Rounds()
    retention, operations, lead = adapters.retention, adapters.operations, adapters.lead

    def led(work: Callable[[], object]) -> Callable[[], object]:
        return lambda: lead.held() and work()

    # The queue is looked after by every process: a lost worker's jobs must return while the one that has the
    # lead hangs, and to look costs one short transaction.
    work: list[tuple[str, Callable[[], object], float]] = [
        ("health", health.check_all, rounds.health),
        ("disks", lambda: _look_at_disks(adapters, health), rounds.disks),
        ("queue", housekeeping.look_after_queue, rounds.queue),
        ("nodes", presence.renew, rounds.nodes),
        ("housekeeping", lambda: housekeeping.tidy(leads=lead.held()), rounds.tidy),
        ("reconciling", led(housekeeping.reconcile_when_due), rounds.tidy),
        ("statistics", adapters.statistics.flush_often, rounds.statistics),
        ("memory", give_back_memory, rounds.memory),
    ]
    if adapters.role.answers:
        work += [
            ("catalog", catalog.refresh, rounds.catalog),
            ("warmth", adapters.upstream.keep_warm, rounds.warmth),
            ("interest", interest.flush, rounds.interest),
            # Both by those that clients ask: only they know what is asked for, and today's package indexes.
            ("documents", adapters.upstream.tidy, rounds.tidy),
            ("changed indexes", partial(current.end_outdated, retention, operations), rounds.tidy),
        ]
    if adapters.role.builds or adapters.signs:
        work.append(("preflight", proof.compare_waiting, rounds.preflight))
        if readiness is not None:
            work.append(("readiness", readiness.make_ready, rounds.readiness))
    if adapters.copies is not None:
        work.append(("copies", adapters.copies.tidy, rounds.copies))
    if adapters.refresh_rules is not None:
        work.insert(0, ("rules", adapters.refresh_rules, rounds.rules))
    database = adapters.database
    verify_after = 0.0 if database.was_cut_off else _VERIFY_AFTER_SECONDS
    return (
        *(Periodic(name, call, seconds=seconds) for name, call, seconds in work),
        Periodic("integrity", database.verify, seconds=rounds.integrity, delay=verify_after),
    )


class Lifecycle(Struct):
    """Starts the workers and the periodic work, and stops them in an order in which nothing is lost."""

    adapters: Adapters
    workers: Workers
    housekeeping: Housekeeping
    recorder: Recorder
    interest: AccessTracker
    background: tuple[Periodic, ...]
    presence: Presence
    readiness: Readiness | None = None
    beginning: threading.Timer | None = None
    """Starts what runs in the background: to start a thread is to wait until it runs."""

    def start(self) -> None:
        """Returns at once."""
        if self.adapters.listener is not None:
            self.adapters.listener.start()
        self.presence.renew()
        self.housekeeping.recover(worker=self.adapters.name.name)
        self.workers.start()
        self.beginning = threading.Timer(_AFTER_START_SECONDS, self._begin)
        self.beginning.daemon = True
        self.beginning.start()

    def _begin(self) -> None:
        for periodic in self.background:
            periodic.start()

    def stop(self) -> None:
        """Returns when nothing runs any more."""
        if self.beginning is not None:
            self.beginning.cancel()
            self.beginning.join()
        # These two take long and need not end.
        self.housekeeping.stop()
        if self.readiness is not None:
            self.readiness.stop()
        self.adapters.database.stop_verifying()
        self.workers.stop()
        for periodic in self.background:
            periodic.stop()
        adapters = self.adapters
        ends = (
            *(self.recorder.stop, self.interest.flush, adapters.statistics.flush),
            *(self.presence.leave, adapters.close),
        )
        for end in ends:
            try:
                end()
            except AsuError as problem:
                _log.error("At the end: %s", problem)
