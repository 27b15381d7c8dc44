"""Answers that one node has rendered and another tells: two processes on one PostgreSQL, with one Redis."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import redis

from asgi_client import Answer, AsgiClient
from asu_builder.app import assemble
from asu_builder.app.adapters import Role
from asu_builder.database.operator import SqlOperations
from asu_builder.database.postgresql import ServerDatabase
from asu_builder.database.queue import SqlJobQueue
from asu_builder.database.retention import SqlRetention
from asu_builder.database.secrets import Secrets, make_key, write_keys
from asu_builder.domain.job import Outcome, Retention
from asu_builder.settings import Settings
from asu_builder.store.local import LocalStore
from factories import a_failure, a_result, a_submission, eventually
from postgresql import empty_place
from redis_server import shared_redis

_DAY = timedelta(days=1)


class Nodes:
    """Two that answer, and the hand of a third in their database and store."""

    def __init__(self, root: Path, place: str, stack: ExitStack) -> None:
        self.store_path = root / "public" / "store"
        key = root / "secrets.key"
        write_keys(key, [make_key()], new=True)
        settings = [self._settings(root, place, key, name) for name in ("first", "second")]
        apps = [assemble(each, role=Role.API).app for each in settings]
        self.clients: Sequence[AsgiClient] = [stack.enter_context(AsgiClient(app)) for app in apps]
        self.database = stack.enter_context(closing(ServerDatabase(place)))
        self.queue = SqlJobQueue(self.database, Secrets(key))
        self.store = LocalStore(
            self.store_path,
            installation=self.database.installation(),
            expects_results=SqlRetention(self.database).has_results,
        )
        assert eventually(lambda: all(self._has_redis(client) for client in self.clients))

    @staticmethod
    def _settings(root: Path, place: str, key: Path, name: str) -> Settings:
        return Settings(
            database_url=place,
            database_path=root / name / "a.db",
            public_path=root / "public",
            upstream_url="http://127.0.0.1:9",
            worker_id=name,
            redis_url=shared_redis().url,
            secrets_key=str(key),
        )

    @staticmethod
    def _has_redis(client: AsgiClient) -> bool:
        return bool(client.get("/health").json["parts"]["redis"]["status"] == "ok")

    def end(self, name: str, outcome: Outcome, **changes: Any) -> str:
        """A job that has ended so; its hash."""
        request_hash = self.queue.submit(a_submission(packages=(name,), **changes)).job.request_hash
        claimed = self.queue.claim("elsewhere/1", lease_for=_DAY)
        assert claimed is not None
        if not self.store.holds(request_hash):
            with self.store.scratch() as scratch:
                (scratch / "image.bin").write_bytes(b"image")
                self.store.publish(request_hash, scratch)
        self.queue.finish(claimed[1], outcome, Retention(_DAY))
        return request_hash

    def poll(self, number: int, request_hash: str) -> Answer:
        """What a client is told by the first node (0) or the second (1)."""
        return self.clients[number].get(f"/api/v1/build/{request_hash}")

    def hits(self, number: int) -> float:
        """How many answers of others a node has told."""
        wanted = 'asu_builder_shared_reads_total{of="answer",outcome="hit"} '
        lines = self.clients[number].get("/metrics").body.decode().splitlines()
        return next(float(line.removeprefix(wanted)) for line in lines if line.startswith(wanted))


@pytest.fixture
def nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Nodes]:
    monkeypatch.setattr("asu_builder.shared.redis.DEADLINE_SECONDS", 10.0)  # it is not what these are about
    with ExitStack() as stack:
        yield Nodes(tmp_path, empty_place(), stack)


def in_redis(name: str) -> Sequence[bytes]:
    """All that Redis holds about this hash."""
    with redis.Redis.from_url(shared_redis().url) as client:
        return [client.get(key) for key in client.scan_iter(f"*:answer:{name}")]


def test_what_one_node_has_rendered_another_answers_word_for_word(nodes: Nodes) -> None:
    of_this_look = ("x-request-id", "server-timing")
    ends: Sequence[tuple[Outcome, int]] = ((a_result(), 200), (a_failure(), 500))
    for number, (outcome, status) in enumerate(ends):
        name = nodes.end(str(number), outcome)
        told, again = nodes.poll(0, name), nodes.poll(1, name)
        assert told.status == again.status == status and told.body == again.body
        headers = [[it for it in answer.headers if it[0] not in of_this_look] for answer in (told, again)]
        assert headers[0] == headers[1]
        assert (nodes.hits(0), nodes.hits(1)) == (0, number + 1)
        assert nodes.poll(1, name).body == told.body
        assert nodes.hits(1) == number + 1, "from its own memory now"


def test_a_script_never_reaches_redis(nodes: Nodes) -> None:
    name = nodes.end("a", a_result(), defaults="echo secret")
    assert [nodes.poll(it, name).json["request"]["defaults"] for it in (0, 1)] == ["echo secret"] * 2
    assert not in_redis(name) and nodes.hits(1) == 0


def test_a_copy_of_a_job_that_answers_no_more_is_not_told_and_is_deleted(nodes: Nodes) -> None:
    name = nodes.end("a", a_result())
    assert nodes.poll(0, name).status == 200 and in_redis(name)
    SqlOperations(nodes.database).purge(name)
    assert nodes.poll(1, name).status == 404
    assert eventually(lambda: not in_redis(name)), "the database has told the nodes of the purge"
    assert nodes.end("a", a_failure()) == name
    assert nodes.poll(1, name).status == 500, "another job by now"


def test_a_copy_of_a_result_whose_files_are_gone_is_not_told(nodes: Nodes) -> None:
    name = nodes.end("a", a_result())
    assert nodes.poll(0, name).status == 200
    shutil.rmtree(nodes.store_path / name)
    assert nodes.poll(1, name).status == 404
