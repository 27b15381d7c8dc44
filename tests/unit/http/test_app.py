"""What every answer has in common, and the one table of errors."""

import asyncio
import json
import logging
import re
import threading
from collections.abc import Mapping
from typing import Any

import pytest

from asgi_client import AsgiClient
from asu_builder.domain import errors
from asu_builder.domain.errors import EngineUnavailable, QueueFull, RequestMalformed, Unavailable
from asu_builder.domain.health import CheckResult
from asu_builder.domain.release import Release
from asu_builder.http.errors import answer_error
from asu_builder.http.fast_path import FastPath
from asu_builder.log_context import REQUEST_ID
from factories import a_request
from fake_builds import FakeBuilds, a_body
from web_scene import DescribingUpstream, Scene

EVERYWHERE = [
    ("GET", "/"),
    ("GET", "/docs"),
    ("GET", "/openapi.json"),
    ("GET", "/health"),
    ("GET", "/api/v1/stats"),
    ("GET", f"/api/v1/build/{'0' * 64}"),
    ("GET", f"/store/{'0' * 64}/x.bin"),
    ("GET", "/store/..%2f..%2fetc/passwd"),
    ("GET", "/nowhere"),
    ("PUT", "/api/v1/build"),
    ("POST", "/api/v1/build"),
]


def _is_a_problem(answer: object, status: int) -> bool:
    document = answer.json  # type: ignore[attr-defined]
    return (
        answer.status == status  # type: ignore[attr-defined]
        and document["status"] == status
        and isinstance(document["title"], str)
        and isinstance(document["detail"], str)
    )


def test_trap_8_a_rejected_request_has_a_text_as_detail(client: AsgiClient, builds: FakeBuilds) -> None:
    builds.error = errors.RequestRejected("Unsupported version: 1.2.3")
    answer = client.post("/api/v1/build", a_body())
    assert _is_a_problem(answer, 400)
    assert answer.json["detail"] == "Unsupported version: 1.2.3"


def test_trap_8_a_malformed_body_has_a_text_as_detail(client: AsgiClient, builds: FakeBuilds) -> None:
    answer = client.post("/api/v1/build", a_body(packages=[1]))
    assert _is_a_problem(answer, 422)
    assert answer.json["detail"] == "packages[0]: expected text, got a number"
    assert builds.submits == 0
    assert answer.header("x-imagebuilder-status") is None


def test_a_full_queue_says_when_to_come_back(client: AsgiClient, builds: FakeBuilds) -> None:
    builds.error = QueueFull(200, 30)
    answer = client.post("/api/v1/build", a_body())
    assert _is_a_problem(answer, 429)
    assert answer.header("retry-after") == "30"
    assert "200" in answer.json["detail"]


@pytest.mark.parametrize("error", [Unavailable("No disk.", retry_after=7), EngineUnavailable("No engine.")])
def test_a_world_that_is_away_says_when_to_come_back(
    client: AsgiClient, builds: FakeBuilds, error: Unavailable
) -> None:
    builds.error = error
    answer = client.get("/api/v1/stats")
    assert _is_a_problem(answer, 503)
    assert answer.header("retry-after") == str(error.retry_after)


def test_a_malformed_request_is_422_although_it_is_a_rejected_one() -> None:
    assert answer_error(RequestMalformed("x")).status == 422


@pytest.mark.parametrize("place", ["look", "submit", "stats"])
def test_a_bug_is_a_fixed_sentence_outside_and_a_traceback_in_the_log(
    client: AsgiClient, builds: FakeBuilds, caplog: pytest.LogCaptureFixture, place: str
) -> None:
    builds.error = RuntimeError("the secret of the house")
    targets = {"look": ("GET", f"/api/v1/build/{'1' * 64}"), "stats": ("GET", "/api/v1/stats")}
    method, target = targets.get(place, ("POST", "/api/v1/build"))
    body = b'{"version":"SNAPSHOT","target":"a/b","profile":"c"}'
    answer = client.request(method, target, body=body, headers={"X-Request-ID": "abc.1"})
    assert _is_a_problem(answer, 500)
    assert b"secret" not in answer.body
    assert answer.header("access-control-allow-origin") == "*"
    assert "the secret of the house" in caplog.text
    assert "abc.1" in caplog.text


def test_an_error_meant_for_workers_is_a_bug_here(
    client: AsgiClient, builds: FakeBuilds, caplog: pytest.LogCaptureFixture
) -> None:
    builds.error = errors.LeaseLost("job 5 is gone")
    answer = client.get("/api/v1/stats")
    assert _is_a_problem(answer, 500)
    assert b"job 5" not in answer.body
    assert "job 5 is gone" in caplog.text


def test_404_of_an_unknown_hash_has_the_words_of_the_contract(client: AsgiClient) -> None:
    answer = client.get(f"/api/v1/build/{'0' * 64}")
    detail = "could not find provided request hash"
    assert answer.json == {"status": 404, "title": "Not Found", "detail": detail}


@pytest.mark.parametrize(
    "name", ["x", "*", "%00", "A" * 64, "0" * 63, "0" * 65, "0" * 64 + "%0a", "ü" * 32, "0" * 5000]
)
def test_what_could_be_no_hash_is_404_without_a_look(
    client: AsgiClient, builds: FakeBuilds, name: str
) -> None:
    assert _is_a_problem(client.get(f"/api/v1/build/{name}"), 404)
    assert builds.looks == 0


@pytest.mark.parametrize("path", ["/nowhere", "/api/v1", "/api/v1/build/a/b", "/store", "/store/x"])
def test_an_unknown_address_is_404_in_json(client: AsgiClient, path: str) -> None:
    assert _is_a_problem(client.get(path), 404)


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/api/v1/build"), ("POST", f"/api/v1/build/{'0' * 64}")]
)
def test_a_wrong_method_is_405_in_json(client: AsgiClient, method: str, path: str) -> None:
    answer = client.request(method, path)
    assert _is_a_problem(answer, 405)
    assert answer.header("allow")


def test_trap_16_head_is_the_poll_without_its_body(client: AsgiClient, builds: FakeBuilds) -> None:
    for request_hash in (builds.hold(a_request()), builds.complete(a_request(packages=("x",))), "0" * 64):
        path = f"/api/v1/build/{request_hash}"
        # The first HEAD goes to the queue, the second is answered from memory.
        first, get, second = client.request("HEAD", path), client.get(path), client.request("HEAD", path)
        for head in (first, second):
            assert head.body == b""
            assert head.status == get.status
            for name in ("x-imagebuilder-status", "x-queue-position", "content-length", "content-type"):
                assert head.header(name) == get.header(name)


@pytest.mark.parametrize(("method", "path"), EVERYWHERE)
def test_trap_17_every_answer_has_the_origin_header_exactly_once(
    client: AsgiClient, method: str, path: str
) -> None:
    assert client.request(method, path).all("access-control-allow-origin") == ["*"]


def test_trap_17_answers_from_memory_have_it_too(client: AsgiClient, builds: FakeBuilds) -> None:
    request_hash = builds.complete()
    for _ in range(2):
        for answer in (client.get(f"/api/v1/build/{request_hash}"), client.post("/api/v1/build", a_body())):
            assert answer.status == 200
            assert answer.all("access-control-allow-origin") == ["*"]
            assert answer.all("cache-control") == ["no-store"]
            assert answer.header("x-request-id")


@pytest.mark.parametrize("path", ["/api/v1/build", f"/store/{'0' * 64}/x", "/nowhere", "//api//v1/build/?1"])
def test_trap_17_a_preflight_is_answered_anywhere(client: AsgiClient, path: str) -> None:
    answer = client.request("OPTIONS", path, headers={"Access-Control-Request-Method": "POST"})
    assert answer.status == 204
    assert answer.body == b""
    assert answer.header("access-control-allow-origin") == "*"
    assert answer.header("access-control-allow-methods") == "GET, HEAD, POST, DELETE, OPTIONS"
    assert answer.header("access-control-allow-headers") == "Content-Type, Authorization, X-Cancel-Token, *"


@pytest.mark.parametrize(("method", "path"), [*EVERYWHERE, ("OPTIONS", "/")])
def test_trap_17_a_proxy_may_add_these_headers_instead(scene: Scene, method: str, path: str) -> None:
    with AsgiClient(scene.app(cors=False)) as client:
        answer = client.request(method, path)
        assert not [name for name, _ in answer.headers if name.startswith("access-control")]


def test_trap_18_a_timestamp_behind_any_address_changes_nothing(
    client: AsgiClient, builds: FakeBuilds
) -> None:
    request_hash = builds.complete()
    assert client.post("/api/v1/build?1763900000000", a_body()).status == 200
    assert client.get(f"/api/v1/build/{request_hash}?1763900000001").status == 200
    assert client.get("/api/v1/stats?1763900000001").status == 200
    assert builds.submits == 1
    assert builds.looks == 0


@pytest.mark.parametrize("path", ["//api/v1/build", "/api//v1///build", "/api/v1/build/", "//api/v1/build//"])
def test_trap_19_slashes_are_collapsed_inside_for_posts_too(
    client: AsgiClient, builds: FakeBuilds, path: str
) -> None:
    posted = client.post(path, a_body())
    assert posted.status == 202
    polled = client.get(f"{path}/{posted.json['request_hash']}")
    assert polled.status == 202


def test_trap_20_neither_client_nor_user_agent_is_no_error(client: AsgiClient, builds: FakeBuilds) -> None:
    assert client.post("/api/v1/build", a_body()).status == 202
    assert builds.clients == ["unknown/0"]


def test_auc_is_recorded_by_its_user_agent(client: AsgiClient, builds: FakeBuilds) -> None:
    client.post("/api/v1/build", a_body(), {"User-Agent": "auc (0.3.2)"})
    assert builds.clients == ["auc/0.3.2"]


def test_the_content_type_of_a_post_is_not_looked_at(client: AsgiClient) -> None:
    assert client.post("/api/v1/build", a_body(), {"Content-Type": "text/plain"}).status == 202


def test_trap_23_a_body_on_a_poll_is_ignored(client: AsgiClient, builds: FakeBuilds) -> None:
    path = f"/api/v1/build/{builds.build()}"
    assert client.request("GET", path, body=b"{}").status == 202
    assert client.request("GET", path, body=b"{}").status == 202


def test_trap_30_nothing_is_ever_a_redirect_nor_compressed_for_those_who_do_not_ask(
    client: AsgiClient, builds: FakeBuilds
) -> None:
    path = f"/api/v1/build/{builds.complete()}"
    for target in ("//", "///example.org/x", f"/{path}", path, "/docs/", "/store/", "/api/v1/build/"):
        for headers in ({}, {"Accept-Encoding": "identity"}, {"Accept-Encoding": "gzip, br"}):
            answer = client.get(target, headers)
            assert answer.status in (200, 404, 405)
            assert answer.header("location") is None
            asked = "gzip" in headers.get("Accept-Encoding", "") and target in ("//", "/docs/")
            assert answer.header("content-encoding") == ("gzip" if asked else None)


def test_trap_33_a_body_of_hundreds_of_kilobytes_is_taken(client: AsgiClient) -> None:
    body = a_body(packages=[f"package-{number:04}" for number in range(2500)], defaults="x" * 200_000)
    assert client.post("/api/v1/build", body).status == 202


@pytest.mark.parametrize("path", ["/api/v1/stats", f"/api/v1/build/{'0' * 64}"])
def test_nothing_below_api_is_stored(client: AsgiClient, path: str) -> None:
    assert client.get(path).header("cache-control") == "no-store"


def test_a_request_id_is_taken_if_it_is_harmless(client: AsgiClient) -> None:
    assert client.get("/health", {"X-Request-ID": "trace-1.a_B"}).header("x-request-id") == "trace-1.a_B"
    for hostile in ("a b", "x" * 65, '"><script>', ""):
        given = client.get("/health", {"X-Request-ID": hostile}).header("x-request-id")
        assert given
        assert given != hostile


def test_every_answer_has_a_request_id_of_its_own(client: AsgiClient) -> None:
    assert len({client.get("/health").header("x-request-id") for _ in range(5)}) == 5


def test_the_request_id_reaches_the_services_threads(client: AsgiClient, app: FastPath, scene: Scene) -> None:
    seen: list[str] = []

    def pending() -> int:
        seen.append(REQUEST_ID.get())
        return 0

    scene.builds.pending = pending  # type: ignore[method-assign]
    for request_id in ("abc", "xyz"):
        client.get("/api/v1/stats", {"X-Request-ID": request_id})
        app._answers.polled.clear()
    assert seen == ["abc", "xyz"]


def test_stats_say_how_many_wait(client: AsgiClient, builds: FakeBuilds) -> None:
    builds.hold(a_request())
    assert client.get("/api/v1/stats").json == {"queue_length": 1}


def test_health_says_how_each_part_is(client: AsgiClient, scene: Scene) -> None:
    answer = client.get("/health")
    assert answer.status == 200
    assert answer.json["status"] == "ok"
    assert answer.json["parts"]["engine"] == {"status": "ok", "sentence": "The container engine works."}
    assert set(answer.json["parts"]) == {"process", "database", "engine", "store"}
    assert answer.header("cache-control") == "no-store"


def test_health_stays_200_without_an_engine_unless_asked_for_builds(client: AsgiClient, scene: Scene) -> None:
    scene.checked["engine"] = CheckResult("error", "Podman does not answer.")
    scene.health.check_all()
    assert client.get("/health").status == 200
    assert client.get("/health").json["status"] == "degraded"
    assert client.get("/health?for=build").status == 503
    assert client.get("/health?for=build").json["can_build"] is False


def test_health_is_503_when_polls_cannot_be_answered(client: AsgiClient, scene: Scene) -> None:
    scene.checked["database"] = CheckResult("error", "The disk is gone.")
    scene.health.check_all()
    answer = client.get("/health")
    assert answer.status == 503
    assert answer.json["parts"]["database"]["sentence"] == "The database does not answer."


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_pages_hold_no_script_of_their_own_and_no_foreign_address(client: AsgiClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status == 200
    assert answer.header("content-type") == "text/html; charset=utf-8"
    policy = answer.header("content-security-policy")
    assert policy
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    # Scripts come from files of ours alone, and only improve what is there without them.
    assert re.findall(rb"<script(?! type=\"module\" src=\"/static/)", answer.body) == []
    assert b'="http' not in answer.body
    assert b" style=" not in answer.body and b" on" + b"click" not in answer.body


def test_a_page_escapes_what_parts_say(client: AsgiClient, scene: Scene) -> None:
    scene.checked["engine"] = CheckResult("error", "<script>alert(1)</script>")
    scene.health.check_all()
    assert b"<script>" not in client.get("/").body


def test_the_service_starts_before_the_first_answer_and_stops_behind_the_last(scene: Scene) -> None:
    with AsgiClient(scene.app()) as client:
        assert scene.life == ["start"]
        client.get("/health")
    assert scene.life == ["start", "stop"]


def test_requests_are_counted_by_route_and_status(
    client: AsgiClient, app: FastPath, builds: FakeBuilds
) -> None:
    path = f"/api/v1/build/{builds.complete()}"
    for _ in range(3):
        client.get(path)
    client.request("HEAD", path)
    client.get("/made/up")
    client.get("/made/up/too")
    client.request("OPTIONS", path)
    assert app.requests == {
        ("GET", "/api/v1/build/{request_hash}", 200): 3,
        ("HEAD", "/api/v1/build/{request_hash}", 200): 1,
        ("GET", "unknown", 404): 2,
        ("OPTIONS", "any", 204): 1,
    }


def test_a_debug_line_tells_of_each_request_without_its_hash(
    client: AsgiClient, builds: FakeBuilds, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "asu_builder.http")
    request_hash = builds.complete()
    client.get(f"/api/v1/build/{request_hash}")
    client.get(f"/api/v1/build/{request_hash}")
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("asu_builder.http")]
    assert len(lines) == 2
    assert all("GET /api/v1/build/{request_hash} 200" in line for line in lines)
    assert request_hash not in caplog.text


@pytest.mark.parametrize(
    "target",
    [
        *("/", "/build", "/queue", "/docs", "/health", "/metrics", "/openapi.json", "/nowhere"),
        *("/api/v1/stats", "/api/v1/jobs", "/json/v1/overview.json", "/api/v1/packages?q=x"),
        *(f"/api/v1/build/{'0' * 64}", f"/store/{'0' * 64}/x.bin", f"/api/v1/build/{'0' * 64}/log"),
    ],
)
def test_a_wrong_token_is_401_on_every_route_alike(client: AsgiClient, target: str) -> None:
    answer = client.get(target, {"Authorization": "Bearer nonsense"})
    assert _is_a_problem(answer, 401)
    assert answer.header("www-authenticate") == "Bearer"
    assert b"not known here" not in client.get(target, {"Authorization": "Basic abc"}).body


def test_a_wrong_token_is_401_for_what_is_remembered_too(client: AsgiClient, builds: FakeBuilds) -> None:
    path = f"/api/v1/build/{builds.complete()}"
    assert client.get(path).status == 200
    assert client.get(path, {"Authorization": "Bearer nonsense"}).status == 401
    assert client.post("/api/v1/build", b"{}", {"Authorization": "Bearer nonsense"}).status == 401


@pytest.mark.parametrize(
    ("method", "target", "kept"),
    [
        ("GET", "/metrics", "no-store"),
        ("GET", "/openapi.json", "max-age=60"),
        ("GET", "/health", "no-store"),
        ("GET", "/nowhere", "no-store"),
        ("POST", "/session", "no-store"),
        ("POST", "/session/end", "no-store"),
    ],
)
def test_every_answer_says_how_long_it_may_be_kept(
    client: AsgiClient, method: str, target: str, kept: str
) -> None:
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    assert client.request(method, target, headers=form).header("cache-control") == kept


def test_one_bug_met_by_one_request_answers_that_request_alone(
    client: AsgiClient, builds: FakeBuilds
) -> None:
    submit = builds.submit

    def fails_for_one(ask: Any) -> Any:
        if "trap" in ask.request.packages:
            raise RuntimeError("a bug")
        return submit(ask)

    builds.submit = fails_for_one  # type: ignore[method-assign]
    bodies = [json.dumps(a_body(packages=[name])).encode() for name in ("a", "trap", "b", "c")]
    answers = client.together(*(("POST", "/api/v1/build", body) for body in bodies))
    assert [answer.status for answer in answers] == [202, 500, 202, 202]


def test_what_was_looked_up_before_a_purge_is_not_answered_after_it(scene: Scene, builds: FakeBuilds) -> None:
    """A look that was under way when an operator purged neither stays nor is joined."""
    request_hash = builds.complete()
    path = f"/api/v1/build/{request_hash}"
    app, look = scene.app(), builds.look
    reached, go_on = threading.Event(), threading.Event()

    def slowly(name: str) -> Any:
        view = look(name)
        reached.set()
        assert go_on.wait(60)
        return view

    async def purge_meanwhile(client: AsgiClient) -> int:
        early = asyncio.create_task(client.ask("GET", path))
        while not reached.is_set():
            await asyncio.sleep(0.001)
        builds.look = look  # type: ignore[method-assign]
        del builds.jobs[request_hash]
        app._answers.forget(request_hash)
        late = await client.ask("GET", path)
        go_on.set()
        await early
        return late.status

    builds.look = slowly  # type: ignore[method-assign]
    with AsgiClient(app) as client:
        assert client._runner.run(purge_meanwhile(client)) == 404
        assert client.get(path).status == 404


def test_an_overview_that_lacks_a_branch_is_not_cacheable(scene: Scene) -> None:
    class Half(DescribingUpstream):
        known = False

        def targets(self, release: Release, *, wait: bool = True) -> Mapping[str, str] | None:
            if not self.known:
                raise Unavailable("Not known yet.")
            return super().targets(release, wait=wait)

    upstream = scene.upstream = Half()
    with AsgiClient(scene.app()) as client:
        for path in ("/json/v1/overview.json", "/json/v1/branches.json"):
            assert client.get(path).header("cache-control") == "no-store"
        upstream.known = True
        scene.seconds += 1.1
        for path in ("/json/v1/overview.json", "/json/v1/branches.json"):
            assert client.get(path).header("cache-control") == "max-age=60"
