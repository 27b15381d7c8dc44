"""What the doctor says of the bucket that images lie in."""

import json
from pathlib import Path

import pytest

from asu_builder.doctor.installation import check_settings
from asu_builder.doctor.network import check_bucket
from asu_builder.doctor.scene import Scene
from asu_builder.domain.health import Status
from asu_builder.settings.reading import survey_settings
from object_storage import s3_server


def said(folder: Path, **settings: str) -> tuple[Status, str]:
    environment = {f"ASU_{name.upper()}": value for name, value in settings.items()}
    scene = Scene(survey_settings({"ASU_PUBLIC_PATH": str(folder), **environment}, ()), url="")
    found = check_bucket(scene)
    return found.status, found.sentence


@pytest.mark.process
def test_a_bucket_is_looked_at_and_nothing_is_changed_in_it(tmp_path: Path) -> None:
    assert said(tmp_path) == ("ok", "Images lie on a disk; no store_url is set.")
    s3 = s3_server()
    url, options = s3.place(tmp_path.name), json.dumps(s3.options())
    assert said(tmp_path, store_url=url, store_options=options) == ("ok", f"The bucket {url} is there.")
    for _ in range(2):
        status, sentence = said(tmp_path, store_url="s3://absent", store_options=options)
        assert status == "error" and sentence.startswith("There is no bucket s3://absent.")
    wrong = json.dumps(s3.options(secret_access_key="hunter2"))
    status, sentence = said(tmp_path, store_url=url, store_options=wrong)
    assert status == "error" and "refuses the key" in sentence and "hunter2" not in sentence


def test_a_file_with_keys_that_everybody_may_read_is_warned_of(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("store_url: s3://images\nstore_options: {secret_access_key: hunter2}\n")
    path.chmod(0o644)
    found = check_settings(Scene(survey_settings({}, (path,)), url=""))
    assert found.status == "warning"
    assert f"{path} holds keys of the object storage" in found.sentence
    path.chmod(0o640)
    assert check_settings(Scene(survey_settings({}, (path,)), url="")).status == "ok"
