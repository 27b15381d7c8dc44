"""Rare courses of events at the queue, each in a few steps; most were found with its model."""

from datetime import datetime, timedelta

import pytest

from asu_builder.core.housekeeping import delete_with_files
from asu_builder.domain.errors import LeaseLost
from asu_builder.domain.job import BuildResult, IdlePolicy, Job, JobState, Lease, Retention
from asu_builder.ports import JobQueue, Operations, RetentionRepository
from database_clock import at_time
from factories import NOON, a_result, a_submission, removes
from postgresql import on_sqlite

SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
PATIENCE = IdlePolicy(deprioritized_after=5 * MINUTE, expires_after=HOUR)


def submit(queue: JobQueue, name: str = "vim", *, caller: str = "a", now: datetime = NOON) -> Job:
    return at_time(queue, now).submit(a_submission(packages=(name,), caller=caller)).job


def claim(queue: JobQueue, *, now: datetime = NOON) -> tuple[Job, Lease]:
    claimed = at_time(queue, now).claim("w/1", lease_for=MINUTE)
    assert claimed is not None
    return claimed


def build(queue: JobQueue, *, now: datetime = NOON, retention: Retention, stored_bytes: int = 1) -> Job:
    """Takes the next job to its result."""
    job, lease = claim(queue, now=now)
    at_time(queue, now).finish(lease, a_result(stored_bytes=stored_bytes), retention)
    return job


def look(queue: JobQueue, now: datetime) -> None:
    at_time(queue, now).recover(failure_ttl=DAY)


def state_of(queue: JobQueue, job: Job, now: datetime) -> JobState | None:
    found = at_time(queue, now).find(job.request_hash)
    return None if found is None else found.state


def test_the_lease_of_a_job_that_is_gone_fits_no_later_job(
    queue: JobQueue, retention: RetentionRepository
) -> None:
    submit(queue, "first")
    job, stale = claim(queue)
    at_time(queue, NOON).cancel(job.id, failure_ttl=MINUTE)
    delete_with_files(at_time(retention, NOON + MINUTE), job.request_hash, remove=removes())
    later = submit(queue, "second", now=NOON + MINUTE)
    claim(queue, now=NOON + MINUTE)
    assert later.id != job.id
    with pytest.raises(LeaseLost):
        at_time(queue, NOON + MINUTE).finish(stale, a_result(), Retention(DAY))


def test_an_caller_whose_next_job_is_always_there_in_time_does_not_keep_others_waiting(
    queue: JobQueue,
) -> None:
    for name in ("a1", "a2", "a3"):
        submit(queue, name, caller="a")
    submit(queue, "b1", caller="b")
    claimed = []
    for number in range(2, 7):
        job, lease = claim(queue)
        claimed.append(job.request.packages[0])
        if job.caller == "b":
            submit(queue, f"b{number}", caller="b")
        queue.finish(lease, a_result(), Retention(DAY))
    assert claimed == ["a1", "b1", "a2", "b3", "a3"]


@on_sqlite
def test_what_could_be_claimed_can_be_claimed_after_the_clock_was_set_back(queue: JobQueue) -> None:
    submit(queue)
    _, lease = claim(queue)
    at_time(queue, NOON).release(lease)
    look(queue, NOON)
    look(queue, NOON - HOUR)
    assert at_time(queue, NOON - HOUR).claim("w/1", lease_for=MINUTE) is not None


def test_a_lease_renewed_after_the_clock_was_set_back_does_not_lapse(queue: JobQueue) -> None:
    submit(queue)
    _, lease = claim(queue)
    look(queue, NOON)
    at_time(queue, NOON - HOUR).renew(lease, lease_for=MINUTE)
    look(queue, NOON - HOUR + SECOND)
    assert queue.live_leases() == {(lease.job_id, lease.token)}


@on_sqlite
def test_a_job_that_was_building_when_the_service_went_down_is_not_idle_afterwards(queue: JobQueue) -> None:
    job = submit(queue)
    claim(queue)
    look(queue, NOON)
    up_again = NOON + 2 * HOUR
    at_time(queue, up_again).recover(worker="w", failure_ttl=DAY)
    assert list(at_time(queue, up_again).expire_abandoned(PATIENCE, failure_ttl=DAY)) == []
    assert state_of(queue, job, up_again) is JobState.PENDING


def test_a_job_that_was_polled_while_it_was_built_is_not_idle_when_it_is_given_back(
    queue: JobQueue, operations: Operations
) -> None:
    job = submit(queue)
    claim(queue)
    later = NOON + HOUR + MINUTE
    at_time(queue, later - SECOND).touch([job.request_hash])
    assert at_time(operations, later).give_back(job.id)
    assert list(at_time(queue, later).expire_abandoned(PATIENCE, failure_ttl=DAY)) == []


def test_an_outcome_answers_no_longer_than_its_last_moment_from_the_first_on(queue: JobQueue) -> None:
    submit(queue)
    job = build(queue, retention=Retention(DAY, HOUR))
    assert state_of(queue, job, NOON + HOUR - SECOND) is JobState.COMPLETED
    assert state_of(queue, job, NOON + HOUR) is None


def test_a_popular_result_without_named_versions_ages_from_its_completion(queue: JobQueue) -> None:
    submit(queue)
    job, lease = claim(queue)
    at_time(queue, NOON).finish(lease, a_result(), Retention(DAY, max_age=DAY))
    for hours in range(1, 24):
        at_time(queue, NOON + hours * HOUR).touch([job.request_hash])
        assert state_of(queue, job, NOON + hours * HOUR) is JobState.COMPLETED
    assert state_of(queue, job, NOON + DAY) is None


def test_expiring_what_has_expired_does_not_prolong_it(
    queue: JobQueue, retention: RetentionRepository
) -> None:
    submit(queue)
    job = build(queue, retention=Retention(MINUTE))
    at_time(queue, NOON + HOUR).expire(job.id)
    assert list(at_time(retention, NOON + 2 * MINUTE).expired()) == [job.request_hash]


def built_twice(queue: JobQueue) -> Job:
    """A result that has expired, and one for the same request an hour later, which takes 5 bytes."""
    submit(queue)
    build(queue, retention=Retention(MINUTE), stored_bytes=7)
    submit(queue, now=NOON + HOUR)
    return build(queue, now=NOON + HOUR, retention=Retention(DAY), stored_bytes=5)


def test_a_result_in_use_is_not_among_the_least_used_for_the_one_before_it(
    queue: JobQueue, retention: RetentionRepository
) -> None:
    job = built_twice(queue)
    assert list(at_time(retention, NOON + HOUR).least_used(unused_for=timedelta(0))) == []
    assert list(at_time(retention, NOON + 2 * HOUR).least_used(unused_for=timedelta(0))) == [
        (job.request_hash, 5)
    ]


def test_images_of_one_hash_are_counted_once(queue: JobQueue, retention: RetentionRepository) -> None:
    job = built_twice(queue)
    assert retention.stored_bytes() == 5
    assert set(retention.completed_hashes()) == {job.request_hash}


def test_what_is_forgotten_can_be_requeued_as_it_was_asked(
    queue: JobQueue, retention: RetentionRepository, operations: Operations
) -> None:
    submit(queue)
    job = build(queue, retention=Retention(MINUTE))
    assert delete_with_files(at_time(retention, NOON + MINUTE), job.request_hash, remove=removes())
    anew = at_time(operations, NOON + MINUTE).requeue(job.request_hash)
    assert anew is not None
    assert (anew.request, anew.state) == (job.request, JobState.PENDING)


def test_the_job_of_an_entry_is_the_one_that_is_built(
    queue: JobQueue, retention: RetentionRepository
) -> None:
    first = a_submission(packages=("vim", "tmux"))
    at_time(queue, NOON).submit(first)
    job = build(queue, retention=Retention(MINUTE))
    delete_with_files(at_time(retention, NOON + MINUTE), job.request_hash, remove=removes())
    other_order = a_submission(packages=("tmux", "vim"))
    assert other_order.request_hash == first.request_hash
    entry = at_time(queue, NOON + MINUTE).submit(other_order)
    assert entry.job == at_time(queue, NOON + MINUTE).find(job.request_hash)


def test_the_job_of_an_entry_says_that_its_caller_has_joined(queue: JobQueue) -> None:
    submit(queue, caller="a")
    joined = submit(queue, caller="b")
    assert joined == queue.find(joined.request_hash)
    assert joined.joined


def test_an_outcome_is_of_the_build_that_ended(queue: JobQueue) -> None:
    job = built_twice(queue)
    found = at_time(queue, NOON + HOUR).find(job.request_hash)
    assert found is not None
    assert isinstance(found.outcome, BuildResult)
    assert found.outcome.stored_bytes == 5


@on_sqlite
@pytest.mark.parametrize(
    "noticed_at", [3 * HOUR + SECOND, 10 * SECOND], ids=["still ahead", "set back again"]
)
def test_a_job_given_back_while_the_clock_was_hours_ahead_waits_for_minutes_at_most(
    queue: JobQueue, noticed_at: timedelta
) -> None:
    at_time(queue, NOON).recover(failure_ttl=DAY)
    submit(queue)
    job, lease = claim(queue)
    wrong = NOON + 3 * HOUR
    at_time(queue, wrong).release(lease, delay=20 * SECOND)
    now = NOON + noticed_at
    at_time(queue, now).recover(failure_ttl=DAY)
    again, _ = claim(queue, now=now + 2 * MINUTE)
    assert again.id == job.id


@on_sqlite
def test_a_lease_taken_while_the_clock_was_hours_ahead_lapses_within_minutes(queue: JobQueue) -> None:
    at_time(queue, NOON).recover(failure_ttl=DAY)
    submit(queue)
    claim(queue, now=NOON + 3 * HOUR)
    returned, now = 0, NOON + SECOND
    while now < NOON + 3 * MINUTE:
        returned += at_time(queue, now).recover(failure_ttl=DAY).returned
        now += 10 * SECOND
    assert returned == 1
