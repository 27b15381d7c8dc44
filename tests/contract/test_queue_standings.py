"""Where many jobs stand, whether a hash has one, and whether anything was committed."""

from collections.abc import Iterator
from datetime import timedelta

import pytest

from asu_builder.database.dialect import SqlDatabase
from asu_builder.database.queue import SqlJobQueue
from asu_builder.domain.errors import Unavailable
from asu_builder.domain.job import Job, JobState, Lease, Priority, Retention, Stage, Standing
from asu_builder.ports import JobQueue
from database_clock import at_time
from factories import NOON, a_failure, a_result, a_submission
from postgresql import on_sqlite, opened

MINUTE = timedelta(minutes=1)
DAY = timedelta(days=1)
UNKNOWN = "f" * 64
FINAL = (JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED)


@pytest.fixture
def elsewhere(place: str, database: SqlDatabase) -> Iterator[JobQueue]:
    """The same queue as another process has it."""
    other = opened(place)
    yield SqlJobQueue(other)
    other.close()


def submit(queue: JobQueue, name: str = "vim") -> Job:
    return at_time(queue, NOON).submit(a_submission(packages=(name,))).job


def claim(queue: JobQueue) -> tuple[Job, Lease]:
    claimed = at_time(queue, NOON).claim("w/1", lease_for=MINUTE)
    assert claimed is not None
    return claimed


def in_state(queue: JobQueue, state: JobState, name: str = "vim") -> Job:
    """A job that has come as far; final ones answer for a day."""
    job = submit(queue, name)
    if state in (JobState.BUILDING, JobState.COMPLETED, JobState.FAILED):
        _, lease = claim(queue)
        if state is JobState.BUILDING:
            queue.advance(lease, Stage.BUILDING_IMAGE)
        else:
            queue.finish(lease, a_result() if state is JobState.COMPLETED else a_failure(), Retention(DAY))
    elif state is JobState.CANCELLED:
        assert queue.cancel(job.id, failure_ttl=DAY)
    return job


def find_id(queue: JobQueue, name: str) -> int | None:
    """As those do who must not wait: where it cannot be told at once, a thread finds the job."""
    try:
        return queue.find_id(name)
    except Unavailable:
        job = queue.find(name)
        return job.id if job else None


@pytest.mark.parametrize("state", JobState)
def test_a_job_of_each_state_has_a_standing_and_an_id(queue: JobQueue, state: JobState) -> None:
    job = in_state(queue, state)
    claimed = state not in (JobState.PENDING, JobState.CANCELLED)
    assert find_id(queue, job.request_hash) == queue.newest_id(job.request_hash) == job.id
    assert queue.standings([job.request_hash]) == {
        job.request_hash: Standing(
            job_id=job.id,
            state=state,
            stage=Stage.BUILDING_IMAGE if state is JobState.BUILDING else None,
            ahead=0 if state is JobState.PENDING else None,
            expires_at=NOON + DAY if state in FINAL else None,
            started_at=NOON if claimed else None,
        )
    }


def test_what_is_unknown_or_has_expired_has_no_standing_and_does_not_exist(queue: JobQueue) -> None:
    ended = [in_state(queue, state, f"of-{state}").request_hash for state in FINAL]
    waits = submit(queue, "waits").request_hash
    late = at_time(queue, NOON + DAY)
    assert list(late.standings([UNKNOWN, *ended, waits])) == [waits]
    assert [find_id(late, name) is not None for name in (UNKNOWN, *ended, waits)] == [False] * 4 + [True]
    assert [late.newest_id(name) is not None for name in (UNKNOWN, *ended, waits)] == [False] * 4 + [True]
    just_before = at_time(queue, NOON + DAY - timedelta(microseconds=1))
    assert sorted(just_before.standings(ended)) == sorted(ended)
    assert all(find_id(just_before, name) for name in ended)


def test_nobody_asked_for_is_nobody_found(queue: JobQueue) -> None:
    submit(queue)
    assert queue.standings([]) == {}
    assert queue.outdated({}) == ((), None)


def test_those_are_outdated_whose_hash_another_job_answers_or_none(queue: JobQueue) -> None:
    jobs = [in_state(queue, state, f"of-{state}") for state in FINAL]
    again = in_state(queue, JobState.CANCELLED, "again")
    ids = {job.request_hash: job.id for job in (*jobs, again)}
    assert queue.outdated(ids) == ((), NOON + DAY)
    assert submit(queue, "again").request_hash == again.request_hash
    names, _ = queue.outdated(ids | {UNKNOWN: 1})
    assert {*names} == {again.request_hash, UNKNOWN}
    names, first = at_time(queue, NOON + DAY).outdated(ids)
    assert {*names} == {*ids}
    assert first is None, "what waits does not expire"


def test_a_hash_that_is_asked_for_twice_is_told_once(queue: JobQueue) -> None:
    first, second = submit(queue, "a"), submit(queue, "b")
    names = [second.request_hash, first.request_hash, second.request_hash]
    found = queue.standings(names)
    assert {name: standing.ahead for name, standing in found.items()} == {
        first.request_hash: 0,
        second.request_hash: 1,
    }


def test_the_newest_job_of_a_hash_stands_for_it(queue: JobQueue) -> None:
    former = in_state(queue, JobState.CANCELLED)
    again = submit(queue)
    assert again.id > former.id
    assert queue.standings([again.request_hash])[again.request_hash].job_id == again.id
    assert queue.cancel(again.id, failure_ttl=MINUTE)
    assert queue.standings([again.request_hash])[again.request_hash].state is JobState.CANCELLED
    assert at_time(queue, NOON + MINUTE).standings([again.request_hash]) == {}


def test_standings_tell_what_position_tells_of_each(queue: JobQueue) -> None:
    jobs = {}
    for number in range(40):
        submission = a_submission(
            packages=(f"p{number}",), caller=f"caller-{number % 7}", priority=Priority(number % 3 - 1)
        )
        job = at_time(queue, NOON).submit(submission).job
        jobs[job.request_hash] = job.id
    for _ in range(9):
        claim(queue)
    positions = {name: queue.position(job_id) for name, job_id in jobs.items()}
    for asked in (list(jobs), list(jobs)[::3], list(jobs)[::-5]):
        found = queue.standings(asked)
        assert list(found) != [] and set(found) == set(asked)
        for name, standing in found.items():
            waits = standing.state is JobState.PENDING
            assert standing.ahead == (positions[name] if waits else None)


def test_a_job_that_was_given_back_keeps_its_place_while_it_must_wait(queue: JobQueue) -> None:
    submit(queue, "a")
    behind = submit(queue, "b")
    job, lease = claim(queue)
    queue.release(lease, delay=MINUTE)
    found = queue.standings([job.request_hash, behind.request_hash])
    assert [found[name].ahead for name in (job.request_hash, behind.request_hash)] == [0, 1]


@on_sqlite
def test_each_commit_changes_the_number_of_changes_in_every_process(
    queue: JobQueue, elsewhere: JobQueue
) -> None:
    seen = [queue.changes(), elsewhere.changes()]
    assert [queue.changes(), elsewhere.changes()] == seen, "nothing was committed"
    for act in (
        lambda: submit(queue, "a"),
        lambda: submit(elsewhere, "b"),
        lambda: elsewhere.cancel(1, failure_ttl=DAY),
        lambda: at_time(queue, NOON + MINUTE).touch([a_submission(packages=("b",)).request_hash]),
    ):
        act()
        now = [queue.changes(), elsewhere.changes()]
        assert all(number != before for number, before in zip(now, seen, strict=True))
        seen = now


@on_sqlite
def test_looking_changes_nothing(queue: JobQueue, elsewhere: JobQueue) -> None:
    job = submit(queue)
    seen = elsewhere.changes()
    queue.find(job.request_hash)
    find_id(queue, job.request_hash)
    queue.standings([job.request_hash])
    find_id(elsewhere, job.request_hash)
    assert elsewhere.changes() == seen


def test_what_another_process_has_committed_exists_at_once(queue: JobQueue, elsewhere: JobQueue) -> None:
    name = a_submission(packages=("vim",)).request_hash
    assert not find_id(queue, name)
    submit(elsewhere)
    assert find_id(queue, name)


@on_sqlite
def test_of_uses_of_a_result_within_a_minute_the_first_is_written(queue: JobQueue) -> None:
    name = in_state(queue, JobState.COMPLETED).request_hash
    kept_until = {
        30: NOON + DAY,
        60: NOON + MINUTE + DAY,
        90: NOON + MINUTE + DAY,
        120: NOON + 2 * MINUTE + DAY,
    }
    for seconds, expected in kept_until.items():
        before = queue.changes()
        at_time(queue, NOON + timedelta(seconds=seconds)).touch([name])
        assert queue.standings([name])[name].expires_at == expected
        assert (queue.changes() != before) == (seconds in (60, 120)), seconds


def test_each_poll_of_a_job_that_waits_is_written(queue: JobQueue) -> None:
    name = submit(queue).request_hash
    for seconds in (1, 2, 3):
        before = queue.changes()
        at_time(queue, NOON + timedelta(seconds=seconds)).touch([name])
        assert queue.changes() != before


def test_a_use_after_time_that_nobody_saw_prolongs_a_result(queue: JobQueue) -> None:
    name = in_state(queue, JobState.COMPLETED).request_hash
    queue.recover(failure_ttl=DAY)
    later = at_time(queue, NOON + DAY - MINUTE)
    later.recover(failure_ttl=DAY)
    later.touch([name])
    assert later.standings([name])[name].expires_at == NOON + 2 * DAY - MINUTE
