"""The predecessor's `asu.toml` becomes a settings file that a start takes."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from asu_builder.cli import main
from asu_builder.domain.release import BUILT_IN
from asu_builder.settings import BranchSetting, Settings, load_settings, parse_duration

WHOLE = """
public_path = "/srv/asu/public"
redis_url = "redis://localhost:6379"
upstream_url = "https://downloads.openwrt.org"
cache_url = "http://cache.example"
allow_defaults = true
async_queue = true
branches_file = "/etc/branches.yml"
max_custom_rootfs_size_mb = 2048
max_defaults_length = 4096
repository_allow_list = ["https://feed.libremesh.org/"]
base_container = "registry.example/imagebuilder"
container_identity = "/root/.ssh/id"
store_backend = "s3"
s3_endpoint = "https://s3.example"
s3_secret_key = "geheim"
server_stats = "/stats"
log_level = "INFO"
build_ttl = "3d"
build_ttl_unversioned = 3600
build_defaults_ttl = "10m"
build_failure_ttl = "5m"
max_pending_jobs = 100
job_timeout = "20m"
own = 1

[branches.SNAPSHOT]
path = "snapshots"
enabled = true
snapshot = true
path_packages = "DEPRECATED"

[branches."24.10"]
path = "releases/{version}"
enabled = false
branch_off_rev = 27990
package_changes = []

[branches."19.07"]
path = "releases/{version}"
"""


def imported(tmp_path: Path, text: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of the command."""
    file = tmp_path / "asu.toml"
    file.write_text(text)
    ended = CliRunner().invoke(main, ["import-settings", str(file)])
    return ended.exit_code, ended.stdout, ended.stderr.replace(str(file), "FILE")


def test_what_is_printed_is_a_settings_file_with_the_same_meaning(tmp_path: Path) -> None:
    code, out, err = imported(tmp_path, WHOLE)
    assert (code, err) == (0, "")
    config = tmp_path / "config.yaml"
    config.write_text(out)
    others: dict[str, BranchSetting] = {
        name: {"enabled": False} for name in BUILT_IN if name not in ("SNAPSHOT", "24.10")
    }
    assert load_settings({}, (config,)) == Settings(
        public_path=Path("/srv/asu/public"),
        allow_defaults=True,
        max_custom_rootfs_size_mb=2048,
        max_defaults_length=4096,
        repository_allow_list=("https://feed.libremesh.org/",),
        imagebuilder_registry="registry.example/imagebuilder",
        build_ttl=parse_duration("3d"),
        build_ttl_unversioned=parse_duration("1h"),
        build_defaults_ttl=parse_duration("10m"),
        failure_ttl=parse_duration("5m"),
        max_pending_jobs=100,
        job_timeout=parse_duration("20m"),
        branches={"24.10": {"enabled": False}, "19.07": {"path": "releases/{version}"}, **others},
    )


def test_what_has_no_setting_here_is_a_comment_that_says_why(tmp_path: Path) -> None:
    _, out, _ = imported(tmp_path, WHOLE)
    comments = [line for line in out.splitlines() if line.startswith("# ")]
    for name in (
        "redis_url",
        "cache_url",
        "async_queue",
        "container_identity",
        "store_backend",
        "server_stats",
    ):
        assert any(line.startswith(f"# {name}: not needed because ") for line in comments), name
    assert "# branches_file: now called branches" in comments
    assert "# own: not known here, and left out" in comments
    assert "# branches.24.10.package_changes: not needed because it is found by itself" in comments
    assert "geheim" not in out


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("INFO", "info"),
        ("Warning", "warning"),
        ("CRITICAL", "error"),
        ("fatal", "error"),
        ("NOTSET", "debug"),
    ],
)
def test_a_level_becomes_the_nearest_of_ours(tmp_path: Path, theirs: str, ours: str) -> None:
    assert f"log_level: {ours}\n" in imported(tmp_path, f'log_level = "{theirs}"')[1]


def test_every_value_that_no_setting_may_have_is_said_at_once(tmp_path: Path) -> None:
    code, out, err = imported(
        tmp_path, 'job_timeout = "soon"\nbranches = 5\nlog_level = "loud"\nupstream_url = "ftp://x"\n'
    )
    assert (code, out) == (2, "")
    assert [line.strip() for line in err.splitlines()] == [
        "asu-builder: 4 settings are wrong:",
        "job_timeout (FILE): expected a duration like 7d, 30m or seconds, got 'soon'",
        "branches (FILE): expected names with a mapping each, got 5",
        "log_level (FILE): expected one of debug, info, warning, error, got 'loud'",
        "upstream_url (FILE): expected an http(s) address like https://mirror.example.org:8443/openwrt, "
        "without a user, got 'ftp://x'",
    ]


@pytest.mark.parametrize(
    ("text", "said"), [("a = ", "is not valid TOML"), ("a = 1\na = 2", "is not valid TOML")]
)
def test_what_is_no_toml_is_refused(tmp_path: Path, text: str, said: str) -> None:
    code, out, err = imported(tmp_path, text)
    assert (code, out) == (2, "")
    assert f"FILE {said}" in err


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    ended = CliRunner().invoke(main, ["import-settings", str(tmp_path / "none.toml")])
    assert ended.exit_code == 2
    assert "none.toml cannot be read: No such file or directory" in ended.stderr


def test_an_empty_file_gives_no_settings(tmp_path: Path) -> None:
    code, out, _ = imported(tmp_path, "")
    assert code == 0
    assert all(line.startswith("#") or not line for line in out.splitlines())
