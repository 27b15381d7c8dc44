"""The thread that signs for other processes: what becomes of a job on each way that this ends."""

import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from asu_builder.core.presence import NO_JOB
from asu_builder.core.worker import RETRY_DELAYS, Workers
from asu_builder.domain.errors import (
    BuildFailed,
    BuildInterrupted,
    FailureReason,
    HandedOverGone,
    LeaseLost,
    Side,
    SigningUnavailable,
    StoreUnavailable,
)
from asu_builder.domain.job import BuildResult, HandedOver, Job, JobState, Stage
from asu_builder.settings import Settings
from factories import a_result, eventually
from unit.core.test_worker import Shop

OVER = HandedOver("0123456789abcdef", "k1", 0.0)


class Signer:
    """Signs as the test says, in place of `Finishing`."""

    def __init__(self) -> None:
        self.key = "k1"
        self.fault: SigningUnavailable | None = None
        self.do: Callable[[], BuildResult] = a_result
        self.discarded: list[int] = []

    def require(self) -> None:
        if self.fault:
            raise self.fault

    def sign(self, job: Job, *, advance: Callable[[Stage], None], stop: threading.Event) -> BuildResult:
        assert job.handed_over is not None and job.handed_over.folder == OVER.folder
        advance(Stage.SIGNING_IMAGES)
        return self.do()

    def discard(self, job: Job) -> None:
        self.discarded.append(job.id)


class Works(Shop):
    """A process that builds without the keys, and one that answers and has them, on one queue."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.signer = Signer()
        self.signing = Workers(
            self.queue,
            lambda: self.script,  # type: ignore[arg-type, return-value]
            health=self.health,
            statistics=self.statistics,
            recorder=self.recorder,
            durations=self.durations,
            settings=Settings(worker_concurrent=0),
            name="keys",
            now=self.clock,
            finishing=lambda: self.signer,  # type: ignore[arg-type, return-value]
        )

    def hand_over(self) -> Job:
        """A job that is built and waits for the signer."""
        self.script.do = lambda job, stop: OVER  # type: ignore[assignment, return-value]
        job = self.submit()
        assert self.workers.build_next("host/1")
        return job

    def sign(self) -> bool:
        return self.signing.build_next("keys/0", signs=True)

    def raises(self, error: Exception) -> None:
        def do() -> BuildResult:
            raise error

        self.signer.do = do

    def is_built(self, job: Job) -> bool:
        found = self.queue.find(job.request_hash)
        return found is not None and found.handed_over is not None


@pytest.fixture
def works(tmp_path: Path) -> Iterator[Works]:
    made = Works(tmp_path)
    yield made
    made.signing.stop()
    made.workers.stop()
    made.recorder.stop()
    made.database.close()


def test_it_signs_without_an_engine_and_counts_the_build_as_one(works: Works) -> None:
    job = works.hand_over()
    assert not works.workers.build_next("host/1", signs=True), "it has no keys"
    assert works.statistics.events == []
    works.health.part_failed("engine", "away")
    works.signing.start()
    assert eventually(lambda: works.state(job) is JobState.COMPLETED)
    works.signing.stop()
    assert works.signer.discarded == [job.id]
    assert works.statistics.events == [("completed", "owut/2026.1", "")]
    noted = [stage for stage, _ in works.statistics.durations_noted]
    assert noted.count("building") == 1 and noted.count("pending") == 1
    assert noted.count("signing_images") == 1 and "building_image" in noted
    assert "engine" in works.health.report().parts and works.health.is_down("engine")


def test_while_the_key_cannot_sign_or_the_name_is_anothers_it_takes_nothing(works: Works) -> None:
    job = works.hand_over()
    works.signer.fault = SigningUnavailable("the token is away")
    assert not works.sign()
    works.signer.fault = None
    works.signing.only = NO_JOB
    assert not works.sign()
    works.signing.only = None
    assert works.sign() and works.state(job) is JobState.COMPLETED


@pytest.mark.parametrize(
    ("error", "retries", "pause"),
    [
        (BuildInterrupted("stop"), 0, timedelta(0)),
        (StoreUnavailable("away", retry_after=7), 0, timedelta(seconds=7)),
        (SigningUnavailable("away"), 1, RETRY_DELAYS[0]),
    ],
)
def test_what_says_nothing_about_the_images_leaves_them_to_be_signed(
    works: Works, error: Exception, retries: int, pause: timedelta
) -> None:
    job = works.hand_over()
    works.raises(error)
    assert works.sign() and works.is_built(job)
    found = works.queue.find(job.request_hash)
    assert found is not None and (found.retries, found.attempts) == (retries, 0)
    works.signer.do = a_result
    works.clock.forward(pause)
    assert works.sign() and works.state(job) is JobState.COMPLETED


@pytest.mark.parametrize(
    "error",
    [
        HandedOverGone("gone"),
        BuildFailed(FailureReason.INCOMPLETE_OUTPUT, "Error: no end", side=Side.INFRASTRUCTURE),
    ],
)
def test_what_is_spoilt_is_built_again_and_fails_if_it_stays_so(works: Works, error: Exception) -> None:
    job = works.hand_over()
    works.raises(error)
    for delay in RETRY_DELAYS:
        assert works.sign() and not works.is_built(job) and works.state(job) is JobState.PENDING
        works.clock.forward(delay)
        assert works.workers.build_next("host/1")
    assert works.sign() and works.state(job) is JobState.FAILED
    assert works.signer.discarded == []


def test_a_job_that_is_cancelled_while_it_is_signed_has_no_outcome(works: Works) -> None:
    job = works.hand_over()

    def do() -> BuildResult:
        works.queue.cancel(job.id, failure_ttl=timedelta(hours=1))
        raise LeaseLost("gone")

    works.signer.do = do
    assert works.sign() and works.state(job) is JobState.CANCELLED
    assert not works.sign()
