"""Many threads and two processes at one queue: what they saw and what is left fit together."""

import json
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from asu_builder.database.connection import Database
from asu_builder.database.dialect import SqlDatabase
from asu_builder.database.operator import SqlOperations
from asu_builder.database.retention import SqlRetention
from asu_builder.domain.job import Job, JobFilter, JobState
from queue_crowd import Event, QueueSummary

pytestmark = pytest.mark.long

TESTS = Path(__file__).resolve().parents[1]
STEPS, SERVER_STEPS = 600, 150
ENDS = {
    "complete": JobState.COMPLETED,
    "fail": JobState.FAILED,
    "cancel": JobState.CANCELLED,
    "gave up": JobState.FAILED,
    "expired": JobState.FAILED,
}
UNDER_LEASE = ("advance", "renew", "complete", "fail", "release")
LET_GO = ("complete", "fail", "release")
LIVE = (JobState.PENDING, JobState.BUILDING)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    return folder


def steps_at(place: str) -> int:
    """Fewer on a server: each step is a conversation with another process."""
    return SERVER_STEPS if place.startswith("postgresql:") else STEPS


def in_threads(place: str, images: Path, names: Sequence[str], *, seed: int) -> list[Event]:
    """Crowds in this process, each with connections of its own."""
    began = time.monotonic()
    crowds = [QueueSummary(place, images, name, seed=seed, began=began) for name in names]
    with ThreadPoolExecutor(len(crowds)) as pool:
        return [
            event
            for history in pool.map(lambda crowd: crowd.run(steps_at(place)), crowds)
            for event in history
        ]


def ends_of_jobs(history: Sequence[Event]) -> dict[int, list[Event]]:
    """Of each job that ended the events that ended it."""
    ends = defaultdict(list)
    for event in history:
        if event.act in ENDS and event.taken:
            ends[event.job].append(event)
    return ends


def require_each_job_to_end_once(history: Sequence[Event], left: dict[int, Job]) -> None:
    created = [event.job for event in history if event.act == "created"]
    assert len(created) == len(set(created)), "two jobs had the same id"
    assert {event.job for event in history if event.act == "joined"} <= set(created)
    ends = ends_of_jobs(history)
    assert {job: len(events) for job, events in ends.items() if len(events) != 1} == {}
    live = {job.id for job in left.values() if job.state in LIVE}
    assert live | set(ends) == set(created)
    assert not live & set(ends)
    for job in left.values():
        if job.state not in LIVE:
            (end,) = ends[job.id]
            assert job.state is ENDS[end.act]


def require_lost_leases_to_be_refused(history: Sequence[Event]) -> None:
    """A write that began after its lease was let go, or the job was claimed anew or ended, was refused."""
    over: dict[tuple[int, int], int] = {}
    for event in history:
        if not event.taken:
            continue
        if event.act in LET_GO:
            note_end(over, (event.job, event.token), event.ended)
        elif event.act == "claim":
            note_end(over, (event.job, event.token - 1), event.ended)
    ended = {job: events[0].ended for job, events in ends_of_jobs(history).items()}
    for event in history:
        if event.act in UNDER_LEASE and event.taken:
            assert event.began <= over.get((event.job, event.token), event.began), event
            assert event.began <= ended.get(event.job, event.began), event


def note_end(over: dict[tuple[int, int], int], lease: tuple[int, int], at: int) -> None:
    over[lease] = min(at, over.get(lease, at))


def require_counts_to_add_up(history: Sequence[Event], left: dict[int, Job]) -> None:
    """Each claim is one more token, and what was claimed is let go, lost, cancelled or still held."""
    claims = Counter((event.job, event.token) for event in history if event.act == "claim")
    assert set(claims.values()) == {1}
    tokens = defaultdict(list)
    for job, token in claims:
        tokens[job].append(token)
    assert all(sorted(numbers) == list(range(1, len(numbers) + 1)) for numbers in tokens.values())
    taken = Counter(event.act for event in history if event.taken)
    back = taken["release"] + taken["returned"] + taken["give back"]
    building = sum(job.state is JobState.BUILDING for job in left.values())
    cancelled = len(claims) - back - building - taken["complete"] - taken["fail"] - taken["gave up"]
    assert 0 <= cancelled <= taken["cancel"]


def require_all(database: SqlDatabase, images: Path, history: Sequence[Event]) -> None:
    """Everything that must hold when all threads have ended."""
    left = {job.id: job for job in SqlOperations(database).jobs(JobFilter(limit=1000))}
    require_each_job_to_end_once(history, left)
    require_lost_leases_to_be_refused(history)
    require_counts_to_add_up(history, left)
    live = Counter(job.request_hash for job in left.values() if job.state in LIVE)
    assert set(live.values()) <= {1}
    published = {image.name for image in images.iterdir()}
    assert set(SqlRetention(database).completed_hashes()) <= published
    if isinstance(database, Database):
        with database.reading() as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
    require_something_of_everything(history)


def require_something_of_everything(history: Sequence[Event]) -> None:
    """Otherwise nothing was tried."""
    acts = Counter((event.act, event.taken) for event in history)
    wanted = [(act, True) for act in ("created", "joined", "claim", "complete", "fail", "release", "cancel")]
    wanted += [("returned", True), ("forget", True), ("complete", False), ("forget", False)]
    assert [one for one in wanted if not acts[one]] == []


@pytest.mark.parametrize(
    "seed", [0, pytest.param(1, marks=pytest.mark.long), pytest.param(2, marks=pytest.mark.long)]
)
def test_what_a_crowd_did_to_one_queue_fits_together(
    database: SqlDatabase, images: Path, place: str, seed: int
) -> None:
    history = in_threads(place, images, ["one", "two"], seed=seed)
    require_all(database, images, history)


@pytest.mark.parametrize(
    "place", ["sqlite", pytest.param("postgresql", marks=pytest.mark.long)], indirect=True
)
def test_what_two_processes_did_to_one_queue_fits_together(
    database: SqlDatabase, images: Path, place: str
) -> None:
    began = time.monotonic()
    arguments = [sys.executable, "-m", "queue_crowd", place, str(images)]
    processes = [
        subprocess.Popen(
            [*arguments, name, "7", str(steps_at(place)), str(began)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=TESTS,
        )
        for name in ("one", "two")
    ]
    written = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    history = [Event(**json.loads(line)) for text in written for line in text.splitlines()]
    require_all(database, images, history)


_FRESH = """
import sys, threading, msgspec
from asu_builder.database import rows
from factories import a_request, a_result, a_failure
sys.setswitchinterval(1e-6)
request, result, failure = (
    msgspec.json.encode(value).decode() for value in (a_request(), a_result(), a_failure())
)
row = (1, "a" * 64, request, "pending", 1, "", "", 0, 0, None, 0, 0, "[]", None, None, "", 1, result)
ready = threading.Barrier(8)
def read():
    ready.wait()
    rows.to_job(row)
threads = [threading.Thread(target=read) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""


def test_threads_of_a_fresh_process_may_read_their_first_rows_at_the_same_moment() -> None:
    """As all workers and web threads do after a start; msgspec would crash if it learned the types then."""
    for _ in range(10):
        run = subprocess.run(
            [sys.executable, "-c", _FRESH], cwd=Path(__file__).parents[1], capture_output=True, text=True
        )
        assert run.returncode == 0, run.stderr
