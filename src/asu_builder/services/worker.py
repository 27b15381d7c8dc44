"""Claim, build, record: the threads that build, and the one that keeps their leases."""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from asu_builder.domain.errors import (
    AsuError,
    BuildFailed,
    BuildInterrupted,
    EngineUnavailable,
    FailureReason,
    LeaseLost,
    RequestRejected,
    Unavailable,
)
from asu_builder.domain.job import BuildFailure, BuildResult, Job, Lease, Outcome, Retention
from asu_builder.ports import JobQueue, Statistics
from asu_builder.services.health import Health
from asu_builder.services.periodic import Periodic
from asu_builder.services.pipeline import Pipeline

_log = logging.getLogger(__name__)

LEASE = timedelta(seconds=60)
RETRY_DELAYS = (timedelta(seconds=5), timedelta(seconds=20), timedelta(seconds=60))
"""How long a job waits after each failure of the world; afterwards the failure is final."""
_ENGINE_PAUSE = timedelta(seconds=2)


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """Who the workers are and how they wait. `poll` is only the fallback for a missed wake-up."""

    worker_id: str
    concurrent: int
    poll: timedelta
    retention: Retention


class Workers:
    """`concurrent` threads that build, woken by `wake`; `stop` gives running jobs back."""

    def __init__(
        self,
        queue: JobQueue,
        pipeline: Pipeline,
        *,
        health: Health,
        statistics: Statistics,
        options: WorkerOptions,
        now: Callable[[], datetime],
    ) -> None:
        self._queue = queue
        self._pipeline = pipeline
        self._health = health
        self._statistics = statistics
        self._options = options
        self._now = now
        self._woken = threading.Condition()
        self._wakes = 0
        self._stopping = False
        self._running: dict[Lease, threading.Event] = {}
        self._heartbeat = Periodic("leases", self.renew_leases, seconds=LEASE.total_seconds() / 4)
        self._threads = [
            threading.Thread(target=self._work, args=(number,), name=f"worker-{number}", daemon=True)
            for number in range(1, options.concurrent + 1)
        ]

    def start(self) -> None:
        """Starts the threads; call once."""
        self._heartbeat.start()
        for thread in self._threads:
            thread.start()

    def wake(self) -> None:
        """Says that a job was submitted; one idle worker looks at once."""
        with self._woken:
            self._wakes += 1
            self._woken.notify()

    def stop(self) -> None:
        """Ends the threads; what they were building is given back to the queue."""
        with self._woken:
            self._stopping = True
            self._woken.notify_all()
        for stop in list(self._running.values()):
            stop.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join()
        self._heartbeat.stop()

    def renew_leases(self) -> None:
        """Prolongs every running job's lease; a job whose lease is lost is stopped."""
        for lease, stop in list(self._running.items()):
            try:
                self._queue.renew(lease, lease_for=LEASE, now=self._now())
            except LeaseLost as error:
                _log.warning("%s; its build is stopped", error)
                stop.set()

    def _work(self, number: int) -> None:
        name = f"{self._options.worker_id}/{number}"
        while not self._stopping:
            wakes = self._wakes
            try:
                worked = self._health.wait_for_engine(1.0) and self.build_next(name)
            except AsuError as error:
                _log.warning("worker %s: %s", name, error)
                worked = False
            except Exception:  # noqa: BLE001 - the lease lapses and the job returns; the worker lives on
                _log.exception("worker %s failed", name)
                worked = False
            if not worked:
                self._wait(wakes)

    def _wait(self, wakes: int) -> None:
        with self._woken:
            if self._wakes == wakes and not self._stopping:
                self._woken.wait(self._options.poll.total_seconds())

    def build_next(self, name: str) -> bool:
        """Claims and builds one job; False when nobody waits."""
        claimed = self._queue.claim(name, lease_for=LEASE, now=self._now())
        if claimed is None:
            return False
        job, lease = claimed
        stop = threading.Event()
        self._running[lease] = stop
        if self._stopping:
            stop.set()
        try:
            self._build(job, lease, stop)
        except LeaseLost as error:
            _log.warning("%s; its outcome is dropped", error)
        finally:
            del self._running[lease]
        return True

    def _build(self, job: Job, lease: Lease, stop: threading.Event) -> None:
        labels = {"asu.job": str(lease.job_id), "asu.attempt": str(lease.token)}
        try:
            outcome: Outcome = self._pipeline.build(
                job, labels=labels, advance=lambda stage: self._queue.advance(lease, stage), stop=stop
            )
        except BuildInterrupted:
            self._queue.release(lease, not_before=self._now())
            return
        except EngineUnavailable as error:
            # No build can run: that says nothing about this one, so it is not counted.
            _log.warning("%s The job returns to the queue", error)
            self._health.engine_failed(str(error))
            self._queue.release(lease, not_before=self._now() + _ENGINE_PAUSE)
            return
        except Unavailable as error:
            outcome = BuildFailure(FailureReason.WORLD_UNAVAILABLE, f"Error: {error}")
        except BuildFailed as failure:
            outcome = BuildFailure(
                failure.reason, failure.detail, failure.stdout, failure.stderr, failure.build_cmd
            )
        except RequestRejected as error:
            # Fine when it was submitted; the operator has changed what is offered since.
            outcome = BuildFailure(FailureReason.NOT_OFFERED, f"Error: {error}")
        except LeaseLost:
            raise
        except Exception:  # noqa: BLE001 - a bug of ours ends this job, not the worker
            _log.exception("building %s failed", job.request_hash)
            outcome = BuildFailure(
                FailureReason.INTERNAL,
                "Error: The server failed while building. This is its own fault, not the request's; "
                "its operator finds the reason in the log.",
            )
        self._record(job, lease, outcome)

    def _record(self, job: Job, lease: Lease, outcome: Outcome) -> None:
        if isinstance(outcome, BuildFailure) and outcome.reason.retried and job.retries < len(RETRY_DELAYS):
            delay = RETRY_DELAYS[job.retries]
            _log.warning("%s; tried again in %s", outcome.detail, delay)
            self._queue.release(lease, not_before=self._now() + delay, retry=True)
            return
        keep_for = self._options.retention.keep_for(job.request, outcome)
        self._queue.finish(lease, outcome, keep_for=keep_for, now=self._now())
        if isinstance(outcome, BuildResult):
            self._statistics.record("completed", job.request, client=job.client)
        else:
            self._statistics.record("failed", job.request, client=job.client, reason=outcome.reason)
