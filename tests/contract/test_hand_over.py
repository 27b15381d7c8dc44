"""Images that one process has built and another is to sign: their job, and their files in the store."""

from datetime import timedelta
from pathlib import Path

import pytest

from asu_builder.database.dialect import SqlDatabase
from asu_builder.database.nodes import SqlNodes
from asu_builder.database.retention import SqlRetention
from asu_builder.domain.errors import FailureReason, HandedOverGone, LeaseLost
from asu_builder.domain.job import (
    BuildFailure,
    HandedOver,
    IdlePolicy,
    Job,
    JobState,
    Lease,
    Retention,
    Stage,
)
from asu_builder.domain.nodes import NodeFacts
from asu_builder.ports import JobQueue, Operations
from asu_builder.store.local import LocalStore
from database_clock import CLOCK
from factories import NOON, a_result, a_submission, eventually
from object_storage import s3_server
from shelves import HASH, Rows, object_store

MINUTE = timedelta(minutes=1)
DAY = timedelta(days=1)
OVER = HandedOver("0123456789abcdef", "k1", 7.5)


def hand_over(queue: JobQueue, handed_over: HandedOver = OVER) -> tuple[Job, Lease]:
    """A job that was built without the keys."""
    queue.submit(a_submission())
    claimed = queue.claim("hut/1", lease_for=MINUTE)
    assert claimed is not None
    job, lease = claimed
    queue.advance(lease, Stage.BUILDING_IMAGE)
    queue.hand_over(lease, handed_over)
    return job, lease


def take(queue: JobQueue, *, key: str = "k1", worker: str = "keys/0") -> tuple[Job, Lease] | None:
    return queue.claim_unsigned(worker, key=key, lease_for=MINUTE)


def test_who_has_the_key_takes_what_another_has_built_and_finishes_it(queue: JobQueue) -> None:
    assert take(queue) is None
    job, former = hand_over(queue)
    seen = queue.find(job.request_hash)
    assert seen is not None and (seen.state, seen.stage) == (JobState.BUILDING, Stage.SIGNING_IMAGES)
    assert (seen.handed_over, seen.attempts, seen.retries) == (OVER, 0, 0)
    with pytest.raises(LeaseLost):
        queue.renew(former, lease_for=MINUTE)
    assert queue.claim("hut/1", lease_for=MINUTE) is None, "nobody builds it again"
    assert take(queue, key="k2") is None, "another key would not do"
    taken = take(queue)
    assert taken is not None and take(queue) is None
    signed, lease = taken
    assert (signed.id, signed.handed_over, signed.started_at) == (job.id, OVER, job.started_at)
    queue.finish(lease, a_result(), Retention(DAY))
    ended = queue.find(job.request_hash)
    assert ended is not None and ended.state is JobState.COMPLETED and ended.handed_over is None


def test_any_key_signs_where_the_one_that_built_knew_none(queue: JobQueue) -> None:
    hand_over(queue, HandedOver(OVER.folder, "", 1.0))
    assert take(queue, key="k2") is not None


def test_a_signer_that_is_lost_leaves_the_images_to_another_three_times(queue: JobQueue) -> None:
    job, _ = hand_over(queue)
    for number in range(1, 4):
        CLOCK.moment += timedelta(seconds=10)
        assert queue.recover(failure_ttl=DAY).returned == 0, "what waits for a key does not lapse"
        taken = take(queue, worker=f"keys-{number}/0")
        assert taken is not None and taken[0].attempts == number - 1
        recovery = queue.recover(worker=f"keys-{number}", failure_ttl=DAY)
        assert (recovery.returned, len(recovery.gave_up)) == ((1, 0) if number < 3 else (0, 1))
    ended = queue.find(job.request_hash)
    assert ended is not None and ended.reason is FailureReason.GAVE_UP


def test_what_a_signer_gives_back_waits_again_or_is_built_from_the_start(queue: JobQueue) -> None:
    job, _ = hand_over(queue)
    taken = take(queue)
    assert taken is not None
    queue.release(taken[1], delay=MINUTE / 2, retry="the token is away")
    assert take(queue) is None and queue.claim("hut/1", lease_for=MINUTE) is None
    CLOCK.moment += MINUTE / 2
    again = take(queue)
    assert again is not None and (again[0].retries, again[0].handed_over) == (1, OVER)
    queue.release(again[1], retry="the images are gone", from_start=True)
    assert take(queue) is None
    claimed = queue.claim("hut/1", lease_for=MINUTE)
    assert claimed is not None and (claimed[0].id, claimed[0].handed_over) == (job.id, None)


def test_an_operator_has_it_built_again_and_it_can_be_cancelled(
    queue: JobQueue, operations: Operations, database: SqlDatabase
) -> None:
    job, _ = hand_over(queue)
    assert operations.give_back(job.id)
    assert take(queue) is None
    claimed = queue.claim("hut/1", lease_for=MINUTE)
    assert claimed is not None and claimed[0].handed_over is None
    queue.hand_over(claimed[1], OVER)
    assert queue.cancel(job.id, failure_ttl=DAY)
    assert take(queue) is None
    assert not SqlRetention(database).names_handed_over(job.request_hash, OVER.folder)


def test_neither_while_paused_nor_by_who_is_drained(
    queue: JobQueue, operations: Operations, database: SqlDatabase
) -> None:
    hand_over(queue)
    operations.pause("me")
    assert take(queue) is None
    operations.resume()
    nodes = SqlNodes(database)
    nodes.renew("keys", "m1", "a", NodeFacts("1", answers=True, builds=False, concurrent=0, running=0))
    nodes.drain("keys", True)
    assert take(queue) is None
    assert take(queue, worker="others/0") is not None


def test_nobody_signs_what_no_client_asks_for_any_more(queue: JobQueue) -> None:
    job, _ = hand_over(queue)
    CLOCK.moment = NOON + timedelta(hours=2)
    (expired,) = queue.expire_abandoned(IdlePolicy(MINUTE, timedelta(hours=1)), failure_ttl=DAY)
    assert (expired.id, expired.state) == (job.id, JobState.FAILED)
    assert isinstance(expired.outcome, BuildFailure) and take(queue) is None


def test_the_job_names_its_files_until_it_ends(queue: JobQueue, database: SqlDatabase) -> None:
    retention = SqlRetention(database)
    job, _ = hand_over(queue)
    assert retention.names_handed_over(job.request_hash, OVER.folder)
    assert not retention.names_handed_over(job.request_hash, "another")
    taken = take(queue)
    assert taken is not None and retention.names_handed_over(job.request_hash, OVER.folder)
    queue.finish(taken[1], a_result(), Retention(DAY))
    assert not retention.names_handed_over(job.request_hash, OVER.folder)


class Files:
    """A store of either kind, and whether a job names what was handed over to it."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.is_named = True

        def names(request_hash: str, name: str) -> bool:
            return self.is_named

        self.store = (
            LocalStore(folder / "store", installation="ours", names_handed_over=names)
            if kind == "local"
            else object_store(s3_server().place(folder.name), folder, Rows(), names_handed_over=names)
        )

    def hand_over(self, **files: str) -> str:
        with self.store.scratch() as scratch:
            images = scratch / "images"
            images.mkdir()
            for name, text in files.items():
                (images / name.replace("_", ".")).write_text(text)
            return self.store.hand_over(HASH, images)

    def take_over(self, folder: str, into: Path) -> dict[str, str]:
        into.mkdir()
        self.store.take_over(HASH, folder, into)
        return {path.name: path.read_text() for path in into.iterdir()}


@pytest.fixture(params=["local", "s3"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> Files:
    return Files(request.param, tmp_path)


def test_what_is_handed_over_is_taken_as_often_as_needed_and_is_not_published(
    files: Files, tmp_path: Path
) -> None:
    folder = files.hand_over(x_bin="image", empty="", big="x" * (9 << 20))
    assert not files.store.holds(HASH) and list(files.store.published()) == []
    first = files.take_over(folder, tmp_path / "first")
    (tmp_path / "first" / "x.bin").write_text("signed")
    assert first == files.take_over(folder, tmp_path / "second")
    assert first == {"x.bin": "image", "empty": "", "big": "x" * (9 << 20)}
    other = files.hand_over(x_bin="built again")
    files.store.discard(HASH, folder)
    files.store.discard(HASH, folder)
    assert files.take_over(other, tmp_path / "third") == {"x.bin": "built again"}
    for name in (folder, "../../x", ""):
        with pytest.raises(HandedOverGone):
            files.take_over(name, tmp_path / f"of-{len(name)}")


def test_a_sweep_leaves_what_is_new_or_named(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = files.hand_over(x_bin="image")
    files.is_named = False
    assert files.store.sweep() == 0, "its job is about to name it"
    for module in ("scratch", "objects"):
        monkeypatch.setattr(f"asu_builder.store.{module}.UNNAMED_FOR", timedelta(0))
    monkeypatch.setattr("asu_builder.store.objects._CLOCKS_DIFFER", timedelta(0))
    files.is_named = True
    assert files.store.sweep() == 0
    files.is_named = False
    assert eventually(lambda: files.store.sweep() == 1), "to the second, in a bucket"
    with pytest.raises(HandedOverGone):
        files.take_over(folder, tmp_path / "late")
