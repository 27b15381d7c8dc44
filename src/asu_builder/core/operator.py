"""The operator's view, and acts: cancel, requeue, purge, pause, enforce. Acts are written down."""

from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from msgspec import Struct

from asu_builder.core.housekeeping import delete_with_files
from asu_builder.core.submit import Cancellation
from asu_builder.domain.errors import BuildNotFound, Conflict, StillRead
from asu_builder.domain.job import (
    FINAL_STATES,
    AuditEntry,
    Job,
    JobFilter,
    JobState,
    LiveJobs,
    Pause,
    Priority,
)
from asu_builder.domain.preflight import PreflightMode, TargetRecord
from asu_builder.ports import (
    JobQueue,
    Nodes,
    Operations,
    PreflightRecords,
    RetentionRepository,
    Statistics,
    Store,
)

_MEASURED = 50
"""So many of the latest builds say what is typical."""


class QueueGroup(Struct, frozen=True):
    """Waiting and building jobs that have something in common: a class, a version or a target."""

    name: str
    waiting: int
    building: int


class QueueSummary(Struct, frozen=True):
    """The queue at one moment."""

    at: datetime
    waiting: int
    building: int
    classes: tuple[QueueGroup, ...]
    versions: tuple[QueueGroup, ...]
    targets: tuple[QueueGroup, ...]
    oldest_wait: timedelta | None
    """Of the jobs that wait now; None when none does."""
    typical_wait: timedelta | None
    """The median of the latest builds; None when nothing was built yet."""
    typical_build: timedelta | None
    """The mean of the latest builds, from claim to end."""
    pause: Pause | None


class QueueOverview:
    """Counts the queue; each call is a few indexed queries."""

    def __init__(self, operations: Operations, queue: JobQueue, *, now: Callable[[], datetime]) -> None:
        self._operations = operations
        self._queue = queue
        self._now = now

    def summary(self) -> QueueSummary:
        """The queue now."""
        now = self._now()
        live = self._operations.live()
        waits = self._operations.waits(_MEASURED)
        waiting_since = [group.oldest for group in live if group.state is JobState.PENDING]
        return QueueSummary(
            at=now,
            waiting=_count(live, JobState.PENDING),
            building=_count(live, JobState.BUILDING),
            classes=_grouped(live, lambda group: Priority(group.priority).name.lower()),
            versions=_grouped(live, lambda group: group.version),
            targets=_grouped(live, lambda group: group.target),
            oldest_wait=max(now - min(waiting_since), timedelta(0)) if waiting_since else None,
            typical_wait=sorted(waits)[len(waits) // 2] if waits else None,
            typical_build=self._queue.typical_duration(),
            pause=self._operations.paused(),
        )


def _count(live: Sequence[LiveJobs], state: JobState) -> int:
    return sum(group.count for group in live if group.state is state)


def _grouped(live: Sequence[LiveJobs], name: Callable[[LiveJobs], str]) -> tuple[QueueGroup, ...]:
    """The largest first."""
    waiting, building = Counter[str](), Counter[str]()
    for group in live:
        (waiting if group.state is JobState.PENDING else building)[name(group)] += group.count
    names = sorted(waiting | building, key=lambda found: (-waiting[found] - building[found], found))
    return tuple(QueueGroup(found, waiting[found], building[found]) for found in names)


class Operator:
    """Acts for the operator `operator`; the HTTP layer and the command line ask for a right first."""

    def __init__(
        self,
        operations: Operations,
        queue: JobQueue,
        *,
        retention: RetentionRepository,
        store: Store,
        statistics: Statistics,
        preflight_records: PreflightRecords,
        nodes: Nodes,
        cancellation: Cancellation,
        forget_refusal: Callable[[str], bool] = lambda _: False,
    ) -> None:
        """`forget_refusal` drops what was refused before a build under a hash; whether there was anything."""
        self._operations = operations
        self._queue = queue
        self._retention = retention
        self._store = store
        self._statistics = statistics
        self._preflight_records = preflight_records
        self.nodes = nodes.all
        self._drain = nodes.drain
        self._cancellation = cancellation
        self._forget_refusal = forget_refusal

    def jobs(self, wanted: JobFilter) -> Sequence[Job]:
        """Jobs, newest first."""
        return self._operations.jobs(wanted)

    def find(self, request_hash: str) -> Job | None:
        """The newest job of this hash that still answers, with its outcome."""
        return self._queue.find(request_hash)

    def acts(self, limit: int) -> Sequence[AuditEntry]:
        """What operators did, newest first."""
        return self._operations.acts(limit)

    def cancel(self, request_hash: str, *, operator: str) -> None:
        """Ends the live job of this hash. Raises `BuildNotFound` or `Conflict`."""
        job = self._queue.find(request_hash)
        if job is None:
            raise BuildNotFound("There is no job under this hash.")
        if job.state in FINAL_STATES:
            raise Conflict(f"The build has ended before: it is {job.state}.")
        self._cancellation.cancel(job, operator=operator)

    def requeue(self, request_hash: str, *, operator: str) -> None:
        """Builds once more what has ended, or gives a running build back to the queue.

        Raises `BuildNotFound`, or `Conflict` when it waits already.
        """
        job = self._queue.find(request_hash)
        if job is not None and job.state is JobState.PENDING:
            raise Conflict("The job waits already.")
        if job is not None and job.state is JobState.BUILDING:
            if not self._operations.give_back(job.id):
                raise Conflict("The build has just ended.")
            self._cancellation.stop_lost_builds()
        else:
            job = self._operations.requeue(request_hash)
            if job is None:
                raise BuildNotFound(
                    "There is no such request, or only digests of its script and keys are left: "
                    "it has to be submitted again."
                )
            self._statistics.record("request", job.request, client=job.client)
        self._note(operator, "requeue", request_hash)

    def purge(self, request_hash: str, *, operator: str) -> None:
        """Forgets a result or a failure now, with its images; the next request starts a new build.

        Raises `BuildNotFound`, `Conflict` while somebody downloads from it, or `Unavailable` where the
        store is not there; then its images go when they can.
        """
        purged = self._forget_refusal(request_hash)
        purged = bool(self._operations.purge(request_hash)) or purged
        if not purged and not self._store.holds(request_hash):
            raise BuildNotFound("There is no result and no failure under this hash.")
        try:
            delete_with_files(
                self._retention,
                request_hash,
                remove=lambda confirm: self._store.remove(request_hash, confirm=confirm),
                unexpired=True,
            )
        except StillRead as error:
            raise Conflict(
                "Somebody is downloading from it. It answers no more; its images go with the next tidying."
            ) from error
        finally:
            self._note(operator, "purge", request_hash)

    def kept_until(self, request_hash: str) -> datetime | None:
        """Until when a result is kept unless it is used; None without one."""
        return self._operations.kept_until(request_hash)

    def keep(self, request_hash: str, span: timedelta, *, operator: str) -> None:
        """Keeps a result for so long from now at least. Raises `BuildNotFound` without one."""
        if self._operations.keep(request_hash, span) is None:
            raise BuildNotFound("There is no result under this hash that could be kept.")
        self._note(operator, "keep", request_hash)

    def pause(self, *, operator: str) -> None:
        """No worker of any process claims a job from now on; what is being built goes on."""
        self._operations.pause(operator)
        self._note(operator, "pause")

    def resume(self, *, operator: str) -> None:
        """Workers claim again."""
        self._operations.resume()
        self._note(operator, "resume")

    def paused(self) -> Pause | None:
        """Since when and by whom the workers are paused."""
        return self._operations.paused()

    def drain(self, name: str, *, operator: str, drained: bool = True) -> None:
        """Lets the workers of a process claim nothing more, or claim again. Raises `BuildNotFound`."""
        if not self._drain(name, drained):
            raise BuildNotFound(f"No process on this database has the name {name}.")
        self._note(operator, "drain" if drained else "undrain", name)

    def preflight_targets(self) -> Sequence[TargetRecord]:
        """Where *impossible* was compared with builds; targets on *advise* first, then the latest change."""
        records = self._preflight_records.targets().values()
        by_age = sorted(records, key=lambda record: record.since, reverse=True)
        return sorted(by_age, key=lambda record: record.mode is not PreflightMode.ADVISE)

    def enforce(self, version: str, target: str, *, operator: str) -> None:
        """Lets *impossible* refuse again. Raises `BuildNotFound`, or `Conflict` where it does already."""
        records = self._preflight_records.targets().values()
        found = next((it for it in records if (it.version, it.target) == (version, target)), None)
        if found is None:
            raise BuildNotFound(f"No build of {version} {target} was compared with an impossible selection.")
        if not self._preflight_records.enforce(found.release_path, target):
            raise Conflict(f"{version} {target} is on enforce already.")
        self._note(operator, "enforce", f"{version} {target}")

    def _note(self, operator: str, act: str, subject: str = "") -> None:
        self._operations.record(operator, act, subject)
