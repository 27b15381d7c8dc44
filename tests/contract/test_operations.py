"""What every adapter of `ports.Operations` and `ports.RetentionRepository` must do beside `test_queue.py`."""

from collections.abc import Iterator
from datetime import timedelta
from hashlib import sha256
from typing import Any

import pytest

from asu_builder.core.housekeeping import delete_with_files
from asu_builder.database.dialect import SqlDatabase
from asu_builder.database.operator import SqlOperations
from asu_builder.database.queue import SqlJobQueue
from asu_builder.database.statistics import SqlStatistics
from asu_builder.domain.errors import FailureReason, LeaseLost, StillRead
from asu_builder.domain.job import (
    AuditEntry,
    IdlePolicy,
    Job,
    JobFilter,
    JobState,
    Lease,
    LiveJobs,
    Outcome,
    Pause,
    Priority,
    QueueLoad,
    Retention,
    Stage,
    StoredFiles,
    Waiting,
)
from asu_builder.ports import JobQueue, Operations, RetentionRepository
from database_clock import at_time
from factories import NOON, Clock, a_failure, a_request, a_result, a_submission, removes
from postgresql import opened

MINUTE = timedelta(minutes=1)
DAY = timedelta(days=1)
SCRIPT = "uci set wireless.default_radio0.key='correct horse'"
KEY = "untrusted comment: a repository of mine"


@pytest.fixture
def second(place: str, database: SqlDatabase) -> Iterator[SqlDatabase]:
    """The same database as another process has it."""
    other = opened(place)
    yield other
    other.close()


def submit(queue: JobQueue, name: str = "vim", **changes: Any) -> Job:
    return at_time(queue, NOON).submit(a_submission(packages=(name,), **changes)).job


def claim(queue: JobQueue) -> tuple[Job, Lease]:
    claimed = at_time(queue, NOON).claim("w/1", lease_for=MINUTE)
    assert claimed is not None
    return claimed


def finish(queue: JobQueue, outcome: Outcome | None = None, *, ttl: timedelta = DAY) -> Job:
    """Takes the next job to its end, by default a result."""
    job, lease = claim(queue)
    at_time(queue, NOON).finish(lease, outcome or a_result(), Retention(ttl))
    return job


def one_in_each_state(queue: JobQueue) -> dict[JobState, Job]:
    submit(queue, "fails")
    failed = finish(queue, a_failure())
    submit(queue, "completes")
    completed = finish(queue)
    cancelled = submit(queue, "is-cancelled")
    at_time(queue, NOON).cancel(cancelled.id, failure_ttl=DAY)
    submit(queue, "is-built")
    building, _ = claim(queue)
    return {
        JobState.FAILED: failed,
        JobState.COMPLETED: completed,
        JobState.CANCELLED: cancelled,
        JobState.BUILDING: building,
        JobState.PENDING: submit(queue, "waits"),
    }


def test_jobs_are_listed_newest_first_whatever_became_of_them(
    queue: JobQueue, operations: Operations
) -> None:
    jobs = one_in_each_state(queue)
    listed = operations.jobs(JobFilter())
    assert [job.id for job in listed] == [job.id for job in reversed(jobs.values())]
    assert [job.state for job in listed] == list(reversed(jobs))
    assert [job.request for job in listed] == [job.request for job in reversed(jobs.values())]


def test_a_list_says_why_jobs_failed_and_leaves_their_output_out(
    queue: JobQueue, operations: Operations
) -> None:
    one_in_each_state(queue)
    listed = operations.jobs(JobFilter())
    assert {job.outcome for job in listed} == {None}
    reasons = {job.state: job.reason for job in listed}
    assert reasons.pop(JobState.FAILED) is FailureReason.IMPOSSIBLE_SELECTION
    assert set(reasons.values()) == {None}


@pytest.mark.parametrize("state", list(JobState))
def test_a_list_can_be_of_one_state(queue: JobQueue, operations: Operations, state: JobState) -> None:
    jobs = one_in_each_state(queue)
    assert [job.id for job in operations.jobs(JobFilter(state=state))] == [jobs[state].id]


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (JobFilter(), ["d", "c", "b", "a"]),
        (JobFilter(version="24.10.4"), ["b"]),
        (JobFilter(target="pico/ten"), ["c"]),
        (JobFilter(profile="acme_widget-6"), ["d"]),
        (JobFilter(caller="ann"), ["d", "a"]),
        (JobFilter(caller="ann", profile="acme_widget-5"), ["a"]),
        (JobFilter(caller="an"), []),
        (JobFilter(version="24.10"), []),
        (JobFilter(version="24.10.4", target="pico/ten"), []),
        (JobFilter(state=JobState.COMPLETED), []),
    ],
)
def test_a_list_holds_what_fits_every_filter(
    queue: JobQueue, operations: Operations, wanted: JobFilter, expected: list[str]
) -> None:
    submit(queue, "a", caller="ann")
    submit(queue, "b", caller="bob", version="24.10.4")
    submit(queue, "c", caller="bob", target="pico/ten")
    submit(queue, "d", caller="ann", profile="acme_widget-6")
    assert [job.request.packages[0] for job in operations.jobs(wanted)] == expected


def test_a_list_holds_what_begins_with_some_digits_of_a_hash(queue: JobQueue, operations: Operations) -> None:
    jobs = [submit(queue, name) for name in ("a", "b", "c")]
    for job in jobs:
        for digits in (4, 12, 64):
            wanted = JobFilter(request_hash=job.request_hash[:digits])
            expected = [one.id for one in reversed(jobs) if one.request_hash.startswith(wanted.request_hash)]
            assert [found.id for found in operations.jobs(wanted)] == expected
    assert operations.jobs(JobFilter(request_hash="f" * 64)) == []
    assert operations.jobs(JobFilter(request_hash=jobs[0].request_hash, state=JobState.FAILED)) == []


def test_a_list_is_read_in_pages_that_new_jobs_do_not_shift(queue: JobQueue, operations: Operations) -> None:
    names = [f"p{number}" for number in range(7)]
    for name in names:
        submit(queue, name)
    read: list[str] = []
    before = None
    while page := operations.jobs(JobFilter(before=before, limit=3)):
        assert len(page) <= 3
        read += [job.request.packages[0] for job in page]
        before = page[-1].id
        submit(queue, f"new-{before}")
    assert read == names[::-1]


def test_jobs_that_ended_are_looked_at_no_further_back_than_wished_and_live_ones_all(
    queue: JobQueue, operations: Operations
) -> None:
    jobs = one_in_each_state(queue)
    since = jobs[JobState.PENDING].id
    assert [job.id for job in operations.jobs(JobFilter(since=since))] == [since]
    for state, job in jobs.items():
        found = [job.id for job in operations.jobs(JobFilter(state=state, since=since))]
        assert found == ([job.id] if state in (JobState.PENDING, JobState.BUILDING) else [])


def test_waiting_jobs_are_read_in_pages_too(queue: JobQueue, operations: Operations) -> None:
    jobs = [submit(queue, f"p{number}").id for number in range(4)]
    found = operations.jobs(JobFilter(state=JobState.PENDING, before=jobs[-1], limit=2))
    assert [job.id for job in found] == [jobs[2], jobs[1]]


def test_live_jobs_are_counted_by_what_they_have_in_common_with_the_oldest_of_each(
    queue: JobQueue, operations: Operations
) -> None:
    assert operations.live() == []
    one_in_each_state(queue)
    at_time(queue, NOON + MINUTE).submit(a_submission(packages=("late",)))
    submit(queue, "hasty", priority=Priority.INTERACTIVE, version="25.12.0", target="pico/ten")
    normal = (Priority.NORMAL, "24.10.5", "pico/nine")
    found = operations.live()
    assert found[0] == LiveJobs(JobState.PENDING, *normal, 2, NOON)
    assert {
        (group.state, group.priority, group.version, group.target, group.count) for group in found[1:]
    } == {
        (JobState.BUILDING, *normal, 1),
        (JobState.PENDING, Priority.INTERACTIVE, "25.12.0", "pico/ten", 1),
    }


def test_how_long_the_latest_builds_had_waited_is_told_latest_first(
    queue: JobQueue, operations: Operations
) -> None:
    assert operations.waits(5) == []
    for number in range(3):
        submit(queue, f"p{number}")
        at = NOON + (number + 1) * MINUTE
        claimed = at_time(queue, at).claim("w/1", lease_for=MINUTE)
        assert claimed is not None
        failing = number == 1
        at_time(queue, at + MINUTE).finish(claimed[1], a_failure() if failing else a_result(), Retention(DAY))
    assert operations.waits(5) == [3 * MINUTE, MINUTE]
    assert operations.waits(1) == [3 * MINUTE]


def test_what_is_purged_answers_no_more_and_is_past_its_time(
    queue: JobQueue, retention: RetentionRepository, operations: Operations
) -> None:
    submit(queue)
    job = finish(queue)
    assert operations.purge(job.request_hash) == 1
    assert queue.find(job.request_hash) is None
    assert list(retention.expired()) == [job.request_hash]
    assert operations.purge(job.request_hash) == 0
    assert submit(queue).id != job.id


@pytest.mark.parametrize("max_age", [None, DAY])
def test_a_result_is_kept_longer_even_past_its_last_day(
    queue: JobQueue, operations: Operations, retention: RetentionRepository, max_age: timedelta | None
) -> None:
    submit(queue)
    claimed = queue.claim("w/1", lease_for=MINUTE)
    assert claimed is not None
    job, lease = claimed
    queue.finish(lease, a_result(), Retention(DAY, max_age))
    before = operations.kept_until(job.request_hash)
    assert before is not None
    assert operations.keep(job.request_hash, 7 * DAY) == before + 6 * DAY
    # Less than it has changes nothing, and what it had is its own to the end.
    assert operations.keep(job.request_hash, MINUTE) == before + 6 * DAY
    later = before + 5 * DAY
    assert at_time(queue, later).find(job.request_hash) is not None
    assert at_time(operations, later).kept_until(job.request_hash) == before + 6 * DAY


def test_what_is_no_result_is_not_kept(queue: JobQueue, operations: Operations) -> None:
    jobs = one_in_each_state(queue)
    for state in (JobState.PENDING, JobState.BUILDING, JobState.FAILED):
        assert operations.keep(jobs[state].request_hash, 7 * DAY) is None
    assert operations.keep("0" * 64, DAY) is None
    purged = jobs[JobState.COMPLETED].request_hash
    operations.purge(purged)
    assert operations.keep(purged, DAY) is None and queue.find(purged) is None


def test_purging_leaves_live_jobs_and_other_requests_alone(queue: JobQueue, operations: Operations) -> None:
    for state, job in one_in_each_state(queue).items():
        live = state in (JobState.PENDING, JobState.BUILDING)
        assert operations.purge(job.request_hash) == (0 if live else 1)
        assert (queue.find(job.request_hash) is not None) == live
    assert operations.purge("0" * 64) == 0


@pytest.mark.parametrize("state", [JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED])
def test_what_has_ended_is_requeued_as_a_new_job_in_its_place(
    queue: JobQueue, operations: Operations, state: JobState
) -> None:
    ended = one_in_each_state(queue)[state]
    anew = at_time(operations, NOON + MINUTE).requeue(ended.request_hash)
    assert anew is not None
    assert anew.id != ended.id
    assert (anew.request, anew.request_hash) == (ended.request, ended.request_hash)
    assert (anew.state, anew.enqueued_at, anew.outcome) == (JobState.PENDING, NOON + MINUTE, None)
    assert at_time(queue, NOON + MINUTE).find(ended.request_hash) == anew
    assert at_time(queue, NOON + MINUTE).cancel(anew.id, failure_ttl=timedelta(0))
    assert at_time(queue, NOON + MINUTE).find(ended.request_hash) is None


def test_a_requeued_job_is_its_askers_still_but_for_the_secret(
    queue: JobQueue, operations: Operations
) -> None:
    job = submit(queue, caller="ann", priority=Priority.BULK, cancel_digest="c" * 64)
    finish(queue)
    anew = operations.requeue(job.request_hash)
    assert anew is not None
    assert (anew.client, anew.caller, anew.priority) == (job.client, "ann", Priority.BULK)
    assert not queue.may_cancel(anew.id, "c" * 64)


@pytest.mark.parametrize("state", [JobState.PENDING, JobState.BUILDING])
def test_what_is_on_its_way_is_not_requeued(queue: JobQueue, operations: Operations, state: JobState) -> None:
    live = one_in_each_state(queue)[state]
    assert operations.requeue(live.request_hash) is None
    assert len(operations.jobs(JobFilter())) == len(JobState)


def test_what_nobody_asked_for_is_not_requeued(operations: Operations) -> None:
    assert operations.requeue("0" * 64) is None


def test_a_job_given_back_waits_at_its_old_place_uncounted_and_its_lease_is_void(
    queue: JobQueue, operations: Operations
) -> None:
    first = submit(queue, "a")
    submit(queue, "b")
    _, lease = claim(queue)
    queue.advance(lease, Stage.BUILDING_IMAGE)
    assert operations.give_back(first.id)
    assert queue.live_leases() == set()
    assert queue.position(first.id) == 0
    with pytest.raises(LeaseLost):
        queue.finish(lease, a_result(), Retention(DAY))
    again, _ = claim(queue)
    assert (again.id, again.attempts, again.retries, again.stage) == (first.id, 0, 0, Stage.INIT)


def test_only_what_is_built_can_be_given_back(queue: JobQueue, operations: Operations) -> None:
    for state, job in one_in_each_state(queue).items():
        assert operations.give_back(job.id) == (state is JobState.BUILDING)
    assert not operations.give_back(10_000)


def test_a_pause_holds_for_every_process_until_it_is_ended(
    queue: JobQueue, operations: Operations, second: SqlDatabase
) -> None:
    submit(queue, "a")
    submit(queue, "b")
    _, running = claim(queue)
    assert operations.paused() is None
    operations.pause("ann")
    elsewhere = SqlOperations(second)
    assert elsewhere.paused() == Pause(NOON, "ann")
    for process in (queue, SqlJobQueue(second)):
        assert process.claim("w/2", lease_for=MINUTE) is None
    queue.finish(running, a_result(), Retention(DAY))
    elsewhere.resume()
    assert operations.paused() is None
    assert claim(queue)[0].request.packages == ("b",)


def test_a_pause_remains_the_act_of_whoever_began_it(operations: Operations) -> None:
    at_time(operations, NOON).pause("ann")
    at_time(operations, NOON + MINUTE).pause("bob")
    assert operations.paused() == Pause(NOON, "ann")
    operations.resume()
    operations.resume()
    assert operations.paused() is None


def test_submissions_are_taken_during_a_pause(queue: JobQueue, operations: Operations) -> None:
    operations.pause("ann")
    assert queue.submit(a_submission()).created


def test_acts_are_kept_for_every_process_newest_first(operations: Operations, second: SqlDatabase) -> None:
    acts = [AuditEntry(NOON + number * MINUTE, "ann", f"act-{number}", "a" * 64) for number in range(4)]
    acts.append(AuditEntry(NOON - DAY, "bob", "pause"))
    for act in acts:
        at_time(operations, act.at).record(act.operator, act.act, act.subject)
    assert list(SqlOperations(second).acts(100)) == acts[::-1]
    assert list(operations.acts(2)) == acts[:2:-1]


def test_unknown_is_what_no_job_carries(queue: JobQueue, retention: RetentionRepository) -> None:
    known = [job.request_hash for job in one_in_each_state(queue).values()]
    strange = ["1" * 64, "2" * 64]
    assert list(retention.find_orphans([strange[0], *known, strange[1]])) == strange
    assert delete_with_files(retention, known[1], remove=removes(), unexpired=True)
    assert list(retention.find_orphans(known)) == [known[1]]


def test_completed_are_all_results_also_those_past_their_time(
    queue: JobQueue, retention: RetentionRepository
) -> None:
    assert list(retention.completed_hashes()) == []
    one = one_in_each_state(queue)[JobState.COMPLETED]
    queue.expire(one.id)
    assert list(retention.completed_hashes()) == [one.request_hash]


def test_what_is_stored_is_what_results_take_until_they_are_forgotten(
    queue: JobQueue, retention: RetentionRepository
) -> None:
    assert retention.stored_bytes() == 0
    sizes = (5, 700)
    jobs = []
    for size in sizes:
        submit(queue, f"of-{size}")
        jobs.append(finish(queue, a_result(stored_bytes=size)))
    submit(queue, "fails")
    finish(queue, a_failure())
    assert retention.stored_bytes() == sum(sizes)
    delete_with_files(retention, jobs[0].request_hash, remove=removes(), unexpired=True)
    assert retention.stored_bytes() == sizes[1]


def test_the_newest_result_says_where_its_files_lie(queue: JobQueue, retention: RetentionRepository) -> None:
    files = [StoredFiles(f"ours.{number}", {"x.bin": number}, NOON) for number in (1, 2)]
    assert retention.stored_files("a" * 64) is None
    submit(queue)
    request_hash = finish(queue, a_result(files=files[0])).request_hash
    assert retention.stored_files(request_hash) == files[0]
    job = queue.find(request_hash)
    assert job is not None
    queue.expire(job.id)
    assert retention.stored_files(request_hash) == files[0], "until its row goes"
    submit(queue)
    claimed = queue.claim("host/1", lease_for=MINUTE)
    assert claimed is not None
    assert retention.stored_files(request_hash) == files[0], "nothing of a build that has no end"
    queue.finish(claimed[1], a_result(files=files[1]), Retention(60 * MINUTE))
    assert retention.stored_files(request_hash) == files[1]
    submit(queue, "on-disk")
    assert retention.stored_files(finish(queue, a_result()).request_hash) is None


def test_the_least_used_results_come_longest_unused_first_with_what_they_take(
    queue: JobQueue, retention: RetentionRepository
) -> None:
    one_in_each_state(queue)
    hashes = {}
    for size, name in enumerate(("x", "y", "z"), start=1):
        submit(queue, name, priority=Priority.INTERACTIVE)
        hashes[name] = finish(queue, a_result(stored_bytes=size)).request_hash
    for minutes, name in enumerate(("z", "x", "y"), start=1):
        at_time(queue, NOON + minutes * MINUTE).touch([hashes[name]])
    least = at_time(retention, NOON + 3 * MINUTE).least_used(unused_for=timedelta(0))
    assert list(least[1:]) == [(hashes["z"], 3), (hashes["x"], 1)]
    assert len(least) == 3  # the first is the one that nobody has used since
    assert list(at_time(retention, NOON).least_used(unused_for=timedelta(0))) == []


def test_an_empty_queue_has_no_load(queue: JobQueue, operations: Operations) -> None:
    assert operations.load() == QueueLoad({}, 0)


def test_the_load_counts_who_waits_and_who_is_built_and_nobody_who_has_ended(
    queue: JobQueue, operations: Operations
) -> None:
    one_in_each_state(queue)
    assert operations.load() == QueueLoad({(Priority.NORMAL, False): Waiting(1, NOON)}, 1)


def test_the_load_is_told_by_class_with_the_first_that_came(queue: JobQueue, operations: Operations) -> None:
    for minutes, priority in enumerate((Priority.BULK, Priority.INTERACTIVE, Priority.BULK)):
        submission = a_submission(packages=(f"p{minutes}",), priority=priority)
        at_time(queue, NOON + minutes * MINUTE).submit(submission)
    assert operations.load().waiting == {
        (Priority.BULK, False): Waiting(2, NOON),
        (Priority.INTERACTIVE, False): Waiting(1, NOON + MINUTE),
    }
    at_time(queue, NOON + 4 * MINUTE).expire_abandoned(IdlePolicy(2.5 * MINUTE, DAY), failure_ttl=DAY)
    assert operations.load().waiting == {
        (Priority.BULK, True): Waiting(1, NOON),
        (Priority.BULK, False): Waiting(1, NOON + 2 * MINUTE),
        (Priority.INTERACTIVE, True): Waiting(1, NOON + MINUTE),
    }


def test_old_statistics_go_in_portions_and_newer_ones_stay(
    database: SqlDatabase, retention: RetentionRepository
) -> None:
    clock = Clock()
    statistics = SqlStatistics(database, now=clock)
    for _ in range(6000):
        statistics.record("request", a_request())
    clock.forward(MINUTE)
    statistics.record("completed", a_request())
    statistics.flush()
    portions = []
    while gone := at_time(retention, clock.at).forget_statistics(older_than=timedelta(0)):
        portions.append(gone)
    assert sum(portions) == 6000
    assert len(portions) > 1
    (left,) = statistics.tally(["request", "completed"], since=NOON, width=DAY)
    assert left.count == 1


def asked(database: SqlDatabase) -> int:
    """How many requests are kept."""
    with database.reading() as connection:
        return int(connection.execute("SELECT count(*) FROM build_requests").fetchone()[0])


def test_requests_that_no_job_carries_go_by_age_and_by_size_the_oldest_first(
    queue: JobQueue, operations: Operations, retention: RetentionRepository, database: SqlDatabase
) -> None:
    for number in range(4):
        job = submit(queue, f"p{number}")
        at_time(queue, NOON).cancel(job.id, failure_ttl=DAY)
        if number:
            assert forget(retention, job)
    operations.record("farm", "pause")
    assert at_time(retention, NOON).forget_requests(older_than=timedelta(0), most_bytes=1 << 20) == 0
    assert at_time(retention, NOON).forget_requests(older_than=timedelta(0), most_bytes=560) == 2, "one fits"
    assert at_time(retention, NOON + MINUTE).forget_requests(older_than=timedelta(0), most_bytes=1 << 20) == 1
    assert asked(database) == 1, "what a job carries stays"
    assert not list(operations.acts(10))


def secrets(**changes: Any) -> dict[str, Any]:
    return {"defaults": SCRIPT, "repository_keys": (KEY,), **changes}


def audit(database: SqlDatabase) -> str:
    """Everything that is kept of requests."""
    with database.reading() as connection:
        return str(connection.execute("SELECT * FROM build_requests").fetchall())


def forget(retention: RetentionRepository, job: Job) -> bool:
    return delete_with_files(at_time(retention, NOON), job.request_hash, remove=removes(), unexpired=True)


def test_of_what_is_forgotten_only_digests_of_script_and_keys_are_kept(
    database: SqlDatabase, queue: JobQueue, retention: RetentionRepository
) -> None:
    submit(queue, **secrets())
    job = finish(queue)
    assert ("correct horse" in audit(database)) == database.overwrites_deleted, "else it is encrypted"
    assert forget(retention, job)
    kept = audit(database)
    assert "correct horse" not in kept
    assert KEY not in kept
    for secret in (SCRIPT, KEY):
        assert sha256(secret.encode()).hexdigest() in kept
    for told in (job.request_hash, "24.10.5", "pico/nine", "vim"):
        assert told in kept


@pytest.mark.parametrize("secret", [{"defaults": SCRIPT}, {"repository_keys": (KEY,)}, secrets()])
def test_what_was_forgotten_with_a_secret_is_not_requeued_but_built_as_asked_when_asked_again(
    queue: JobQueue, retention: RetentionRepository, operations: Operations, secret: dict[str, Any]
) -> None:
    submit(queue, **secret)
    job = finish(queue)
    assert forget(retention, job)
    assert operations.requeue(job.request_hash) is None
    assert queue.pending() == 0
    again = submit(queue, **secret)
    assert again.request_hash == job.request_hash
    assert claim(queue)[0].request == job.request


def test_what_was_asked_again_after_it_was_forgotten_is_forgotten_as_thoroughly(
    database: SqlDatabase, queue: JobQueue, retention: RetentionRepository, operations: Operations
) -> None:
    for _ in range(2):
        submit(queue, **secrets())
        job = finish(queue)
        anew = operations.requeue(job.request_hash)
        assert anew is not None
        found = queue.find(anew.request_hash)
        assert found is not None and found.request == job.request
        finish(queue)
        assert forget(retention, job)
        assert "correct horse" not in audit(database)


def test_secrets_stay_as_long_as_a_job_needs_them(
    queue: JobQueue, retention: RetentionRepository, operations: Operations
) -> None:
    submit(queue, **secrets())
    job = finish(queue)
    assert operations.requeue(job.request_hash) is not None
    removed: list[str] = []
    assert not delete_with_files(
        retention, job.request_hash, remove=removes(lambda: removed.append("too early")), unexpired=True
    )
    assert removed == []
    assert claim(queue)[0].request == job.request


def test_nothing_is_forgotten_while_somebody_downloads(
    queue: JobQueue, retention: RetentionRepository, operations: Operations
) -> None:
    submit(queue, **secrets())
    job = finish(queue)

    def refuse() -> None:
        raise StillRead

    with pytest.raises(StillRead):
        delete_with_files(retention, job.request_hash, remove=removes(refuse), unexpired=True)
    found = queue.find(job.request_hash)
    assert found is not None
    assert (found.state, found.outcome) == (JobState.COMPLETED, a_result())
    assert operations.requeue(job.request_hash) is not None
    assert claim(queue)[0].request == job.request


def test_forgetting_what_is_past_its_time_leaves_what_is_not(
    queue: JobQueue, retention: RetentionRepository
) -> None:
    submit(queue)
    job = finish(queue, ttl=MINUTE)
    removed: list[str] = []

    def forget_at(minutes: int) -> bool:
        return delete_with_files(
            at_time(retention, NOON + minutes * MINUTE),
            job.request_hash,
            remove=removes(lambda: removed.append(job.request_hash)),
        )

    assert not forget_at(0)
    assert at_time(queue, NOON).find(job.request_hash) is not None
    assert removed == []
    assert forget_at(1)
    assert removed == [job.request_hash]


def test_images_that_no_job_carries_are_removed_when_they_are_forgotten(
    retention: RetentionRepository,
) -> None:
    removed: list[str] = []
    assert delete_with_files(retention, "1" * 64, remove=removes(lambda: removed.append("orphan")))
    assert removed == ["orphan"]
