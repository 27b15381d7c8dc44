"""What becomes of a job when its build is over: recorded, tried again, or given back."""

import logging
from collections.abc import Callable
from datetime import datetime, timedelta

from msgspec.structs import replace

from asu_builder.domain.errors import AsuError, FailureReason, PartUnavailable
from asu_builder.domain.job import BuildFailure, BuildResult, Job, Lease, Outcome, Retention
from asu_builder.ports import JobQueue, Statistics
from asu_builder.services.stage_times import Laps
from asu_builder.services.suspects import Suspects

_log = logging.getLogger(__name__)

RETRY_DELAYS = (timedelta(seconds=5), timedelta(seconds=20), timedelta(seconds=60))
"""How long a job waits after each failure of the world; afterwards the failure is final."""
ALONE = 5
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
        self, queue: JobQueue, statistics: Statistics, retention: Retention, *, now: Callable[[], datetime]
    ) -> None:
        self._queue = queue
        self._statistics = statistics
        self._retention = retention
        self._now = now
        self._suspects = Suspects()

    def record(self, job: Job, lease: Lease, outcome: Outcome, laps: Laps) -> None:
        """Ends the job, or gives it back to try again after what the world did."""
        if isinstance(outcome, BuildFailure) and outcome.is_retried:
            if job.retries < len(RETRY_DELAYS):
                delay = RETRY_DELAYS[job.retries]
                _log.warning("%s; tried again in %s", outcome.detail, delay)
                now = self._now()
                self._queue.release(lease, not_before=now + delay, now=now, retry=outcome.detail)
                return
            outcome = replace(outcome, attempts=job.history)
        self._finish(job, lease, outcome, laps)

    def settle(self, job: Job, lease: Lease, outcome: Outcome, laps: Laps) -> None:
        """The same, and an outcome that cannot be written down ends the job as a mistake of ours."""
        try:
            self.record(job, lease, outcome, laps)
        except AsuError:
            raise  # the lease is lost, or the database does not answer: the job returns
        except Exception:  # noqa: BLE001 - whatever a build left, its job ends
            _log.exception("the outcome could not be recorded: a bug")
            self.record(job, lease, BUG, laps)

    def part_failed(self, job: Job, lease: Lease, error: PartUnavailable, laps: Laps) -> None:
        """Returns the job to the queue uncounted, unless the part fails on this job alone."""
        suspicion = self._suspects.failed(job.id)
        if error.part in _NEEDED_BY_ALL and suspicion.alone >= ALONE:
            detail = (
                f"Error: {error.public} That happened {suspicion.times} times to this build, while others "
                "went well. Ask again in a few minutes; if it stays so, tell the operator of this server."
            )
            failure = BuildFailure(FailureReason.WORLD_UNAVAILABLE, detail, attempts=job.history)
            self._finish(job, lease, failure, laps)
            return
        _log.info("%s The job returns to the queue", error)
        pause = timedelta(seconds=error.retry_after) + (STEP_ASIDE if suspicion.times > 1 else timedelta(0))
        now = self._now()
        self._queue.release(lease, not_before=now + pause, now=now)

    def _finish(self, job: Job, lease: Lease, outcome: Outcome, laps: Laps) -> None:
        completed = isinstance(outcome, BuildResult)
        laps.end()
        self._queue.finish(lease, outcome, self._retention.keeping(job.request, outcome), now=self._now())
        self._suspects.ended(job.id, well=completed)
        seconds = laps.record(completed=completed)
        if isinstance(outcome, BuildResult):
            self._statistics.record("completed", job.request, client=job.client)
            _log.info("build completed in %.1f s", seconds)
        else:
            self._statistics.record(
                "failed", job.request, client=job.client, reason=outcome.reason, side=outcome.side
            )
            _log.info("build failed in %.1f s: %s (side: %s)", seconds, outcome.reason, outcome.side)
