"""Answers from memory over a real database and store, while something else changes them."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from asgi_client import Answer, AsgiClient
from asu_builder.app import assemble
from asu_builder.database.connection import Database
from asu_builder.database.queue import SqlJobQueue
from asu_builder.database.retention import SqlRetention
from asu_builder.domain.errors import FailureReason
from asu_builder.domain.job import IdlePolicy, Outcome, Retention
from asu_builder.http.answers import PolledBuilds
from asu_builder.settings import Settings
from asu_builder.store.local import LocalStore
from factories import a_failure, a_result, a_submission

_DAY = timedelta(days=1)
_SQL = "import sqlite3, sys; base = sqlite3.connect(sys.argv[1]); base.execute(sys.argv[2]); base.commit()"


class House:
    """The assembled service without workers, and another process's hand in its database and store."""

    def __init__(self, root: Path) -> None:
        self.shift = timedelta(0)
        self.path, self.store_path = root / "data" / "a.db", root / "public" / "store"
        settings = Settings(
            database_path=self.path,
            public_path=root / "public",
            upstream_url="http://127.0.0.1:9",
            container_runtime="podman",
            container_socket_path=str(root / "none.sock"),
        )
        self.app = assemble(settings, only_answers=True, now=self.now).app
        self.client = AsgiClient(self.app)
        self.database = Database(self.path, clock=self.now)
        self.queue = SqlJobQueue(self.database)
        self.store = LocalStore(
            self.store_path,
            installation=self.database.installation(),
            expects_results=SqlRetention(self.database).has_results,
        )

    def now(self) -> datetime:
        """The host's time, as far as the test has not moved it."""
        return datetime.now(UTC) + self.shift

    @property
    def polled(self) -> PolledBuilds:
        """What is kept."""
        polled: PolledBuilds = self.app._answers.polled  # type: ignore[attr-defined]
        return polled

    def submit(self, name: str) -> str:
        """A job that waits; its hash."""
        return self.queue.submit(a_submission(packages=(name,))).job.request_hash

    def end(self, name: str, outcome: Outcome, *, ttl: timedelta = _DAY) -> str:
        """A job that has ended so; its hash."""
        request_hash = self.submit(name)
        claimed = self.queue.claim("elsewhere/1", lease_for=_DAY)
        assert claimed is not None
        with self.store.scratch() as scratch:
            (scratch / "image.bin").write_bytes(b"image")
            self.store.publish(request_hash, scratch)
        self.queue.finish(claimed[1], outcome, Retention(ttl))
        return request_hash

    def poll(self, request_hash: str) -> Answer:
        """What a client is told."""
        return self.client.get(f"/api/v1/build/{request_hash}")

    def accessed(self) -> set[str]:
        """What was noted as accessed since the last time."""
        noted: set[str] = self.polled._touch.__self__  # type: ignore[attr-defined]
        accessed = set(noted)
        noted.clear()
        return accessed

    def look_again(self) -> None:
        """The next round, which comes a second after the last."""
        self.client.run(self.polled.look_again())

    def run_sql(self, statement: str) -> None:
        """By another process, which knows nothing of us."""
        subprocess.run([sys.executable, "-c", _SQL, str(self.path), statement], check=True, timeout=60)


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    made = House(tmp_path)
    with made.client:
        yield made
    made.database.close()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE build_jobs SET expires_at = 1 WHERE request_hash = '{}'",
        "DELETE FROM build_jobs WHERE request_hash = '{}'",
    ],
)
def test_what_another_process_purges_by_plain_sql_is_gone_a_round_later(house: House, statement: str) -> None:
    names = [house.end(name, a_result()) for name in ("a", "b", "c")]
    for _ in range(3):
        assert [house.poll(name).status for name in names] == [200, 200, 200]
        house.look_again()
    house.run_sql(statement.format(names[1]))
    house.look_again()
    assert [house.poll(name).status for name in names] == [200, 404, 200]


def test_a_purge_by_the_command_is_seen_at_once(house: House) -> None:
    name = house.end("a", a_result())
    assert house.poll(name).status == 200
    command = [sys.executable, "-m", "asu_builder", "jobs", "purge", name]
    environment = {"ASU_DATABASE_PATH": str(house.path), "ASU_PUBLIC_PATH": str(house.store_path.parent)}
    subprocess.run(command, check=True, timeout=120, env=environment, capture_output=True)
    assert house.poll(name).status == 404


def test_a_build_that_another_process_builds_is_followed_by_rounds(house: House) -> None:
    name = house.submit("a")
    assert house.poll(name).json["queue_position"] == 0
    claimed = house.queue.claim("elsewhere/1", lease_for=_DAY)
    assert claimed is not None
    house.look_again()
    assert house.poll(name).json["imagebuilder_status"] == "init"
    house.queue.finish(claimed[1], a_failure(FailureReason.WORLD_UNAVAILABLE), Retention(_DAY))
    house.look_again()
    assert house.poll(name).status == 500
    house.queue.cancel(house.queue.find_id(name) or 0, failure_ttl=_DAY)
    house.run_sql("UPDATE build_jobs SET expires_at = 1")
    again = house.submit("a")
    house.look_again()
    assert (again, house.poll(name).status) == (name, 202)


def test_positions_and_the_length_of_the_queue_follow_what_another_process_does(house: House) -> None:
    names = [house.submit(name) for name in ("a", "b", "c")]
    assert [house.poll(name).json["queue_position"] for name in names] == [0, 1, 2]
    assert house.client.get("/api/v1/stats").json == {"queue_length": 3}
    house.queue.cancel(house.queue.find_id(names[0]) or 0, failure_ttl=_DAY)
    house.look_again()
    assert [house.poll(name).json["queue_position"] for name in names[1:]] == [0, 1]
    assert house.poll(names[2]).header("x-queue-position") == "1"
    assert house.client.get("/api/v1/stats").json == {"queue_length": 2}


def test_a_result_is_not_told_after_it_has_expired_though_nothing_was_written(house: House) -> None:
    name = house.end("a", a_result(), ttl=timedelta(minutes=30))
    assert house.poll(name).status == 200
    house.look_again()
    house.polled._clock = lambda: 1e12  # its time is over by every clock
    house.shift = timedelta(minutes=31)
    house.look_again()
    assert house.poll(name).status == 404


def test_a_result_whose_files_were_removed_by_hand_is_missed_within_ten_rounds(house: House) -> None:
    name = house.end("a", a_result())
    assert house.poll(name).status == 200
    shutil.rmtree(house.store_path / name)
    for _ in range(10):
        house.look_again()
    assert house.poll(name).status == 404


def test_no_result_is_told_while_the_store_is_not_mounted_and_all_are_when_it_is_back(house: House) -> None:
    names = [house.end(name, a_result()) for name in ("a", "b")]
    failed = house.end("c", a_failure())
    polled = [*names, failed]
    assert [house.poll(name).status for name in polled] == [200, 200, 500]
    away = house.store_path.rename(house.store_path.with_name("away"))
    house.store_path.mkdir()
    for _ in range(10):
        house.look_again()
    assert [house.poll(name).status for name in polled] == [503, 503, 500]
    house.store_path.rmdir()
    away.rename(house.store_path)
    assert [house.poll(name).status for name in polled] == [200, 200, 500]


def test_polls_from_memory_keep_a_job_from_expiring(house: House) -> None:
    polled, left = house.submit("a"), house.submit("b")
    for _ in range(4):
        house.shift += timedelta(minutes=4)
        assert house.poll(polled).status == 202
        house.queue.touch(house.accessed())
        house.queue.expire_abandoned(
            IdlePolicy(timedelta(minutes=5), timedelta(minutes=10)), failure_ttl=_DAY
        )
        house.look_again()
    assert json.loads(house.poll(polled).body)["detail"] == "queued"
    assert house.queue.find(left).state == "failed"  # type: ignore[union-attr]
