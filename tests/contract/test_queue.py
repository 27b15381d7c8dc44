"""What every job queue must do; run against each adapter of the port."""

import itertools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from asu_builder.adapters.database import Database
from asu_builder.adapters.jobs import COOL_DOWN, MAX_ATTEMPTS, SqlJobQueue
from asu_builder.domain.errors import AsuError, FailureReason, LeaseLost, QueueFull
from asu_builder.domain.job import NEXT_STATES, BuildFailure, Job, JobState, Lease, Stage
from asu_builder.ports import Entry, JobQueue, Submission
from factories import NOON, a_failure, a_request, a_result, a_submission

MINUTE = timedelta(minutes=1)
DAY = timedelta(days=1)


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[JobQueue]:
    database = Database(tmp_path / "queue.db")
    yield SqlJobQueue(database)
    database.close()


def submit(queue: JobQueue, name: str = "vim", *, capacity: int = 100) -> Job:
    return queue.submit(a_submission(packages=(name,)), capacity=capacity, now=NOON).job


def enter(queue: JobQueue, submission: Submission, *, capacity: int, now: datetime) -> tuple[Job, bool]:
    entry = queue.submit(submission, capacity=capacity, now=now)
    return entry.job, entry.created


def claim(queue: JobQueue, worker: str = "w/1") -> tuple[Job, Lease]:
    claimed = queue.claim(worker, lease_for=MINUTE, now=NOON)
    assert claimed is not None
    return claimed


def test_a_submitted_job_is_pending_with_everything_that_was_asked(queue: JobQueue) -> None:
    submission = a_submission(
        packages=("vim", "-ppp"), packages_versions={}, defaults="uci", rootfs_size_mb=3
    )
    job, created = enter(queue, submission, capacity=1, now=NOON)
    assert created
    assert (job.state, job.stage, job.client) == (JobState.PENDING, None, "owut/2026.1")
    assert (job.request, job.request_hash, job.enqueued_at) == (
        submission.request,
        submission.request_hash,
        NOON,
    )
    assert queue.find(submission.request_hash, now=NOON) == job


def test_the_same_request_again_is_the_same_job_even_when_the_queue_is_full(queue: JobQueue) -> None:
    first = submit(queue, capacity=1)
    again, created = enter(queue, a_submission(packages=("vim",)), capacity=1, now=NOON)
    assert (again.id, created) == (first.id, False)


def test_a_full_queue_refuses_and_says_how_many_wait(queue: JobQueue) -> None:
    submit(queue, "a")
    submit(queue, "b")
    with pytest.raises(QueueFull) as caught:
        submit(queue, "c", capacity=2)
    assert caught.value.pending == 2
    assert caught.value.retry_after > 0
    assert queue.pending() == 2


def test_positions_count_the_jobs_ahead_and_claims_follow_them(queue: JobQueue) -> None:
    jobs = [submit(queue, name) for name in ("a", "b", "c")]
    assert [queue.position(job.id) for job in jobs] == [0, 1, 2]
    assert [claim(queue)[0].id for _ in jobs] == [job.id for job in jobs]
    assert queue.claim("w/1", lease_for=MINUTE, now=NOON) is None


def test_a_claimed_job_is_building_at_its_first_stage_and_advances(queue: JobQueue) -> None:
    submit(queue)
    job, lease = claim(queue)
    assert (job.state, job.stage, job.started_at) == (JobState.BUILDING, Stage.INIT, NOON)
    queue.advance(lease, Stage.BUILDING_IMAGE)
    found = queue.find(job.request_hash, now=NOON)
    assert found is not None
    assert found.stage is Stage.BUILDING_IMAGE


def test_a_result_comes_back_as_it_was_recorded(queue: JobQueue) -> None:
    submit(queue)
    job, lease = claim(queue)
    queue.finish(lease, a_result(), keep_for=DAY, now=NOON)
    found = queue.find(job.request_hash, now=NOON)
    assert found is not None
    assert (found.state, found.outcome, found.finished_at, found.stage) == (
        JobState.COMPLETED, a_result(), NOON, None,
    )  # fmt: skip
    assert queue.find(job.request_hash, now=NOON + DAY) is None


def test_a_users_failure_answers_until_it_expires(queue: JobQueue) -> None:
    submit(queue)
    job, lease = claim(queue)
    queue.finish(lease, a_failure(), keep_for=DAY, now=NOON)
    again, created = enter(queue, a_submission(packages=("vim",)), capacity=9, now=NOON + DAY - MINUTE)
    assert (again.id, again.outcome, created) == (job.id, a_failure(), False)
    later, created = enter(queue, a_submission(packages=("vim",)), capacity=9, now=NOON + DAY)
    assert created
    assert later.id != job.id


@pytest.mark.parametrize("reason", [FailureReason.WORLD_UNAVAILABLE, FailureReason.INTERNAL])
def test_a_failure_that_is_not_the_users_is_tried_anew_after_the_cool_down(
    queue: JobQueue, reason: FailureReason
) -> None:
    submit(queue)
    job, lease = claim(queue)
    queue.finish(lease, BuildFailure(reason, "Error: down"), keep_for=DAY, now=NOON)
    soon, created = enter(
        queue, a_submission(packages=("vim",)), capacity=9, now=NOON + COOL_DOWN - MINUTE / 60
    )
    assert (soon.id, created) == (job.id, False)
    anew, created = enter(queue, a_submission(packages=("vim",)), capacity=9, now=NOON + COOL_DOWN)
    assert created
    found = queue.find(job.request_hash, now=NOON + COOL_DOWN)
    assert found is not None
    assert found.id == anew.id


def test_an_expired_answer_makes_way_for_a_new_job(queue: JobQueue) -> None:
    submit(queue)
    job, lease = claim(queue)
    queue.finish(lease, a_result(), keep_for=DAY, now=NOON)
    queue.expire(job.id, now=NOON)
    assert queue.find(job.request_hash, now=NOON) is None
    assert submit(queue).id != job.id


def test_a_released_job_waits_for_its_time_and_keeps_its_place(queue: JobQueue) -> None:
    first = submit(queue, "a")
    submit(queue, "b")
    _, lease = claim(queue)
    queue.release(lease, not_before=NOON + MINUTE, retry=True)
    assert queue.position(first.id) == 0
    assert claim(queue)[0].id != first.id
    assert queue.claim("w/1", lease_for=MINUTE, now=NOON) is None
    again = queue.claim("w/1", lease_for=MINUTE, now=NOON + MINUTE)
    assert again is not None
    assert (again[0].id, again[0].retries, again[0].attempts) == (first.id, 1, 0)


def test_a_lapsed_lease_returns_the_job_and_voids_what_the_lost_worker_writes(queue: JobQueue) -> None:
    submit(queue)
    job, lost = claim(queue)
    assert queue.recover(keep_failure_for=DAY, now=NOON + MINUTE) == 0
    assert queue.recover(keep_failure_for=DAY, now=NOON + 2 * MINUTE) == 1
    again = queue.claim("w/1", lease_for=MINUTE, now=NOON + 2 * MINUTE)
    assert again is not None
    assert again[0].id == job.id
    writes: tuple[Callable[[], object], ...] = (
        lambda: queue.renew(lost, lease_for=MINUTE, now=NOON),
        lambda: queue.advance(lost, Stage.BUILDING_IMAGE),
        lambda: queue.finish(lost, a_result(), keep_for=DAY, now=NOON),
        lambda: queue.release(lost, not_before=NOON),
    )
    for write in writes:
        with pytest.raises(LeaseLost):
            write()
    queue.finish(again[1], a_result(), keep_for=DAY, now=NOON)


def test_a_renewed_lease_does_not_lapse(queue: JobQueue) -> None:
    submit(queue)
    _, lease = claim(queue)
    queue.renew(lease, lease_for=MINUTE, now=NOON + MINUTE)
    assert queue.recover(keep_failure_for=DAY, now=NOON + 2 * MINUTE) == 0
    assert queue.live_leases(now=NOON + 2 * MINUTE) == {(lease.job_id, lease.token)}


def test_a_worker_that_restarts_under_its_name_returns_its_own_jobs_and_no_others(queue: JobQueue) -> None:
    for name in ("a", "b", "c"):
        submit(queue, name)
    for worker in ("host/1", "host-2/1", "hos/1"):
        claim(queue, worker)
    assert queue.recover(worker="host", keep_failure_for=DAY, now=NOON) == 1
    assert queue.pending() == 1


def test_an_attempt_counts_only_when_the_container_had_started_and_the_third_gives_up(
    queue: JobQueue,
) -> None:
    job = submit(queue)
    now = NOON
    stages = [Stage.CONTAINER_SETUP] + [Stage.BUILDING_IMAGE] * MAX_ATTEMPTS
    for stage in stages:
        claimed = queue.claim("w/1", lease_for=MINUTE, now=now)
        assert claimed is not None
        queue.advance(claimed[1], stage)
        now += 2 * MINUTE
        queue.recover(keep_failure_for=DAY, now=now)
    assert queue.claim("w/1", lease_for=MINUTE, now=now) is None
    found = queue.find(job.request_hash, now=now)
    assert found is not None
    assert isinstance(found.outcome, BuildFailure)
    assert (found.outcome.reason, found.attempts) == (FailureReason.GAVE_UP, MAX_ATTEMPTS)


def test_expired_jobs_are_forgotten_with_their_images_and_live_ones_keep_theirs(queue: JobQueue) -> None:
    submit(queue)
    job, lease = claim(queue)
    queue.finish(lease, a_result(), keep_for=MINUTE, now=NOON)
    removed: list[str] = []
    later = NOON + MINUTE
    assert list(queue.expired(now=NOON)) == []
    assert list(queue.expired(now=later)) == [job.request_hash]
    queue.submit(a_submission(packages=("vim",)), capacity=9, now=later)
    queue.forget(job.request_hash, remove=lambda: removed.append("too early"), now=later)
    assert removed == []
    again = queue.claim("w/1", lease_for=MINUTE, now=later)
    assert again is not None
    queue.finish(again[1], a_result(), keep_for=MINUTE, now=later)
    queue.forget(job.request_hash, remove=lambda: removed.append(job.request_hash), now=later + MINUTE)
    assert removed == [job.request_hash]
    assert list(queue.expired(now=later + MINUTE)) == []


def test_images_that_cannot_be_removed_keep_their_job(queue: JobQueue) -> None:
    submit(queue)
    job, lease = claim(queue)
    queue.finish(lease, a_result(), keep_for=MINUTE, now=NOON)

    def fail() -> None:
        raise OSError("busy")

    with pytest.raises((OSError, AsuError)):
        queue.forget(job.request_hash, remove=fail, now=NOON + MINUTE)
    assert list(queue.expired(now=NOON + MINUTE)) == [job.request_hash]


STATES = tuple(JobState)


def in_state(queue: JobQueue, state: JobState) -> tuple[Job, Lease]:
    submit(queue)
    job, lease = claim(queue)
    if state is JobState.PENDING:
        queue.release(lease, not_before=NOON)
    elif state is JobState.COMPLETED:
        queue.finish(lease, a_result(), keep_for=DAY, now=NOON)
    elif state is JobState.FAILED:
        queue.finish(lease, a_failure(), keep_for=DAY, now=NOON)
    return job, lease


OPERATIONS: dict[JobState, Callable[[JobQueue, Lease], object]] = {
    JobState.PENDING: lambda queue, lease: queue.release(lease, not_before=NOON),
    JobState.BUILDING: lambda queue, lease: queue.claim("w/2", lease_for=MINUTE, now=NOON),
    JobState.COMPLETED: lambda queue, lease: queue.finish(lease, a_result(), keep_for=DAY, now=NOON),
    JobState.FAILED: lambda queue, lease: queue.finish(lease, a_failure(), keep_for=DAY, now=NOON),
}


@pytest.mark.parametrize(("before", "after"), list(itertools.product(STATES, STATES)))
def test_only_the_steps_of_the_table_are_taken(queue: JobQueue, before: JobState, after: JobState) -> None:
    job, lease = in_state(queue, before)
    try:
        taken = OPERATIONS[after](queue, lease) is not None or after is not JobState.BUILDING
    except LeaseLost:
        taken = False
    found = queue.find(job.request_hash, now=NOON)
    assert found is not None
    allowed = after in NEXT_STATES[before]
    assert taken == allowed
    assert found.state is (after if allowed else before)


def test_two_hundred_identical_requests_at_once_are_one_job(queue: JobQueue) -> None:
    with ThreadPoolExecutor(32) as pool:
        jobs = list(pool.map(lambda _: submit(queue), range(200)))
    assert len({job.id for job in jobs}) == 1
    assert queue.pending() == 1


def test_two_hundred_different_requests_are_each_built_once_by_many_workers(queue: JobQueue) -> None:
    with ThreadPoolExecutor(32) as pool:
        list(pool.map(lambda number: submit(queue, f"p{number}", capacity=200), range(200)))
    built: list[int] = []
    lock = threading.Lock()

    def work(worker: int) -> None:
        while (claimed := queue.claim(f"w/{worker}", lease_for=MINUTE, now=NOON)) is not None:
            with lock:
                built.append(claimed[0].id)
            queue.finish(claimed[1], a_result(), keep_for=DAY, now=NOON)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert len(built) == len(set(built)) == 200


def test_a_request_that_was_submitted_is_not_changed_by_later_ones(queue: JobQueue) -> None:
    first = submit(queue, "vim")
    submit(queue, "tmux")
    found = queue.find(first.request_hash, now=NOON)
    assert found is not None
    assert found.request == a_request(packages=("vim",))


def test_many_submissions_in_one_transaction_have_each_their_own_answer(queue: JobQueue) -> None:
    known = submit(queue, "known")
    submissions = [a_submission(packages=(name,)) for name in ("a", "known", "a", "b", "c")]
    answers = list(queue.submit_all(submissions, capacity=3, now=NOON))
    assert [isinstance(answer, QueueFull) for answer in answers] == [False, False, False, False, True]
    entries = [answer for answer in answers if isinstance(answer, Entry)]
    assert [(entry.created, entry.ahead) for entry in entries] == [
        (True, 1),
        (False, 0),
        (False, 1),
        (True, 2),
    ]
    assert entries[1].job.id == known.id
    assert entries[0].job.id == entries[2].job.id
    assert queue.find(submissions[0].request_hash, now=NOON) == entries[0].job
