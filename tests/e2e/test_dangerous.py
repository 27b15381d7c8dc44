"""A make variable is code: no dangerous character of any field may ever reach it."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from asu_sample.distribution import Distribution
from asu_sample.server import DownloadServer
from e2e.conftest import local_settings
from e2e.service import Client, Service
from e2e.tripwire import LOG, lay_tripwires
from podman_service import APK_VERSION, OPKG_VERSION, SAMPLE_TARGET

DANGEROUS = [
    "$(touch x)",
    "$(shell touch x)",
    "${IFS}",
    "$$(id)",
    "`id`",
    "a'b",
    'a"b',
    "a\nb",
    "a\rb",
    "vim\n",
    "\nvim",
    "a;id",
    "a&b",
    "a|b",
    "a>b",
    "a<b",
    "a%b",
    "%",
    "a*",
    "a?",
    "[ab]",
    "{a,b}",
    "~root",
    "a#b",
    "a!b",
    "a\\b",
    "a\tb",
    "a b",
    "a=b",
    "a:b",
    "a\0b",
    "vïm",
    "v\u2028m",
    "v\u202em",
    "ｖim",
    "../../etc",
    "..",
    "/etc/passwd",
    "--eval=x",
    "-f/etc/passwd",
    "-",
    "--",
    "@file",
    "\ud800",
    "x" * 200,
]
STRICT = ("version", "target", "profile", "filesystem", "repositories_mode", "distro")
# Only ever compared with what an ImageBuilder says of itself.
_COMPARED = re.compile(r"[A-Za-z0-9.,_+~-]{0,64}")
NO_KEYS = [
    "$(touch x)",
    "`id`",
    "../../etc",
    "a\nb",
    "vim",
    "@file",
    "untrusted comment: x\nRWQ",
    "-",
    "x" * 9000,
]
_HARMLESS = re.compile(r"[A-Za-z0-9 ._+/=-]*")


def a_body(**changes: object) -> dict[str, object]:
    """What a client posts."""
    return {"version": APK_VERSION, "target": "pico/nine", "profile": "acme_small", **changes}


@pytest.fixture(scope="module")
def trapped(
    sample_world: Distribution, upstream: DownloadServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """A service whose ImageBuilders fail at the first dangerous value."""
    folder = tmp_path_factory.mktemp("trapped")
    template = lay_tripwires(sample_world, folder / "ib", (APK_VERSION, OPKG_VERSION), SAMPLE_TARGET)
    # Every request goes to make, also one that is known beforehand to be impossible.
    settings = local_settings(sample_world, upstream.url) | {
        "imagebuilder_path": template,
        "preflight": "off",
    }
    service = Service(folder / "service", settings)
    try:
        yield service.start()
    finally:
        service.end()
    assert "Traceback" not in service.stderr()


@pytest.fixture
def client(trapped: Service) -> Iterator[Client]:
    """A connection to it."""
    with trapped.client() as client:
        yield client


@pytest.mark.parametrize(
    "argument", ["PACKAGES=$(touch x)", "PROFILE=a;id", "PACKAGES=vim\nx", "EXTRA_IMAGE_NAME=`id`", "X=a%b"]
)
def test_a_dangerous_value_that_did_reach_make_would_be_noticed(
    sample_world: Distribution, tmp_path: Path, argument: str
) -> None:
    lay_tripwires(sample_world, tmp_path, (APK_VERSION,), SAMPLE_TARGET)
    tree = tmp_path / APK_VERSION / SAMPLE_TARGET

    def make(*arguments: str) -> int:
        command = ["make", "manifest", *arguments]
        return subprocess.run(command, cwd=tree, check=False, capture_output=True).returncode

    assert make("PROFILE=acme_small", "PACKAGES=vim", "STRIP_ABI=1") == 0
    assert not (tree / LOG).exists()
    assert make("PROFILE=acme_small", argument) != 0
    assert (tree / LOG).exists()
    assert make("PROFILE=acme_small", "PACKAGES=vim") != 0, "the alarm stays on"


@pytest.mark.parametrize("value", DANGEROUS, ids=ascii)
def test_a_dangerous_character_in_any_field_is_refused(trapped: Service, client: Client, value: str) -> None:
    before = trapped.rows("SELECT count(*) FROM build_jobs")
    changes: list[dict[str, object]] = [{field: value} for field in STRICT]
    changes += [
        {"profile" if _COMPARED.fullmatch(value) else "version_code": f"{value}/"},
        {"packages": [value]},
        {"packages": ["vim", value, "tmux"]},
        {"packages": [f"-{value}"]},
        {"packages_versions": {value: "1"}},
        {"packages_versions": {"vim": f"{value}/"}},
        {"repositories": {value: "http://example.org/x"}},
        {"repositories": {"x": f"http://example.org/{value}"}},
        {"repositories": {"x": f"http://{value}/"}},
        {"rootfs_size_mb": value},
        {"diff_packages": value},
    ]
    for change in changes:
        answer = client.post(a_body(**change))
        assert answer.status in (400, 422), (change, answer.status, answer.body)
        assert answer.json["status"] == answer.status
    assert trapped.rows("SELECT count(*) FROM build_jobs") == before


@pytest.mark.parametrize("value", NO_KEYS, ids=range(len(NO_KEYS)))
def test_a_key_that_is_none_is_refused(trapped: Service, client: Client, value: str) -> None:
    answer = client.post(a_body(repository_keys=[value]))
    assert answer.status in (400, 422), answer.body
    assert answer.json["detail"].startswith("repository_keys[0]: ")


@pytest.mark.parametrize("value", DANGEROUS, ids=ascii)
def test_a_dangerous_character_in_an_address_finds_nothing(client: Client, value: str) -> None:
    encoded = quote(value.encode("utf-8", "surrogatepass"), safe="")
    for target in (
        f"/api/v1/build/{encoded}",
        f"/store/{'0' * 64}/{encoded}",
        f"/store/{encoded}/profiles.json",
        f"/{encoded}/x",
    ):
        answer = client.get(target)
        # A name may be two dots, which only mean a place above: what is there is a page, no file.
        assert answer.status in (404, 200 if ".." in value else 404), (target, answer.status)
        assert b"root:" not in answer.body
        assert client.head(target).status == answer.status


@pytest.mark.parametrize("version", [APK_VERSION, OPKG_VERSION])
def test_dangerous_free_text_is_taken_and_never_reaches_make(
    trapped: Service, client: Client, version: str
) -> None:
    text = "\n".join(value for value in DANGEROUS if value.isprintable() or "\n" in value)
    agent = {"User-Agent": "auc/$(id)`x`", "X-Request-Id": "$(id)"}
    client.ask("GET", "/health", headers=agent)
    answer = client.build(a_body(version=version, defaults=text, client=text, packages=["vim"]))

    assert answer.status == 200, answer.json
    assert answer.json["request"]["defaults"] == text
    assert all(_HARMLESS.fullmatch(argument) for argument in answer.json["build_cmd"])
    assert re.fullmatch(r"[A-Za-z0-9._+~/-]*", answer.json["request"]["client"])


@pytest.mark.parametrize("name", ["a+b", "a.b", "a_b", "A-b", "libstdc++6", "0a", "-a+b", "+vim"])
def test_every_allowed_character_is_harmless_to_make(client: Client, name: str) -> None:
    answer = client.build(a_body(packages=["vim", name]))

    assert answer.status in (200, 500)
    assert LOG not in answer.json["stderr"] and "Error 97" not in answer.json["stderr"]
    assert all(_HARMLESS.fullmatch(argument) for argument in answer.json["build_cmd"])


def test_in_containers_too_only_harmless_arguments_reach_make(
    podman_builder: Service, containers: Client
) -> None:
    for value in DANGEROUS:
        assert containers.post(a_body(packages=[value])).status == 422
    script = "$(touch /builder/x)`id`\n"
    answer = containers.build(a_body(defaults=script, packages=["vim", "-ppp"], rootfs_size_mb=32))

    assert answer.status == 200
    assert all(_HARMLESS.fullmatch(argument) for argument in answer.json["build_cmd"])
    for (document,) in podman_builder.rows("SELECT document FROM build_results"):
        assert "$(touch" not in re.sub(r'"defaults":"[^"]*"', "", document)


def test_links_in_the_store_are_not_followed(trapped: Service, client: Client, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    folder = trapped.store / ("e" * 64)
    folder.mkdir()
    (folder / "link").symlink_to(secret)
    (folder / "folder").mkdir()
    (trapped.store / ("f" * 64)).symlink_to(tmp_path)
    try:
        for path in (
            f"{'e' * 64}/link",
            f"{'e' * 64}/folder",
            f"{'f' * 64}/secret",
            ".scratch-x/images",
            ".staging/x",
        ):
            assert client.get(f"/store/{path}").status == 404
    finally:
        shutil.rmtree(folder)
        (trapped.store / ("f" * 64)).unlink()
