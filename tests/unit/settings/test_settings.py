import re
from datetime import timedelta
from pathlib import Path

import pytest

from asu_builder.domain.access import Caller, Right, Token
from asu_builder.domain.job import Priority
from asu_builder.http.callers import Callers
from asu_builder.rate_limits import NewBuildsLimit
from asu_builder.settings import (
    SETTING_NAMES,
    Settings,
    SettingsProblem,
    Size,
    load_settings,
    load_with_origins,
    parse_duration,
    parse_size,
)
from asu_builder.settings.checks import write_duration, write_size
from asu_builder.upstream.server import Redirects

DIGEST = "0123456789abcdef" * 4
TOKEN = f"{{name: farm, digest: {DIGEST}}}"
_KEY_FORM = "expected `file:` with a path or `exec:` with a command, or nothing"
_BUILDER = "provenance_builder: https://asu.example.org"


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


def problems(tmp_path: Path, text: str, **variables: str) -> list[str]:
    """What is said about a file with this text, line by line, with the file's name as FILE."""
    with pytest.raises(SettingsProblem) as stopped:
        load(tmp_path, text, **variables)
    lines = str(stopped.value).replace(str(tmp_path / "0.yaml"), "FILE").splitlines()
    return [line.strip() for line in lines if not line.endswith("settings are wrong:")]


DURATION = "expected a duration like 7d, 30m or seconds"
ADDRESS = "expected an http(s) address like https://mirror.example.org:8443/openwrt, without a user"
ODD_ADDRESSES = (
    *("http://[x]/y", "http://[::1/y", "http://a:0", "http://a:080", "http://a:65536", "http://010.0.0.1"),
    *(
        "http://256.1.1.1/",
        "http://",
        "https:///x",
        "http://a b",
        "http://a/?x=1",
        "http://a/#x",
        "a.example",
        "x",
    ),
)
DIGESTS = "expected the SHA-256 of the token as 64 hexadecimal digits; `asu-builder token NAME` prints it"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("server_prot: 1", "server_prot (FILE, line 1): there is no such setting; did you mean server_port?"),
        ("LOG_LEVEL: info", "LOG_LEVEL (FILE, line 1): there is no such setting; did you mean log_level?"),
        ("ASU_CORS: 1", "ASU_CORS (FILE, line 1): there is no such setting; did you mean cors?"),
        ("whatever: 1", "whatever (FILE, line 1): there is no such setting"),
        ("server_port: many", "server_port (FILE, line 1): expected a whole number, got 'many'"),
        ("server_port: 70000", "server_port (FILE, line 1): expected a port from 0 to 65535, got 70000"),
        ("cors: maybe", "cors (FILE, line 1): expected true or false, got 'maybe'"),
        ("cors:", "cors (FILE, line 1): expected true or false, got nothing"),
        ("contact: 5", "contact (FILE, line 1): expected text; write it in quotes, got 5"),
        ("contact:", "contact (FILE, line 1): expected text, got nothing"),
        ("public_path:", "public_path (FILE, line 1): expected a path, got nothing"),
        ("database_path: [a]", "database_path (FILE, line 1): expected a path, got ['a']"),
        (
            "container_runtime: docker",
            "container_runtime (FILE, line 1): expected one of auto, podman, local, got 'docker'",
        ),
        (
            "form_packages: [luci, a b]",
            "form_packages[1] (FILE, line 1): expected a package name, got 'a b'",
        ),
        (
            "form_suggestions: {VPN: 5}",
            "form_suggestions.VPN (FILE, line 1): expected a list, got 5",
        ),
        (
            "form_for: {a b: {}}",
            "form_for.a b (FILE, line 1): expected a branch, a version, a target or a profile, like"
            " ath79/tiny, got 'a b'",
        ),
        (
            "form_for: {ath79/tiny: {packages: '?'}}",
            "form_for.ath79/tiny.packages[0] (FILE, line 1): expected a package name, got '?'",
        ),
        (
            "form_defaults: reboot",
            "form_defaults (FILE, line 1): expected at most 20480 characters with allow_defaults, else"
            " nothing, got 'reboot'",
        ),
        (
            "form_links: {Wiki: 'javascript:alert(1)'}",
            "form_links.Wiki (FILE, line 1): expected an http(s) address with none but {title}, {version},"
            " {branch}, {target}, {subtarget}, {profile}, got 'javascript:alert(1)'",
        ),
        (
            "form_repositories: {own: 'https://a.example.org/{arch}'}",
            "form_repositories.own (FILE, line 1): expected an address that repository_allow_list allows,"
            " under a name of letters, digits and . _ -, got 'https://a.example.org/{arch}'",
        ),
        (
            "repository_allow_list: [https://a.example.org]\nform_repository_keys: nonsense",
            "form_repository_keys (FILE, line 2): expected public keys (PEM or usign) with an empty line"
            " between two, got 'nonsense'",
        ),
        (
            "log_level: loud",
            "log_level (FILE, line 1): expected one of debug, info, warning, error, got 'loud'",
        ),
        (
            "log_level: off",
            "log_level (FILE, line 1): expected one of debug, info, warning, error, got false",
        ),
        ("job_timeout: soon", f"job_timeout (FILE, line 1): {DURATION}, got 'soon'"),
        ("job_timeout: true", f"job_timeout (FILE, line 1): {DURATION}, got true"),
        *[
            (f"{name}: {zero}", f"{name} (FILE, line 1): expected a duration above zero, like 10m, got '0s'")
            for name, zero in (
                *(("job_timeout", "0"), ("build_ttl", "0"), ("build_ttl_unversioned", "0s")),
                *(("build_defaults_ttl", "0"), ("failure_ttl", "0.0m"), ("idle_deprioritized_after", "0")),
                *(("head_timeout", "0"), ("body_timeout", "0s"), ("reader_timeout", "0")),
            )
        ],
        (
            "failure_ttl: 36501d",
            "failure_ttl (FILE, line 1): expected a duration of at most 36500d, got '36501d'",
        ),
        (
            "imagebuilder_image: '{registy}:x'",
            "imagebuilder_image (FILE, line 1): expected a template with none but {registry}, {subtarget}, "
            "{tag}, {target}, {version}, got '{registy}:x'",
        ),
        (
            "imagebuilder_path: '/x/{tag}'",
            "imagebuilder_path (FILE, line 1): expected a template with none but {subtarget}, {target}, "
            "{version}, got '/x/{tag}'",
        ),
        ("upstream_url: ftp://x", f"upstream_url (FILE, line 1): {ADDRESS}, got 'ftp://x'"),
        *(
            (f"upstream_url: '{given}'", f"upstream_url (FILE, line 1): {ADDRESS}, got '{said}'")
            for given, said in (
                ("ftp://me:pw@x", "ftp://…@x"),
                ("http://me:p/w@x:99999", "http://…@x:99999"),
                ("http://me:p@w,p@x y", "http://…@x y"),
                ("me:pw@x:80", "…@x:80"),
            )
        ),
        *[
            (f"{name}: '{address}'", f"{name} (FILE, line 1): {ADDRESS}, got '{address}'")
            for name in ("upstream_url", "public_upstream_url", "package_changes_url")
            for address in ODD_ADDRESSES
        ],
        *[
            (f"{name}: http://me:pw@a.example", f"{name} (FILE, line 1): {ADDRESS}, got 'http://…@a.example'")
            for name in ("upstream_url", "public_upstream_url", "package_changes_url")
        ],
        ("upstream_url: ''", f"upstream_url (FILE, line 1): {ADDRESS}, got ''"),
        (
            "repository_allow_list:\n- https://a.example\n- example.org",
            "repository_allow_list[1] (FILE, line 3): expected an http(s) address, without * and ; and with "
            "nothing to decode, got 'example.org'",
        ),
        *[
            (
                f"repository_allow_list: ['{entry}']",
                "repository_allow_list[0] (FILE, line 1): expected an http(s) address, without * and ; and "
                f"with nothing to decode, got '{entry}'",
            )
            for entry in ("*", "https://*.example.org", "https://a.example;b", "https://a.example/%2e")
        ],
        *[
            (
                f"trusted_proxies: [127.0.0.1]\nstore_accel_redirect: '{path}'",
                "store_accel_redirect (FILE, line 2): expected a path like /asu-store/, or nothing, "
                f"got '{path}'",
            )
            for path in ("asu-store/", "/asu-store", "/", "//", "/a/../", "/a b/", "/a%2f/", "http://a/b/")
        ],
        (
            "store_accel_redirect: /asu-store/",
            "store_accel_redirect (FILE, line 1): expected nothing without trusted_proxies: only these are "
            "told to send files, got '/asu-store/'",
        ),
        *[
            (
                f"store_url: '{url}'",
                "store_url (FILE, line 1): expected s3://bucket/prefix, gs://bucket/prefix or "
                f"az://container/prefix, or nothing: then images lie in public_path, got '{url}'",
            )
            for url in (
                *(
                    "file:///srv",
                    "/srv",
                    "s3://",
                    "s3:///x",
                    "s3://A_b",
                    "s3://bucket/../x",
                    "s3://bucket/.x",
                ),
                *("https://bucket.example.org", "s3://bucket/a//b", "s3://bucket?x=1"),
            )
        ],
        (
            "store_options: {region: x}",
            "store_options (FILE, line 1): expected nothing without store_url",
        ),
        (
            "store_redirect: true",
            "store_redirect (FILE, line 1): expected false without store_url, got true",
        ),
        (
            "store_url: s3://images\nstore_options: {secret: hunter2}",
            "store_options.secret (FILE, line 2): there is no such option; possible are endpoint, region, "
            "access_key_id, secret_access_key, session_token, virtual_hosted_style_request, skip_signature",
        ),
        (
            "store_url: s3://images\nstore_options: {endpoint: 'http://me:hunter2@host'}",
            "store_options.endpoint (FILE, line 2): expected an http(s) address without a user",
        ),
        (
            "store_url: s3://images\nstore_options: {skip_signature: 'hunter2'}",
            'store_options.skip_signature (FILE, line 2): expected "true" or "false"',
        ),
        (
            "store_url: s3://images\nstore_options: {secret_access_key: 12345}",
            "store_options.secret_access_key (FILE, line 2): expected text; write it in quotes",
        ),
        ("store_options: hunter2", "store_options (FILE, line 1): expected names with a text each"),
        (
            "store_url: s3://images\ntrusted_proxies: [127.0.0.1]\nstore_accel_redirect: /asu-store/",
            "store_accel_redirect (FILE, line 3): expected nothing beside store_url: a proxy has no file to "
            "send, got '/asu-store/'",
        ),
        ("worker_id: a b", "worker_id (FILE, line 1): expected letters, digits and . _ -, got 'a b'"),
        *[
            (
                f"new_builds_limit: '{text}'",
                "new_builds_limit (FILE, line 1): expected rates like `20/minute; 100/hour`, or nothing, "
                f"got '{text}'",
            )
            for text in (
                *("often", "20/fortnight", "20/minute;", "20/minute 100/hour", "-1/minute", "0/minute"),
                "1.5/hour",
            )
        ],
        (
            "look_ups_limit: often",
            "look_ups_limit (FILE, line 1): expected rates like `20/minute; 100/hour`, or nothing, "
            "got 'often'",
        ),
        *[
            (
                f"upstream_redirect_hosts: ['{host}']",
                "upstream_redirect_hosts[0] (FILE, line 1): expected a host, like mirror.example.org:8080, "
                f"got '{said}'",
            )
            for host, said in (
                *(("https://a.example.org", "https://a.example.org"), ("a.example.org/x", "a.example.org/x")),
                *(("a:0", "a:0"), ("a:65536", "a:65536"), ("u@a", "…@a"), ("a b", "a b")),
                *(("[::1", "[::1"), ("[x]", "[x]"), ("010.0.0.1", "010.0.0.1"), ("", "")),
            )
        ],
        (
            "new_builds_limit: 20",
            "new_builds_limit (FILE, line 1): expected text; write it in quotes, got 20",
        ),
        ("api_tokens: 5", "api_tokens (FILE, line 1): expected a list"),
        (f"api_tokens: [{{digest: {DIGEST}}}]", "api_tokens[0] (FILE, line 1): name is missing"),
        ("api_tokens: [{name: farm}]", "api_tokens[0] (FILE, line 1): digest is missing"),
        (
            "api_tokens:\n- name: farm\n  digest: s3cret",
            f"api_tokens[0].digest (FILE, line 3): {DIGESTS}",
        ),
        (
            f"api_tokens: [{{name: farm, digest: {DIGEST.upper()}}}]",
            f"api_tokens[0].digest (FILE, line 1): {DIGESTS}",
        ),
        (
            f"api_tokens: [{{name: the farm, digest: {DIGEST}}}]",
            "api_tokens[0].name (FILE, line 1): expected a name of letters, digits and . _ -",
        ),
        (
            f"api_tokens: [{{name: farm, digest: {DIGEST}, rights: [rule]}}]",
            "api_tokens[0].rights[0] (FILE, line 1): expected one of read, operate",
        ),
        (
            f"api_tokens: [{{name: farm, digest: {DIGEST}, priority: high}}]",
            "api_tokens[0].priority (FILE, line 1): expected one of bulk, normal, interactive",
        ),
        (
            f"api_tokens: [{{name: farm, digest: {DIGEST}, right: [read]}}]",
            "api_tokens[0].right (FILE, line 1): there is no such entry; possible are name, digest, rights, "
            "priority",
        ),
        *[
            (
                f"trusted_proxies: [{text}]",
                "trusted_proxies[0] (FILE, line 1): expected an address or a network like 10.0.0.0/8, "
                f"got '{text}'",
            )
            for text in ("proxy.example.org", "10.0.0.1/8", "10.0.0.0/33", "10.0.0", "unix")
        ],
        *[
            (
                f"{name}: {text}",
                f"{name} (FILE, line 1): expected a size like 20GiB, 512MiB or bytes, got {got}",
            )
            for name in ("store_max_size", "disk_floor")
            for text, got in (("much", "'much'"), ("-1", "-1"), ("5PiB", "'5PiB'"), ("20 Gb/s", "'20 Gb/s'"))
        ],
        *[
            (
                f"{name}: {text}",
                f"{name} (FILE, line 1): expected a number from {least} to {most}, got {got}",
            )
            for name, least, most, text, got in (
                ("max_head_size", 8192, 1048576, "2MiB", "2097152"),
                ("max_body_size", 65536, 16777216, "63KiB", "64512"),
                ("max_body_size", 65536, 16777216, "17MiB", "17825792"),
                ("max_fields", 50, 100000, "49", "49"),
                ("max_fields", 50, 100000, "100001", "100001"),
                ("max_request_line", 1024, 1048576, "1023", "1023"),
            )
        ],
        (
            "max_connections_per_address: 7",
            "max_connections_per_address (FILE, line 1): expected a number of at least 8, got 7",
        ),
        (
            "max_request_line: 65KiB",
            "max_request_line (FILE, line 1): expected at most max_head_size, because the line is part of "
            "the head, got 66560",
        ),
        (
            "idle_expires_after: 5m",
            "idle_expires_after (FILE, line 1): expected a duration longer than "
            "idle_deprioritized_after (5m), got '5m'",
        ),
        (
            "idle_deprioritized_after: 2h",
            "idle_expires_after (FILE, line 1): expected a duration longer than "
            "idle_deprioritized_after (2h), got '1h'",
        ),
        (
            "branches:\n  24.10:\n    enabled: true",
            "branches.24.1 (FILE, line 1): expected a name in quotes, got 24.1",
        ),
        (
            "branches:\n  '24.10':\n    enable: true",
            "branches.24.10.enable (FILE, line 3): there is no such entry; possible are path, enabled, "
            "snapshot, branch_off_rev, own_numbering",
        ),
        (
            "branches: {'24.10': {enabled: sometimes}}",
            "branches.24.10.enabled (FILE, line 1): expected true or false, got 'sometimes'",
        ),
        (
            "branches: {main: {}}",
            "branches.main (FILE, line 1): expected a name like 24.10 or SNAPSHOT, got 'main'",
        ),
        *[
            (
                f"branches: {{SNAPSHOT: {{path: '{path}'}}}}",
                "branches.SNAPSHOT.path (FILE, line 1): expected a relative path, with {version} or without, "
                f"got '{path}'",
            )
            for path in ("../x", "/x", "{0}", "{version.real}", "{", "{release}")
        ],
        (
            "branches: {'24.10': }",
            "branches.24.10 (FILE, line 1): expected a mapping with path, enabled, snapshot, branch_off_rev, "
            "own_numbering, got nothing",
        ),
        (
            "signing_key: /etc/asu/signing.key",
            "signing_key (FILE, line 1): expected `file:` with a path or `exec:` with a command, or nothing",
        ),
        (
            "signing_key: exec:sign 'unfinished",
            "signing_key (FILE, line 1): expected `file:` with a path or `exec:` with a command, or nothing",
        ),
        (
            "signing_key: file:k\nsigning_public_key: k.pub",
            "signing_public_key (FILE, line 2): expected the path of the public key beside `exec:` or "
            "without a key, and nothing beside `file:`, got 'k.pub'",
        ),
        (
            "signing_required: true",
            "signing_required (FILE, line 1): expected false without signing_key or provenance_key, got true",
        ),
        (
            f"{_BUILDER}\nprovenance_key: /etc/asu/provenance.key",
            f"provenance_key (FILE, line 2): {_KEY_FORM}",
        ),
        (
            "signing_required: true\nsigning_key: nothing",
            f"signing_key (FILE, line 2): {_KEY_FORM}",
        ),
        (
            f"{_BUILDER}\nprovenance_key: 'exec: '",
            f"provenance_key (FILE, line 2): {_KEY_FORM}",
        ),
        (
            f"{_BUILDER}\nprovenance_key: exec:sign",
            "provenance_public_key (FILE, line 2): expected the path of the public key beside `exec:` or "
            "without a key, and nothing beside `file:`, got ''",
        ),
        (
            f"{_BUILDER}\nprovenance_key: file:k\nprovenance_public_key: k.pub",
            "provenance_public_key (FILE, line 3): expected the path of the public key beside `exec:` or "
            "without a key, and nothing beside `file:`, got 'k.pub'",
        ),
        (
            "provenance_key: file:k",
            "provenance_builder (FILE, line 1): expected the address of this server that everybody knows, "
            "like https://asu.example.org, got ''",
        ),
        (
            "provenance_key: file:k\nprovenance_builder: https://user:secret@asu.example.org",
            "provenance_builder (FILE, line 2): expected the address of this server that everybody knows, "
            "like https://asu.example.org, got 'https://…@asu.example.org'",
        ),
        (
            _BUILDER,
            "provenance_builder (FILE, line 1): expected nothing without provenance_key, got "
            "'https://asu.example.org'",
        ),
        (
            "install_signing_key: true",
            "install_signing_key (FILE, line 1): expected false without signing_key, got true",
        ),
        (
            "signing_certificate: c.ucert",
            "signing_certificate (FILE, line 1): expected nothing without signing_key, got 'c.ucert'",
        ),
        ("cors: true\n\ncors: true", "cors (FILE, line 3): expected it once, but line 1 says it too"),
        (
            "branches:\n  '24.10': {}\n  '23.05': {}\n  \"24.10\": {}",
            "branches.24.10 (FILE, line 4): expected it once, but line 2 says it too",
        ),
        ("- a", "FILE: expected one `name: value` a line"),
    ],
)
def test_what_is_wrong_is_said_with_place_name_what_was_given_and_what_is_possible(
    tmp_path: Path, text: str, said: str
) -> None:
    assert problems(tmp_path, text) == [said]


@pytest.mark.parametrize(
    "address",
    [
        "http://my_mirror:8080/openwrt/",
        "https://a.example",
        "http://[2001:db8::1]:81/x",
        "http://192.0.2.1/%7Ex",
    ],
)
def test_addresses_of_servers_may_be_names_or_numbers_with_a_port_and_a_path(
    tmp_path: Path, address: str
) -> None:
    names = ("upstream_url", "public_upstream_url", "package_changes_url")
    settings = load(tmp_path, **dict.fromkeys(names, address))
    assert {getattr(settings, name) for name in names} == {address}
    Redirects(settings.upstream_url, ("my_mirror:65535",)).follow(f"{address}/x", "y")


@pytest.mark.parametrize("text", ["a: [", "a: 2026-13-45", "? [x]\n: 1", "a: \x00", "[" * 2000])
def test_what_is_no_yaml_is_told_of_the_file(tmp_path: Path, text: str) -> None:
    assert " ".join(problems(tmp_path, text)).startswith("FILE is not valid YAML: ")


def test_everything_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    text = (
        "log_level: loud\nserver_port: -1\ncolour: red\ncors: true\nrepository_allow_list: [a, b]\ncors: no\n"
    )
    said = problems(tmp_path, text, worker_id="a b", job_timeout="soon", cache_url="http://x")
    assert [line.partition(" (")[0] for line in said] == [
        *("cors", "log_level", "colour", "job_timeout", "cache_url"),
        *("server_port", "worker_id", "repository_allow_list[0]", "repository_allow_list[1]"),
    ]
    assert "worker_id (variable ASU_WORKER_ID): expected letters, digits and . _ -, got 'a b'" in said


@pytest.mark.parametrize("level", ["INFO", "Info", "info", " info "])
def test_a_level_may_be_written_in_any_case(tmp_path: Path, level: str) -> None:
    assert load(tmp_path, f"log_level: '{level}'") == load(tmp_path, log_level=level) == load(tmp_path)


def test_what_the_form_offers_may_be_written_as_lists_or_words_and_as_json(tmp_path: Path) -> None:
    text = (
        "repository_allow_list: ['https://a.example.org/{version}']\n"
        "form_repositories: {own: 'https://a.example.org/{version}/{arch}'}\n"
        "form_for: {ath79/tiny: {packages: -luci -ppp, suggestions: {VPN: [tailscale]}}}\n"
    )
    settings = load(tmp_path, text, form_suggestions='{"VPN": "a b", "X": ["c"]}', form_packages="luci, vim")
    assert settings.form_suggestions == {"VPN": ("a", "b"), "X": ("c",)}
    assert settings.form_packages == ("luci", "vim")
    assert settings.form_for["ath79/tiny"] == {
        "packages": ("-luci", "-ppp"),
        "suggestions": {"VPN": ("tailscale",)},
    }


def test_a_variable_that_is_there_in_two_spellings_is_wrong() -> None:
    with pytest.raises(SettingsProblem, match=r"^cors \(variable ASU_cors\): expected it once, but variable"):
        load_settings({"ASU_CORS": "true", "ASU_cors": "false"}, ())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"24.10": {}, "24.10": {}}', "expected each name once, but 24.10 is there twice"),
        ("{", "expected JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
        ("[" * 100_000, "expected JSON, not so deeply nested"),
        ("[]", "expected names with a mapping each, got []"),
    ],
)
def test_a_variable_of_json_says_what_is_wrong_with_it(tmp_path: Path, text: str, said: str) -> None:
    assert problems(tmp_path, "", branches=text) == [f"branches (variable ASU_BRANCHES): {said}"]


def test_a_token_in_place_of_its_digest_is_never_repeated(tmp_path: Path) -> None:
    for value in ("secret-0815", '["secret-0815"]', '[{"name": "a", "digest": "secret-0815"}]'):
        assert "secret-0815" not in " ".join(problems(tmp_path, "", api_tokens=value))


OF_THE_PREDECESSOR = (
    *("public_path", "redis_url", "upstream_url", "cache_url", "allow_defaults", "async_queue"),
    *("branches_file", "max_custom_rootfs_size_mb", "max_defaults_length", "repository_allow_list"),
    *("base_container", "container_identity", "branches", "store_backend", "server_stats", "log_level"),
    *("build_ttl", "build_ttl_unversioned", "build_defaults_ttl", "build_failure_ttl", "max_pending_jobs"),
    "job_timeout",
)
ITS_BUCKET = ("s3_endpoint", "s3_access_key", "s3_secret_key", "s3_bucket", "s3_region", "s3_public_url")


@pytest.mark.parametrize("name", [*OF_THE_PREDECESSOR, *ITS_BUCKET])
def test_a_setting_of_the_predecessor_is_known_by_name(tmp_path: Path, name: str) -> None:
    if name in SETTING_NAMES:
        return
    (said,) = problems(tmp_path, f"{name}: x")
    told = said.removeprefix(f"{name} (FILE, line 1): ")
    assert re.fullmatch(r"now called \w+|not needed because .+", told), said
    if told.startswith("now called "):
        assert told.removeprefix("now called ") in SETTING_NAMES


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
    assert from_file.tokens == from_variable.tokens
    assert from_file.tokens == (
        Token("farm", DIGEST, frozenset({Right.READ, Right.OPERATE}), Priority.BULK),
        Token("site", DIGEST[::-1], frozenset(), Priority.NORMAL),
    )
    assert load(tmp_path).tokens == ()


@pytest.mark.parametrize("text", ["10.0.0.0/8 2001:db8::1", "10.0.0.0/8,2001:db8::1"])
def test_proxies_come_from_files_and_from_variables(tmp_path: Path, text: str) -> None:
    from_file = load(tmp_path, "trusted_proxies: [10.0.0.0/8, '2001:db8::1']")
    assert from_file == load(tmp_path, trusted_proxies=text)
    assert Callers((), from_file.trusted_proxies).of(
        {"client": ("10.0.0.1", 1), "headers": [(b"x-forwarded-for", b"198.51.100.9")]}
    ) == Caller("198.51.100.9")


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


@pytest.mark.parametrize(
    "url", ["", "redis://h", "rediss://:p%40w@h.example:6380/3?x=1", "unix:///run/redis.sock"]
)
def test_a_redis_is_named_by_its_address(url: str) -> None:
    assert Settings(redis_url=url).redis_url == url


@pytest.mark.parametrize(
    "url", ["h:6379", "http://h", "redis://", "unix://sock", "redis://:secret@ h", "redis://h/x"]
)
def test_what_names_no_redis_is_told_without_its_password(url: str) -> None:
    with pytest.raises(SettingsProblem, match="redis_url: expected an address like") as refused:
        Settings(redis_url=url)
    assert "secret" not in str(refused.value)
