"""What is secret in requests is found nowhere in the database, and whole where it is needed."""

import base64
import contextlib
import json
import os
import sqlite3
import subprocess
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from asu_builder.database import secrets as module
from asu_builder.database.backup import backup
from asu_builder.database.connection import Database
from asu_builder.database.dialect import SqlDatabase
from asu_builder.database.operator import SqlOperations
from asu_builder.database.queue import SqlJobQueue
from asu_builder.database.retention import SqlRetention
from asu_builder.database.secrets import Secrets, make_key, read_keys, write_keys
from asu_builder.domain.errors import RequestRejected, SecretsUnavailable
from asu_builder.domain.job import Entry, IdlePolicy, Job, JobFilter, JobState, Lease, Retention, Submission
from database_clock import CLOCK, at_time
from factories import NOON, a_result, a_submission
from postgresql import opened, shared_server

MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)
SCRIPT = "uci set wireless.default_radio0.key='correct horse'"


class Sealed:
    """A queue with a secrets key, and everything that its database has on the disk."""

    def __init__(self, folder: Path, place: str, data_keys: Sequence[bytes]) -> None:
        self._folder = folder
        self._place = place
        # Known to this test alone: it may share a server with others.
        self.password, self.key = os.urandom(12).hex(), f"untrusted comment: {os.urandom(12).hex()}\nRWQ"
        self.key_file = folder / "elsewhere" / "secrets.key"
        self.key_file.parent.mkdir(parents=True)
        write_keys(self.key_file, [make_key()], new=True)
        self._data_keys = data_keys
        self.open()

    def open(self) -> None:
        self.database = opened(self._place)
        self.secrets = Secrets(self.key_file)
        self.queue = SqlJobQueue(self.database, self.secrets)
        self.operations = SqlOperations(self.database)
        self.retention = SqlRetention(self.database)

    def require_clean(self) -> None:
        """Neither a secret nor a key is in plain bytes in a file of the database or in a backup of it."""
        assert self._data_keys, "what is searched for is known"
        wanted = [self.password.encode(), self.key.encode().split()[2]]
        for raw in (*self._data_keys, *(key.raw for key in read_keys(self.key_file))):
            wanted += [raw, raw.hex().encode(), base64.b64encode(raw)]
        found = False
        for path in self._files():
            with contextlib.suppress(FileNotFoundError):  # another test's
                content = path.read_bytes()
                assert [text for text in wanted if text in content] == [], path
                found |= self.request_hash.encode() in content
        assert found, "what is stored is found"

    def _files(self) -> Iterator[Path]:
        copy = self._folder / "copy"
        if not self._place.startswith("postgresql:"):
            database = Path(self._place)
            backup(database, copy, force=True)
            return iter((database, database.with_name(f"{database.name}-wal"), copy))
        server = shared_server()
        schema = self._place.rpartition("%3D")[2]
        with psycopg.connect(server.url(), autocommit=True) as connection:
            connection.execute("CHECKPOINT")
        dump = ["--schema", schema, "--file", str(copy), server.url()]
        subprocess.run([server.programs / "pg_dump", *dump], check=True)
        assert "build_secrets" in copy.read_text()
        written = [path for path in (server.folder / "data").rglob("*") if path.is_file()]
        assert any(path.parent.name == "pg_wal" for path in written)
        return iter((*written, copy))

    def submit(self, name: str = "vim") -> tuple[Submission, Job]:
        secret: dict[str, Any] = {"defaults": f"# {self.password}", "repository_keys": (self.key,)}
        submission = a_submission(packages=(name,), **secret)
        self.request_hash = submission.request_hash
        return submission, self.queue.submit(submission).job

    def claim(self) -> tuple[Job, Lease]:
        claimed = self.queue.claim("w/1", lease_for=MINUTE)
        assert claimed is not None
        return claimed

    def swap(self, statement: str, *values: object) -> None:
        with self.database.writing() as connection:
            connection.execute(statement, values)


@pytest.fixture
def sealed(tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sealed]:
    made: list[bytes] = []

    class Noted:
        """The system's randomness; data keys are its only 32 bytes."""

        def __getattr__(self, name: str) -> object:
            return getattr(os, name)

        def urandom(self, count: int) -> bytes:
            value = os.urandom(count)
            if count == 32:
                made.append(value)
            return value

    monkeypatch.setattr(module, "os", Noted())
    at_time(None, NOON)
    rig = Sealed(tmp_path, place, made)
    yield rig
    rig.database.close()


def test_in_no_state_of_a_job_its_secrets_are_on_the_disk(sealed: Sealed) -> None:
    submission, entered = sealed.submit()
    assert entered.request == submission.request
    sealed.require_clean()
    assert sealed.submit()[1].request == submission.request, "joined"
    found = sealed.queue.find(submission.request_hash)
    assert found is not None and found.request == submission.request and found.withheld is None
    job, lease = sealed.claim()
    assert job.request == job.whole_request == submission.request
    sealed.require_clean()
    sealed.queue.finish(lease, a_result(), Retention(DAY))
    sealed.require_clean()
    again = sealed.operations.requeue(submission.request_hash)
    assert again is not None
    job, lease = sealed.claim()
    assert job.request == submission.request, "requeued"
    sealed.queue.finish(lease, a_result(), Retention(DAY))
    sealed.database.close()
    sealed.open()
    found = sealed.queue.find(submission.request_hash)
    assert found is not None and found.request == submission.request, "after a restart"
    doomed = sealed.retention.doomed(submission.request_hash, unexpired=True)
    assert sealed.retention.delete(doomed)
    sealed.require_clean()
    with sealed.database.reading() as connection:
        assert connection.execute("SELECT count(*) FROM build_secrets").fetchone()[0] == 0
        (text,) = connection.execute("SELECT request FROM build_requests").fetchone()
    assert json.loads(text)["defaults"].startswith("sha256:")
    assert sealed.operations.requeue(submission.request_hash) is None, "only digests are left"
    assert sealed.submit()[1].request == submission.request
    assert sealed.claim()[0].request == submission.request, "asked once more"


def test_of_a_deleted_request_no_data_key_stays(sealed: Sealed) -> None:
    _, job = sealed.submit()
    sealed.queue.cancel(job.id, failure_ttl=DAY)
    with sealed.database.writing() as connection:
        connection.execute("DELETE FROM build_jobs")
    assert sealed.retention.forget_requests(older_than=timedelta(0), most_bytes=0) == 1
    with sealed.database.reading() as connection:
        assert connection.execute("SELECT count(*) FROM build_secrets").fetchone()[0] == 0


def test_what_needs_no_secrets_decrypts_none(sealed: Sealed, monkeypatch: pytest.MonkeyPatch) -> None:
    sealed.submit()
    sealed.submit("nano")
    plain = a_submission(packages=("htop",))
    sealed.queue.submit(plain)

    def refuse(*_: object) -> None:
        raise AssertionError("decrypted")

    monkeypatch.setattr(Secrets, "unseal", refuse)
    jobs = sealed.operations.jobs(JobFilter())
    assert [bool(job.request.defaults) for job in jobs] == [False, True, True]
    assert all(sealed.password not in job.request.defaults for job in jobs)
    found = sealed.queue.find(plain.request_hash)
    assert found is not None and found.request == plain.request
    policy = IdlePolicy(MINUTE, 2 * MINUTE)
    assert len(at_time(sealed.queue, NOON + DAY).expire_abandoned(policy, failure_ttl=DAY)) == 3


def test_a_request_without_secrets_is_stored_as_ever(sealed: Sealed) -> None:
    plain = a_submission(packages=("htop",))
    sealed.queue.submit(plain)
    with sealed.database.reading() as connection:
        assert connection.execute("SELECT sealed FROM build_requests").fetchone()[0] == 0
        assert connection.execute("SELECT count(*) FROM build_secrets").fetchone()[0] == 0


_DAMAGES = {
    "another key": "UPDATE build_secrets SET secrets_key = '0123456789abcdef' WHERE request_hash = ?",
    "forgotten": "DELETE FROM build_secrets WHERE request_hash = ?",
    "damaged data key": "UPDATE build_secrets SET wrapped = substr(wrapped, 13) WHERE request_hash = ?",
    "short data key": "UPDATE build_secrets SET wrapped = substr(wrapped, 60) WHERE request_hash = ?",
    "damaged secret": "UPDATE build_secrets SET sealed = substr(sealed, 2) WHERE request_hash = ?",
    "another one's": "UPDATE build_secrets SET wrapped = other.wrapped, sealed = other.sealed"
    " FROM build_secrets AS other WHERE other.request_hash <> build_secrets.request_hash"
    " AND build_secrets.request_hash = ?",
}


@pytest.mark.parametrize("damage", _DAMAGES)
def test_a_request_that_cannot_be_decrypted_says_so_and_others_are_untouched(
    sealed: Sealed, damage: str
) -> None:
    broken, _ = sealed.submit()
    sound, _ = sealed.submit("nano")
    sealed.swap(_DAMAGES[damage], broken.request_hash)
    found = sealed.queue.find(broken.request_hash)
    assert found is not None and found.withheld is not None and sealed.password not in str(found)
    job, lease = sealed.claim()
    assert job.id == found.id
    with pytest.raises(SecretsUnavailable, match=r"no longer there|not in the file|damaged"):
        _ = job.whole_request
    other = sealed.queue.find(sound.request_hash)
    assert other is not None and other.whole_request == sound.request
    entries = sealed.queue.submit_all([sound, broken])
    assert [entry.job.whole_request for entry in entries if isinstance(entry, Entry)] == [
        sound.request,
        broken.request,
    ]
    found = sealed.queue.find(broken.request_hash)
    assert found is not None and found.whole_request == broken.request, "who asks again heals it"
    assert found.state is JobState.BUILDING
    sealed.queue.release(lease)
    assert sealed.claim()[0].whole_request == broken.request


@pytest.mark.parametrize(
    ("secret", "field", "what"),
    [
        ({"defaults": SCRIPT}, "defaults", "first-boot scripts"),
        ({"repository_keys": (SCRIPT,)}, "repository_keys", "keys"),
    ],
)
def test_without_a_key_a_database_that_keeps_what_is_deleted_takes_no_secret(
    database: SqlDatabase, secret: dict[str, Any], field: str, what: str
) -> None:
    queue, plain = SqlJobQueue(database), a_submission(packages=("htop",))
    asked = a_submission(**secret)
    refused, taken = queue.submit_all([asked, plain])
    assert isinstance(taken, Entry) and taken.created
    if database.overwrites_deleted:
        assert isinstance(refused, Entry) and refused.job.request == asked.request
        return
    assert isinstance(refused, RequestRejected) and refused.field == field
    assert str(refused).startswith(f"{field}: this server stores no {what}, because it has no key")
    assert queue.find(asked.request_hash) is None


def test_without_a_key_requests_are_stored_as_they_are_and_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with contextlib.closing(Database(tmp_path / "a.db", clock=CLOCK)) as database:
        queue, retention = SqlJobQueue(database), SqlRetention(database)
        submission = a_submission(defaults=SCRIPT)
        queue.submit(submission)
        assert "correct horse" in _text(tmp_path / "a.db")
        queue.cancel(1, failure_ttl=DAY)
        retention.delete(retention.doomed(submission.request_hash, unexpired=True))
        files = [path.read_bytes() for path in tmp_path.iterdir()]
    assert not any(b"correct horse" in content for content in files)


def _text(path: Path) -> str:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return str(connection.execute("SELECT request FROM build_requests").fetchall())
