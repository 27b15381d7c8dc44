"""Answers from memory while the PostgreSQL server stands still, and after it."""

import asyncio
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

from asgi_client import AsgiClient
from asu_builder.app import assemble
from asu_builder.app.adapters import Role
from asu_builder.database import postgresql
from asu_builder.database.operator import SqlOperations
from asu_builder.database.postgresql import ServerDatabase
from asu_builder.database.queue import SqlJobQueue
from asu_builder.database.retention import SqlRetention
from asu_builder.domain.errors import Unavailable
from asu_builder.domain.job import Retention
from asu_builder.http import answers
from asu_builder.http.api import builds
from asu_builder.settings import Settings
from asu_builder.store.local import LocalStore
from factories import a_result, a_submission, eventually
from postgresql import PostgresServer
from tools import require_tool

_DAY = timedelta(days=1)


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    """A server of its own: those who share one would stand still, too."""
    require_tool("postgresql", "setpriv")
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    server = PostgresServer(folder / "p")
    server.make()
    server.start()
    yield server
    server.stop()


def test_results_are_told_while_the_server_stands_still_and_what_was_purged_then_is_seen(
    server: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "ROUND_SECONDS", 0.1)
    monkeypatch.setattr(answers, "_LONGEST_ROUND", 0.5)
    monkeypatch.setattr(builds, "_POLL_SECONDS", 0.5)
    settings = Settings(
        database_url=server.url(),
        database_path=tmp_path / "data" / "a.db",
        public_path=tmp_path / "public",
        upstream_url="http://127.0.0.1:9",
    )
    app = assemble(settings, role=Role.API).app
    with AsgiClient(app) as client, closing(ServerDatabase(server.url())) as other:

        def poll(name: str) -> int:
            client.run(asyncio.sleep(0.02))  # for the rounds
            return client.get(f"/api/v1/build/{name}").status

        queue, operations = SqlJobQueue(other), SqlOperations(other)
        store = LocalStore(
            tmp_path / "public" / "store",
            installation=other.installation(),
            expects_results=SqlRetention(other).has_results,
        )
        names = []
        for package in ("a", "b"):
            names.append(queue.submit(a_submission(packages=(package,))).job.request_hash)
            claimed = queue.claim("elsewhere/1", lease_for=_DAY)
            assert claimed is not None
            with store.scratch() as scratch:
                (scratch / "image.bin").write_bytes(b"image")
                store.publish(names[-1], scratch)
            queue.finish(claimed[1], a_result(), Retention(_DAY))
        lives = queue.submit(a_submission(packages=("c",))).job.request_hash
        assert [poll(name) for name in (*names, lives)] == [200, 200, 202]
        polled = app._answers.polled  # type: ignore[attr-defined]
        assert eventually(lambda: poll(names[0]) == 200 and polled._generation() is not None)
        with server.frozen():
            # Live ones as they were, until a round has found that nothing can be asked.
            assert eventually(lambda: [poll(name) for name in (*names, lives)] == [200, 200, 503])
            until = time.monotonic() + 2
            while time.monotonic() < until:  # several rounds fail meanwhile
                assert [poll(name) for name in names] == [200, 200]
        operations.purge(names[0])
        assert eventually(lambda: [poll(name) for name in (*names, lives)] == [404, 200, 202])
        # What is done after it comes back, and before it is listened to again, is not told.
        server.stop()
        assert eventually(lambda: [poll(name) for name in (names[1], lives)] == [200, 503])
        server.start()
        assert eventually(lambda: operations.purge(names[1]) == 1)
        assert eventually(lambda: [poll(name) for name in (names[1], lives)] == [404, 202])


def test_what_a_server_that_stands_still_is_asked_comes_to_an_end(
    server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(ServerDatabase(server.url())) as database:

        def read() -> None:
            with database.reading() as session:
                session.execute("SELECT 1")

        def write() -> None:
            with database.writing(own_rows=True) as session:
                session.execute("UPDATE installation SET id = id")

        def note_late() -> None:
            with database.writing(own_rows=True) as session:
                with server.frozen():
                    session.execute("UPDATE installation SET id = id")

        calls = (read, write, lambda: database.repeated(lambda session, at: at))
        for call in calls:
            call()
        monkeypatch.setattr(postgresql, "SILENT_SECONDS", 0.5)
        began = time.monotonic()
        with server.frozen():
            for call in calls:
                with pytest.raises(Unavailable, match=r"does not answer|no connection came"):
                    call()
        took = time.monotonic() - began
        # One silence each, or the wait for a connection: none was tried on every connection, or for ever.
        assert took < 60
        assert eventually(lambda: database.check().status == "ok")
        with pytest.raises(Unavailable, match="does not answer"):
            note_late()
        assert eventually(lambda: database.check().status == "ok")
