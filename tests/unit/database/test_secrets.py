"""The file of secrets keys, and when the library is loaded that uses them."""

import base64
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from asu_builder.database.secrets import SecretsKey, make_key, read_keys, write_keys
from asu_builder.files import BadFile

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
