"""What the doctor says of the key that signs images."""

from pathlib import Path

import pytest

from asu_builder.doctor.installation import check_signing
from asu_builder.doctor.scene import Scene
from asu_builder.domain.health import Status
from asu_builder.settings.reading import survey_settings
from asu_builder.signing import usign


def said(folder: Path, **settings: str) -> tuple[Status, str]:
    environment = {f"ASU_{name.upper()}": value for name, value in settings.items()}
    scene = Scene(survey_settings({"ASU_PUBLIC_PATH": str(folder), **environment}, ()), url="")
    found = check_signing(scene)
    return found.status, found.sentence


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
