"""Forgets what is past its time and takes away what a former life left behind."""

import contextlib
import logging
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from functools import partial

from asu_builder.domain.errors import Unavailable
from asu_builder.ports import JobQueue, Runtime, Store

_log = logging.getLogger(__name__)


class Housekeeping:
    """Each method may be called at any time, from one thread."""

    def __init__(
        self,
        queue: JobQueue,
        store: Store,
        runtime: Runtime,
        *,
        keep_failure_for: timedelta,
        now: Callable[[], datetime],
        wake: Callable[[], None],
    ) -> None:
        self._queue = queue
        self._store = store
        self._runtime = runtime
        self._keep_failure_for = keep_failure_for
        self._now = now
        self._wake = wake

    def tidy(self) -> None:
        """Returns lapsed jobs, forgets expired ones with their images, sweeps what nobody holds."""
        self.recover()
        self.forget_expired()
        # A store or an engine that is down is health's to tell, once; there is nothing to sweep in it now.
        with contextlib.suppress(Unavailable):
            self._store.sweep()
        with contextlib.suppress(Unavailable):
            self._runtime.sweep(keep=self._is_live)

    def recover(self, *, worker: str | None = None) -> None:
        """Returns jobs whose lease lapsed, or that a former life of `worker` held."""
        count = self._queue.recover(worker=worker, keep_failure_for=self._keep_failure_for, now=self._now())
        if count:
            _log.warning("%d job(s) of a lost worker returned to the queue", count)
            for _ in range(count):
                self._wake()

    def forget_expired(self) -> None:
        """Deletes expired jobs and their images."""
        for request_hash in self._queue.expired(now=self._now()):
            self._queue.forget(
                request_hash, remove=partial(self._store.remove, request_hash), now=self._now()
            )

    def _is_live(self, labels: Mapping[str, str]) -> bool:
        # Asked for each container after they were listed: a job claimed meanwhile is seen.
        try:
            attempt = int(labels["asu.job"]), int(labels["asu.attempt"])
        except (KeyError, ValueError):
            return False
        return attempt in self._queue.live_leases(now=self._now())
