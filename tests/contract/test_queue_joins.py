"""Who asks for what already waits: the job comes as early as one of the joiner's own would have."""

from datetime import timedelta

import pytest

from asu_builder.domain.job import Entry, IdlePolicy, Job, JobFilter, JobState, Lease, Priority, Retention
from asu_builder.ports import JobQueue, Operations
from database_clock import at_time
from factories import NOON, a_result, a_submission

MINUTE = timedelta(minutes=1)
DAY = timedelta(days=1)
PATIENCE = IdlePolicy(deprioritized_after=5 * MINUTE, expires_after=60 * MINUTE)


def ask(queue: JobQueue, name: str, *, caller: str, priority: Priority = Priority.NORMAL) -> Entry:
    return at_time(queue, NOON).submit(a_submission(packages=(name,), caller=caller, priority=priority))


def farm_asks(queue: JobQueue, *names: str, priority: Priority = Priority.NORMAL) -> None:
    for name in names:
        ask(queue, name, caller="farm", priority=priority)


def claim(queue: JobQueue) -> tuple[Job, Lease]:
    claimed = at_time(queue, NOON).claim("w/1", lease_for=MINUTE)
    assert claimed is not None
    return claimed


def order(queue: JobQueue, operations: Operations) -> list[str]:
    """The first packages of all that wait, as their positions say and as they are claimed then."""
    jobs = operations.jobs(JobFilter(state=JobState.PENDING))
    foretold = [job.request.packages[0] for job in sorted(jobs, key=lambda job: queue.position(job.id))]
    assert [claim(queue)[0].request.packages[0] for _ in jobs] == foretold
    return foretold


def test_an_interactive_joiner_brings_a_bulk_job_before_ordinary_ones(
    queue: JobQueue, operations: Operations
) -> None:
    farm_asks(queue, "f1", "popular", priority=Priority.BULK)
    ask(queue, "n1", caller="bob")
    joined = ask(queue, "popular", caller="ann", priority=Priority.INTERACTIVE)
    assert (joined.created, joined.ahead) == (False, 0)
    assert (joined.job.caller, joined.job.priority, joined.job.joined) == ("ann", Priority.INTERACTIVE, True)
    assert joined.job == queue.find(joined.job.request_hash)
    assert order(queue, operations) == ["popular", "n1", "f1"]


def test_a_joiner_of_the_same_class_takes_his_own_turn_instead_of_the_last_of_many(
    queue: JobQueue, operations: Operations
) -> None:
    farm_asks(queue, "f1", "f2", "f3", "popular")
    joined = ask(queue, "popular", caller="ann")
    assert (joined.job.caller, joined.ahead) == ("ann", 1)
    assert order(queue, operations) == ["f1", "popular", "f2", "f3"]


def test_the_next_job_of_the_joiner_comes_a_turn_after_the_one_he_joined(
    queue: JobQueue, operations: Operations
) -> None:
    farm_asks(queue, "f1", "f2", "f3", "popular")
    ask(queue, "popular", caller="ann")
    ask(queue, "a1", caller="ann")
    assert order(queue, operations) == ["f1", "popular", "f2", "a1", "f3"]


def test_who_joins_one_after_another_brings_each_forward_by_a_later_turn(
    queue: JobQueue, operations: Operations
) -> None:
    farm_asks(queue, "f1", "f2", "f3", "f4", "f5", "f6")
    for name in ("f6", "f5", "f4"):
        ask(queue, name, caller="ann")
    assert order(queue, operations) == ["f1", "f6", "f2", "f5", "f3", "f4"]


def test_a_joiner_whose_own_turn_is_no_earlier_uses_up_none(queue: JobQueue, operations: Operations) -> None:
    farm_asks(queue, "popular", "f2")
    joined = ask(queue, "popular", caller="ann")
    assert (joined.job.caller, joined.job.joined) == ("farm", True)
    ask(queue, "a1", caller="ann")
    assert order(queue, operations) == ["popular", "a1", "f2"]


def test_a_joiner_of_a_lower_class_changes_neither_class_nor_turn(
    queue: JobQueue, operations: Operations
) -> None:
    for name in ("n1", "n2", "popular"):
        ask(queue, name, caller="bob")
    joined = ask(queue, "popular", caller="farm", priority=Priority.BULK)
    assert (joined.job.caller, joined.job.priority, joined.ahead) == ("bob", Priority.NORMAL, 2)
    assert order(queue, operations) == ["n1", "n2", "popular"]


def test_of_many_who_join_the_one_with_the_earliest_turn_decides(
    queue: JobQueue, operations: Operations
) -> None:
    farm_asks(queue, "f1", "popular", priority=Priority.BULK)
    for name in ("b1", "b2"):
        ask(queue, name, caller="bob")
    assert ask(queue, "popular", caller="bob").ahead == 2
    assert ask(queue, "popular", caller="ann").ahead == 0
    assert ask(queue, "popular", caller="bob").job.caller == "ann"
    assert order(queue, operations) == ["popular", "b1", "b2", "f1"]


def test_who_asked_already_gains_nothing_by_asking_again(queue: JobQueue, operations: Operations) -> None:
    farm_asks(queue, "f1", "f2", "f3")
    ask(queue, "b1", caller="bob")
    claim(queue)
    farm_asks(queue, "f3", "f2")
    assert order(queue, operations) == ["b1", "f2", "f3"]


def test_joining_a_running_job_changes_nothing_of_its_turn(queue: JobQueue, operations: Operations) -> None:
    farm_asks(queue, "popular", priority=Priority.BULK)
    _, lease = claim(queue)
    joined = ask(queue, "popular", caller="ann", priority=Priority.INTERACTIVE)
    assert (joined.job.state, joined.ahead, joined.job.joined) == (JobState.BUILDING, None, True)
    assert (joined.job.caller, joined.job.priority) == ("farm", Priority.BULK)
    ask(queue, "n1", caller="bob")
    queue.release(lease)
    assert order(queue, operations) == ["n1", "popular"]


def test_joining_an_ended_job_changes_nothing(queue: JobQueue) -> None:
    farm_asks(queue, "popular", priority=Priority.BULK)
    job, lease = claim(queue)
    queue.finish(lease, a_result(), Retention(DAY))
    before = queue.find(job.request_hash)
    joined = ask(queue, "popular", caller="ann", priority=Priority.INTERACTIVE)
    assert joined.job == before == queue.find(job.request_hash)
    assert (joined.job.caller, joined.job.joined) == ("farm", False)


def test_a_job_that_came_to_the_joiner_is_still_not_cancelled_by_the_first_caller_nor_by_him(
    queue: JobQueue,
) -> None:
    first = a_submission(caller="farm", priority=Priority.BULK, cancel_digest="c" * 64)
    later = a_submission(caller="ann", cancel_digest="d" * 64)
    job = queue.submit(first).job
    assert queue.submit(later).job.caller == "ann"
    assert queue.submit(later).job.joined
    assert not queue.may_cancel(job.id, "d" * 64)
    assert not queue.cancel(job.id, failure_ttl=DAY, cancel_digest="c" * 64)


@pytest.mark.parametrize("polled", [False, True])
def test_a_deprioritized_job_is_behind_all_others_until_the_interest_of_its_joiner_is_noted(
    queue: JobQueue, operations: Operations, polled: bool
) -> None:
    farm_asks(queue, "popular", priority=Priority.BULK)
    at_time(queue, NOON + 6 * MINUTE).expire_abandoned(PATIENCE, failure_ttl=DAY)
    bob = a_submission(packages=("n1",), caller="bob")
    at_time(queue, NOON + 6 * MINUTE).submit(bob)
    joiner = a_submission(packages=("popular",), caller="ann", priority=Priority.INTERACTIVE)
    assert at_time(queue, NOON + 6 * MINUTE).submit(joiner).ahead == 1
    if polled:
        at_time(queue, NOON + 6 * MINUTE).touch([joiner.request_hash])
    jobs = operations.jobs(JobFilter(state=JobState.PENDING))
    ahead = {job.request_hash: queue.position(job.id) for job in jobs}
    assert ahead == {joiner.request_hash: int(not polled), bob.request_hash: int(polled)}


def test_a_job_that_came_to_the_joiner_is_made_anew_as_his(queue: JobQueue, operations: Operations) -> None:
    farm_asks(queue, "popular", priority=Priority.BULK)
    ask(queue, "popular", caller="ann")
    job, lease = claim(queue)
    queue.finish(lease, a_result(), Retention(DAY))
    anew = operations.requeue(job.request_hash)
    assert anew is not None
    assert (anew.caller, anew.priority) == ("ann", Priority.NORMAL)
