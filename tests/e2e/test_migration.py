"""Beside the predecessor: what it has published is served and never touched."""

import sqlite3
from contextlib import closing

from e2e.clients.scene import a_body
from e2e.conftest import Make
from factories import eventually

OLD = "0123456789abcdef" * 4


def test_directories_of_another_server_are_served_and_outlive_housekeeping(make_local: Make) -> None:
    service = make_local()
    (service.store / OLD).mkdir(parents=True)
    (service.store / OLD / "old.bin").write_bytes(b"an image of the predecessor")
    with service.start().client() as client:
        ours = client.build(a_body()).json["request_hash"]
    assert service.published() == sorted([OLD, ours])
    service.stop()
    with closing(sqlite3.connect(service.database, isolation_level=None)) as connection:
        connection.execute("UPDATE build_jobs SET expires_at = 1")

    with service.start().client() as client:
        assert eventually(lambda: service.published() == [OLD]), "housekeeping has come by"
        answer = client.get(f"/store/{OLD}/old.bin")
    assert (answer.status, answer.body) == (200, b"an image of the predecessor")
