"""The queue compared with a model of its rules (`queue_model.py`), step by step, by hypothesis.

Two processes' worth of connections take turns, or act at once. The courses of events are fixed:
a fourth of the profile's examples. For more and others say how many:
`QUEUE_MODEL_COURSES=5000 pytest --timeout=0 <this file>` (some eight in a second).
"""

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache, partial
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from msgspec.structs import replace

from asu_builder.core.housekeeping import delete_with_files
from asu_builder.database.dialect import SqlDatabase
from asu_builder.database.operator import SqlOperations
from asu_builder.database.queue import SqlJobQueue
from asu_builder.database.retention import SqlRetention
from asu_builder.database.secrets import Secrets, make_key, write_keys
from asu_builder.domain.errors import AsuError, FailureReason, LeaseLost, QueueFull, StillRead
from asu_builder.domain.job import (
    BuildFailure,
    BuildResult,
    Entry,
    IdlePolicy,
    Job,
    JobFilter,
    JobState,
    Lease,
    Outcome,
    Priority,
    Retention,
    Stage,
    Standing,
    Submission,
)
from asu_builder.ports import JobQueue, Operations, RetentionRepository
from database_clock import at_time
from factories import NOON, a_failure, a_result, a_submission, removes
from postgresql import opened, place_of
from queue_model import LIVE, ModelJob, QueueModel

COURSES = int(os.environ.get("QUEUE_MODEL_COURSES", "0"))
PROFILE = settings(
    max_examples=COURSES or settings().max_examples // 4,
    stateful_step_count=150,
    derandomize=not COURSES,
    deadline=None,
    database=None,
    report_multiple_bugs=False,
    phases=(Phase.generate, Phase.shrink),
    suppress_health_check=list(HealthCheck),
)
LOOK = 30
"""The longest that nobody looks at the queue while the service is up, in seconds."""
MEMORY = Path("/dev/shm")
"""Here nobody waits for a disk: what a power cut leaves is another matter."""
DIGEST = "c" * 64
"""Of the secret of each first caller."""
REQUESTS = tuple(
    a_submission(cancel_digest=DIGEST, **changes)
    for changes in (
        {"packages": ("a",)},
        {"packages": ("b",)},
        {"packages": ("c",)},
        {"packages": ("d",)},
        {"defaults": "uci set wireless.key=another"},
        {"defaults": "uci set wireless.key=third"},
        {"defaults": "uci set wireless.key=secret"},
        {"repository_keys": ("untrusted comment: a key",)},
    )
)
REASONS = (
    FailureReason.IMPOSSIBLE_SELECTION,
    FailureReason.WORLD_UNAVAILABLE,
    FailureReason.INTERNAL,
)

OUTCOMES = {JobState.COMPLETED: BuildResult, JobState.FAILED: BuildFailure}
SECRET = (4, 5, 6, 7)
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Side:
    """One process's worth of connections."""

    database: SqlDatabase
    queue: JobQueue
    retention: RetentionRepository
    operations: Operations

    @classmethod
    def on(cls, place: str) -> "Side":
        """Opens the database at `place`; a server stores secrets only under a key."""
        database = opened(place)
        secrets = None if database.overwrites_deleted else Secrets(secrets_key())
        return cls(database, SqlJobQueue(database, secrets), SqlRetention(database), SqlOperations(database))


@cache
def secrets_key() -> Path:
    """The same for both sides and all courses."""
    path = Path(tempfile.mkdtemp()) / "secrets.key"
    write_keys(path, [make_key()], new=True)
    return path


def at(second: int) -> datetime:
    """The moment that the model calls by its second."""
    return NOON + timedelta(seconds=second)


def span(seconds: int) -> timedelta:
    """So many seconds."""
    return timedelta(seconds=seconds)


def asked_by(which: int, caller: str, priority: Priority) -> Submission:
    """One of the few requests, so that callers meet."""
    known = REQUESTS[which]
    return replace(known, caller=caller, priority=priority)


def said(job: Job) -> tuple[object, ...]:
    """What the queue says of a job."""
    history = [(attempt.stage, attempt.ending) for attempt in job.history]
    fixed = (job.id, job.request_hash, job.caller, job.priority, job.enqueued_at, job.joined)
    return (*fixed, job.state, job.stage, job.attempts, job.retries, history, job.finished_at, job.reason)


def expected(job: ModelJob) -> tuple[object, ...]:
    """What the model says of it."""
    fixed = (job.id, job.request_hash, job.caller, job.priority, at(job.enqueued_at), job.joined)
    ended = None if job.live else at(job.finished_at)
    return (*fixed, job.state, job.stage, job.attempts, job.retries, job.history, ended, job.reason)


def told(standing: Standing) -> tuple[object, ...]:
    """What the queue says of how far a job is."""
    return (
        standing.job_id,
        standing.state,
        standing.stage,
        standing.ahead,
        standing.expires_at,
        standing.state is JobState.BUILDING and standing.started_at,
    )


def stands(job: ModelJob, order: Sequence[int]) -> tuple[object, ...]:
    """What the model says of it; `order` are the ids of what waits."""
    builds = job.state is JobState.BUILDING
    return (
        job.id,
        job.state,
        job.stage,
        order.index(job.id) if job.state is JobState.PENDING else None,
        None if job.live else at(job.expires_at),
        builds and at(job.started_at),
    )


def taken(write: Callable[[], object]) -> bool:
    """Whether a write under a lease was taken."""
    try:
        write()
    except LeaseLost:
        return False
    return True


callers = st.sampled_from(["ann", "bob"])
priorities = st.sampled_from([Priority.NORMAL, Priority.NORMAL, Priority.BULK, Priority.INTERACTIVE])
requests = st.integers(0, len(REQUESTS) - 1)
picks = st.integers(0, 7)
spans = st.sampled_from([20, 40, 90])
workers = st.sampled_from(["one/1", "one/2", "two/1"])


class QueueMachine(RuleBasedStateMachine):
    """Every step is done to the queue and to the model; then both say the same."""

    kind = "sqlite"

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="queue-", dir=MEMORY if MEMORY.is_dir() else None))
        self.place = place_of(self.kind, self.folder)
        self.sides = [Side.on(self.place) for _ in range(2)]
        self.model = QueueModel(clock_leaps=self.kind == "sqlite")
        self.now = self.looked_at = 0
        self.ids: list[int] = []
        self.leases: list[Lease] = []

    @property
    def side(self) -> Side:
        """Now this process, now that one."""
        self.sides.reverse()
        return self.sides[0]

    @property
    def moment(self) -> datetime:
        """Now, for a step that writes a time, and so notices a clock that was set back."""
        self.model.notice(self.now)
        return at(self.now)

    def moment_of(self, job: ModelJob | None) -> datetime:
        """The same for a step that writes nothing when its lease is lost."""
        return self.moment if job else at(self.now)

    @initialize(asked=st.lists(st.tuples(callers, priorities), min_size=3, max_size=len(REQUESTS)))
    def begin(self, asked: Sequence[tuple[str, Priority]]) -> None:
        """Some already wait."""
        self.look(worker=None)
        self.submit(asked=[(which, *who) for which, who in enumerate(asked)], capacity=9)

    def entered(self, job: Job, submission: Submission) -> None:
        assert job.id > max(self.ids, default=0), "an id was used again"
        assert job.request == submission.request
        self.ids.append(job.id)
        self.model.insert(
            job.id,
            submission.request_hash,
            submission.caller,
            priority=submission.priority,
            now=self.now,
        )

    @rule(
        asked=st.lists(st.tuples(requests, callers, priorities), min_size=1, max_size=6),
        capacity=st.sampled_from([2, 9, 9]),
    )
    def submit(self, asked: Sequence[tuple[int, str, Priority]], capacity: int) -> None:
        submissions = [asked_by(*one) for one in asked]
        answers = at_time(self.side.queue, self.moment).submit_all(submissions, max_pending=capacity)
        for submission, answer in zip(submissions, answers, strict=True):
            self.answered(submission, answer, capacity)

    def answered(self, submission: Submission, answer: Entry | AsuError, capacity: int) -> None:
        there = self.model.answers(submission.request_hash, now=self.now)
        waiting = len(self.model.order())
        if isinstance(answer, AsuError):
            assert there is None
            assert isinstance(answer, QueueFull) and answer.pending == waiting
            assert waiting >= capacity
            return
        assert answer.created == (there is None)
        if there is None:
            assert waiting < capacity
            former = self.model.find(submission.request_hash, now=self.now)
            self.model.expire([former] if former else [], now=self.now)
            self.entered(answer.job, submission)
        else:
            assert answer.job.id == there.id
            self.model.join(there, submission.caller, priority=submission.priority)
            assert said(answer.job) == expected(there)
        order = [job.id for job in self.model.order()]
        assert answer.ahead == (order.index(answer.job.id) if answer.job.id in order else None)

    @rule(which=st.sets(requests, min_size=1))
    def poll(self, which: set[int]) -> None:
        hashes = {REQUESTS[one].request_hash for one in which}
        at_time(self.side.queue, self.moment).touch(hashes)
        self.model.touch(hashes, now=self.now)

    @rule(sinks=st.sampled_from([5, 20]), longer=st.sampled_from([1, 8, 16]), ttl=spans)
    def expire_abandoned(self, sinks: int, longer: int, ttl: int) -> None:
        patience = IdlePolicy(span(sinks), span(sinks * longer))
        gone = at_time(self.side.queue, self.moment).expire_abandoned(patience, failure_ttl=span(ttl))
        wanted = self.model.expire_abandoned(sinks, sinks * longer, ttl=ttl, now=self.now)
        assert sorted(job.id for job in gone) == sorted(wanted)

    def job_of(self, pick: int) -> tuple[int, ModelJob | None]:
        job_id = self.ids[-1 - pick % len(self.ids)]
        return job_id, next((job for job in self.model.jobs if job.id == job_id), None)

    @precondition(lambda self: self.ids)
    @rule(pick=picks, ttl=spans, by_caller=st.booleans())
    def cancel(self, pick: int, ttl: int, by_caller: bool) -> None:
        job_id, job = self.job_of(pick)
        done = at_time(self.side.queue, self.moment).cancel(
            job_id, failure_ttl=span(ttl), cancel_digest=DIGEST if by_caller else None
        )
        assert done == (
            job is not None and self.model.cancel(job, ttl=ttl, now=self.now, by_caller=by_caller)
        )

    @precondition(lambda self: self.ids)
    @rule(pick=picks)
    def expire(self, pick: int) -> None:
        job_id, job = self.job_of(pick)
        at_time(self.side.queue, self.moment).expire(job_id)
        self.model.expire([job] if job else [], now=self.now)

    @precondition(lambda self: self.ids)
    @rule(pick=picks)
    def give_back(self, pick: int) -> None:
        job_id, job = self.job_of(pick)
        building = job is not None and job.state is JobState.BUILDING
        assert at_time(self.side.operations, self.moment).give_back(job_id) == building
        if job is not None and building:
            job.put_back()
            job.not_before = self.now

    @rule(worker=workers, times=st.integers(1, 2), lease_for=spans)
    def claim(self, worker: str, times: int, lease_for: int) -> None:
        """Both processes claim at once, under one name, so that the same happens whoever is first."""

        now = self.moment

        def claim_one(side: Side) -> tuple[Job, Lease] | None:
            return at_time(side.queue, now).claim(worker, lease_for=span(lease_for))

        claimed = self.at_once([partial(claim_one, side) for side in self.sides[:times]])
        got = {one[0].id: one for one in claimed if one is not None}
        for _ in claimed:
            following = self.model.claimable(now=self.now)
            if following is None:
                break
            assert following.id in got, "another job was next"
            job, lease = got.pop(following.id)
            held = self.model.claim(following, lease.worker, lease_for=lease_for, now=self.now)
            assert (lease.job_id, lease.worker, lease.token) == held
            assert said(job) == expected(following)
            assert job.request == next(r.request for r in REQUESTS if r.request_hash == job.request_hash)
            self.leases.append(lease)
        assert got == {}

    @staticmethod
    def at_once(calls: Sequence[Callable[[], Answer]]) -> list[Answer]:
        if len(calls) == 1:
            return [calls[0]()]
        with ThreadPoolExecutor(len(calls)) as pool:
            return [future.result() for future in [pool.submit(call) for call in calls]]

    def lease_of(self, pick: int) -> tuple[Lease, ModelJob | None]:
        """A lease that holds, or (the last picks) any that was ever given, and the job that it holds."""
        held = [lease for lease in self.leases if self.held(lease)]
        leases = held if held and pick < 6 else self.leases
        lease = leases[-1 - pick % len(leases)]
        return lease, self.held(lease)

    def held(self, lease: Lease) -> ModelJob | None:
        return self.model.leased((lease.job_id, lease.worker, lease.token))

    @precondition(lambda self: self.leases)
    @rule(pick=picks, lease_for=spans)
    def renew(self, pick: int, lease_for: int) -> None:
        lease, job = self.lease_of(pick)
        side, now = self.side, self.moment_of(job)
        assert taken(lambda: at_time(side.queue, now).renew(lease, lease_for=span(lease_for))) == bool(job)
        if job:
            job.lease_until = self.now + lease_for

    @precondition(lambda self: self.leases)
    @rule(pick=picks, stage=st.sampled_from(Stage))
    def advance(self, pick: int, stage: Stage) -> None:
        lease, job = self.lease_of(pick)
        assert taken(lambda: self.side.queue.advance(lease, stage)) == bool(job)
        if job:
            job.stage = stage

    @precondition(lambda self: self.leases)
    @rule(pick=picks, pause=st.sampled_from([0, 15, 45]), retry=st.sampled_from(["", "Error: it is down"]))
    def release(self, pick: int, pause: int, retry: str) -> None:
        lease, job = self.lease_of(pick)
        until = self.now + pause
        queue, now = self.side.queue, self.moment_of(job)
        assert taken(lambda: at_time(queue, now).release(lease, delay=at(until) - now, retry=retry)) == bool(
            job
        )
        if job:
            if retry:
                self.model.broke_off(job, retry)
            job.put_back()
            job.retries += bool(retry)
            job.not_before = until

    @precondition(lambda self: self.leases)
    @rule(pick=picks, size=st.integers(1, 9), ttl=spans, longest=st.sampled_from([None, 30, 100]))
    def complete(self, pick: int, size: int, ttl: int, longest: int | None) -> None:
        lease, job = self.lease_of(pick)
        keeping = Retention(span(ttl), None if longest is None else span(longest))
        self.finish_twice(lease, job, a_result(stored_bytes=size), keeping)
        if job:
            job.end(JobState.COMPLETED, now=self.now, ttl=ttl, at_most=longest)
            job.stored_bytes = size
            self.model.files.add(job.request_hash)

    @precondition(lambda self: self.leases)
    @rule(pick=picks, reason=st.sampled_from(REASONS), ttl=spans)
    def fail(self, pick: int, reason: FailureReason, ttl: int) -> None:
        lease, job = self.lease_of(pick)
        self.finish_twice(lease, job, a_failure(reason), Retention(span(ttl), span(ttl)))
        if job:
            job.fail(reason, now=self.now, ttl=ttl)

    def finish_twice(self, lease: Lease, job: ModelJob | None, outcome: Outcome, keeping: Retention) -> None:
        """Two writers with one lease at once; one of them is taken, if it still holds."""

        now = self.moment_of(job)

        def finish(side: Side) -> bool:
            return taken(lambda: at_time(side.queue, now).finish(lease, outcome, keeping))

        both = self.at_once([partial(finish, side) for side in self.sides])
        assert both.count(True) == bool(job)

    @rule(seconds=st.sampled_from([5, 5, 10, LOOK]))
    def wait(self, seconds: int) -> None:
        """Time passes, and somebody looks in time."""
        if self.now + seconds > self.looked_at + LOOK:
            self.look(worker=None)
        self.now += seconds

    @precondition(lambda self: self.model.building())
    @rule(pick=picks, stages=st.lists(st.sampled_from(Stage), min_size=1, max_size=3))
    def lose_workers(self, pick: int, stages: Sequence[Stage]) -> None:
        """A worker is never on_output of again and its lease lapses; so does that of the one after it."""
        for stage in stages:
            self.advance(pick=pick, stage=stage)
            _, job = self.lease_of(pick)
            while job and job.live and self.now <= job.lease_until:
                self.wait(seconds=LOOK)
            self.look(worker=None)
            self.claim(worker="one/1", times=1, lease_for=20)
            pick = 0

    @rule(worker=st.sampled_from([None, None, None, "one", "two"]), ttl=spans)
    def look(self, worker: str | None, ttl: int = 60) -> None:
        found = at_time(self.side.queue, at(self.now)).recover(worker=worker, failure_ttl=span(ttl))
        returned, gave_up = self.model.recover(worker, ttl=ttl, now=self.now)
        assert found.returned == returned
        assert sorted(job.id for job in found.gave_up) == sorted(gave_up)
        self.looked_at = self.now

    @rule(seconds=st.sampled_from([-100_000, -3600, -40, -5, 35, 3600, 100_000]), seen=st.booleans())
    def leap(self, seconds: int, seen: bool) -> None:
        """The clock is set, or nobody was there for long; then somebody looks, or writes before."""
        if seconds < 0 and self.kind != "sqlite":
            return  # a server's clock is not set back
        self.now += seconds
        if seen or seconds > 0:
            self.look(worker=None)
        else:
            self.looked_at = self.now

    @rule(paused=st.sampled_from([False, False, False, True]))
    def pause_or_resume(self, paused: bool) -> None:
        operations = self.side.operations
        if paused:
            at_time(operations, at(self.now)).pause("operator")
        else:
            operations.resume()
        self.model.paused = paused

    @rule(which=requests)
    def purge(self, which: int) -> None:
        request_hash = REQUESTS[which].request_hash
        ended = at_time(self.side.operations, self.moment).purge(request_hash)
        assert ended == self.model.purge(request_hash, now=self.now)

    @rule(which=requests)
    def requeue(self, which: int) -> None:
        request_hash = REQUESTS[which].request_hash
        anew = at_time(self.side.operations, self.moment).requeue(request_hash)
        wanted = self.model.requeue(request_hash, now=self.now)
        assert (None if anew is None else (anew.caller, anew.priority)) == wanted
        if anew is not None:
            self.model.expire(self.model.of_hash(request_hash), now=self.now)
            # What is encrypted in the request is read by the queue alone.
            found = at_time(self.side.queue, at(self.now)).find(request_hash)
            assert found is not None and found.id == anew.id
            self.entered(found, asked_by(which, anew.caller, anew.priority))
            self.model.jobs[-1].has_secret = False

    @rule(which=requests, unexpired=st.booleans(), fails=st.booleans())
    def forget(self, which: int, unexpired: bool, fails: bool) -> None:
        request_hash = REQUESTS[which].request_hash
        going = self.model.forgettable(request_hash, now=self.now, unexpired=unexpired)
        alone = len(going) == len(self.model.of_hash(request_hash))
        removed: list[str] = []

        def remove() -> None:
            removed.append(request_hash)
            if fails:
                raise StillRead

        retention = at_time(self.side.retention, at(self.now))
        try:
            assert (
                delete_with_files(retention, request_hash, remove=removes(remove), unexpired=unexpired)
                == alone
            )
        except StillRead:
            going = []
        assert removed == [request_hash] * alone
        self.model.jobs = [job for job in self.model.jobs if job not in going]
        if alone and not fails:
            self.model.files.discard(request_hash)
            if request_hash in self.model.scrubbed:
                self.model.scrubbed[request_hash] = which in SECRET

    @invariant()
    def jobs_are_the_same(self) -> None:
        jobs = self.side.operations.jobs(JobFilter(limit=1000))
        assert [said(job) for job in reversed(jobs)] == [expected(job) for job in self.model.jobs]
        live = [job.request_hash for job in jobs if job.state in LIVE]
        assert len(live) == len(set(live))

    @invariant()
    def the_order_is_the_same(self) -> None:
        queue, order = self.side.queue, self.model.order()
        assert [queue.position(job.id) for job in order] == list(range(len(order)))
        assert queue.pending() == len(order)
        held = {(job.id, job.claims) for job in self.model.building()}
        assert queue.live_leases() == held

    @invariant()
    def answers_are_the_same(self) -> None:
        queue, order = self.side.queue, [job.id for job in self.model.order()]
        standings = at_time(queue, at(self.now)).standings([request.request_hash for request in REQUESTS])
        for request in REQUESTS:
            found = at_time(queue, at(self.now)).find(request.request_hash)
            wanted = self.model.find(request.request_hash, now=self.now)
            assert (found and said(found)) == (wanted and expected(wanted))
            if self.kind == "sqlite":  # a server is not asked by those who must not wait
                assert queue.find_id(request.request_hash) == (None if wanted is None else wanted.id)
            standing = standings.get(request.request_hash)
            assert (standing and told(standing)) == (wanted and stands(wanted, order))
            if found is not None:
                assert found.request == request.request
                assert type(found.outcome) is OUTCOMES.get(found.state, type(None))

    @invariant()
    def each_ended_build_has_its_outcome_and_no_other_job_has_one(self) -> None:
        with self.side.database.reading() as connection:
            rows = connection.execute("SELECT job_id, completed FROM build_results").fetchall()
        kept = {job_id: JobState.COMPLETED if completed else JobState.FAILED for job_id, completed in rows}
        assert kept == {job.id: job.state for job in self.model.jobs if job.state in OUTCOMES}

    @invariant()
    def images_and_rows_belong_together(self) -> None:
        retention, completed = self.side.retention, self.model.completed()
        assert set(retention.completed_hashes()) == {job.request_hash for job in completed}
        assert set(retention.completed_hashes()) <= self.model.files
        known = {job.request_hash for job in self.model.jobs}
        every = [request.request_hash for request in REQUESTS]
        assert [name for name in every if name not in known] == list(retention.find_orphans(every))
        assert self.model.files <= known
        ended = {job.request_hash for job in self.model.jobs if not job.live and job.expires_at <= self.now}
        assert sorted(at_time(retention, at(self.now)).expired()) == sorted(ended)

    @invariant()
    def what_images_take_and_when_they_were_used_is_the_same(self) -> None:
        retention, completed = self.side.retention, self.model.completed()
        assert retention.stored_bytes() == sum(job.stored_bytes for job in completed)
        used = {job.request_hash: job.last_accessed_at for job in completed}
        least = at_time(retention, at(self.now)).least_used(unused_for=timedelta(0))
        unused = [
            (job.request_hash, job.stored_bytes) for job in completed if used[job.request_hash] < self.now
        ]
        assert sorted(least) == sorted(unused)
        assert [used[name] for name, _ in least] == sorted(used[name] for name, _ in least)

    def teardown(self) -> None:
        try:
            if sys.exception() is None:
                self.drain()
        finally:
            for side in self.sides:
                side.database.close()
            shutil.rmtree(self.folder)

    def drain(self) -> None:
        """Everything that waits is claimed in its order, and the file is sound."""
        self.side.operations.resume()
        late = at(self.now + 1_000_000)
        for job in self.model.order():
            claimed = at_time(self.side.queue, late).claim("one/1", lease_for=span(1))
            assert claimed is not None
            assert claimed[0].id == job.id
        assert at_time(self.side.queue, late).claim("one/1", lease_for=span(1)) is None
        if self.kind == "sqlite":
            with self.side.database.reading() as connection:
                assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


class ServerQueueMachine(QueueMachine):
    """The same on PostgreSQL."""

    kind = "postgresql"


@pytest.mark.hypothesis
@pytest.mark.timeout(0 if COURSES else 600)
def test_the_queue_does_what_its_model_does() -> None:
    run_state_machine_as_test(QueueMachine, settings=PROFILE)


@pytest.mark.hypothesis
@pytest.mark.timeout(0 if COURSES else 600)
def test_the_queue_on_a_server_does_what_its_model_does() -> None:
    """Few and short courses, and more in the long part: each question goes to another process and back."""
    many = COURSES or PROFILE.max_examples // 12
    few = settings(PROFILE, max_examples=max(2, many), stateful_step_count=150 if many > 2 else 40)
    run_state_machine_as_test(ServerQueueMachine, settings=few)
