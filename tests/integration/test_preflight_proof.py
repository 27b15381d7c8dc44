"""Builds of the service are compared with what it foretells: real ImageBuilders, indexes and resolver."""

import gzip
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from asgi_client import Answer, AsgiClient
from asu_builder.app import assemble
from asu_builder.app.background import Rounds
from asu_builder.domain.access import digest_of
from asu_builder.ports import Runtime
from asu_builder.settings import Settings
from asu_sample.distribution import Distribution, write_distribution
from asu_sample.server import DownloadServer
from factories import eventually
from pipeline_rig import NotedRuntime
from podman_service import APK_VERSION, OPKG_VERSION

SECRET = "s3cret-of-the-operator"
_BEARER = {"authorization": f"Bearer {SECRET}"}


@pytest.fixture(scope="module")
def networked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Distribution, DownloadServer]]:
    """A distribution whose ImageBuilders load their packages from a server."""
    root = tmp_path_factory.mktemp("networked") / "world"
    (root / "downloads").mkdir(parents=True)
    with DownloadServer(root / "downloads") as server:
        yield write_distribution(root, repositories_url=server.url, archives=False), server


@contextmanager
def a_service(
    root: Path,
    world: Distribution,
    upstream: str,
    *,
    watch: Callable[[Runtime], Runtime] = lambda runtime: runtime,
    **chosen: Any,
) -> Iterator[AsgiClient]:
    settings = Settings(
        database_path=root / "data" / "a.db",
        public_path=root / "public",
        upstream_url=upstream,
        container_runtime="local",
        imagebuilder_path=world.template,
        allow_unsandboxed=True,
        worker_concurrent=1,
        api_tokens=({"name": "alice", "digest": digest_of(SECRET), "rights": ["operate"]},),
        **chosen,
    )
    rounds = Rounds(preflight=0.1, health=0.5)
    with AsgiClient(assemble(settings, rounds=rounds, watch=watch).app) as client:
        yield client


def build(client: AsgiClient, version: str, *packages: str) -> Any:
    """What a build came to."""
    body = {"version": version, "target": "pico/nine", "profile": "acme_widget-5", "packages": packages}
    answers: list[Answer] = []

    def has_ended() -> bool:
        answers[:] = [client.post("/api/v1/build", body)]
        return answers[0].status not in (202, 503)

    assert eventually(has_ended)
    return answers[0].json


def counted(client: AsgiClient, name: str) -> dict[str, float]:
    """A metric that has one label, by its value; without those that are 0."""
    text = client.get("/metrics").body.decode()
    return {
        next(iter(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == f"asu_builder_{name}_total" and sample.value
    }


@pytest.mark.process
def test_builds_have_the_very_packages_that_are_foretold(
    tmp_path: Path, networked: tuple[Distribution, DownloadServer]
) -> None:
    world, server = networked
    with a_service(tmp_path, world, server.url) as client:
        for number, version in enumerate((APK_VERSION, OPKG_VERSION)):
            assert build(client, version, "tmux")["detail"] == "done"
            assert build(client, version, "no-such")["state"] == "failed"
            compared = {"fine": number + 1.0, "impossible": number + 1.0}
            assert eventually(lambda: counted(client, "preflight_compared") == compared)  # noqa: B023
        assert counted(client, "preflight_disagreed") == {}
        targets = client.request("GET", "/api/v1/preflight", headers=_BEARER).json["targets"]
        assert [(one["mode"], one["sampled"]) for one in targets] == [("enforce", 1), ("enforce", 1)]


@pytest.mark.long
@pytest.mark.process
def test_packages_that_are_known_are_not_asked_for_unless_the_operator_wants_it(
    tmp_path: Path, networked: tuple[Distribution, DownloadServer]
) -> None:
    world, server = networked
    runtimes: list[NotedRuntime] = []

    def watch(runtime: Runtime) -> Any:
        runtimes.append(NotedRuntime(runtime))
        return runtimes[-1]

    with a_service(tmp_path, world, server.url, watch=watch) as client:
        build(client, APK_VERSION)
        known = build(client, APK_VERSION, "sample-uses-lib")
    assert runtimes[-1].commands == ["make info", "make manifest", "make image", "make image"]
    assert known["manifest"]["libsample"] == "2024.01.01~abc123-r1"
    eager: tuple[tuple[dict[str, object], str], ...] = (
        ({"eager_manifest": True}, "tmux"),
        ({"preflight": "off"}, "vim"),
    )
    for chosen, package in eager:
        with a_service(tmp_path, world, server.url, watch=watch, **chosen) as client:
            assert package in build(client, APK_VERSION, package)["manifest"]
        assert runtimes[-1].commands == ["make info", "make manifest", "make image"]
    assert len(runtimes) == 3


@pytest.mark.long
@pytest.mark.process
def test_a_verdict_that_a_build_proves_wrong_refuses_no_more(
    tmp_path: Path, networked: tuple[Distribution, DownloadServer]
) -> None:
    world, server = networked
    downloads = tmp_path / "downloads"
    shutil.copytree(world.downloads, downloads)
    for path in downloads.rglob("Packages"):
        # The mirror that the service asks is one package behind the one that the ImageBuilder asks.
        text = re.sub(r"(?m)^Package: tmux\n(?:.+\n)+\n", "", path.read_text())
        path.write_text(text)
        path.with_name("Packages.gz").write_bytes(gzip.compress(text.encode()))
    with (
        DownloadServer(downloads) as behind,
        a_service(tmp_path, world, behind.url, repository_allow_list=(server.url,)) as client,
    ):
        assert build(client, OPKG_VERSION)["detail"] == "done"
        assert eventually(lambda: counted(client, "preflight_compared") == {"fine": 1})
        assert build(client, OPKG_VERSION, "tmux")["detail"] == "done"
        assert eventually(lambda: counted(client, "preflight_disagreed") == {"false_refusal": 1})

        def is_told() -> bool:
            return bool(client.get("/health").json["parts"]["preflight"]["status"] == "degraded")

        assert eventually(is_told)
        (target,) = client.request("GET", "/api/v1/preflight", headers=_BEARER).json["targets"]
        assert (target["version"], target["target"], target["mode"]) == (OPKG_VERSION, "pico/nine", "advise")
        assert "missing (tmux)" in target["last_disagreement"]
        address = f"/api/v1/preflight/{OPKG_VERSION}/pico/nine/enforce"
        assert client.request("POST", address, headers=_BEARER).status == 200
        (target,) = client.request("GET", "/api/v1/preflight", headers=_BEARER).json["targets"]
        assert target["mode"] == "enforce"
