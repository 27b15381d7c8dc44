"""Keys made, certified, renewed and shown on the command line."""

import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from asu_builder.cli import main
from asu_builder.database.connection import Database
from asu_builder.database.secrets import read_keys
from asu_builder.signing import pem, ucert, usign


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the commands run, with no settings of anybody."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def ran(*arguments: str) -> tuple[int, str]:
    """Exit code, and what was printed."""
    ended = CliRunner().invoke(main, ["keys", *arguments])
    return ended.exit_code, ended.output


def made(name: str) -> str:
    """The name of a new key in a file."""
    code, printed = ran("new", name, "--comment", "for a test")
    assert code == 0, printed
    return printed.split()[1]


def chain_of(path: Path) -> tuple[ucert.Element, ...]:
    return ucert.parse_container(path.read_bytes())


@pytest.mark.process
def test_a_key_is_made_once_and_for_its_user_alone(folder: Path) -> None:
    key_id = made("signing.key")
    path = folder / "signing.key"
    assert path.stat().st_mode & 0o777 == 0o600
    assert usign.read_secret_key(path).public.key_id == key_id
    assert (folder / "signing.key.pub").read_text().startswith("untrusted comment: for a test\n")
    before = path.read_bytes()
    assert ran("new", "signing.key") == (
        2,
        "asu-builder: signing.key.pub is there already; nothing was made\n",
    )
    (folder / "signing.key.pub").unlink()
    assert ran("new", "signing.key") == (2, "asu-builder: signing.key is there already; nothing was made\n")
    assert path.read_bytes() == before and sorted(it.name for it in folder.iterdir()) == ["signing.key"]
    code, printed = ran("show", "signing.key")
    assert code == 0 and key_id in printed and before.decode().splitlines()[1] not in printed
    path.chmod(0o644)
    code, printed = ran("show", "signing.key")
    assert code == 2 and "chmod 600" in printed


@pytest.mark.process
def test_a_provenance_key_is_made_and_shown_by_either_half_and_by_the_setting(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, printed = ran("new", "--provenance", "--comment", "x", "p.key")
    assert code == 2 and "a key in PEM has no comment" in printed
    code, printed = ran("new", "--provenance", "p.key")
    assert code == 0 and f"provenance_key: file:{folder / 'p.key'}" in printed
    path, public = folder / "p.key", folder / "p.key.pub"
    assert path.stat().st_mode & 0o777 == 0o600
    key = pem.read_secret_key(path).public
    assert public.read_text() == key.text() and key.key_id in printed
    assert ran("new", "--provenance", "p.key")[0] == 2
    code, printed = ran("show", "--provenance")
    assert code == 2 and "provenance_key: no key is set" in printed
    monkeypatch.setenv("ASU_PROVENANCE_KEY", f"file:{path}")
    monkeypatch.setenv("ASU_PROVENANCE_BUILDER", "https://asu.example.org")
    for given in ("p.key", "p.key.pub", ""):
        code, printed = ran("show", "--provenance", *([given] if given else []))
        assert code == 0 and key.text() in printed and f"/keys/{key.key_id[:16]}.pem" in printed
        assert path.read_text().splitlines()[1] not in printed
    # One letter of the seed is another one.
    body = path.read_text()
    at = body.index("\n") + 40
    path.write_text(f"{body[:at]}{'A' if body[at] != 'A' else 'B'}{body[at + 1 :]}")
    for given in ("p.key", ""):
        code, printed = ran("show", "--provenance", *([given] if given else []))
        assert code == 2 and "it is damaged, or" in printed
    made("s.key")
    code, printed = ran("show", "--provenance", "s.key")
    assert code == 2 and "it is a key of usign for images" in printed
    code, printed = ran("show", "p.key.pub")
    assert code == 2 and "it is nothing that usign has written" in printed


@pytest.mark.process
def test_a_certificate_is_of_the_key_by_itself_or_by_another(folder: Path) -> None:
    key_id, root_id = made("signing.key"), made("root.key")
    assert ran("certify", "own.ucert", "--key", "signing.key")[0] == 0
    assert ran("certify", "chain.ucert", "--key", "signing.key", "--by", "root.key", "--days", "30")[0] == 0
    for name, signer, days in (("own", key_id, 365), ("chain", root_id, 30)):
        (element,) = chain_of(folder / f"{name}.ucert")
        assert (element.certified.key_id, element.signature.key_id) == (key_id, signer)
        assert element.expires_at - element.valid_from == days * 86400
        age = time.time() - element.valid_from
        assert abs(age) < 60
    code, printed = ran("certify", "own.ucert", "--key", "signing.key")
    assert code == 2 and "is there already" in printed
    code, printed = ran("certify", "other.ucert")
    assert code == 2 and "no key is set" in printed


@pytest.mark.process
def test_a_certificate_is_renewed_by_the_key_that_devices_know(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key_id = made("signing.key")
    made("root.key")
    path = folder / "chain.ucert"
    monkeypatch.setenv("ASU_SIGNING_KEY", f"file:{folder / 'signing.key'}")
    code, printed = ran("renew")
    assert code == 2 and "there is none to renew" in printed
    monkeypatch.setenv("ASU_SIGNING_CERTIFICATE", str(path))
    assert ran("certify", str(path), "--by", "root.key", "--days", "1")[0] == 0
    before = path.read_bytes()
    code, printed = ran("renew")
    assert code == 2 and f"{key_id} is another key" in printed and path.read_bytes() == before
    assert ran("renew", "--by", "root.key", "--days", "400")[0] == 0
    (element,) = chain_of(path)
    assert element.expires_at - time.time() > 399 * 86400
    code, printed = ran("show")
    assert code == 0 and f"Key {key_id}" in printed and "of 1024 bytes in an image" in printed


def test_a_wrong_clock_certifies_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made("signing.key")
    from datetime import UTC, datetime

    from asu_builder.cli import keys

    class Past(datetime):
        @classmethod
        def now(cls, tz: object = None) -> "Past":
            return cls(1970, 1, 2, tzinfo=UTC)

    monkeypatch.setattr(keys, "datetime", Past)
    code, printed = ran("certify", "own.ucert", "--key", "signing.key")
    assert (code, printed) == (2, "asu-builder: The clock of this machine is wrong: it says 1970-01-02.\n")
    assert not (folder / "own.ucert").exists()


def test_a_secrets_key_is_made_once_and_rotated_in_one_go_or_step_by_step(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ran("rotate-secrets")[1].startswith("asu-builder: secrets_key: no key is set")
    code, printed = ran("new-secrets", "secrets.key")
    assert code == 0 and f"secrets_key: {folder / 'secrets.key'}" in printed
    (first,) = read_keys(folder / "secrets.key")
    assert first.name in printed
    assert ran("new-secrets", "secrets.key")[1] == (
        "asu-builder: secrets.key is there already; nothing was made\n"
    )
    assert "cannot be written: No such file" in ran("new-secrets", "absent/secrets.key")[1]
    monkeypatch.setenv("ASU_SECRETS_KEY", str(folder / "secrets.key"))
    code, printed = ran("rotate-secrets")
    assert code == 4 and "There is no database" in printed
    monkeypatch.setenv("ASU_DATABASE_PATH", str(folder / "a.db"))
    Database(folder / "a.db").close()
    code, printed = ran("rotate-secrets", "--step", "prepare")
    assert code == 0 and len(read_keys(folder / "secrets.key")) == 2
    assert read_keys(folder / "secrets.key")[0].name == first.name, "the first one encrypts still"
    assert ran("rotate-secrets", "--step", "rewrap")[0] == 0
    newer, former = read_keys(folder / "secrets.key")
    assert former.name == first.name and newer.name != first.name
    code, printed = ran("rotate-secrets", "--step", "finish")
    assert code == 0 and f"The key {first.name} is no longer needed" in printed
    assert [key.name for key in read_keys(folder / "secrets.key")] == [newer.name]
    code, printed = ran("rotate-secrets")
    assert code == 0 and f"The key {newer.name} is no longer needed" in printed
    assert (folder / "secrets.key").stat().st_mode & 0o777 == 0o600
