from datetime import timedelta
from pathlib import Path

import pytest

from asu_builder.adapters.rate_limits import NewBuildsLimit
from asu_builder.bootstrap.choices import tokens
from asu_builder.domain.access import Asker, Right, Token
from asu_builder.domain.job import Priority
from asu_builder.settings import (
    Settings,
    SettingsProblem,
    Size,
    load_settings,
    load_with_origins,
    parse_duration,
    parse_size,
)
from asu_builder.settings.units import write_duration, write_size
from asu_builder.web.asker import Askers

DIGEST = "0123456789abcdef" * 4
TOKEN = f"{{name: farm, digest: {DIGEST}}}"


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
        ("build_ttl: 0", "^build_ttl: expected a duration above zero"),
        ("build_ttl_unversioned: 0s", "^build_ttl_unversioned: expected a duration above zero"),
        ("build_defaults_ttl: 0", "^build_defaults_ttl: expected a duration above zero"),
        ("failure_ttl: 0.0m", "^failure_ttl: expected a duration above zero"),
        ("failure_ttl: 36501d", r"^failure_ttl \(.*\): expected a duration of at most 36500d, got '36501d'$"),
        ("worker_poll: 99999999999999d", r"^worker_poll \(.*\): expected a duration of at most 36500d"),
        (
            "imagebuilder_image: '{registy}:x'",
            r"^imagebuilder_image: expected a template with none but \{registry\}",
        ),
        ("imagebuilder_path: '/x/{tag}'", r"^imagebuilder_path: expected a template with none but"),
        ("upstream_url: ftp://x", "^upstream_url: expected an http"),
        ("repository_allow_list: [example.org]", "^repository_allow_list: expected a list of http"),
        ("worker_id: a b", "^worker_id: expected letters"),
        *[
            (f"new_builds_limit: {text}", "^new_builds_limit: expected rates like `20/minute; 100/hour`, or")
            for text in (
                "often",
                "20/fortnight",
                "'20/minute;'",
                "20/minute 100/hour",
                "-1/minute",
                "0/minute",
                "1.5/hour",
            )
        ],
        ("new_builds_limit: 20", r"^new_builds_limit \(.*\): Expected `str`, got `int`"),
        ("api_tokens: secret", r"^api_tokens \(.*\): "),
        (f"api_tokens: [{{digest: {DIGEST}}}]", r"^api_tokens \(.*\): .*missing required field `name`"),
        ("api_tokens: [{name: farm}]", r"^api_tokens \(.*\): .*missing required field `digest`"),
        (
            "api_tokens: [{name: farm, digest: s3cret}]",
            "^api_tokens: expected the SHA-256 of each token as 64",
        ),
        (f"api_tokens: [{{name: farm, digest: {DIGEST.upper()}}}]", "^api_tokens: expected the SHA-256"),
        (f"api_tokens: [{{name: the farm, digest: {DIGEST}}}]", "^api_tokens: expected a name of letters"),
        (f"api_tokens: [{TOKEN}, {TOKEN}]", "^api_tokens: expected a name .*, none of them twice$"),
        (
            f"api_tokens: [{{name: farm, digest: {DIGEST}, rights: [rule]}}]",
            r"^api_tokens \(.*\): Invalid enum value 'rule' - at `\$\[0\]\.rights\[0\]`",
        ),
        (
            f"api_tokens: [{{name: farm, digest: {DIGEST}, priority: high}}]",
            r"^api_tokens \(.*\): Invalid enum value 'high' - at `\$\[0\]\.priority`",
        ),
        *[
            (f"trusted_proxies: [{text}]", f"^trusted_proxies: expected addresses or networks like .*{text}")
            for text in ("proxy.example.org", "10.0.0.1/8", "10.0.0.0/33", "10.0.0", "unix")
        ],
        *[
            (
                f"{name}: {text}",
                rf"^{name} \(.*\): expected a size like 20GiB, 512MiB or bytes, got '?{text}'?$",
            )
            for name in ("store_max_size", "disk_floor")
            for text in ("much", "-1", "5PiB", "20 Gb/s")
        ],
        *[
            (f"{name}: soon", rf"^{name} \(.*\): expected a duration like 7d, 30m or seconds, got 'soon'")
            for name in ("idle_sinks_after", "idle_expires_after")
        ],
        ("idle_sinks_after: 0", "^idle_sinks_after: expected a duration above zero"),
        ("idle_expires_after: 5m", "^idle_expires_after: expected a duration longer than idle_sinks_after$"),
        ("idle_sinks_after: 2h", "^idle_expires_after: expected a duration longer than idle_sinks_after$"),
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


@pytest.mark.parametrize(
    "text", ["20/minute; 100/hour", "1/second", "5 / day;6/hour", "999999/hour", "", "'  '"]
)
def test_limits_that_the_rates_understand(tmp_path: Path, text: str) -> None:
    limit = load(tmp_path, f"new_builds_limit: {text or chr(39) * 2}").new_builds_limit
    NewBuildsLimit(limit).admit("anybody")


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("20GiB", 20 << 30),
        ("1.5 m", 3 << 19),
        ("512MB", 512 << 20),
        ("1T", 1 << 40),
        ("4096", 4096),
        ("0", 0),
        ("7B", 7),
    ],
)
def test_sizes_are_in_bytes_and_their_units_powers_of_1024(tmp_path: Path, text: str, size: int) -> None:
    settings = load(tmp_path, f"store_max_size: {text}", disk_floor=text)
    assert (settings.store_max_size, settings.disk_floor) == (size, size)


def test_tokens_come_from_files_and_from_variables_and_make_the_same_askers(tmp_path: Path) -> None:
    from_file = load(
        tmp_path,
        f"api_tokens:\n  - {{name: farm, digest: {DIGEST}, rights: [read, operate], priority: bulk}}\n"
        f"  - {{name: site, digest: {DIGEST[::-1]}}}\n",
    )
    from_variable = load(
        tmp_path,
        api_tokens=f'[{{"name":"farm","digest":"{DIGEST}","rights":["read","operate"],"priority":"bulk"}},'
        f'{{"name":"site","digest":"{DIGEST[::-1]}"}}]',
    )
    assert tokens(from_file) == tokens(from_variable)
    assert tokens(from_file) == (
        Token("farm", DIGEST, frozenset({Right.READ, Right.OPERATE}), Priority.BULK),
        Token("site", DIGEST[::-1], frozenset(), Priority.NORMAL),
    )
    assert tokens(load(tmp_path)) == ()


@pytest.mark.parametrize("text", ["10.0.0.0/8 2001:db8::1", "10.0.0.0/8,2001:db8::1"])
def test_proxies_come_from_files_and_from_variables(tmp_path: Path, text: str) -> None:
    from_file = load(tmp_path, "trusted_proxies: [10.0.0.0/8, '2001:db8::1']")
    assert from_file == load(tmp_path, trusted_proxies=text)
    assert Askers((), from_file.trusted_proxies).of(
        {"client": ("10.0.0.1", 1), "headers": [(b"x-forwarded-for", b"198.51.100.9")]}
    ) == Asker("198.51.100.9")


def test_settings_are_frozen() -> None:
    with pytest.raises(AttributeError, match="immutable type"):
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


def test_variables_of_the_commands_that_ask_a_server_are_no_settings() -> None:
    variables = {"ASU_BUILDER_SERVER": "https://asu.example.org", "ASU_BUILDER_TOKEN": "secret"}
    assert load_settings(variables, ()) == Settings()


def test_where_each_setting_was_chosen_is_kept(tmp_path: Path) -> None:
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text("server_port: 1\ncors: false\nworker_concurrent: 1\n")
    second.write_text("cors: true\nworker_concurrent: 2\n")
    loaded = load_with_origins({"ASU_WORKER_CONCURRENT": "3", "HOME": "/root"}, (first, second))
    assert loaded.settings == Settings(server_port=1, cors=True, worker_concurrent=3)
    assert loaded.origins == {
        "server_port": str(first),
        "cors": str(second),
        "worker_concurrent": "variable ASU_WORKER_CONCURRENT",
    }


@pytest.mark.parametrize("text", ["7d", "36h", "90s", "1.5s", "10m", "0s", "400d"])
def test_a_duration_is_written_as_it_is_read(text: str) -> None:
    assert write_duration(parse_duration(text)) == text


@pytest.mark.parametrize("text", ["0", "1023", "1KiB", "1536MiB", "20GiB", "2TiB", "1025"])
def test_a_size_is_written_as_it_is_read(text: str) -> None:
    assert write_size(parse_size(text)) == text
    assert isinstance(parse_size(text), Size)
