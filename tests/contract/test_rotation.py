"""Another secrets key comes into use while everything goes on, on either database."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from asu_builder.database import rotation
from asu_builder.database.dialect import SqlDatabase
from asu_builder.database.operator import SqlOperations
from asu_builder.database.queue import SqlJobQueue
from asu_builder.database.secrets import Secrets, make_key, read_keys, write_keys
from asu_builder.domain.errors import Conflict
from asu_builder.domain.job import JobState
from factories import a_submission
from postgresql import on_sqlite

HOUR = timedelta(hours=1)


class Rotation:
    """A service on a database, and its file of keys."""

    def __init__(self, folder: Path, database: SqlDatabase) -> None:
        self.path = folder / "secrets.key"
        write_keys(self.path, [make_key()], new=True)
        self.database = database
        self.secrets = Secrets(self.path)
        self.queue = SqlJobQueue(self.database, self.secrets)

    def submit(self, *names: str, queue: SqlJobQueue | None = None) -> None:
        for name in names:
            (queue or self.queue).submit(a_submission(packages=(name,), defaults=f"echo {name}"))

    def require(self, *names: str, queue: SqlJobQueue | None = None) -> None:
        """The whole requests are read."""
        for name in names:
            asked = a_submission(packages=(name,), defaults=f"echo {name}")
            found = (queue or self.queue).find(asked.request_hash)
            assert found is not None and found.whole_request == asked.request

    def used(self) -> set[str]:
        with self.database.reading() as connection:
            return {row[0] for row in connection.execute("SELECT secrets_key FROM build_secrets")}


@pytest.fixture
def rig(tmp_path: Path, database: SqlDatabase) -> Rotation:
    return Rotation(tmp_path, database)


def test_a_service_that_runs_reads_both_keys_and_writes_with_the_new_one_from_its_step_on(
    rig: Rotation,
) -> None:
    rig.submit("a", "b")
    (former,) = read_keys(rig.path)
    newer = rotation.prepare(rig.path)
    assert rotation.prepare(rig.path).raw == newer.raw, "one that was cut off goes on"
    rig.submit("c")
    assert rig.used() == {former.name}, "prepared, and not in use"
    done = rotation.rewrap(rig.path, rig.database, Secrets(rig.path))
    assert (done.rewrapped, done.sealed, done.unreadable) == (3, 0, [])
    rig.submit("d")
    assert rig.used() == {newer.name}
    rig.require("a", "b", "c", "d")
    assert [key.name for key in rotation.finish(rig.path, rig.database)] == [former.name]
    assert [key.name for key in read_keys(rig.path)] == [newer.name]
    rig.require("a", "b", "c", "d")
    assert rig.secrets.check(rig.database).status == "ok"


def test_a_rotation_that_was_cut_off_anywhere_goes_on(rig: Rotation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rotation, "_AT_ONCE", 2)
    names = "abcdefg"
    rig.submit(*names)
    (former,) = read_keys(rig.path)
    newer = rotation.prepare(rig.path)
    pages, whole = 0, rotation._pages

    def some(*given: object) -> Iterator[object]:
        nonlocal pages
        for page in whole(*given):  # type: ignore[arg-type]
            if pages == 2:
                raise KeyboardInterrupt
            pages += 1
            yield page

    monkeypatch.setattr(rotation, "_pages", some)
    with pytest.raises(KeyboardInterrupt):
        rotation.rewrap(rig.path, rig.database, Secrets(rig.path))
    assert rig.used() == {former.name, newer.name}
    rig.require(*names)
    with pytest.raises(Conflict, match=f"{former.name} is still needed"):
        rotation.finish(rig.path, rig.database)
    monkeypatch.undo()
    assert rotation.prepare(rig.path).name == newer.name
    assert rotation.rewrap(rig.path, rig.database, Secrets(rig.path)).rewrapped == 3
    assert rig.used() == {newer.name}
    rotation.finish(rig.path, rig.database)
    rig.require(*names)


@on_sqlite
def test_what_lay_there_before_there_was_a_key_is_encrypted(rig: Rotation, tmp_path: Path) -> None:
    before = SqlJobQueue(rig.database)
    rig.submit("a", "b", queue=before)
    rig.queue.submit(a_submission(packages=("plain",)))
    done = rotation.rewrap(rig.path, rig.database, rig.secrets)
    assert (done.rewrapped, done.sealed) == (0, 2)
    rig.require("a", "b")
    assert not any(b"echo a" in path.read_bytes() for path in tmp_path.iterdir())


def test_one_rotation_runs_at_a_time(rig: Rotation) -> None:
    with rotation.rotating(rig.path):
        with pytest.raises(Conflict, match="Another rotation is running"), rotation.rotating(rig.path):
            pass
    with rotation.rotating(rig.path):
        pass


def test_what_no_key_opens_is_given_up_only_when_asked(rig: Rotation) -> None:
    rig.submit("lost", "built")
    lease = rig.queue.claim("w/1", lease_for=HOUR)
    write_keys(rig.path, [make_key()])
    rig.submit("kept")
    assert "2 requests are encrypted under the secrets key" in rig.secrets.missing(rig.database)
    assert rig.secrets.check(rig.database).status == "warning"
    done = rotation.rewrap(rig.path, rig.database, rig.secrets)
    assert len(done.unreadable) == 2
    rotation.discard(rig.database, done.unreadable, failure_ttl=HOUR)
    assert rig.secrets.missing(rig.database) == ""
    operations = SqlOperations(rig.database)
    for name in done.unreadable:
        assert rig.queue.find(name) is None and operations.requeue(name) is None
    assert lease is not None and not rig.queue.live_leases()
    rig.require("kept")
    rig.submit("lost")
    rig.require("lost")
    assert rig.queue.pending() == 2
    claimed = rig.queue.claim("w/1", lease_for=HOUR)
    assert claimed is not None and claimed[0].state is JobState.BUILDING


def test_a_file_that_goes_away_or_breaks_is_told_and_its_keys_go_on(rig: Rotation) -> None:
    rig.submit("a")
    content = rig.path.read_bytes()
    for spoil in (rig.path.unlink, lambda: rig.path.write_text("nothing")):
        spoil()
        result = rig.secrets.check(rig.database)
        assert result.status == "warning" and "would not start again" in result.sentence
        rig.require("a")
        rig.submit("b")
        rig.path.write_bytes(content)
        rig.path.chmod(0o600)
        assert rig.secrets.check(rig.database).status == "ok"
    rig.path.chmod(0o644)
    assert "others may read it" in rig.secrets.check(rig.database).sentence
