"""Upstream and its ImageBuilders between two states: nobody is blamed, and it is built once they agree."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from asu_sample.distribution import Distribution, write_distribution, write_index
from asu_sample.miniature import adb
from asu_sample.miniature import packages as index
from asu_sample.releases import RELEASES
from e2e.conftest import local_settings
from e2e.service import Client, Service
from factories import the_case
from odd_server import OddServer, odd_server
from podman_service import APK_VERSION, OPKG_VERSION

pytestmark = pytest.mark.long

PROFILE = {"target": "pico/nine", "profile": "acme_widget-5"}


class Mirror:
    """A download server of its own, from which the ImageBuilders of a service load their packages."""

    def __init__(self, world: Distribution, server: OddServer, service: Service) -> None:
        self.world = world
        self.server = server
        self.service = service

    def retried(self, client: Client, body: object) -> tuple[str, str]:
        """Asks for a build; its hash, and what is written down once it was given back to be tried again."""
        name = str(client.post_patiently(body).json["request_hash"])
        query = f"SELECT history FROM build_jobs WHERE request_hash = '{name}' AND retries > 0"
        client.wait_until(name, lambda answer: answer.status == 500 or bool(self.service.rows(query)))
        answer = client.look(name)
        assert answer.status == 202, answer.json
        return name, str(self.service.rows(query)[0][0])


@contextmanager
def mirrored(root: Path) -> Iterator[Mirror]:
    (root / "world" / "downloads").mkdir(parents=True)
    with odd_server(root / "world" / "downloads") as server:
        world = write_distribution(root / "world", repositories_url=server.url, archives=False)
        settings = local_settings(world, server.url) | {"build_network": "asu-build"}
        service = Service(root / "service", settings)
        try:
            yield Mirror(world, server, service.start())
        finally:
            service.end()
        assert "Traceback" not in service.stderr()


@pytest.fixture(scope="module")
def one_mirror(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mirror]:
    with mirrored(tmp_path_factory.mktemp("mirror")) as mirror:
        yield mirror


@pytest.fixture
def mirror(one_mirror: Mirror) -> Iterator[Mirror]:
    yield one_mirror
    one_mirror.server.odd = {}


def test_a_revision_that_the_imagebuilder_does_not_have_yet(mirror: Mirror) -> None:
    """Case 09: infrastructure, retried, says that upstream is between two states; builds once it has caught
    up."""
    case = json.loads(the_case("09-revision-behind.json"))
    announced, body = case["profiles.json version_code"], case["request"]
    path = f"/snapshots/targets/{body['target']}/profiles.json"
    described = json.loads((mirror.world.downloads / path.lstrip("/")).read_text())
    behind = described["version_code"]
    mirror.server.odd = {path: json.dumps({**described, "version_code": announced}).encode()}
    with mirror.service.client() as client:
        told = client.get(f"/api/v1/revision/{body['version']}/{body['target']}").json
        assert told["revision"] == body["version_code"] == announced != behind
        name, said = mirror.retried(client, body)
        assert f"Received incorrect version {behind} (requested {announced})" in said
        assert "Upstream is between two states" in said

        builder = mirror.world.imagebuilder(body["version"], body["target"])
        made_for = json.loads((builder / "sample.json").read_text())
        (builder / "sample.json").write_text(json.dumps({**made_for, "revision": announced}))
        (builder / ".config").touch()
        built = client.wait(name)
        assert (built.status, built.json["version_code"]) == (200, announced)

        wrong = client.build({**body, "version_code": behind})
        assert (wrong.json["reason"], wrong.json["side"]) == ("revision_mismatch", "user")


@pytest.mark.parametrize("version", [APK_VERSION, OPKG_VERSION])
def test_a_package_that_the_imagebuilder_does_not_have_yet(
    mirror: Mirror, tmp_path: Path, version: str
) -> None:
    """This server has told of it, and the mirror's indexes are those of an earlier state by now."""
    release = next(release for release in RELEASES if release.version == version)
    folder = f"/{release.version_path}/packages/pico_9kc/packages"
    there = mirror.world.downloads / folder.lstrip("/")
    if version == APK_VERSION:
        packages = adb.read_index((there / "packages.adb").read_bytes(), [release.signing_key().public])
        assert packages
    else:
        packages = index.parse_paragraphs((there / "Packages").read_text())
    write_index(tmp_path, [each for each in packages if each.name != "htop"], release, "pico_9kc")
    with mirror.service.client() as client:
        told = client.get(f"/json/v1/{release.version_path}/packages/pico_9kc-index.json").json
        assert "htop" in told
        mirror.server.odd = {f"{folder}/{path.name}": path.read_bytes() for path in tmp_path.iterdir()}
        name, said = mirror.retried(client, {"version": version, **PROFILE, "packages": ["htop"]})
        assert "missing (htop)" in said and "Upstream is between two states" in said
        mirror.server.odd = {}
        built = client.wait(name)
        assert built.status == 200 and "htop" in built.json["manifest"]


def test_a_package_that_cannot_be_downloaded(mirror: Mirror, tmp_path: Path) -> None:
    """Case 01: infrastructure, `upstream_unreachable`, retried; built once the file is back; the package
    named."""
    script = the_case("01-replay.sh")
    away = re.search(r"^mv WORLD/downloads/(\S+) ", script, re.MULTILINE)
    body = re.search(r"-d '(\{.*\})'", script)
    assert away and body
    there = mirror.world.downloads / away[1]
    kept = there.rename(tmp_path / "kept.ipk")
    with mirror.service.client() as client:
        name, said = mirror.retried(client, json.loads(body[1]))
        assert "Packages that the index lists could not be had: tmux" in said
        kept.rename(there)
        built = client.wait(name)
        assert built.status == 200 and "tmux" in built.json["manifest"]
