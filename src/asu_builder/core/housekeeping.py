"""Keeps and forgets: what is past its time, what the disk has no room for, what a former life left."""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from itertools import islice

from msgspec import Struct

from asu_builder.domain.errors import StillRead, Unavailable
from asu_builder.domain.job import IdlePolicy, Job
from asu_builder.ports import JobQueue, RetentionRepository, Runtime, Statistics, Store
from asu_builder.settings import Settings

_log = logging.getLogger(__name__)

GRACE = timedelta(minutes=10)
"""Files stay this long behind the last answer that named them: somebody may just begin to download."""
_RECONCILE_SECONDS = 3600.0
_NAMES_AT_ONCE = 1000
_USED_LATELY = timedelta(minutes=2)
"""A result used within this time is not taken away to make room."""


class Collection(Struct, frozen=True):
    """What a round took away, or would: hashes and why."""

    expired: Sequence[str] = ()
    evicted: Sequence[str] = ()
    orphaned: Sequence[str] = ()
    bytes: int = 0
    """Of what was evicted."""


Remove = Callable[[Callable[[], bool]], bool]
"""Takes images away where what it is told says yes at the last moment; whether it did."""


def delete_with_files(
    retention: RetentionRepository,
    request_hash: str,
    *,
    remove: Remove,
    grace: timedelta = timedelta(0),
    unexpired: bool = False,
) -> bool:
    """Deletes the expired (or all) final jobs of this hash, the images first; whether no job is left.

    No transaction is open while `remove` waits for a disk. When it raises, the jobs stay.
    """
    jobs = retention.doomed(request_hash, grace=grace, unexpired=unexpired)
    if jobs.exclusive and not remove(lambda: retention.are_exclusive(jobs)):
        return False
    return retention.delete(jobs)


class Housekeeping:
    """Each method may be called at any time, from any thread and process."""

    def __init__(
        self,
        queue: JobQueue,
        retention: RetentionRepository,
        store: Store,
        runtime: Callable[[], Runtime],
        *,
        statistics: Statistics,
        settings: Settings,
        required_key: Callable[[], str] = lambda: "",
        requires_statement: bool = False,
        clock: Callable[[], float] = time.monotonic,
        rest: timedelta = timedelta(0),
    ) -> None:
        """`required_key` names the key that results must be signed by to be kept, "" where none must.

        With `requires_statement` they must state where their images came from as well.
        `clock` counts seconds. `rest` is made between each thousand results that are looked at."""
        self._queue = queue
        self._retention = retention
        self._store = store
        self._runtime = runtime
        self._statistics = statistics
        self._settings = settings
        self._required_key = required_key
        self._requires_statement = requires_statement
        self._signatures_seen = False
        self._clock = clock
        self._rest = rest.total_seconds()
        self._stopped = threading.Event()
        self._reconcile_at = 0.0
        self.stored_bytes: int | None = None
        """What all images take, as of the last `tidy`."""

    def look_after_queue(self) -> None:
        """Returns lapsed jobs and gives up idle ones; to be called every few seconds."""
        self.recover()
        settings = self._settings
        policy = IdlePolicy(settings.idle_deprioritized_after, settings.idle_expires_after)
        self._count_failed(self._queue.expire_abandoned(policy, failure_ttl=settings.failure_ttl))

    def tidy(self, *, leads: bool = True) -> None:
        """Sweeps what no process of this host holds; twice a minute.

        The process that `leads` also deletes what has expired, and makes room.
        """
        # A store or an engine that is down is health's to tell, once; there is nothing to sweep in it now.
        with contextlib.suppress(Unavailable):
            self._store.require_root()
            self._store.sweep()
        with contextlib.suppress(Unavailable):
            self._runtime().sweep(keep=self._is_live)
        if leads:
            self.collect()
        self.stored_bytes = self._retention.stored_bytes()

    def reconcile_when_due(self) -> None:
        """Brings files and rows together once an hour; to be called twice a minute."""
        # With a disk that is not mounted at the start, the round comes as soon as it is.
        if self._clock() >= self._reconcile_at and self._store_is_there():
            self._reconcile_at = self._clock() + _RECONCILE_SECONDS
            self.reconcile()

    def stop(self) -> None:
        """Cuts a round off that takes long: what it has found is dealt with, the rest is for the next."""
        self._stopped.set()

    def recover(self, *, worker: str | None = None) -> None:
        """Returns jobs whose lease lapsed, or that a former life of `worker` held."""
        found = self._queue.recover(worker=worker, failure_ttl=self._settings.failure_ttl)
        if found.returned:
            _log.warning("%d job(s) of a lost worker returned to the queue", found.returned)
        self._count_failed(found.gave_up)

    def _count_failed(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            self._statistics.record("failed", job.request, client=job.client, reason=job.reason or "")

    def collect(self, *, dry_run: bool = False) -> Collection:
        """Forgets expired jobs and, where room is short, the least used results; with their images.

        Nothing goes while the store is not there: of its files nothing is known, and not of its room.
        """
        self.recover()  # sets right what a leap of the clock did to the time of the last use
        if not self._store_is_there():
            return Collection()
        expired = list(self._retention.expired(grace=GRACE))
        if not dry_run:
            expired = [name for name in expired if self._forget(name)]
        evicted, freed = self._make_room(going=expired if dry_run else (), dry_run=dry_run)
        return Collection(expired, evicted, (), freed)

    def reconcile(self, *, dry_run: bool = False) -> Collection:
        """Brings files and rows together: files without a row go, rows without files answer no more.

        Also forgets old statistics and old requests. It looks at every published directory, so once an
        hour is enough.
        Nothing is missed in a store that is not there.
        """
        if not dry_run:
            self._expire_otherwise_signed()
        found = Collection()
        if self._store_is_there():
            lost: list[str] = []
            for some in self._unhurried(self._retention.completed_hashes()):
                lost += self._store.absent(some)
            lost = list(dict.fromkeys(lost))
            if not dry_run:
                lost = [name for name in lost if self._forget_lost(name)]
                if lost:
                    _log.warning("%d result(s) had lost their files and are forgotten", len(lost))
            orphaned: list[str] = []
            for some in self._unhurried(self._store.published()):
                orphaned += [name for name in self._retention.find_orphans(some) if self._store.owns(name)]
            if not dry_run:
                orphaned = [name for name in orphaned if self._forget(name)]
            found = Collection(expired=lost, orphaned=orphaned)
        if not dry_run:
            settings = self._settings
            while self._retention.forget_statistics(older_than=settings.statistics_ttl):
                pass
            older_than, most = settings.audit_ttl, settings.audit_max_size
            while self._retention.forget_requests(older_than=older_than, most_bytes=most):
                pass
        return found

    def _expire_otherwise_signed(self) -> None:
        """Once in a life, because the key is the same for so long; what comes later is found when polled."""
        if self._signatures_seen:
            return
        key_id = self._required_key()
        otherwise = set(self._retention.signed_otherwise(key_id)) if key_id else set()
        unstated = set(self._retention.without_statement()) if self._requires_statement else set()
        for job_id in sorted(otherwise | unstated):
            self._queue.expire(job_id)
        if otherwise:
            _log.warning("%d result(s) without a signature of key %s have expired", len(otherwise), key_id)
        if unstated:
            _log.warning(
                "%d result(s) that do not state where their images came from have expired", len(unstated)
            )
        self._signatures_seen = True

    def _unhurried(self, names: Iterable[str]) -> Iterator[list[str]]:
        """Some at a time. A large store has a hundred thousand; at one go they would slow every answer."""
        left = iter(names)
        while some := list(islice(left, _NAMES_AT_ONCE)):
            yield some
            if self._stopped.wait(self._rest):
                return

    def _make_room(self, *, going: Sequence[str] = (), dry_run: bool) -> tuple[list[str], int]:
        """Takes the least used results away until the budget and the floor of free disk are kept.

        `going` is what a dry run has found past its time: that makes room before.
        """
        evicted: list[str] = []
        freed = 0
        budget = self._settings.store_max_size
        stored = self._retention.stored_bytes() if budget else 0
        # Mostly there is room, and then nothing is looked up.
        if self._has_room(stored - budget):
            return evicted, freed
        least_used = self._retention.least_used(unused_for=_USED_LATELY)
        gone = set(going)
        before = sum(size for name, size in least_used if name in gone)
        for name, size in least_used:
            if name in gone:
                continue
            if self._has_room(stored - before - freed - budget, coming=before + freed if dry_run else 0):
                break
            if dry_run or self._forget(name, unexpired=True):
                evicted.append(name)
                freed += size
        if evicted and not dry_run:
            _log.info("%d result(s) gave way: %d MiB", len(evicted), freed >> 20)
        return evicted, freed

    def _has_room(self, too_many: int, *, coming: int = 0) -> bool:
        """Whether the store keeps the floor of free disk, and has no bytes too many."""
        if not self._store.keeps_on_disk:
            return too_many <= 0
        try:
            return self._store.room() + coming > 0 >= too_many
        except Unavailable:
            return True  # nothing is known of its room, so nothing gives way

    def _forget_lost(self, name: str) -> bool:
        def remove(confirm: Callable[[], bool]) -> bool:
            # It may have been asked for again, and built, since it was missed.
            if self._store.holds(name):
                raise StillRead("The result is there again.")
            self._store.require_root()
            return confirm()

        return self._forget(name, unexpired=True, remove=remove)

    def _forget(self, name: str, *, unexpired: bool = False, remove: Remove | None = None) -> bool:
        remove = remove or (lambda confirm: self._store.remove(name, confirm=confirm))
        try:
            return delete_with_files(self._retention, name, remove=remove, grace=GRACE, unexpired=unexpired)
        except (StillRead, Unavailable):
            # Somebody downloads, or the store is down: it stays whole, and its turn comes again.
            return False

    def _store_is_there(self) -> bool:
        try:
            self._store.require_root()
        except Unavailable:
            return False  # health's to tell, once
        return True

    def _is_live(self, labels: Mapping[str, str]) -> bool:
        # Asked for each container after they were listed: a job claimed meanwhile is seen.
        try:
            attempt = int(labels["asu.job"]), int(labels["asu.attempt"])
        except (KeyError, ValueError):
            return False
        return attempt in self._queue.live_leases()
