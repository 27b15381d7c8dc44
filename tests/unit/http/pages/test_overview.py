"""The first page: everything at a glance, and nothing that is somebody's own."""

import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from asgi_client import AsgiClient
from asu_builder.domain.errors import UpstreamUnavailable
from asu_builder.domain.job import EventKind, RecordedFailure, Tally
from asu_builder.domain.release import Release, VersionList
from factories import NOON, a_submission
from fake_builds import FakeStatistics
from visitors import READER, TOKENS
from web_scene import EmptyUpstream, Scene


class TwoBranches(EmptyUpstream):
    """An upstream with releases of two branches."""

    def versions(self) -> VersionList:
        return VersionList(("25.12.0", *(f"24.10.{number}" for number in range(8))), ("25.12.0",))

    def targets(self, release: Release, *, wait: bool = True) -> Mapping[str, str] | None:
        return (
            {"pico/nine": "mips_24kc", "pico/ten": "mips_24kc"} if "SNAPSHOT" not in release.version else {}
        )


class Busy(FakeStatistics):
    """A service to which something has happened."""

    counts: Mapping[EventKind, int] = {
        "request": 3,
        "cache_hit": 4,
        "completed": 2,
        "failed": 1,
        "refused": 5,
    }

    def tally(self, kinds: object, **_: object) -> tuple[Tally, ...]:
        assert isinstance(kinds, tuple)
        return (Tally(29, "", sum(self.counts[kind] for kind in kinds)),)

    def failures(self, limit: int) -> tuple[RecordedFailure, ...]:
        failure = RecordedFailure(NOON, "24.10.5", "pico/nine", "<i>acme_widget-5</i>", "too_big")
        return (failure, RecordedFailure(NOON, "24.10.5", "pico/ten", "acme", "of_another_time"))[:limit]


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path, tokens=TOKENS)


def page(client: AsgiClient, path: str = "/status") -> str:
    answer = client.get(path)
    assert answer.status == 200
    return re.sub(r"\s+", " ", answer.body.decode())


def test_it_says_how_the_service_is(client: AsgiClient, scene: Scene) -> None:
    assert "Everything works" in page(client)
    scene.health.part_failed("engine", "Podman does not answer: start `podman.socket`.")
    assert "start <code>podman.socket</code>" in client.get("/", READER).body.decode()
    scene.seconds += 1.1
    shown = page(client)
    assert "podman.socket" not in shown
    assert "The container engine does not work now; builds wait until it does." in shown
    assert 'class="notice degraded"' in shown and '<span class="badge down">Down</span>' in shown


def test_it_counts_the_queue_without_naming_a_job(client: AsgiClient, scene: Scene) -> None:
    job = scene.queue.submit(a_submission(caller="someone-known")).job
    shown = page(client)
    assert '<dt><a href="/queue">Waiting</a></dt><dd>1</dd>' in shown
    assert job.request_hash not in shown and "someone-known" not in shown and job.request.profile not in shown


def test_an_idle_service_has_nothing_to_draw(client: AsgiClient) -> None:
    shown = page(client)
    assert "No requests yet." in shown and "No build has failed yet." in shown
    assert "Not known yet:" not in page(client, "/")  # its own snapshot is always offered
    assert "<svg" not in shown


@pytest.fixture
def busy(scene: Scene) -> Scene:
    scene.counted = Busy()
    scene.upstream = TwoBranches()
    return scene


def test_the_week_is_drawn_and_stands_in_a_table(busy: Scene, client: AsgiClient) -> None:
    shown = page(client)
    assert "Requests today (UTC)</dt><dd>7</dd>" in shown
    assert "<svg" in shown and "style=" not in shown
    row = r'2026-03-01</th><td class="number">3</td><td class="number">4</td><td class="number">1</td>'
    assert re.search(row, shown)
    assert len(re.findall(r'<th scope="row" class="when">2026-0', shown)) == 7


def test_failures_are_told_in_words_without_what_only_the_caller_may_know(
    busy: Scene, client: AsgiClient
) -> None:
    shown = page(client)
    assert "The packages do not fit on the device" in shown and "24.10.5 · pico/nine" in shown
    assert "Of another time" in shown
    assert "&lt;i&gt;acme_widget-5" in shown and "<i>" not in shown
    assert not re.search(r"[0-9a-f]{64}", shown)


def test_versions_lead_to_the_page_that_builds_them(busy: Scene, client: AsgiClient) -> None:
    shown = page(client, "/")
    for version in ("25.12.0", "24.10.7", "24.10.0", "SNAPSHOT"):
        assert f'href="/build?version={version}"' in shown
    branch = re.search(r'<th scope="row" class="when">24.10</th>.*?</tr>', shown)
    assert branch is not None
    assert '<td class="number">2</td>' in branch[0] and "2 older" in branch[0]


class Silent(EmptyUpstream):
    """A download server that has never answered."""

    def versions(self) -> VersionList:
        raise UpstreamUnavailable("It does not answer.")


@pytest.fixture
def lonely(scene: Scene) -> Scene:
    scene.upstream = Silent()
    return scene


def test_it_stands_without_its_upstream(lonely: Scene, client: AsgiClient) -> None:
    shown = page(client)
    assert "Components" in shown
    first = page(client, "/")
    assert "Not known yet:" in first
    assert '<a class="button" href="/build">' in first


def test_it_answers_head(client: AsgiClient) -> None:
    assert client.request("HEAD", "/").status == 200


@pytest.mark.parametrize("address", ["/", "/build", "/queue", "/statistics", "/docs"])
def test_who_runs_the_server_stands_at_the_foot_of_a_page(client: AsgiClient, address: str) -> None:
    foot = client.get(address).body.decode().partition("<footer>")[2]
    assert 'Contact: <a href="mailto:asu@example.org" rel="noreferrer">asu@example.org</a>' in foot


def test_a_visitor_begins_with_the_search_for_a_device(busy: Scene, client: AsgiClient) -> None:
    shown = page(client, "/")
    assert shown.index('<form method="get" action="/build"') < shown.index("Supported versions")
    assert '<option value="25.12.0" selected>' in shown
    assert "Components" not in shown and "Latest failures" not in shown and "Everything works" not in shown
    assert '<a href="/status">' in shown
    assert '<meta property="og:title" content="OpenWrt images' in shown


def test_an_operator_sees_the_state_of_the_service_on_the_first_page(busy: Scene, client: AsgiClient) -> None:
    shown = client.get("/", READER).body.decode()
    assert "Components" in shown and "Latest failures" in shown
    assert shown.index('action="/build"') < shown.index("Components")


def test_a_visitor_is_told_on_the_first_page_when_something_is_down(client: AsgiClient, scene: Scene) -> None:
    scene.health.part_failed("engine", "Podman does not answer.")
    shown = page(client, "/")
    assert 'class="notice degraded"' in shown and "builds wait until it does" in shown
    assert "Podman does not answer" not in shown


BROWSER = {"accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}


def test_health_is_a_page_for_browsers_and_a_document_for_programs(client: AsgiClient, scene: Scene) -> None:
    for accept in ({}, {"accept": "*/*"}, {"accept": "application/json"}, {"accept": "text/plain"}):
        assert client.get("/health", accept).json["status"] == "ok", accept
    shown = client.get("/health", BROWSER)
    assert shown.status == 200 and b"<h1>Health</h1>" in shown.body and b"Components" in shown.body
    scene.health.part_failed("database", "Gone.")
    assert client.get("/health", BROWSER).status == client.get("/health").status == 503
    assert b"Gone." not in client.get("/health", BROWSER).body
    assert b"Gone." in client.get("/health", {**BROWSER, **READER}).body


@pytest.mark.parametrize(
    "path", ["/nowhere", "/store/" + "0" * 64 + "/x.bin", "/keys/none", "/static/0/x.css"]
)
def test_an_unknown_address_is_a_page_for_browsers_and_json_for_programs(
    client: AsgiClient, path: str
) -> None:
    for accept in ({}, {"accept": "*/*"}, {"accept": "application/json, text/html;q=0.5"}):
        assert client.get(path, accept).json["status"] == 404, accept
    shown = client.get(path, {**BROWSER, "accept-language": "de"})
    assert shown.status == 404
    assert b'<html lang="de"' in shown.body and b"<h1>Nicht gefunden</h1>" in shown.body


def test_errors_of_the_interface_are_documents_for_whoever_asks(client: AsgiClient) -> None:
    for path in ("/api/v1/build/" + "0" * 64, "/api/nowhere", "/json/nowhere"):
        answer = client.get(path, BROWSER)
        assert answer.status == 404 and answer.header("content-type") == "application/json"


def test_a_wrong_method_is_a_page_too(client: AsgiClient) -> None:
    answer = client.request("DELETE", "/docs", headers=BROWSER)
    assert answer.status == 405 and b"<h1>Method not allowed</h1>" in answer.body
    assert answer.header("allow")


def test_robots_programs_and_browsers_find_what_they_look_for(client: AsgiClient) -> None:
    robots = client.get("/robots.txt")
    assert b"Disallow: /build/" in robots.body and (robots.header("content-type") or "").startswith(
        "text/plain"
    )
    described = client.get("/llms.txt").body.decode()
    assert described.startswith("# ASU Builder 1.2.3") and "/api/v1/build" in described
    for address in re.findall(r"\]\((/[^)?]*)", described):
        assert client.get(address).status in (200, 400, 422), address
    assert client.get("/favicon.ico").header("content-type") == "image/svg+xml"
