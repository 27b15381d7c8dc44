"""What the doctor says of the keys that sign."""

from pathlib import Path

import pytest

from asu_builder.doctor.installation import check_provenance, check_signing
from asu_builder.doctor.scene import Scene
from asu_builder.domain.health import Status
from asu_builder.settings.reading import survey_settings
from asu_builder.signing import pem, usign


def said(folder: Path, **settings: str) -> tuple[Status, str]:
    environment = {f"ASU_{name.upper()}": value for name, value in settings.items()}
    scene = Scene(survey_settings({"ASU_PUBLIC_PATH": str(folder), **environment}, ()), url="")
    found = (check_provenance if "provenance_key" in settings else check_signing)(scene)
    return found.status, found.sentence


@pytest.mark.process
@pytest.mark.parametrize("required", ["true", "false"])
def test_a_key_that_cannot_be_used_is_an_error(tmp_path: Path, required: str) -> None:
    assert said(tmp_path) == ("ok", "Images are not signed; no signing_key is set.")
    path, key = tmp_path / "signing.key", usign.make_key()
    settings = {"signing_key": f"file:{path}", "signing_required": required}
    status, sentence = said(tmp_path, **settings)
    assert status == "error" and f"{path} cannot be used: it cannot be read: No such file" in sentence
    path.write_text(key.text())
    path.chmod(0o604)
    status, sentence = said(tmp_path, **settings)
    assert status == "error" and "others may read it (mode 0604)" in sentence
    path.chmod(0o600)
    name = key.public.key_id
    assert said(tmp_path, **settings) == ("ok", f"Images are signed by key {name}, without a certificate.")
    status, sentence = said(tmp_path, **settings, signing_certificate=str(tmp_path / "absent.ucert"))
    assert status == "error" and "absent.ucert cannot be used" in sentence


@pytest.mark.process
def test_a_seed_that_is_damaged_is_an_error_before_anything_is_signed(tmp_path: Path) -> None:
    for setting, key in (("signing_key", usign.make_key()), ("provenance_key", pem.make_key())):
        path = tmp_path / setting
        text = key.text()
        path.write_text(text)
        path.chmod(0o600)
        path.with_name(f"{setting}.pub").write_text(key.public.text())
        settings = {setting: f"file:{path}"}
        if setting == "provenance_key":
            settings["provenance_builder"] = "https://asu.example.org"
        assert said(tmp_path, **settings)[0] == "ok"
        at = text.index("\n") + (90 if setting == "signing_key" else 40)
        path.write_text(f"{text[:at]}{'A' if text[at] != 'A' else 'B'}{text[at + 1 :]}")
        status, sentence = said(tmp_path, **settings)
        assert status == "error" and f"{path} cannot be used: it is damaged" in sentence


@pytest.mark.process
def test_a_program_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    public = tmp_path / "key.pub"
    public.write_text(pem.make_key().public.text())
    status, sentence = said(
        tmp_path,
        provenance_key="exec:/no/such/program --slot 1",
        provenance_public_key=str(public),
        provenance_builder="https://asu.example.org",
    )
    assert (status, sentence) == ("error", "/no/such/program cannot be started: there is no such program.")
