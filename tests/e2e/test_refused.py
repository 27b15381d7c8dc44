"""What no build can install is refused before a build, like a failed build, until an index changes."""

import json
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from asu_sample.distribution import Distribution, write_distribution, write_index
from asu_sample.miniature import adb
from asu_sample.miniature import packages as index
from asu_sample.releases import RELEASES
from e2e.clients.crash import ClientError
from e2e.clients.luci import Luci
from e2e.clients.owut import Owut
from e2e.clients.scene import ROUTER, SOON
from e2e.conftest import local_settings
from e2e.service import Client, Service
from e2e.terminal import run
from e2e.warm import warmed
from factories import eventually
from odd_server import OddServer, odd_server
from podman_service import APK_VERSION, OPKG_VERSION

_VERSIONS = (APK_VERSION, OPKG_VERSION)
FLAVOURS = pytest.mark.parametrize("version", _VERSIONS)
_SELECTIONS = [
    (version, packages)
    for version in _VERSIONS
    for packages in (
        ["no-such-a"],
        ["no-such-a", "vim", "nor-b"],
        ["sample-broken-dep"],
        ["sample-needs-broken"],
        ["sample-conflict-a", "sample-conflict-b"],
    )
]
_OF_A_BUILD = {"stdout", "stderr", "build_cmd", "enqueued_at"}
"""What differs from the document of a build."""
_MOST = 0.1
"""Seconds that the quickest of many refusals takes at most; a build takes ten times as long."""


def a_body(version: str, packages: list[str], **changes: object) -> dict[str, object]:
    """What a client posts."""
    place = {"target": "pico/nine", "profile": "acme_widget-5"}
    return {"version": version, **place, "packages": packages, **changes}


class QuickService(Service):
    """It asks for documents again after a second."""

    program = ("-m", "e2e.quick_documents")


class Mirror:
    """A download server from which ImageBuilders install, and a service that builds with them."""

    def __init__(self, world: Distribution, server: OddServer, service: Service) -> None:
        self.world = world
        self.server = server
        self.service = service

    @property
    def builds(self) -> int:
        """How many builds there were."""
        return int(self.service.rows("SELECT count(*) FROM build_jobs")[0][0])

    def leave_out(self, version: str, package: str, folder: Path) -> None:
        """Lets the server say from now on that there is no such package; `folder` is an empty one."""
        release = next(release for release in RELEASES if release.version == version)
        place = f"/{release.version_path}/packages/pico_9kc/packages"
        there = self.world.downloads / place.lstrip("/")
        if release.package_manager == "apk":
            packages = list(adb.read_index((there / adb.FILE_NAME).read_bytes()) or ())
        else:
            packages = list(index.parse_paragraphs((there / "Packages").read_text()))
        write_index(folder, [each for each in packages if each.name != package], release, "pico_9kc")
        self.server.odd = {f"{place}/{path.name}": path.read_bytes() for path in folder.iterdir()}


@contextmanager
def mirrored(root: Path) -> Iterator[Mirror]:
    """A service that knows the ImageBuilders of `pico/nine`, where samples enough were built before."""
    (root / "world" / "downloads").mkdir(parents=True)
    with odd_server(root / "world" / "downloads") as server:
        world = write_distribution(root / "world", repositories_url=server.url, archives=False)
        chosen = local_settings(world, server.url) | {"build_network": "asu-build"}
        service = QuickService(root / "service", chosen).start()
        try:
            with service.client() as client:
                names = [client.post(a_body(version, ["vim"])).json["request_hash"] for version in _VERSIONS]
                assert {client.wait(name).status for name in names} == {200}
            service.stop()
            with closing(sqlite3.connect(service.database, isolation_level=None)) as database:
                for version in _VERSIONS:
                    database.execute(
                        "INSERT INTO preflight_targets (release_path, target, mode, since, sampled)"
                        " VALUES (?, 'pico/nine', 'enforce', 1, 5)",
                        (f"releases/{version}",),
                    )
            yield Mirror(world, server, service.start())
        finally:
            service.end()
        assert "Traceback" not in service.stderr()


@pytest.fixture(scope="module")
def one_mirror(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mirror]:
    with mirrored(tmp_path_factory.mktemp("refusing")) as mirror:
        yield mirror


@pytest.fixture
def mirror(one_mirror: Mirror) -> Iterator[Mirror]:
    yield one_mirror
    one_mirror.server.odd = {}


@pytest.fixture(scope="module")
def advising(one_mirror: Mirror, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A service with the same ImageBuilders that builds everything."""
    settings = one_mirror.service.settings(preflight="advise", worker_id="advising")
    for own in ("server_port", "database_path", "public_path"):
        del settings[own]
    service = Service(tmp_path_factory.mktemp("advising"), settings).start()
    with service.client() as client:
        yield client
    service.end()


def foretell(client: Client, body: object) -> str:
    """The verdict of a preview; "" where this address asks too often."""
    headers = {"Content-Type": "application/json"}
    answer = client.ask("POST", "/api/v1/packages/preview", json.dumps(body).encode(), headers)
    return str(answer.json.get("verdict", ""))


def without(document: Mapping[str, Any], names: set[str]) -> dict[str, Any]:
    """The document without these fields."""
    return {name: value for name, value in document.items() if name not in names}


@pytest.mark.parametrize(("version", "packages"), [*_SELECTIONS, (APK_VERSION, ["nftables-nojson"])])
def test_a_refusal_is_the_document_of_the_failed_build_without_its_output(
    mirror: Mirror, advising: Client, version: str, packages: list[str]
) -> None:
    body, builds = a_body(version, packages), mirror.builds
    built = advising.build(body)
    with mirror.service.client() as client:
        refused = client.post(body)
        assert (built.status, refused.status) == (500, 500), refused.json
        assert mirror.builds == builds, "no job was made"
        failed, told = built.json, refused.json
        assert failed.keys() - told.keys() == {"build_cmd"} and not told.keys() - failed.keys()
        assert without(told, _OF_A_BUILD) == without(failed, _OF_A_BUILD)
        assert (told["stdout"], told["stderr"]) == ("", "")
        for name in ("x-imagebuilder-status", "x-queue-position", "content-type", "cache-control"):
            assert refused.headers[name] == built.headers[name]

        path = f"/api/v1/build/{told['request_hash']}"
        assert client.look(told["request_hash"]).json == told
        head = client.head(path)
        assert (head.status, head.headers["x-imagebuilder-status"], head.body) == (500, "failed", b"")
        page = client.get(f"/build/{told['request_hash']}")
        assert page.status == 200 and b"Not built" in page.body
        final = client.get(f"{path}/events").body.decode().rpartition("event: final\n")[2]
        assert json.loads(final.partition("data: ")[2].splitlines()[0])["document"] == told
        assert client.ask("DELETE", path).status == 403


@FLAVOURS
def test_a_refusal_repeats_from_memory_and_takes_no_slot(mirror: Mirror, version: str) -> None:
    builds, spans = mirror.builds, []
    with mirror.service.client() as client:
        answers = []
        for _ in range(20):
            began = time.monotonic()
            answers.append(client.post(a_body(version, ["no-such-b"])))
            spans.append(time.monotonic() - began)
    assert {answer.status for answer in answers} == {500}
    assert len({answer.body for answer in answers}) == 1
    assert min(spans) < _MOST
    assert mirror.builds == builds


@FLAVOURS
def test_a_changed_index_lets_the_same_request_through(mirror: Mirror, version: str, tmp_path: Path) -> None:
    body = a_body(version, ["htop"])
    mirror.leave_out(version, "htop", tmp_path)
    with mirror.service.client() as client:
        assert eventually(lambda: foretell(client, body) == "impossible"), "the service reads the index again"
        told = client.post(body)
        assert (told.status, told.json["problem"]) == (500, {"missing": ["htop"]})
        mirror.server.odd = {}
        assert client.look(told.json["request_hash"]).status == 500
        assert eventually(lambda: client.post(body).status != 500)
        built = client.wait(told.json["request_hash"])
        assert built.status == 200 and "htop" in built.json["manifest"]


def test_owut_and_luci_show_why_a_request_was_refused(mirror: Mirror) -> None:
    server, builds = warmed(mirror.service), mirror.builds
    owut = Owut(server, ROUTER, SOON, SOON, added=("no-such-package",))
    with pytest.raises(ClientError, match=r"missing \(no-such-package\)") as end:
        owut.upgrade(APK_VERSION)
    assert end.value.status == 500
    assert end.value.shown.startswith("Error: Impossible package selection: missing (no-such-package)")
    with pytest.raises(ClientError) as end:
        Luci(server, ROUTER, SOON).build(APK_VERSION, ["no-such-package"])
    assert end.value.status == 500
    assert end.value.shown.startswith("Error: Impossible package selection: missing (no-such-package)")
    assert mirror.builds == builds


def test_the_command_line_shows_a_refusal_as_a_failed_build(mirror: Mirror) -> None:
    server, builds = f"http://127.0.0.1:{mirror.service.port}", mirror.builds
    place = ("--version", APK_VERSION, "--target", "pico/nine", "--profile", "acme_widget-5")
    ended = run(mirror.service, "build", "--server", server, *place, "--package", "no-such-package")
    assert ended.code == 1
    assert "Impossible package selection: missing (no-such-package)" in ended.err
    assert mirror.builds == builds


def test_the_first_of_a_target_is_built_all_the_same_and_the_next_is_not(mirror: Mirror) -> None:
    place = {"target": "x86/64", "profile": "generic"}
    with mirror.service.client() as client:
        assert client.build(a_body(APK_VERSION, ["vim"], **place)).status == 200
        sample = client.post(a_body(APK_VERSION, ["no-such-a"], **place))
        assert sample.status == 202
        assert client.post(a_body(APK_VERSION, ["no-such-b"], **place)).status == 500, "one a minute"
        failed = client.wait(sample.json["request_hash"])
        assert failed.json["build_cmd"][:2] == ["make", "manifest"]
        query = "SELECT sampled, disagreements FROM preflight_targets WHERE target = 'x86/64'"
        assert eventually(lambda: mirror.service.rows(query) == [(1, 0)])
        assert client.post(a_body(APK_VERSION, ["no-such-a"], **place)).json == failed.json
