"""What every job queue must do; run against each adapter of the port."""

import itertools
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta

import pytest
from msgspec.structs import replace

from asu_builder.core.housekeeping import delete_with_files
from asu_builder.database.clock import MAX_GAP
from asu_builder.database.queue import MAX_ATTEMPTS
from asu_builder.domain.errors import AsuError, FailureReason, LeaseLost, QueueFull, Side, TooManyRequests
from asu_builder.domain.job import (
    COOL_DOWN,
    NEXT_STATES,
    BuildFailure,
    Entry,
    IdlePolicy,
    Job,
    JobState,
    Lease,
    Priority,
    Recovery,
    Retention,
    Stage,
    Submission,
)
from asu_builder.ports import JobQueue, Operations, RetentionRepository
from database_clock import at_time
from factories import NOON, a_failure, a_request, a_result, a_submission, removes
from postgresql import on_sqlite

MINUTE = timedelta(minutes=1)
DAY = timedelta(days=1)
LOOK = timedelta(seconds=10)


def submit(queue: JobQueue, name: str = "vim", *, capacity: int = 100) -> Job:
    return at_time(queue, NOON).submit(a_submission(packages=(name,)), max_pending=capacity).job


def enter(queue: JobQueue, submission: Submission, *, capacity: int, now: datetime) -> tuple[Job, bool]:
    entry = at_time(queue, now).submit(submission, max_pending=capacity)
    return entry.job, entry.created


def claim(queue: JobQueue, worker: str = "w/1") -> tuple[Job, Lease]:
    claimed = at_time(queue, NOON).claim(worker, lease_for=MINUTE)
    assert claimed is not None
    return claimed


def watch(queue: JobQueue, *, since: datetime, until: datetime) -> int:
    """Looks after the queue every ten seconds, as a living process does; how many jobs returned."""
    returned, now = 0, since
    while now <= until:
        returned += at_time(queue, now).recover(failure_ttl=DAY).returned
        now += LOOK
    return returned


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
    assert at_time(queue, NOON).find(submission.request_hash) == job


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


def test_a_refusal_holds_once_so_many_new_jobs_of_its_caller_came_before_it(queue: JobQueue) -> None:
    submit(queue, "known")
    enough = TooManyRequests("Enough.", retry_after=7)

    def asked(name: str, caller: str = "a", refused_after: int = 2) -> Submission:
        return replace(
            a_submission(packages=(name,), caller=caller), refusal=enough, refused_after=refused_after
        )

    names = ("known", "one", "one", "two", "three", "known")
    answers = queue.submit_all([asked("two", "b", 0), *map(asked, names)], max_pending=4)
    assert [isinstance(answer, Entry) and answer.created for answer in answers[1:]] == [
        *(False, True, False, True, False, False)
    ]
    assert [number for number, answer in enumerate(answers) if answer is enough] == [0, 5]
    full = queue.submit_all([asked("three", "c", 0)], max_pending=3)
    assert isinstance(full[0], QueueFull), "a full queue is named first"


def test_positions_count_the_jobs_ahead_and_claims_follow_them(queue: JobQueue) -> None:
    jobs = [submit(queue, name) for name in ("a", "b", "c")]
    assert [queue.position(job.id) for job in jobs] == [0, 1, 2]
    assert [claim(queue)[0].id for _ in jobs] == [job.id for job in jobs]
    assert queue.claim("w/1", lease_for=MINUTE) is None


def test_a_claimed_job_is_building_at_its_first_stage_and_advances(queue: JobQueue) -> None:
    submit(queue)
    job, lease = claim(queue)
    assert (job.state, job.stage, job.started_at) == (JobState.BUILDING, Stage.INIT, NOON)
    queue.advance(lease, Stage.BUILDING_IMAGE)
    found = queue.find(job.request_hash)
    assert found is not None
    assert found.stage is Stage.BUILDING_IMAGE


def test_a_result_comes_back_as_it_was_recorded(queue: JobQueue) -> None:
    submit(queue)
    job, lease = claim(queue)
    at_time(queue, NOON).finish(lease, a_result(), Retention(DAY))
    found = at_time(queue, NOON).find(job.request_hash)
    assert found is not None
    assert (found.state, found.outcome, found.finished_at, found.stage) == (
        JobState.COMPLETED, a_result(), NOON, None,
    )  # fmt: skip
    assert at_time(queue, NOON + DAY).find(job.request_hash) is None


def test_a_users_failure_answers_until_it_expires(queue: JobQueue) -> None:
    submit(queue)
    job, lease = claim(queue)
    at_time(queue, NOON).finish(lease, a_failure(), Retention(DAY))
    again, created = enter(queue, a_submission(packages=("vim",)), capacity=9, now=NOON + DAY - MINUTE)
    assert (again.id, again.outcome, created) == (job.id, a_failure(), False)
    later, created = enter(queue, a_submission(packages=("vim",)), capacity=9, now=NOON + DAY)
    assert created
    assert later.id != job.id


REMEMBERED = (
    *("revision_mismatch", "not_offered", "bad_repository", "impossible_selection", "version_mismatch"),
    *("too_big", "make_failed", "out_of_memory", "disk_limit"),
)
"""What is the user's where a failure does not say otherwise; `expired` answers nobody at all."""


@pytest.mark.parametrize("side", [None, *Side])
@pytest.mark.parametrize("reason", [reason for reason in FailureReason if reason != "expired"])
def test_a_failure_is_remembered_where_it_is_the_users_and_else_for_the_cool_down_only(
    queue: JobQueue, reason: FailureReason, side: Side | None
) -> None:
    submit(queue)
    job, lease = claim(queue)
    at_time(queue, NOON).finish(lease, BuildFailure(reason, "Error: down", blamed=side), Retention(DAY))

    def asked_again(after: timedelta) -> tuple[int, bool]:
        again, created = enter(queue, a_submission(packages=("vim",)), capacity=9, now=NOON + after)
        return again.id, created

    assert asked_again(COOL_DOWN - MINUTE / 60) == (job.id, False)
    is_users = reason in REMEMBERED if side is None else side is Side.USER
    number, created = asked_again(COOL_DOWN)
    assert (number == job.id, created) == (is_users, not is_users)
    found = at_time(queue, NOON + COOL_DOWN).find(job.request_hash)
    assert found is not None
    assert found.id == number
    if is_users:
        assert asked_again(DAY - MINUTE) == (job.id, False)
        assert asked_again(DAY)[1]


def test_a_clock_set_back_does_not_prolong_the_cool_down(queue: JobQueue) -> None:
    submit(queue)
    job, lease = claim(queue)
    failure = BuildFailure(FailureReason.WORLD_UNAVAILABLE, "Error: down")
    at_time(queue, NOON).finish(lease, failure, Retention(DAY))
    anew, created = enter(queue, a_submission(packages=("vim",)), capacity=9, now=NOON - DAY)
    assert (created, anew.id != job.id) == (True, True)


@on_sqlite
def test_a_look_that_comes_a_moment_late_moves_nothing(
    queue: JobQueue, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    watch(queue, since=NOON, until=NOON + MINUTE)
    at_time(queue, NOON + MINUTE - timedelta(milliseconds=5)).recover(failure_ttl=DAY)
    watch(queue, since=NOON + MINUTE, until=NOON + 2 * MINUTE)
    assert "unseen" not in caplog.text
    at_time(queue, NOON + 2 * MINUTE - timedelta(seconds=2)).recover(failure_ttl=DAY)
    assert "-2 s passed unseen" in caplog.text


def test_an_expired_answer_makes_way_for_a_new_job(queue: JobQueue) -> None:
    submit(queue)
    job, lease = claim(queue)
    queue.finish(lease, a_result(), Retention(DAY))
    queue.expire(job.id)
    assert queue.find(job.request_hash) is None
    assert submit(queue).id != job.id


def test_a_released_job_waits_for_its_time_and_keeps_its_place(queue: JobQueue) -> None:
    first = submit(queue, "a")
    submit(queue, "b")
    _, lease = claim(queue)
    at_time(queue, NOON).release(lease, delay=MINUTE, retry="the registry was slow")
    assert queue.position(first.id) == 0
    assert claim(queue)[0].id != first.id
    assert at_time(queue, NOON).claim("w/1", lease_for=MINUTE) is None
    again = at_time(queue, NOON + MINUTE).claim("w/1", lease_for=MINUTE)
    assert again is not None
    assert (again[0].id, again[0].retries, again[0].attempts) == (first.id, 1, 0)


def test_a_lapsed_lease_returns_the_job_and_voids_what_the_lost_worker_writes(queue: JobQueue) -> None:
    submit(queue)
    job, lost = claim(queue)
    assert watch(queue, since=NOON, until=NOON + MINUTE) == 0
    assert watch(queue, since=NOON + MINUTE + LOOK, until=NOON + 2 * MINUTE) == 1
    again = at_time(queue, NOON + 2 * MINUTE).claim("w/1", lease_for=MINUTE)
    assert again is not None
    assert again[0].id == job.id
    writes: tuple[Callable[[], object], ...] = (
        lambda: at_time(queue, NOON).renew(lost, lease_for=MINUTE),
        lambda: queue.advance(lost, Stage.BUILDING_IMAGE),
        lambda: at_time(queue, NOON).finish(lost, a_result(), Retention(DAY)),
        lambda: at_time(queue, NOON).release(lost),
    )
    for write in writes:
        with pytest.raises(LeaseLost):
            write()
    at_time(queue, NOON).finish(again[1], a_result(), Retention(DAY))


def test_a_renewed_lease_does_not_lapse(queue: JobQueue) -> None:
    submit(queue)
    _, lease = claim(queue)
    at_time(queue, NOON + MINUTE).renew(lease, lease_for=MINUTE)
    assert watch(queue, since=NOON, until=NOON + 2 * MINUTE) == 0
    assert queue.live_leases() == {(lease.job_id, lease.token)}


def test_a_worker_that_restarts_under_its_name_returns_its_own_jobs_and_no_others(queue: JobQueue) -> None:
    for name in ("a", "b", "c"):
        submit(queue, name)
    for worker in ("host/1", "host-2/1", "hos/1"):
        claim(queue, worker)
    assert queue.recover(worker="host", failure_ttl=DAY) == Recovery(1, [])
    assert queue.pending() == 1


def test_an_attempt_counts_only_when_the_container_had_started_and_the_third_gives_up(
    queue: JobQueue,
) -> None:
    job = submit(queue)
    now = NOON
    stages = [Stage.CONTAINER_SETUP] + [Stage.BUILDING_IMAGE] * MAX_ATTEMPTS
    for stage in stages:
        claimed = at_time(queue, now).claim("w/1", lease_for=MINUTE)
        assert claimed is not None
        queue.advance(claimed[1], stage)
        watch(queue, since=now, until=now + 2 * MINUTE)
        now += 2 * MINUTE
    assert at_time(queue, now).claim("w/1", lease_for=MINUTE) is None
    found = at_time(queue, now).find(job.request_hash)
    assert found is not None
    assert isinstance(found.outcome, BuildFailure)
    assert (found.outcome.reason, found.attempts) == (FailureReason.GAVE_UP, MAX_ATTEMPTS)
    assert [attempt.stage for attempt in found.outcome.attempts] == stages
    assert {attempt.ending for attempt in found.outcome.attempts} == {"its worker was lost"}


def test_expired_jobs_are_forgotten_with_their_images_and_live_ones_keep_theirs(
    queue: JobQueue, retention: RetentionRepository
) -> None:
    submit(queue)
    job, lease = claim(queue)
    at_time(queue, NOON).finish(lease, a_result(), Retention(MINUTE))
    removed: list[str] = []
    later = NOON + MINUTE
    assert list(at_time(retention, NOON).expired()) == []
    assert list(at_time(retention, later).expired()) == [job.request_hash]
    at_time(queue, later).submit(a_submission(packages=("vim",)))
    delete_with_files(
        at_time(retention, later), job.request_hash, remove=removes(lambda: removed.append("too early"))
    )
    assert removed == []
    again = at_time(queue, later).claim("w/1", lease_for=MINUTE)
    assert again is not None
    at_time(queue, later).finish(again[1], a_result(), Retention(MINUTE))
    delete_with_files(
        at_time(retention, later + MINUTE),
        job.request_hash,
        remove=removes(lambda: removed.append(job.request_hash)),
    )
    assert removed == [job.request_hash]
    assert list(at_time(retention, later + MINUTE).expired()) == []


def test_images_that_cannot_be_removed_keep_their_job(
    queue: JobQueue, retention: RetentionRepository
) -> None:
    submit(queue)
    job, lease = claim(queue)
    at_time(queue, NOON).finish(lease, a_result(), Retention(MINUTE))

    def fail() -> None:
        raise OSError("busy")

    with pytest.raises((OSError, AsuError)):
        delete_with_files(at_time(retention, NOON + MINUTE), job.request_hash, remove=removes(fail))
    assert list(at_time(retention, NOON + MINUTE).expired()) == [job.request_hash]


STATES = tuple(JobState)


def in_state(queue: JobQueue, state: JobState) -> tuple[Job, Lease]:
    submit(queue)
    job, lease = claim(queue)
    if state is JobState.PENDING:
        at_time(queue, NOON).release(lease)
    elif state is JobState.COMPLETED:
        at_time(queue, NOON).finish(lease, a_result(), Retention(DAY))
    elif state is JobState.FAILED:
        at_time(queue, NOON).finish(lease, a_failure(), Retention(DAY))
    elif state is JobState.CANCELLED:
        assert at_time(queue, NOON).cancel(job.id, failure_ttl=DAY)
    return job, lease


def give_up(queue: JobQueue, lease: Lease) -> bool:
    """Fails a building job by its lease, a waiting one by patience."""
    try:
        at_time(queue, NOON).finish(lease, a_failure(), Retention(DAY))
    except LeaseLost:
        impatient = IdlePolicy(timedelta(0), timedelta(0))
        return bool(at_time(queue, NOON + MINUTE).expire_abandoned(impatient, failure_ttl=DAY))
    return True


def release(queue: JobQueue, lease: Lease) -> bool:
    at_time(queue, NOON).release(lease)
    return True


def complete(queue: JobQueue, lease: Lease) -> bool:
    at_time(queue, NOON).finish(lease, a_result(), Retention(DAY))
    return True


OPERATIONS: dict[JobState, Callable[[JobQueue, Lease], bool]] = {
    JobState.PENDING: release,
    JobState.BUILDING: lambda queue, _: at_time(queue, NOON).claim("w/2", lease_for=MINUTE) is not None,
    JobState.COMPLETED: complete,
    JobState.FAILED: give_up,
    JobState.CANCELLED: lambda queue, lease: at_time(queue, NOON).cancel(lease.job_id, failure_ttl=DAY),
}


@pytest.mark.parametrize(("before", "after"), list(itertools.product(STATES, STATES)))
def test_only_the_steps_of_the_table_are_taken(queue: JobQueue, before: JobState, after: JobState) -> None:
    job, lease = in_state(queue, before)
    try:
        taken = OPERATIONS[after](queue, lease)
    except LeaseLost:
        taken = False
    found = queue.find(job.request_hash)
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
        while (claimed := queue.claim(f"w/{worker}", lease_for=MINUTE)) is not None:
            with lock:
                built.append(claimed[0].id)
            queue.finish(claimed[1], a_result(), Retention(DAY))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert len(built) == len(set(built)) == 200


def test_a_request_that_was_submitted_is_not_changed_by_later_ones(queue: JobQueue) -> None:
    first = submit(queue, "vim")
    submit(queue, "tmux")
    found = queue.find(first.request_hash)
    assert found is not None
    assert found.request == a_request(packages=("vim",))


def test_many_submissions_in_one_transaction_have_each_their_own_answer(queue: JobQueue) -> None:
    known = submit(queue, "known")
    submissions = [a_submission(packages=(name,)) for name in ("a", "known", "a", "b", "c")]
    answers = list(queue.submit_all(submissions, max_pending=3))
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
    assert queue.find(submissions[0].request_hash) == entries[0].job


def waiting(queue: JobQueue) -> list[str]:
    """First packages of the jobs that wait, in the order in which they are claimed."""
    order = []
    while (claimed := at_time(queue, NOON).claim("w/1", lease_for=MINUTE)) is not None:
        order.append(claimed[0].request.packages[0])
    return order


def test_askers_take_turns_instead_of_one_with_many_going_first(queue: JobQueue) -> None:
    for name in ("a1", "a2", "a3"):
        queue.submit(a_submission(packages=(name,), caller="a"))
    for name in ("b1", "b2"):
        queue.submit(a_submission(packages=(name,), caller="b"))
    queue.submit(a_submission(packages=("c1",), caller="c"))
    assert waiting(queue) == ["a1", "b1", "c1", "a2", "b2", "a3"]


def test_who_comes_later_does_not_wait_for_all_of_those_before(queue: JobQueue) -> None:
    for number in range(10):
        queue.submit(a_submission(packages=(f"a{number}",), caller="a"))
    claimed = [queue.claim("w/1", lease_for=MINUTE) for _ in range(4)]
    assert all(claimed)
    late = queue.submit(a_submission(packages=("b",), caller="b"))
    assert late.ahead == 0
    assert waiting(queue)[:2] == ["b", "a4"]


def test_a_higher_priority_goes_first_whatever_its_age(queue: JobQueue) -> None:
    for name, priority in (
        ("bulk", Priority.BULK),
        ("normal", Priority.NORMAL),
        ("now", Priority.INTERACTIVE),
    ):
        entry = queue.submit(a_submission(packages=(name,), priority=priority))
        assert entry.ahead == 0
    assert waiting(queue) == ["now", "normal", "bulk"]


def test_positions_are_those_in_which_jobs_are_claimed(queue: JobQueue) -> None:
    entries = {}
    for number in range(12):
        name = f"p{number}"
        submission = a_submission(
            packages=(name,), caller=f"caller-{number % 3}", priority=Priority(number % 2)
        )
        entries[name] = queue.submit(submission).job.id
    positions = {name: queue.position(job_id) for name, job_id in entries.items()}
    assert [positions[name] for name in waiting(queue)] == list(range(12))


PATIENCE = IdlePolicy(deprioritized_after=5 * MINUTE, expires_after=60 * MINUTE)


def test_a_job_that_no_client_polls_is_deprioritized_until_one_does(queue: JobQueue) -> None:
    first, second = submit(queue, "a"), submit(queue, "b")
    at_time(queue, NOON + 4 * MINUTE).touch([second.request_hash])
    assert list(at_time(queue, NOON + 6 * MINUTE).expire_abandoned(PATIENCE, failure_ttl=DAY)) == []
    assert [queue.position(first.id), queue.position(second.id)] == [1, 0]
    at_time(queue, NOON + 6 * MINUTE).touch([first.request_hash])
    assert [queue.position(first.id), queue.position(second.id)] == [0, 1]


def test_a_job_that_nobody_polls_for_long_expires_with_an_answer_and_may_be_asked_anew(
    queue: JobQueue,
) -> None:
    job = submit(queue)
    later = NOON + 61 * MINUTE
    (expired,) = at_time(queue, later).expire_abandoned(PATIENCE, failure_ttl=DAY)
    assert expired.id == job.id
    found = at_time(queue, later).find(job.request_hash)
    assert found is not None
    assert isinstance(found.outcome, BuildFailure)
    assert (found.state, found.outcome.reason) == (JobState.FAILED, FailureReason.EXPIRED)
    assert "60 minutes" in found.outcome.detail
    again, created = enter(queue, a_submission(packages=("vim",)), capacity=9, now=later)
    assert created
    assert again.id != job.id


@on_sqlite
def test_time_in_which_no_process_looked_lapses_no_lease_and_makes_nobody_idle(queue: JobQueue) -> None:
    waits = submit(queue, "a")
    submit(queue, "b")
    held, lease = claim(queue)
    at_time(queue, NOON).release(lease)
    held, lease = claim(queue)
    watch(queue, since=NOON, until=NOON)
    for leap in (5 * 60 * MINUTE, timedelta(0)):
        now = NOON + leap
        assert at_time(queue, now).recover(failure_ttl=DAY) == Recovery(0, [])
        assert list(at_time(queue, now).expire_abandoned(PATIENCE, failure_ttl=DAY)) == []
    at_time(queue, NOON).finish(lease, a_result(), Retention(DAY))
    assert held.id == waits.id


@on_sqlite
def test_a_clock_set_back_keeps_no_job_waiting_and_no_dead_worker_alive(queue: JobQueue) -> None:
    submit(queue)
    job, lease = claim(queue)
    watch(queue, since=NOON, until=NOON)
    at_time(queue, NOON).release(lease, delay=MINUTE)
    back = NOON - 60 * MINUTE
    watch(queue, since=back, until=back)
    assert at_time(queue, back).claim("w/1", lease_for=MINUTE) is None
    again = at_time(queue, back + MINUTE).claim("w/1", lease_for=MINUTE)
    assert again is not None
    assert again[0].id == job.id
    back -= 60 * MINUTE
    assert watch(queue, since=back, until=back + 2 * MINUTE + LOOK) == 1


@on_sqlite
def test_what_is_used_after_the_clock_was_set_back_and_before_somebody_looks_stays_used(
    queue: JobQueue, retention: RetentionRepository
) -> None:
    submit(queue, "before")
    submit(queue, "after")
    job, lease = claim(queue)
    at_time(queue, NOON).finish(lease, a_result(), Retention(DAY))
    watch(queue, since=NOON, until=NOON)
    back = NOON - 180 * MINUTE
    following = at_time(queue, back).claim("w/1", lease_for=MINUTE)
    assert following is not None
    at_time(queue, back).finish(following[1], a_result(), Retention(DAY))
    watch(queue, since=back, until=back + LOOK)
    assert list(at_time(retention, back - MINUTE).least_used(unused_for=timedelta(0))) == []
    both = {name for name, _ in at_time(retention, back + MINUTE).least_used(unused_for=timedelta(0))}
    assert both == {job.request_hash, following[0].request_hash}


@pytest.mark.parametrize("late", [timedelta(seconds=20), timedelta(minutes=5)])
def test_a_writer_that_comes_late_shortens_no_lease(queue: JobQueue, late: timedelta) -> None:
    """It was frozen between looking at its clock and writing, while another process looked."""
    submit(queue)
    watch(queue, since=NOON, until=NOON + late)
    assert at_time(queue, NOON + late).claim("w/1", lease_for=MINUTE) is not None
    at_time(queue, NOON).touch(["f" * 64])
    assert watch(queue, since=NOON + late + LOOK, until=NOON + late + MINUTE - LOOK) == 0
    assert watch(queue, since=NOON + late + MINUTE, until=NOON + late + 2 * MINUTE) == 1


def test_a_short_gap_between_two_looks_is_time_that_passed(queue: JobQueue) -> None:
    submit(queue)
    claim(queue)
    now = NOON
    returned = 0
    for _ in range(4):
        returned += at_time(queue, now).recover(failure_ttl=DAY).returned
        now += MAX_GAP
    assert returned == 1


def test_a_cancelled_job_ends_at_once_voids_its_lease_and_may_be_asked_anew(queue: JobQueue) -> None:
    waits, runs = submit(queue, "waits"), submit(queue, "runs")
    queue.cancel(waits.id, failure_ttl=DAY)
    job, lease = claim(queue)
    assert job.id == runs.id
    assert queue.cancel(runs.id, failure_ttl=DAY)
    assert not queue.cancel(runs.id, failure_ttl=DAY)
    assert queue.live_leases() == set()
    with pytest.raises(LeaseLost):
        queue.finish(lease, a_result(), Retention(DAY))
    for job in (waits, runs):
        found = queue.find(job.request_hash)
        assert found is not None
        assert (found.state, found.finished_at, found.outcome) == (JobState.CANCELLED, NOON, None)
    assert submit(queue, "runs").id != runs.id


def test_only_the_secret_of_the_first_caller_lets_it_cancel(queue: JobQueue) -> None:
    job = queue.submit(a_submission(cancel_digest="c" * 64)).job
    other = queue.submit(a_submission(cancel_digest="d" * 64)).job
    assert other.id == job.id
    assert queue.may_cancel(job.id, "c" * 64)
    assert not queue.may_cancel(job.id, "d" * 64)
    assert not queue.may_cancel(job.id, "")
    unsecured = queue.submit(a_submission(packages=("vim",))).job
    assert not queue.may_cancel(unsecured.id, "")
    for wrong, of in (("d" * 64, job), ("", job), ("", unsecured)):
        assert not queue.cancel(of.id, failure_ttl=DAY, cancel_digest=wrong)


def test_a_job_that_another_caller_has_joined_is_not_cancelled_by_the_first(queue: JobQueue) -> None:
    job = queue.submit(a_submission(caller="a", cancel_digest="c" * 64)).job
    queue.submit(a_submission(caller="a"))
    found = queue.find(job.request_hash)
    assert found is not None
    assert not found.joined
    queue.submit(a_submission(caller="b"))
    assert not queue.cancel(job.id, failure_ttl=DAY, cancel_digest="c" * 64)
    assert queue.cancel(job.id, failure_ttl=DAY)


def test_each_use_of_a_result_begins_its_time_anew_but_not_past_its_last_day(
    queue: JobQueue, retention: RetentionRepository
) -> None:
    submit(queue)
    job, lease = claim(queue)
    at_time(queue, NOON).finish(lease, a_result(), Retention(DAY, 3 * DAY))
    for days in (0.9, 1.8, 2.7):
        at_time(queue, NOON + days * DAY).touch([job.request_hash])
        assert at_time(queue, NOON + (days + 0.2) * DAY).find(job.request_hash) is not None
    at_time(queue, NOON + 2.95 * DAY).touch([job.request_hash])
    assert at_time(queue, NOON + 3 * DAY).find(job.request_hash) is None
    assert list(at_time(retention, NOON + 3 * DAY).expired()) == [job.request_hash]


def test_interest_does_not_prolong_a_failure(queue: JobQueue) -> None:
    submit(queue)
    job, lease = claim(queue)
    at_time(queue, NOON).finish(lease, a_failure(), Retention(DAY, DAY))
    at_time(queue, NOON + 0.9 * DAY).touch([job.request_hash])
    assert at_time(queue, NOON + DAY).find(job.request_hash) is None


def test_the_typical_duration_is_that_of_the_latest_builds(queue: JobQueue) -> None:
    assert queue.typical_duration() is None
    for number, seconds in enumerate((10, 20)):
        submit(queue, f"p{number}")
        _, lease = claim(queue)
        at_time(queue, NOON + timedelta(seconds=seconds)).finish(lease, a_result(), Retention(DAY))
    assert queue.typical_duration() == timedelta(seconds=15)


def test_what_the_world_did_is_in_the_history_of_a_job(queue: JobQueue) -> None:
    submit(queue)
    _, lease = claim(queue)
    at_time(queue, NOON + MINUTE).release(lease, delay=-MINUTE, retry="Error: upstream is down")
    job, _ = claim(queue)
    (attempt,) = job.history
    assert (attempt.started_at, attempt.ended_at, attempt.stage) == (NOON, NOON + MINUTE, Stage.INIT)
    assert attempt.ending == "Error: upstream is down"


def test_one_job_is_claimed_out_of_its_turn_and_the_others_keep_theirs(queue: JobQueue) -> None:
    jobs = [submit(queue, name) for name in ("a", "b", "c")]
    claimed = queue.claim("w/1", lease_for=MINUTE, only=jobs[2].id)
    assert claimed is not None and claimed[0].id == jobs[2].id
    assert queue.claim("w/1", lease_for=MINUTE, only=jobs[2].id) is None
    later = submit(queue, "d")
    assert [claim(queue)[0].id for _ in range(3)] == [jobs[0].id, jobs[1].id, later.id]


def test_one_job_that_was_given_back_is_claimed_when_its_time_has_come(queue: JobQueue) -> None:
    job = submit(queue)
    _, lease = claim(queue)
    at_time(queue, NOON).release(lease, delay=MINUTE)
    assert at_time(queue, NOON).claim("w/1", lease_for=MINUTE, only=job.id) is None
    assert at_time(queue, NOON + MINUTE).claim("w/1", lease_for=MINUTE, only=job.id) is not None


def waiting_threads(queue: JobQueue, number: int, woken: list[int]) -> list[threading.Thread]:
    """Threads that have found no job and wait; each notes when it is woken."""
    claimed = threading.Barrier(number + 1)

    def wait(which: int) -> None:
        assert queue.claim(f"w/{which}", lease_for=MINUTE) is None
        claimed.wait(60)
        queue.wait(timedelta(seconds=60))
        woken.append(which)

    threads = [threading.Thread(target=wait, args=(which,)) for which in range(number)]
    for thread in threads:
        thread.start()
    claimed.wait(60)
    return threads


def test_a_submitted_job_ends_a_wait_also_when_it_came_between_claim_and_wait(queue: JobQueue) -> None:
    woken: list[int] = []
    (thread,) = waiting_threads(queue, 1, woken)
    submit(queue)
    thread.join(60)
    assert woken == [0]


def test_who_waits_in_vain_returns_after_the_time_that_was_named(queue: JobQueue) -> None:
    submit(queue)
    claim(queue)
    began = time.monotonic()
    queue.wait(timedelta(seconds=0.2))
    assert time.monotonic() - began >= 0.2


@pytest.mark.parametrize("end", ["resume", "wake_all"])
def test_all_that_wait_are_woken_when_all_jobs_can_be_claimed(
    queue: JobQueue, operations: Operations, end: str
) -> None:
    woken: list[int] = []
    threads = waiting_threads(queue, 3, woken)
    operations.resume() if end == "resume" else queue.wake_all()
    for thread in threads:
        thread.join(60)
    assert sorted(woken) == [0, 1, 2]
