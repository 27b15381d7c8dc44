from datetime import timedelta
from pathlib import Path

import pytest

from asu_builder.settings import Settings, SettingsProblem, load_with_origins
from asu_builder.settings.reading import survey_settings

WELL: tuple[dict[str, str], ...] = (
    {},
    {"ASU_SERVER_PORT": "9000"},
    {"ASU_IDLE_DEPRIORITIZED_AFTER": "2h", "ASU_IDLE_EXPIRES_AFTER": "3h"},
)
WRONG: tuple[dict[str, str], ...] = (
    {"ASU_SERVER_PORT": "x"},
    {"ASU_COLOUR": "x"},
    {"ASU_IDLE_DEPRIORITIZED_AFTER": "2h"},
    {"ASU_PACKAGE_CHANGES_URL": "http://rules", "ASU_PACKAGE_CHANGES_PATH": "rules.yaml"},
)


@pytest.mark.parametrize("environment", WELL)
def test_a_survey_finds_what_a_start_would_load(environment: dict[str, str]) -> None:
    survey = survey_settings(environment, ())
    loaded = load_with_origins(environment, ())
    assert (survey.settings, survey.origins, survey.problems) == (loaded.settings, loaded.origins, ())


@pytest.mark.parametrize("environment", WRONG)
def test_a_survey_finds_whatever_would_stop_a_start(environment: dict[str, str]) -> None:
    with pytest.raises(SettingsProblem) as stopped:
        load_with_origins(environment, ())
    survey = survey_settings(environment, ())
    assert len(survey.problems) == 1
    assert str(stopped.value) in survey.problems[0]
    assert survey.settings == Settings(worker_id=survey.settings.worker_id)


def test_what_is_right_holds_beside_what_is_wrong(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text("job_timeout: 5m\ndisk_floor: lots\n")
    bad.write_text("- nothing\n")
    survey = survey_settings({"ASU_CORS": "false", "ASU_LOG_LEVEL": "loud"}, (good, bad, tmp_path / "absent"))
    assert survey.settings.job_timeout == timedelta(minutes=5)
    assert survey.settings.cors is False
    assert [problem.split()[0].strip(":") for problem in survey.problems] == [
        str(bad),
        "disk_floor",
        "log_level",
    ]
    assert (survey.read, survey.absent) == ((good, bad), (tmp_path / "absent",))
