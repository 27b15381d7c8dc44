import dataclasses
from datetime import timedelta
from pathlib import Path

import pytest

from asu_builder.settings import Settings, SettingsProblem, load_settings, parse_duration


def load(tmp_path: Path, *texts: str, **variables: str) -> Settings:
    files = []
    for number, text in enumerate(texts):
        path = tmp_path / f"{number}.yaml"
        path.write_text(text)
        files.append(path)
    return load_settings(
        {f"ASU_{name.upper()}": value for name, value in variables.items()},
        (*files, tmp_path / "absent.yaml"),
    )


def test_without_files_and_variables_the_defaults_hold(tmp_path: Path) -> None:
    assert load(tmp_path) == Settings()


def test_later_files_win_and_variables_win_over_all(tmp_path: Path) -> None:
    settings = load(
        tmp_path,
        "server_port: 1\nworker_concurrent: 1\nmax_pending_jobs: 1\n",
        "server_port: 2\nworker_concurrent: 2\n",
        server_port="3",
    )
    assert (settings.server_port, settings.worker_concurrent, settings.max_pending_jobs) == (3, 2, 1)


def test_every_kind_of_value_is_understood_from_files_and_from_variables(tmp_path: Path) -> None:
    from_file = load(
        tmp_path,
        "allow_defaults: true\njob_timeout: 30m\nbuild_ttl: 90\npublic_path: /x\nmax_pending_jobs: 5\n"
        "repository_allow_list: [https://a.example/x, https://b.example/]\ncontainer_runtime: local\n",
    )
    from_variables = load(
        tmp_path,
        allow_defaults="true",
        job_timeout="1800",
        build_ttl="1.5m",
        public_path="/x",
        max_pending_jobs="5",
        repository_allow_list="https://a.example/x https://b.example/",
        container_runtime="local",
    )
    assert from_file == from_variables
    assert from_file.job_timeout == timedelta(minutes=30)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "server_prot: 1",
            r"^server_prot \(.*\.yaml\): there is no such setting; did you mean server_port\?$",
        ),
        ("whatever: 1", r"^whatever \(.*\): there is no such setting$"),
        ("server_port: many", r"^server_port \(.*\): Expected `int`, got `str`, got 'many'$"),
        ("server_port: 70000", "^server_port: expected a port from 0 to 65535$"),
        (
            "container_runtime: docker",
            r"^container_runtime \(.*\): Invalid enum value 'docker', got 'docker'$",
        ),
        (
            "job_timeout: soon",
            r"^job_timeout \(.*\): expected a duration like 7d, 30m or seconds, got 'soon'$",
        ),
        ("job_timeout: 0", "^job_timeout: expected a duration above zero"),
        (
            "imagebuilder_image: '{registy}:x'",
            r"^imagebuilder_image: expected a template with none but \{registry\}",
        ),
        ("imagebuilder_path: '/x/{tag}'", r"^imagebuilder_path: expected a template with none but"),
        ("upstream_url: ftp://x", "^upstream_url: expected an http"),
        ("repository_allow_list: [example.org]", "^repository_allow_list: expected a list of http"),
        ("worker_id: a b", "^worker_id: expected letters"),
        ("- a", r"expected one `name: value` a line$"),
        ("a: [", "is not valid YAML"),
    ],
)
def test_what_is_unknown_or_wrong_is_named_with_what_was_expected(
    tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(SettingsProblem, match=message):
        load(tmp_path, text)


def test_a_wrong_variable_is_named_as_it_was_written(tmp_path: Path) -> None:
    with pytest.raises(SettingsProblem, match=r"^sever_port \(variable ASU_SEVER_PORT\)"):
        load(tmp_path, sever_port="1")


def test_settings_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().server_port = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("7d", 604800), ("30m", 1800), ("10s", 10), ("2h", 7200), ("1w", 604800), ("45", 45), ("0.5", 0.5)],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "7 days", "-1", "1h30m", "d"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        parse_duration(text)
