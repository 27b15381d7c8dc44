"""The file of secrets keys, and how another key comes into use while everything goes on."""

import base64
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from asu_builder.database import rotation
from asu_builder.database.connection import Database
from asu_builder.database.operator import SqlOperations
from asu_builder.database.queue import SqlJobQueue
from asu_builder.database.secrets import Secrets, SecretsKey, make_key, read_keys, write_keys
from asu_builder.domain.errors import Conflict
from asu_builder.domain.job import JobState
from asu_builder.files import BadFile
from factories import a_submission

HOUR = timedelta(hours=1)
LINE = base64.b64encode(bytes(range(32))).decode()


def a_file(folder: Path, *lines: str, mode: int = 0o600) -> Path:
    path = folder / "secrets.key"
    path.write_text("\n".join(lines))
    path.chmod(mode)
    return path


def test_a_file_is_written_for_its_owner_alone_and_read_again(tmp_path: Path) -> None:
    path, keys = tmp_path / "secrets.key", [make_key(2), make_key()]
    write_keys(path, keys, new=True)
    assert path.stat().st_mode & 0o777 == 0o600
    assert [(key.number, key.raw) for key in read_keys(path)] == [(key.number, key.raw) for key in keys]
    with pytest.raises(FileExistsError):
        write_keys(path, [make_key()], new=True)
    assert [entry.name for entry in tmp_path.iterdir()] == ["secrets.key"]
    link = tmp_path / "link"
    link.symlink_to(path)
    write_keys(link, keys[:1])
    assert link.is_symlink() and [key.number for key in read_keys(path)] == [2]


def test_a_key_is_told_by_its_name_only() -> None:
    key = SecretsKey(1, bytes(range(32)))
    assert repr(key) == f"<secrets key {key.name}>" and len(key.name) == 16
    assert key.raw.hex() not in key.name and SecretsKey(9, key.raw).name == key.name


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ((), "there is no key in it"),
        (("# only a comment", ""), "there is no key in it"),
        ((LINE,), "it is no file of secrets keys"),
        ((f"1 {LINE[:-4]}",), "it is no file of secrets keys"),
        ((f"one {LINE}",), "it is no file of secrets keys"),
        ((f"1 {LINE}", f"1 {LINE}"), "it is no file of secrets keys"),
        ((f"1 {LINE} x",), "it is no file of secrets keys"),
        (("\0\x80" * 40,), "it is no file of secrets keys"),
        (tuple(f"{number} {LINE}" for number in range(17)), "it is no file of secrets keys"),
    ],
)
def test_a_file_that_is_none_is_refused(tmp_path: Path, lines: tuple[str, ...], why: str) -> None:
    with pytest.raises(BadFile, match=why) as refused:
        read_keys(a_file(tmp_path, *lines))
    assert LINE not in str(refused.value)


def test_a_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match=r"others may read it \(mode 0640\): chmod 600"):
        read_keys(a_file(tmp_path, f"1 {LINE}", mode=0o640))
    with pytest.raises(BadFile, match="it is no plain file"):
        read_keys(Path("/dev/zero"))
    with pytest.raises(BadFile, match="it cannot be read: No such file"):
        read_keys(tmp_path / "absent")


class Rotation:
    """A service on a database, and its file of keys."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "secrets.key"
        write_keys(self.path, [make_key()], new=True)
        self.database = Database(folder / "a.db")
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
def rig(tmp_path: Path) -> Iterator[Rotation]:
    made = Rotation(tmp_path)
    yield made
    made.database.close()


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
    for spoil in (rig.path.unlink, lambda: a_file(rig.path.parent, "nothing")):
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


_LOADED = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from asu_builder.database.connection import Database
from asu_builder.database.queue import SqlJobQueue
from asu_builder.database.secrets import Secrets
from factories import a_submission
from datetime import timedelta
folder = Path(sys.argv[1])
secrets = Secrets(folder / "secrets.key")
database = Database(folder / "a.db")
queue = SqlJobQueue(database, secrets)
assert not secrets.missing(database)
asked = a_submission()
queue.submit(asked)
queue.find(asked.request_hash)
queue.claim("w/1", lease_for=timedelta(minutes=1))
assert "cryptography" not in sys.modules
queue.submit(a_submission(defaults="x"))
assert "cryptography" in sys.modules
"""


@pytest.mark.process
def test_the_library_is_loaded_by_the_first_request_with_a_secret(tmp_path: Path) -> None:
    write_keys(tmp_path / "secrets.key", [make_key()], new=True)
    tests = Path(__file__).parents[2]
    command = [sys.executable, "-c", _LOADED, str(tmp_path), str(tests)]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": str(tests)})
