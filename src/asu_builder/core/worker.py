"""The threads that build: claim, build, record; the one that keeps their leases; what becomes of each job."""

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from threading import Lock
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from asu_builder.core.health import Health, Periodic
from asu_builder.core.live import Recorder
from asu_builder.core.metrics import Durations, StageTimer, StageTimers
from asu_builder.domain.errors import (
    AsuError,
    BuildFailed,
    BuildInterrupted,
    FailureReason,
    HandedOverGone,
    LeaseLost,
    PartUnavailable,
    RequestRejected,
    SigningUnavailable,
    Unavailable,
)
from asu_builder.domain.job import (
    CONTAINER_STAGES,
    BuildFailure,
    BuildResult,
    HandedOver,
    Job,
    Lease,
    Outcome,
    Retention,
    Stage,
)
from asu_builder.domain.nodes import Takes
from asu_builder.log_context import CURRENT_HASH
from asu_builder.ports import JobQueue, Statistics
from asu_builder.settings import Settings

_REMEMBERED = 1000
"""Jobs; one that is cancelled while it waits has no outcome that would drop it."""


class FailureStreak(Struct, frozen=True):
    """What speaks against a job: how often it failed, and how often of these `isolated`.

    Isolated means that another build ended well since the failure before.
    """

    times: int = 0
    isolated: int = 0
    others_built: int = -1
    """How many builds of others had ended well at the latest failure."""


class PoisonJobDetector:
    """Counts per job, in memory, from the start of the process. Every thread may use it."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._built = 0
        self._streaks: dict[int, FailureStreak] = {}

    def failed(self, job_id: int) -> FailureStreak:
        """A part failed while it was needed for this job; what that amounts to."""
        with self._lock:
            former = self._streaks.pop(job_id, FailureStreak())
            isolated = former.isolated + (self._built > former.others_built)
            found = replace(former, times=former.times + 1, isolated=isolated, others_built=self._built)
            self._streaks[job_id] = found
            if len(self._streaks) > _REMEMBERED:
                del self._streaks[next(iter(self._streaks))]
            return found

    def ended(self, job_id: int, *, completed: bool) -> None:
        """The job has its outcome; one that went well speaks for the world, and against the others."""
        with self._lock:
            self._streaks.pop(job_id, None)
            self._built += completed


if TYPE_CHECKING:
    from asu_builder.core.handover import Finishing
    from asu_builder.core.pipeline import Pipeline

_log = logging.getLogger(__name__)

RETRY_DELAYS = (timedelta(seconds=5), timedelta(seconds=20), timedelta(seconds=60))
"""How long a job waits after each failure of the world; afterwards the failure is final."""
ISOLATED = 5
"""How often a part may fail on one job, while it serves others, before that is the job's failure."""
STEP_ASIDE = timedelta(seconds=15)
"""How much longer a job waits on which a part has failed before: another is first to try whether it works.

More than the ten seconds after which health looks again, so that the other is claimed first.
"""
_NEEDED_BY_ALL = ("engine", "store")
"""Parts of which every build that ends well shows that they work."""


BUG = BuildFailure(
    FailureReason.INTERNAL,
    "Error: The server failed while building. This is its own fault, not the request's; "
    "its operator finds the reason in the log.",
)


class Outcomes:
    """Writes down how builds ended. Methods raise `LeaseLost`; then nothing was written."""

    def __init__(
        self,
        queue: JobQueue,
        statistics: Statistics,
        settings: Settings,
    ) -> None:
        self._queue = queue
        self._statistics = statistics
        self._settings = settings
        self._poison_jobs = PoisonJobDetector()

    def record(
        self,
        job: Job,
        lease: Lease,
        outcome: Outcome,
        timer: StageTimer,
        *,
        final: bool = False,
        from_start: bool = False,
    ) -> None:
        """Ends the job, or gives it back to try again after what the world did, unless that is `final`.

        One that was built and not signed is tried again `from_start` where what was built is of no use.

        An outcome that cannot be written down ends the job as a mistake of ours. Images with a private
        script are kept briefly, those whose versions are all named for long. Each use prolongs a result,
        but not one whose request named no versions: that ages from its completion, because the same
        request would give newer packages.
        """
        settings = self._settings
        try:
            if isinstance(outcome, BuildFailure) and outcome.is_retried:
                if job.retries < len(RETRY_DELAYS) and not final:
                    delay = RETRY_DELAYS[job.retries]
                    _log.warning("%s; tried again in %s", outcome.detail, delay)
                    self._queue.release(lease, delay=delay, retry=outcome.detail, from_start=from_start)
                    return
                outcome = replace(outcome, attempts=job.history)
            completed = isinstance(outcome, BuildResult)
            timer.enter(None)
            if not completed:
                retention = Retention(settings.failure_ttl, settings.failure_ttl)
            else:
                named = bool(job.request.packages_versions)
                ttl = settings.build_ttl if named else settings.build_ttl_unversioned
                max_age = None if named else ttl
                retention = Retention(settings.build_defaults_ttl if job.request.defaults else ttl, max_age)
            self._queue.finish(lease, outcome, retention)
            self._poison_jobs.ended(job.id, completed=completed)
            steps = outcome.seconds if isinstance(outcome, BuildResult) else {}
            seconds = timer.record(completed=completed, steps=steps)
            if isinstance(outcome, BuildResult):
                self._statistics.record("completed", job.request, client=job.client)
                _log.info("build completed in %.1f s", seconds)
            else:
                self._statistics.record(
                    "failed", job.request, client=job.client, reason=outcome.reason, side=outcome.side
                )
                _log.info("build failed in %.1f s: %s (side: %s)", seconds, outcome.reason, outcome.side)
        except AsuError:
            raise  # the lease is lost, or the database does not answer: the job returns
        except Exception:
            if outcome is BUG:
                raise
            _log.exception("the outcome could not be recorded: a bug")
            self.record(job, lease, BUG, timer)

    def part_failed(self, job: Job, lease: Lease, error: PartUnavailable, timer: StageTimer) -> None:
        """Returns the job to the queue uncounted, unless the part fails on this job alone."""
        streak = self._poison_jobs.failed(job.id)
        if error.part in _NEEDED_BY_ALL and streak.isolated >= ISOLATED:
            detail = (
                f"Error: {error.public} That happened {streak.times} times to this build, while others "
                "went well. Ask again in a few minutes; if it stays so, tell the operator of this server."
            )
            failure = BuildFailure(FailureReason.WORLD_UNAVAILABLE, detail)
            self.record(job, lease, failure, timer, final=True)
            return
        _log.info("%s The job returns to the queue", error)
        pause = timedelta(seconds=error.retry_after) + (STEP_ASIDE if streak.times > 1 else timedelta(0))
        self._queue.release(lease, delay=pause)


LEASE = timedelta(seconds=60)
_STOP_SECONDS = 6.0
"""How long a stop waits for builds to notice it; a healthy engine lets them within two."""
_SIGN_SECONDS = 1.0
"""How often it is looked whether another process has left images to sign."""
_WATCH_SECONDS = 0.5
"""How often running jobs are compared with the queue: a cancelled build ends within two seconds."""


class Workers:
    """`worker_concurrent` threads that build; the queue wakes them, `worker_poll` is for a missed wake.

    `drain` lets them finish what they build and take nothing more; `stop` gives it back to the queue.
    """

    def __init__(
        self,
        queue: JobQueue,
        pipeline: "Callable[[], Pipeline]",
        *,
        health: Health,
        statistics: Statistics,
        recorder: Recorder,
        durations: Durations,
        settings: Settings,
        name: str,
        now: Callable[[], datetime],
        clock: Callable[[], float] = time.monotonic,
        on_outcome: Callable[[Job, Outcome], None] = lambda job, outcome: None,
        takes: Callable[[], Takes | None] = lambda: None,
        finishing: "Callable[[], Finishing] | None" = None,
    ) -> None:
        """`pipeline` is asked for with each build; `name` is that of this process; `clock` counts seconds.

        `on_outcome` is told how a build ended, when that is written down; it answers at once. `takes` tells
        before each claim which jobs may be built here, None for all. `finishing` signs what other processes
        have built, in one more thread, which needs no container engine.
        """
        self._finishing = finishing
        self._queue = queue
        self._pipeline = pipeline
        self._on_outcome = on_outcome
        self._takes = takes
        self._health = health
        self._recorder = recorder
        self.durations = durations
        self._settings = settings
        self._name = name
        self.only: int | None = None
        """The id of the one job to build; None for every job."""
        self._timers = StageTimers(statistics, durations, now=now, clock=clock)
        self._outcomes = Outcomes(queue, statistics, settings)
        self._changed = threading.Condition()
        self._claims = 0
        """How many are just asking the queue for a job."""
        self._draining = False
        self._stopping = False
        self._running: dict[Lease, threading.Event] = {}
        self._background = (
            Periodic("leases", self.renew_leases, seconds=LEASE.total_seconds() / 4),
            Periodic("cancellations", self.stop_lost_builds, seconds=_WATCH_SECONDS),
        )
        self._threads = [
            threading.Thread(target=self._work, args=(number,), name=f"worker-{number}", daemon=True)
            for number in range(1, settings.worker_concurrent + 1)
        ]
        if finishing is not None:
            self._threads.append(threading.Thread(target=self._sign, name="signer", daemon=True))

    def start(self) -> None:
        """Starts the threads; call once."""
        for periodic in self._background:
            periodic.start()
        for thread in self._threads:
            thread.start()

    @property
    def running(self) -> int:
        """How many builds run now."""
        return len(self._running)

    @property
    def concurrent(self) -> int:
        """How many may run at once."""
        return self._settings.worker_concurrent

    def build_only(self, job_id: int) -> None:
        """Builds this job and no other from now on."""
        self.only = job_id
        self._queue.wake_all()

    def drain(self, grace: timedelta) -> None:
        """Claims nothing more; returns when nothing is being built, or after `grace`, or on `stop`."""
        with self._changed:
            self._draining = True
        self._queue.wake_all()
        with self._changed:
            self._changed.wait_for(
                lambda: self._stopping or not (self._running or self._claims), grace.total_seconds()
            )

    def stop(self) -> None:
        """Ends the threads; what they were building is given back to the queue.

        A thread that waits for an engine that hangs is left behind; the process ends with it.
        """
        with self._changed:
            self._draining = self._stopping = True
            self._changed.notify_all()
        self._queue.wake_all()
        for stop in list(self._running.values()):
            stop.set()
        until = time.monotonic() + _STOP_SECONDS
        for thread in self._threads:
            if thread.is_alive():
                thread.join(max(0.0, until - time.monotonic()))
        for lease in list(self._running):
            with contextlib.suppress(LeaseLost):
                self._queue.release(lease)
        for periodic in self._background:
            periodic.stop()

    def renew_leases(self) -> None:
        """Prolongs every running job's lease; a job whose lease is lost is stopped."""
        for lease, stop in list(self._running.items()):
            try:
                self._queue.renew(lease, lease_for=LEASE)
            except LeaseLost as error:
                _log.warning("%s; its build is stopped", error)
                stop.set()

    def stop_lost_builds(self) -> None:
        """Stops the builds whose jobs were cancelled or given back, by this process or another."""
        if not self._running:
            return
        running = list(self._running.items())
        live = self._queue.live_leases()
        for lease, stop in running:
            if (lease.job_id, lease.token) not in live:
                stop.set()

    def _work(self, number: int) -> None:
        name = f"{self._name}/{number}"
        self._repeat(
            name,
            lambda: self._health.wait_until_builds_run(1.0) and self.build_next(name),
            lambda: self._queue.wait(self._settings.worker_poll),
        )

    def _sign(self) -> None:
        name = f"{self._name}/0"

        def rest() -> None:
            with self._changed:
                self._changed.wait_for(lambda: self._draining, _SIGN_SECONDS)

        self._repeat(name, lambda: self.build_next(name, signs=True), rest)

    def _repeat(self, name: str, work: Callable[[], bool], rest: Callable[[], None]) -> None:
        while not self._draining:
            try:
                worked = work()
            except AsuError as error:
                _log.warning("worker %s: %s", name, error)
                worked = False
            except Exception:  # noqa: BLE001 - the lease lapses and the job returns; the worker lives on
                if self._stopping:
                    return  # left behind by `stop`, with nothing to write to
                _log.exception("worker %s failed", name)
                worked = False
            if not worked:
                rest()

    def build_next(self, name: str, *, signs: bool = False) -> bool:
        """Claims and builds one job, or `signs` what another process has built; False when none waits."""
        CURRENT_HASH.set("")
        with self._changed:
            if self._draining:
                return False
            self._claims += 1
        claimed = None
        stop = threading.Event()
        try:
            claimed = self._claim_unsigned(name) if signs else self._claim(name)
        finally:
            # Among those that run before `drain` may find none.
            with self._changed:
                self._claims -= 1
                if claimed is not None:
                    self._running[claimed[1]] = stop
                if self._stopping:
                    stop.set()
                self._changed.notify_all()
        if claimed is None:
            return False
        job, lease = claimed
        CURRENT_HASH.set(job.request_hash)
        try:
            self._build(job, lease, stop)
        except LeaseLost as error:
            _log.info("%s; its outcome is dropped", error)
        finally:
            with self._changed:
                del self._running[lease]
                self._changed.notify_all()
            self._recorder.tell(job.request_hash)
        return True

    def _claim(self, name: str) -> tuple[Job, Lease] | None:
        # What it takes is not known before the package rules are loaded, which a start does without.
        if not self._queue.pending():
            return None
        return self._queue.claim(name, lease_for=LEASE, only=self.only, takes=self._takes())

    def _claim_unsigned(self, name: str) -> tuple[Job, Lease] | None:
        if self._finishing is None or self.only is not None:
            return None
        finishing = self._finishing()
        try:
            finishing.require()
        except SigningUnavailable:  # which health tells; another process may have a key that works
            return None
        return self._queue.claim_unsigned(name, key=finishing.key, lease_for=LEASE)

    def _build(self, job: Job, lease: Lease, stop: threading.Event) -> None:
        """Builds the job and records how that ended; what says nothing about the request gives it back."""
        timer = self._timers.begin(job)
        _log.info("%s started by worker %s", "signing" if job.handed_over else "build", lease.worker)
        writer = self._recorder.begin(job, lease)

        def advance(stage: Stage) -> None:
            self._queue.advance(lease, stage)
            writer.stage = stage
            self._recorder.tell(job.request_hash)
            timer.enter(stage)
            if stage in CONTAINER_STAGES and not job.handed_over:
                self._health.part_works("engine")

        labels = {"asu.job": str(lease.job_id), "asu.attempt": str(lease.token)}
        outcome: Outcome | HandedOver
        from_start = True
        try:
            try:
                if job.handed_over and self._finishing:
                    outcome = self._finishing().sign(job, advance=advance, stop=stop)
                else:
                    outcome = self._pipeline().build(
                        job, labels=labels, advance=advance, stop=stop, on_output=writer.on_output
                    )
            finally:
                self._recorder.end(writer)
        except BuildInterrupted:
            _log.info("build interrupted; the job returns to the queue")
            self._queue.release(lease)
            return
        except PartUnavailable as error:
            self._health.part_failed(error.part, str(error))
            self._outcomes.part_failed(job, lease, error, timer)
            return
        except LeaseLost:
            raise
        except Unavailable as error:
            _log.warning("building failed: %s", error)
            from_start = isinstance(error, HandedOverGone)
            outcome = BuildFailure(FailureReason.WORLD_UNAVAILABLE, f"Error: {error.public}")
        except BuildFailed as failure:
            outcome = BuildFailure(
                failure.reason,
                failure.detail,
                failure.stdout,
                failure.stderr,
                failure.build_cmd,
                blamed=failure.side,
                field=failure.field,
                problem=failure.problem,
            )
        except RequestRejected as error:
            # Fine when it was submitted; the operator has changed what is offered since.
            outcome = BuildFailure(FailureReason.NOT_OFFERED, f"Error: {error}", field=error.field)
        except Exception:  # noqa: BLE001 - a bug of ours ends this job, not the worker
            _log.exception("building failed: a bug")
            outcome = BUG
        if isinstance(outcome, HandedOver):
            self._queue.hand_over(lease, replace(outcome, seconds=timer.hand_over()))
            _log.info("build done; its images wait for a process that has the keys")
            return
        self._outcomes.record(job, lease, outcome, timer, from_start=from_start)
        if self._finishing and isinstance(outcome, BuildResult):
            self._finishing().discard(job)
        self._on_outcome(job, outcome)
