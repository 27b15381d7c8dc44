"""The rules of the queue said once more, in plain Python on lists: what its adapters are compared with.

Times are seconds. Each method does what the port's method of that name says (`ports/database.py`),
and nothing here is fast, durable or safe for threads.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from asu_builder.domain.errors import FailureReason, Fault
from asu_builder.domain.job import CONTAINER_STAGES, JobState, Priority, Stage

MAX_ATTEMPTS = 3
COOL_DOWN = 60
UNSEEN = 30
LATE = 60
BESIDE = 1
FAR = 120
LIVE = (JobState.PENDING, JobState.BUILDING)


@dataclass
class ModelJob:
    """One job; `lease` is the worker and the number of the claim, while it builds."""

    id: int
    request_hash: str
    caller: str
    priority: Priority
    turn: int
    enqueued_at: int
    last_accessed_at: int
    state: JobState = JobState.PENDING
    joined: bool = False
    has_secret: bool = True
    deprioritized: bool = False
    stage: Stage | None = None
    attempts: int = 0
    retries: int = 0
    claims: int = 0
    lease: tuple[str, int] | None = None
    lease_until: int = 0
    not_before: int | None = None
    history: list[tuple[Stage, str]] = field(default_factory=list)
    started_at: int = 0
    finished_at: int = 0
    expires_at: int = 0
    ttl: int = 0
    max_expires_at: int | None = None
    reason: FailureReason | None = None
    stored_bytes: int = 0

    @property
    def live(self) -> bool:
        """Whether it is still on its way."""
        return self.state in LIVE

    def end(self, state: JobState, *, now: int, ttl: int, at_most: int | None = None) -> None:
        """It comes to its end."""
        self.state, self.stage, self.lease = state, None, None
        self.finished_at = self.last_accessed_at = now
        self.ttl, self.max_expires_at = ttl, None if at_most is None else now + at_most
        self.expires_at = now + ttl if at_most is None else now + min(ttl, at_most)

    def fail(self, reason: FailureReason, *, now: int, ttl: int) -> None:
        """It ends without images."""
        self.end(JobState.FAILED, now=now, ttl=ttl, at_most=ttl)
        self.reason = reason

    def put_back(self) -> None:
        """It waits again, at its old place."""
        self.state, self.stage, self.lease = JobState.PENDING, None, None

    def allows_resubmit(self, now: int) -> bool:
        """Whether the final job does not answer a repeated request."""
        if self.state is JobState.CANCELLED or self.reason is FailureReason.EXPIRED:
            return True
        failed_by_others = self.reason is not None and self.reason.fault is not Fault.USER
        return failed_by_others and abs(now - self.finished_at) >= COOL_DOWN


class QueueModel:
    """Every job there is, oldest first; `files` are the hashes whose images are published."""

    def __init__(self, *, clock_leaps: bool = True) -> None:
        """`clock_leaps`: time that nobody saw does not count, as on a host's clock."""
        self._clock_leaps = clock_leaps
        self.jobs: list[ModelJob] = []
        self.files: set[str] = set()
        self.scrubbed: dict[str, bool] = {}
        """Of every hash that was ever asked for, whether its secrets are only digests now."""
        self.paused = False
        self._reached: dict[Priority, int] = {}
        self._seen: int | None = None

    def of_hash(self, request_hash: str) -> list[ModelJob]:
        """Its jobs, oldest first."""
        return [job for job in self.jobs if job.request_hash == request_hash]

    def order(self) -> list[ModelJob]:
        """Those that wait, next first."""
        waiting = [job for job in self.jobs if job.state is JobState.PENDING]
        return sorted(waiting, key=lambda job: (job.deprioritized, -job.priority, job.turn, job.id))

    def building(self) -> list[ModelJob]:
        """Those that are built now."""
        return [job for job in self.jobs if job.state is JobState.BUILDING]

    def completed(self) -> list[ModelJob]:
        """Of each hash the newest completed job, whose images are the published ones."""
        newest = {job.request_hash: job for job in self.jobs if job.state is JobState.COMPLETED}
        return list(newest.values())

    def find(self, request_hash: str, *, now: int) -> ModelJob | None:
        """The newest that answers."""
        answering = [job for job in self.of_hash(request_hash) if job.live or job.expires_at > now]
        return answering[-1] if answering else None

    def answers(self, request_hash: str, *, now: int) -> ModelJob | None:
        """The job that a submission joins instead of making a new one."""
        job = self.find(request_hash, now=now)
        return None if job is None or (not job.live and job.allows_resubmit(now)) else job

    def join(self, job: ModelJob, caller: str, *, priority: Priority) -> None:
        """Somebody asks for what is there; while it waits it takes the place of the joiner's next job."""
        if not job.live or caller == job.caller:
            return
        job.joined = True
        turn = self._next_turn(caller, priority)
        if job.state is JobState.PENDING and (-priority, turn) < (-job.priority, job.turn):
            job.caller, job.priority, job.turn = caller, priority, turn

    def expire(self, jobs: Iterable[ModelJob], *, now: int) -> None:
        """Final ones that no longer answer."""
        for job in jobs:
            if not job.live:
                job.expires_at = min(job.expires_at, now)

    def insert(
        self, job_id: int, request_hash: str, caller: str, *, priority: Priority, now: int
    ) -> ModelJob:
        """A new job."""
        turn = self._next_turn(caller, priority)
        self.jobs.append(ModelJob(job_id, request_hash, caller, priority, turn, now, now))
        self.scrubbed[request_hash] = False
        return self.jobs[-1]

    def _next_turn(self, caller: str, priority: Priority) -> int:
        own = [job for job in self.jobs if job.live and (job.caller, job.priority) == (caller, priority)]
        # Behind the caller's last one that is not done, and nobody before the turn that is reached.
        return max([self._reached.get(priority, 0), *(job.turn + 1 for job in own)])

    def touch(self, request_hashes: Iterable[str], *, now: int) -> None:
        """A live job keeps its place, a result begins its time anew."""
        wanted = set(request_hashes)
        for job in [job for job in self.jobs if job.request_hash in wanted]:
            if job.live:
                job.last_accessed_at, job.deprioritized = now, False
            elif job.state is JobState.COMPLETED and job.expires_at > now:
                until = now + job.ttl
                if job.max_expires_at is not None:
                    until = min(until, job.max_expires_at)
                if max(abs(now - job.last_accessed_at), until - job.expires_at) >= min(job.ttl / 60, 60):
                    job.last_accessed_at = now
                    job.expires_at = max(job.expires_at, until)

    def expire_abandoned(self, sinks: int, expires: int, *, ttl: int, now: int) -> list[int]:
        """Sinks and expires those that wait and nobody polls."""
        gone = []
        for job in self.order():
            job.deprioritized |= job.last_accessed_at < now - sinks
            if job.last_accessed_at < now - expires:
                job.fail(FailureReason.EXPIRED, now=now, ttl=ttl)
                gone.append(job.id)
        return gone

    def cancel(self, job: ModelJob, *, ttl: int, now: int, by_caller: bool) -> bool:
        """Whether it was live and is cancelled now."""
        if not job.live or (by_caller and (job.joined or not job.has_secret)):
            return False
        job.end(JobState.CANCELLED, now=now, ttl=ttl)
        return True

    def claimable(self, *, now: int) -> ModelJob | None:
        """What the next claim takes."""
        if self.paused:
            return None
        return next((job for job in self.order() if job.not_before is None or job.not_before <= now), None)

    def claim(self, job: ModelJob, worker: str, *, lease_for: int, now: int) -> tuple[int, str, int]:
        """The lease: job, worker and number of the claim."""
        job.state, job.stage, job.started_at = JobState.BUILDING, Stage.INIT, now
        job.claims += 1
        job.lease, job.lease_until = (worker, job.claims), now + lease_for
        self._reached[job.priority] = max(self._reached.get(job.priority, 0), job.turn)
        return job.id, worker, job.claims

    def leased(self, lease: tuple[int, str, int]) -> ModelJob | None:
        """The job that this lease still holds."""
        return next((job for job in self.building() if (job.id, *(job.lease or ())) == lease), None)

    def broke_off(self, job: ModelJob, ending: str) -> None:
        """One more line in the history of a building job."""
        assert job.stage is not None
        job.history.append((job.stage, ending))

    def recover(self, worker: str | None, *, ttl: int, now: int) -> tuple[int, list[int]]:
        """How many returned, and which gave up."""
        self._discount(now)
        returned, gave_up = 0, []
        for job in self.building():
            assert job.lease is not None
            assert job.stage is not None
            if not (job.lease_until < now or (worker and job.lease[0].startswith(f"{worker}/"))):
                continue
            self.broke_off(job, "its worker was lost")
            job.attempts += job.stage in CONTAINER_STAGES
            if job.attempts >= MAX_ATTEMPTS:
                job.fail(FailureReason.GAVE_UP, now=now, ttl=ttl)
                gave_up.append(job.id)
            else:
                job.put_back()
                returned += 1
        return returned, gave_up

    def notice(self, now: int) -> None:
        """Whoever writes a time finds out that the clock was set back."""
        if self._seen is not None and now - self._seen < -LATE:
            self._discount(now)

    def _discount(self, now: int) -> None:
        if not self._clock_leaps or (self._seen is not None and -BESIDE <= now - self._seen < 0):
            return
        seen, self._seen = self._seen, now
        if seen is None:
            return
        if not 0 <= now - seen <= UNSEEN:
            self._move(now, seen=seen)
        for job in [job for job in self.jobs if job.live]:
            job.last_accessed_at = min(job.last_accessed_at, now + FAR)
            job.lease_until = min(job.lease_until, now + FAR)
            if job.not_before is not None:
                job.not_before = min(job.not_before, now + FAR)

    def _move(self, now: int, *, seen: int) -> None:
        for job in [job for job in self.jobs if job.live or job.state is JobState.COMPLETED]:
            job.last_accessed_at += now - seen
            if job.lease_until >= seen:
                # Else it was given by a clock that had been set back already.
                job.lease_until += now - seen
            if job.not_before is not None:
                # What could be claimed when somebody last looked can be claimed now.
                job.not_before = job.not_before + now - seen if job.not_before > seen else None

    def requeue(self, request_hash: str, *, now: int) -> tuple[str, Priority] | None:
        """Caller and priority of the new job that may be made."""
        jobs = self.of_hash(request_hash)
        if any(job.live for job in jobs) or self.scrubbed.get(request_hash, True):
            return None
        return (jobs[-1].caller, jobs[-1].priority) if jobs else ("", Priority.NORMAL)

    def purge(self, request_hash: str, *, now: int) -> int:
        """How many final jobs no longer answer."""
        ended = [job for job in self.of_hash(request_hash) if not job.live and job.expires_at > now]
        self.expire(ended, now=now)
        return len(ended)

    def forgettable(self, request_hash: str, *, now: int, unexpired: bool) -> Sequence[ModelJob]:
        """Those that go."""
        jobs = self.of_hash(request_hash)
        return [job for job in jobs if not job.live and (unexpired or job.expires_at <= now)]
