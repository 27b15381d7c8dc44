import logging
import re
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from asu_builder.core.health import Health
from asu_builder.core.live import Recorder
from asu_builder.core.metrics import Durations
from asu_builder.core.submit import Cancellation
from asu_builder.core.worker import ISOLATED, LEASE, RETRY_DELAYS, STEP_ASIDE, Workers
from asu_builder.database.build_log import SqlBuildLog
from asu_builder.database.connection import Database
from asu_builder.database.operator import SqlOperations
from asu_builder.database.queue import SqlJobQueue
from asu_builder.domain.errors import (
    BuildFailed,
    BuildInterrupted,
    EngineUnavailable,
    FailureReason,
    RegistryUnavailable,
    Side,
    Unavailable,
    deadline_passed,
)
from asu_builder.domain.health import CheckResult
from asu_builder.domain.job import COOL_DOWN, BuildFailure, BuildResult, Job, JobState, Retention, Stage
from asu_builder.domain.make import OutputCallback
from asu_builder.log_context import CURRENT_HASH
from asu_builder.settings import Settings
from factories import Clock, a_result, a_submission, eventually, never
from noted_statistics import NotedStatistics


class Script:
    """A pipeline that does what the test says."""

    def __init__(self) -> None:
        self.do: Callable[[Job, threading.Event], BuildResult] = lambda job, stop: a_result()
        self.built: list[int] = []
        self.labels: list[dict[str, str]] = []

    def build(
        self,
        job: Job,
        *,
        labels: dict[str, str],
        advance: Callable[[Stage], None],
        stop: threading.Event,
        on_output: OutputCallback,
    ) -> BuildResult:
        self.built.append(job.id)
        self.labels.append(labels)
        advance(Stage.BUILDING_IMAGE)
        return self.do(job, stop)


class Shop:
    """Workers on a real queue with a scripted pipeline."""

    def __init__(self, root: Path) -> None:
        self.clock = Clock()
        self.database = Database(root / "a.db", clock=self.clock)
        self.queue = SqlJobQueue(self.database)
        self.script = Script()
        self.log = SqlBuildLog(self.database)
        self.recorder = Recorder(self.log, now=lambda: self.clock())
        self.statistics = NotedStatistics()
        self.durations = Durations()
        self.engine = CheckResult("ok", "fine")
        self.health = Health(
            {
                "database": self.database.check,
                "engine": lambda: self.engine,
                "store": lambda: CheckResult("ok", "fine"),
            }
        )
        self.workers = Workers(
            self.queue,
            lambda: self.script,  # type: ignore[arg-type, return-value]
            health=self.health,
            statistics=self.statistics,
            recorder=self.recorder,
            durations=self.durations,
            settings=Settings(worker_poll=timedelta(seconds=30)),
            name="host",
            now=self.clock,
        )

    def submit(self, name: str = "vim") -> Job:
        return self.queue.submit(a_submission(packages=(name,))).job

    def pass_time(self, span: timedelta) -> int:
        """Lets time pass while the queue is looked after; how many jobs returned to it."""
        returned = 0
        for _ in range(round(span.total_seconds() / 9)):
            self.clock.forward(timedelta(seconds=9))
            found = self.queue.recover(failure_ttl=timedelta(hours=1))
            returned += found.returned
        return returned

    def state(self, job: Job) -> JobState:
        found = self.queue.find(job.request_hash)
        assert found is not None
        return found.state

    def failure(self, job: Job) -> BuildFailure:
        found = self.queue.find(job.request_hash)
        assert found is not None
        assert isinstance(found.outcome, BuildFailure)
        return found.outcome


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    made = Shop(tmp_path)
    yield made
    made.workers.stop()
    made.recorder.stop()
    made.database.close()


def fail(error: Exception) -> Callable[[Job, threading.Event], BuildResult]:
    def do(job: Job, stop: threading.Event) -> BuildResult:
        raise error

    return do


def test_a_submitted_job_wakes_an_idle_worker_at_once(shop: Shop) -> None:
    shop.workers.start()
    job = shop.submit()
    assert eventually(lambda: shop.state(job) is JobState.COMPLETED)
    assert shop.statistics.events == [("completed", "owut/2026.1", "")]
    assert shop.script.labels == [{"asu.job": str(job.id), "asu.attempt": "1"}]


def test_durations_count_once_a_build_has_ended_and_not_when_it_is_tried_again(shop: Shop) -> None:
    shop.submit()
    shop.script.do = fail(Unavailable("the world"))
    assert shop.workers.build_next("host/1")
    assert shop.statistics.durations_noted == []
    shop.clock.forward(RETRY_DELAYS[0])
    shop.script.do = lambda job, stop: a_result()
    assert shop.workers.build_next("host/1")
    stages = [stage for stage, _ in shop.statistics.durations_noted]
    assert stages == ["init", "building_image", "building"]
    shop.submit("tmux")
    shop.script.do = fail(BuildFailed(FailureReason.TOO_BIG, "too big"))
    assert shop.workers.build_next("host/1")
    assert [stage for stage, _ in shop.statistics.durations_noted].count("building") == 2


def test_as_many_jobs_run_at_once_as_there_are_workers(shop: Shop) -> None:
    gate = threading.Barrier(4)

    def meet(job: Job, stop: threading.Event) -> BuildResult:
        gate.wait(timeout=60)
        return a_result()

    shop.script.do = meet
    jobs = [shop.submit(name) for name in "abcd"]
    shop.workers.start()
    assert eventually(lambda: all(shop.state(job) is JobState.COMPLETED for job in jobs))


def test_an_outcome_that_cannot_be_recorded_ends_the_job_all_the_same(shop: Shop) -> None:
    shop.script.do = lambda job, stop: a_result(description={"titles": "\ud800"})
    job = shop.submit()
    assert shop.workers.build_next("host/1")
    assert (shop.failure(job).reason, shop.failure(job).side) == (FailureReason.INTERNAL, Side.INTERNAL)


def test_a_users_failure_is_recorded_with_its_output_and_not_tried_again(shop: Shop) -> None:
    failure = BuildFailed(FailureReason.TOO_BIG, "Error: too big")
    failure.stdout, failure.stderr, failure.build_cmd = "out", "err", ("make",)
    shop.script.do = fail(failure)
    job = shop.submit()
    assert shop.workers.build_next("host/1")
    assert shop.failure(job) == BuildFailure(
        FailureReason.TOO_BIG, "Error: too big", "out", "err", ("make",), blamed=Side.USER
    )
    assert shop.statistics.events == [("failed", "owut/2026.1", "too_big")]
    assert not shop.workers.build_next("host/1")


@pytest.mark.parametrize(
    "error",
    [
        Unavailable("The disk is full", plain=True),
        BuildFailed(FailureReason.UPSTREAM_UNREACHABLE, "Error: down"),
        BuildFailed(
            FailureReason.IMPOSSIBLE_SELECTION, "Error: between two states", side=Side.INFRASTRUCTURE
        ),
    ],
)
def test_what_the_world_did_is_tried_again_with_growing_pauses_and_then_final(
    shop: Shop, error: Exception
) -> None:
    shop.script.do = fail(error)
    job = shop.submit()
    for delay in RETRY_DELAYS:
        assert shop.workers.build_next("host/1")
        assert not shop.workers.build_next("host/1")
        assert shop.state(job) is JobState.PENDING
        shop.clock.forward(delay)
    assert shop.workers.build_next("host/1")
    assert (shop.failure(job).side, shop.failure(job).fault) == (Side.INFRASTRUCTURE, "world")
    assert str(error).removeprefix("Error: ") in shop.failure(job).detail
    assert shop.statistics.sides == [Side.INFRASTRUCTURE]
    assert len(shop.script.built) == len(RETRY_DELAYS) + 1


NEVER_RETRIED = ("imagebuilder_missing", "deadline")
"""Another try costs too much, or surely ends in the same way for hours."""


@pytest.mark.parametrize("side", Side)
@pytest.mark.parametrize("reason", FailureReason)
def test_the_worker_tries_again_by_itself_what_infrastructure_did(
    shop: Shop, reason: FailureReason, side: Side
) -> None:
    shop.script.do = fail(BuildFailed(reason, "Error: x", side=side))
    job = shop.submit()
    assert shop.workers.build_next("host/1")
    retried = side is Side.INFRASTRUCTURE and reason not in NEVER_RETRIED
    assert shop.state(job) is (JobState.PENDING if retried else JobState.FAILED)
    if not retried:
        assert (shop.failure(job).reason, shop.failure(job).side) == (reason, side)
        shop.clock.forward(RETRY_DELAYS[-1])
        assert not shop.workers.build_next("host/1")


def test_a_deadline_is_infrastructures_says_to_try_again_and_costs_one_try(shop: Shop) -> None:
    shop.script.do = fail(deadline_passed(timedelta(minutes=10)))
    job = shop.submit()
    assert shop.workers.build_next("host/1")
    failure = shop.failure(job)
    assert (failure.reason, failure.side) == (FailureReason.DEADLINE, Side.INFRASTRUCTURE)
    assert "within 10 minutes" in failure.detail and "Try again in a minute" in failure.detail
    assert shop.submit().id == job.id
    assert not shop.workers.build_next("host/1")
    shop.clock.forward(COOL_DOWN)
    again = shop.submit()
    assert again.id != job.id
    shop.script.do = lambda job, stop: a_result()
    assert shop.workers.build_next("host/1")
    assert shop.state(again) is JobState.COMPLETED


def test_an_engine_that_is_down_costs_no_job_anything_and_work_goes_on_when_it_is_back(shop: Shop) -> None:
    shop.script.do = fail(EngineUnavailable("Podman does not answer"))
    job = shop.submit()
    for _ in range(10):
        assert shop.workers.build_next("host/1")
        assert shop.state(job) is JobState.PENDING
        report = shop.health.report()
        assert (report.can_build, report.parts["engine"].sentence) == (False, "Podman does not answer")
        shop.clock.forward(timedelta(minutes=1))
    shop.workers.start()
    assert never(lambda: shop.state(job) is not JobState.PENDING, seconds=0.3)
    shop.script.do = lambda job, stop: a_result()
    shop.health.check_all()
    assert eventually(lambda: shop.state(job) is JobState.COMPLETED)


def fail_on(name: str, error: Exception) -> Callable[[Job, threading.Event], BuildResult]:
    """An engine that serves everybody but the job that asks for this package."""

    def do(job: Job, stop: threading.Event) -> BuildResult:
        if name in job.request.packages:
            raise error
        return a_result()

    return do


def test_a_job_on_which_alone_the_engine_fails_lets_others_go_first_and_fails_in_the_end(shop: Shop) -> None:
    shop.script.do = fail_on("poison", EngineUnavailable("Podman started nothing.", retry_after=2))
    poison = shop.submit("poison")
    assert shop.workers.build_next("host/1")
    for number in range(ISOLATED - 1):
        other = shop.submit(f"other-{number}")
        assert shop.workers.build_next("host/1")
        assert shop.state(other) is JobState.COMPLETED
        assert shop.state(poison) is JobState.PENDING
        shop.clock.forward(timedelta(seconds=2) + STEP_ASIDE)
        assert shop.workers.build_next("host/1")
    failure = shop.failure(poison)
    assert failure.reason is FailureReason.WORLD_UNAVAILABLE
    assert failure.detail.startswith(
        f"Error: {EngineUnavailable.public_sentence} That happened {ISOLATED} times to this build"
    )
    assert shop.statistics.events[-1] == ("failed", "owut/2026.1", "world_unavailable")
    assert not shop.workers.build_next("host/1")


def test_after_a_second_failure_of_the_engine_another_job_is_the_one_that_tries_it(shop: Shop) -> None:
    shop.script.do = fail(EngineUnavailable("Podman started nothing", retry_after=2))
    first = shop.submit("first")
    assert shop.workers.build_next("host/1")
    shop.clock.forward(timedelta(seconds=2))
    assert shop.workers.build_next("host/1")
    second = shop.submit("second")
    shop.clock.forward(timedelta(seconds=2))
    assert shop.workers.build_next("host/1")
    assert shop.script.built == [first.id, first.id, second.id]


def test_failures_of_the_engine_do_not_add_up_while_nobody_else_is_served(shop: Shop) -> None:
    shop.script.do = fail_on("poison", EngineUnavailable("Podman started nothing"))
    poison = shop.submit("poison")
    for _ in range(2 * ISOLATED):
        assert shop.workers.build_next("host/1")
        shop.clock.forward(timedelta(minutes=1))
    shop.submit("other")
    assert shop.workers.build_next("host/1")
    assert shop.workers.build_next("host/1")
    assert shop.state(poison) is JobState.PENDING


def test_a_registry_that_lacks_one_image_while_others_are_built_fails_nothing(shop: Shop) -> None:
    shop.script.do = fail_on("poison", RegistryUnavailable("The registry answers 500"))
    poison = shop.submit("poison")
    for number in range(2 * ISOLATED):
        assert shop.workers.build_next("host/1")
        shop.submit(f"other-{number}")
        assert shop.workers.build_next("host/1")
        shop.clock.forward(timedelta(minutes=1))
    assert shop.state(poison) is JobState.PENDING


def test_a_bug_of_ours_ends_the_job_with_a_fixed_sentence_and_not_the_worker(shop: Shop) -> None:
    shop.script.do = fail(ZeroDivisionError("secret detail"))
    job = shop.submit()
    assert shop.workers.build_next("host/1")
    failure = shop.failure(job)
    assert failure.reason is FailureReason.INTERNAL
    assert "secret" not in failure.detail + failure.stderr


def test_stopping_gives_running_jobs_back_uncounted(shop: Shop) -> None:
    def wait(job: Job, stop: threading.Event) -> BuildResult:
        assert stop.wait(60)
        raise BuildInterrupted

    shop.script.do = wait
    job = shop.submit()
    shop.workers.start()
    assert eventually(lambda: shop.state(job) is JobState.BUILDING)
    shop.workers.stop()
    found = shop.queue.find(job.request_hash)
    assert found is not None
    assert (found.state, found.attempts, found.retries) == (JobState.PENDING, 0, 0)


def test_draining_lets_running_builds_end_and_takes_no_more(shop: Shop) -> None:
    done = threading.Event()

    def wait(job: Job, stop: threading.Event) -> BuildResult:
        assert done.wait(60)
        return a_result()

    shop.script.do = wait
    running = [shop.submit(name) for name in "abcd"]
    waiting = shop.submit("e")
    shop.workers.start()
    assert eventually(lambda: all(shop.state(job) is JobState.BUILDING for job in running))
    threading.Timer(0.2, done.set).start()
    shop.workers.drain(timedelta(seconds=10))
    assert [shop.state(job) for job in running] == [JobState.COMPLETED] * 4
    assert shop.state(waiting) is JobState.PENDING


def test_draining_waits_no_longer_than_its_grace_or_until_it_is_stopped(shop: Shop) -> None:
    def wait(job: Job, stop: threading.Event) -> BuildResult:
        assert stop.wait(60)
        raise BuildInterrupted

    shop.script.do = wait
    job = shop.submit()
    shop.workers.start()
    assert eventually(lambda: shop.state(job) is JobState.BUILDING)
    shop.workers.drain(timedelta(seconds=0.1))
    assert shop.state(job) is JobState.BUILDING
    draining = threading.Thread(target=shop.workers.drain, args=(timedelta(seconds=60),))
    draining.start()
    shop.workers.stop()
    draining.join(60)
    assert not draining.is_alive()
    assert shop.state(job) is JobState.PENDING


def test_a_build_that_hangs_is_given_back_and_does_not_hold_up_the_stop(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asu_builder.core.worker._STOP_SECONDS", 0.1)
    hangs = threading.Event()

    def wait(job: Job, stop: threading.Event) -> BuildResult:
        hangs.wait(60)
        raise BuildInterrupted

    shop.script.do = wait
    job = shop.submit()
    shop.workers.start()
    assert eventually(lambda: shop.state(job) is JobState.BUILDING)
    shop.workers.stop()
    assert shop.state(job) is JobState.PENDING
    hangs.set()


def test_a_cancelled_build_is_stopped(shop: Shop) -> None:
    began, stopped = threading.Event(), threading.Event()

    def wait(job: Job, stop: threading.Event) -> BuildResult:
        began.set()
        assert stop.wait(60)
        stopped.set()
        raise BuildInterrupted

    shop.script.do = wait
    job = shop.submit()
    shop.workers.start()
    assert began.wait(60)
    assert shop.queue.cancel(job.id, failure_ttl=timedelta(hours=1))
    assert stopped.wait(60)
    assert shop.state(job) is JobState.CANCELLED


def test_a_cancel_in_this_process_stops_the_build_without_the_next_poll(shop: Shop) -> None:
    began, stopped = threading.Event(), threading.Event()

    def wait(job: Job, stop: threading.Event) -> BuildResult:
        began.set()
        assert stop.wait(60)
        stopped.set()
        raise BuildInterrupted

    shop.script.do = wait
    job = shop.submit()
    thread = threading.Thread(target=shop.workers.build_next, args=("host/1",))  # nothing polls
    thread.start()
    assert began.wait(60)
    Cancellation(
        shop.queue,
        SqlOperations(shop.database),
        statistics=shop.statistics,
        settings=Settings(),
        stop_lost_builds=shop.workers.stop_lost_builds,
    ).cancel(job, operator="alice")
    thread.join(60)
    assert stopped.is_set()
    assert shop.state(job) is JobState.CANCELLED


def test_a_world_failure_that_is_final_tells_what_was_tried(shop: Shop) -> None:
    shop.script.do = fail(Unavailable("The disk is full", plain=True))
    job = shop.submit()
    for _ in range(len(RETRY_DELAYS) + 1):
        assert shop.workers.build_next("host/1")
        shop.clock.forward(timedelta(minutes=2))
    attempts = shop.failure(job).attempts
    assert [attempt.ending for attempt in attempts] == ["Error: The disk is full"] * len(RETRY_DELAYS)


def test_a_worker_that_lost_its_lease_stops_building_and_writes_nothing(shop: Shop) -> None:
    lost = threading.Event()

    def wait(job: Job, stop: threading.Event) -> BuildResult:
        if not lost.is_set():
            lost.set()
            assert stop.wait(60)
            raise BuildInterrupted
        return a_result()

    shop.script.do = wait
    job = shop.submit()
    shop.workers.start()
    assert lost.wait(60)
    assert shop.pass_time(LEASE * 2) == 1
    shop.workers.renew_leases()
    assert eventually(lambda: shop.state(job) is JobState.COMPLETED)
    assert shop.script.built == [job.id, job.id]


def test_leases_of_running_jobs_are_renewed(shop: Shop) -> None:
    begun, done = threading.Event(), threading.Event()

    def wait(job: Job, stop: threading.Event) -> BuildResult:
        begun.set()
        assert done.wait(60)
        return a_result()

    shop.script.do = wait
    job = shop.submit()
    shop.workers.start()
    assert begun.wait(60)
    for _ in range(5):
        assert shop.pass_time(LEASE * 0.9) == 0
        shop.workers.renew_leases()
    done.set()
    assert eventually(lambda: shop.state(job) is JobState.COMPLETED)


def test_the_log_tells_the_life_of_a_build_and_each_line_knows_which(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[tuple[str, str]] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append((CURRENT_HASH.get(), record.getMessage()))

    listener = Listener()
    logger = logging.getLogger("asu_builder.core")
    logger.addHandler(listener)
    caplog.set_level(logging.INFO)
    try:
        good = shop.submit()
        assert shop.workers.build_next("w/1")
        shop.script.do = fail(BuildFailed(FailureReason.TOO_BIG, "too big"))
        bad = shop.submit("emacs")
        assert shop.workers.build_next("w/1")
        assert not shop.workers.build_next("w/1")
    finally:
        logger.removeHandler(listener)
    assert [name for name, _ in seen] == [good.request_hash] * 2 + [bad.request_hash] * 2
    words = [re.sub(r"[0-9.]+ s", "N s", message) for _, message in seen]
    assert words == [
        "build started by worker w/1",
        "build completed in N s",
        "build started by worker w/1",
        "build failed in N s: too_big (side: user)",
    ]
    assert CURRENT_HASH.get() == "", "nobody is built any more"
    assert not any(job.request_hash in caplog.text for job in (good, bad))


def test_builds_that_ended_are_timed_and_those_given_back_are_not(shop: Shop) -> None:
    shop.submit()
    shop.workers.build_next("w/1")
    shop.script.do = fail(EngineUnavailable("gone"))
    shop.submit("emacs")
    shop.workers.build_next("w/1")
    builds, stages = shop.durations.builds, shop.durations.stages
    assert (builds[True].read()[0][-1], builds[False].read()[0][-1]) == (1, 0)
    assert stages[Stage.BUILDING_IMAGE].read()[0][-1] == 1
    shop.clock.forward(timedelta(minutes=5))
    shop.script.do = fail(BuildFailed(FailureReason.TOO_BIG, "too big"))
    shop.workers.build_next("w/1")
    assert builds[False].read()[0][-1] == 1


def test_how_many_builds_run_is_known(shop: Shop) -> None:
    seen: list[int] = []

    def look(job: Job, stop: threading.Event) -> BuildResult:
        seen.append(shop.workers.running)
        return a_result()

    shop.script.do = look
    shop.submit()
    shop.workers.build_next("w/1")
    assert seen == [1]
    assert (shop.workers.running, shop.workers.concurrent) == (0, 4)


def test_a_worker_that_drains_claims_nothing_even_if_it_was_about_to(shop: Shop) -> None:
    """Also where the engine was down and is found up just then: each claim asks again."""
    job = shop.submit()
    shop.workers.drain(timedelta(0))
    assert not shop.workers.build_next("host/1")
    assert (shop.state(job), shop.script.built) == (JobState.PENDING, [])


def test_draining_waits_for_a_claim_that_is_under_way(shop: Shop) -> None:
    """What it brings is built within the grace, not left with a lease that must lapse."""
    asked, go_on = threading.Event(), threading.Event()
    claim = shop.queue.claim

    def slowly(*given: Any, **named: Any) -> Any:
        asked.set()
        assert go_on.wait(60)
        return claim(*given, **named)

    shop.queue.claim = slowly  # type: ignore[method-assign]
    job = shop.submit()
    building = threading.Thread(target=shop.workers.build_next, args=("host/1",))
    building.start()
    assert asked.wait(60)
    drained = threading.Event()

    def drain() -> None:
        shop.workers.drain(timedelta(seconds=30))
        drained.set()

    draining = threading.Thread(target=drain)
    draining.start()
    assert not drained.wait(0.1)
    go_on.set()
    building.join(60)
    draining.join(60)
    assert drained.is_set()
    assert shop.state(job) is JobState.COMPLETED


def test_all_that_wait_are_taken_when_all_workers_are_woken(shop: Shop) -> None:
    """Jobs that came while the workers were paused: one wake-up would leave three of four asleep."""
    together = threading.Barrier(4)

    def meet(job: Job, stop: threading.Event) -> BuildResult:
        together.wait(60)
        return a_result()

    shop.script.do = meet
    operations = SqlOperations(shop.database)
    operations.pause("alice")
    shop.workers.start()
    assert eventually(lambda: len(shop.database.wakeups._changed._waiters) == 4)  # type: ignore[attr-defined]
    jobs = [shop.queue.submit(a_submission(packages=(name,))).job for name in "abcd"]
    operations.resume()
    assert eventually(lambda: all(shop.state(job) is JobState.COMPLETED for job in jobs))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, Retention(timedelta(days=1), timedelta(days=1))),
        ({"packages_versions": {"vim": "1"}}, Retention(timedelta(days=7))),
        ({"packages_versions": {"vim": "1"}, "defaults": "wifi password"}, Retention(timedelta(minutes=30))),
        ({"defaults": "wifi password"}, Retention(timedelta(minutes=30), timedelta(days=1))),
    ],
)
def test_images_with_a_private_script_are_kept_shortest(
    shop: Shop, changes: dict[str, Any], expected: Retention
) -> None:
    assert kept_for(shop, **changes) == expected


def test_failures_are_kept_for_their_own_time(shop: Shop) -> None:
    shop.script.do = fail(BuildFailed(FailureReason.TOO_BIG, "too big"))
    assert kept_for(shop, defaults="x") == Retention(timedelta(hours=1), timedelta(hours=1))


def kept_for(shop: Shop, **changes: Any) -> Retention:
    """How long the outcome of this request's build is kept."""
    given: list[Retention] = []
    shop.queue.finish = lambda lease, outcome, retention: given.append(retention)  # type: ignore[method-assign]
    shop.queue.submit(a_submission(**changes))
    assert shop.workers.build_next("host/1")
    (retention,) = given
    return retention


def test_whoever_watches_is_told_of_each_stage_once_it_can_be_read(shop: Shop) -> None:
    told: list[Stage | None] = []

    def listen(request_hash: str) -> None:
        found = shop.queue.find(request_hash)
        assert found is not None
        told.append(found.stage)

    shop.recorder.tell = listen
    shop.submit()
    assert shop.workers.build_next("host/1")
    # Its beginning, its stage, its end.
    assert told == [Stage.INIT, Stage.BUILDING_IMAGE, None]
