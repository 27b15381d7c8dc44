"""The operator's interface: who may do what, and what it says."""

import hashlib
from collections.abc import Iterator
from datetime import timedelta

import pytest
from msgspec.structs import replace

from asgi_client import Answer, AsgiClient
from asu_builder.database.preflight import SqlPreflightRecords
from asu_builder.domain.access import Right, Token
from asu_builder.domain.job import Retention
from database_clock import at_time
from factories import NOON, a_failure, a_submission
from web_scene import Scene

SECRETS = {"reader": frozenset({Right.READ}), "alice": frozenset({Right.OPERATE}), "guest": frozenset()}
JOBS = "/api/v1/jobs"


@pytest.fixture
def scene(scene: Scene) -> Scene:
    scene.tokens = tuple(
        Token(name, hashlib.sha256(f"secret of {name}".encode()).hexdigest(), rights)
        for name, rights in SECRETS.items()
    )
    return scene


@pytest.fixture(autouse=True)
def closed(scene: Scene, client: AsgiClient) -> Iterator[None]:
    yield
    scene.database.close()


def ask(client: AsgiClient, method: str, path: str, *, as_: str = "alice") -> Answer:
    headers = {"authorization": f"Bearer secret of {as_}"} if as_ else {}
    return client.request(method, path, headers=headers)


def submit(scene: Scene, name: str = "vim", **changes: object) -> str:
    submission = replace(a_submission(packages=(name,)), **changes)
    return at_time(scene.queue, NOON).submit(submission).job.request_hash


def fail_next(scene: Scene) -> None:
    claimed = at_time(scene.queue, NOON).claim("w/1", lease_for=timedelta(minutes=1))
    assert claimed is not None
    at_time(scene.queue, NOON).finish(claimed[1], a_failure(), Retention(timedelta(hours=1)))


NEEDED = [
    ("GET", JOBS, Right.READ),
    ("GET", "/api/v1/workers", Right.READ),
    ("GET", "/api/v1/acts", Right.READ),
    ("POST", f"{JOBS}/{'a' * 64}/requeue", Right.OPERATE),
    ("DELETE", f"/api/v1/results/{'a' * 64}", Right.OPERATE),
    ("POST", "/api/v1/workers/pause", Right.OPERATE),
    ("POST", "/api/v1/workers/resume", Right.OPERATE),
    ("GET", "/api/v1/preflight", Right.READ),
    ("POST", "/api/v1/preflight/24.10.5/pico/nine/enforce", Right.OPERATE),
]


@pytest.mark.parametrize(("method", "path", "right"), NEEDED)
def test_no_caller_sees_or_does_anything_without_the_right(
    client: AsgiClient, scene: Scene, method: str, path: str, right: Right
) -> None:
    refused = ask(client, method, path, as_="")
    assert (refused.status, refused.header("www-authenticate")) == (401, "Bearer")
    assert "Authorization: Bearer" in refused.json["detail"]
    assert ask(client, method, path, as_="mallory").status == 401
    assert ask(client, method, path, as_="guest").status == 403
    expected = 403 if right is Right.OPERATE else 200
    assert ask(client, method, path, as_="reader").status == expected
    assert ask(client, method, path).status in (200, 404)


def test_jobs_are_listed_newest_first_and_by_what_is_asked(client: AsgiClient, scene: Scene) -> None:
    submit(scene, "a", caller="192.0.2.9")
    fail_next(scene)
    second = submit(scene, "b")
    jobs = ask(client, "GET", JOBS).json["jobs"]
    assert [job["state"] for job in jobs] == ["pending", "failed"]
    assert jobs[0]["request_hash"] == second
    assert (jobs[1]["reason"], jobs[1]["caller"]) == ("impossible_selection", "192.0.2.9")
    assert [job["id"] for job in ask(client, "GET", f"{JOBS}?state=failed").json["jobs"]] == [jobs[1]["id"]]
    assert len(ask(client, "GET", f"{JOBS}?limit=1").json["jobs"]) == 1
    assert ask(client, "GET", f"{JOBS}?before={jobs[1]['id']}").json["jobs"] == []
    assert ask(client, "GET", f"{JOBS}?version=nosuch").json["jobs"] == []
    wrong = ask(client, "GET", f"{JOBS}?state=sleeping")
    assert wrong.status == 400
    assert "expected one of pending, building" in wrong.json["detail"]
    assert ask(client, "GET", f"{JOBS}?limit=many").status == 400


def test_a_failure_is_purged_and_a_job_built_once_more(client: AsgiClient, scene: Scene) -> None:
    name = submit(scene)
    assert ask(client, "POST", f"{JOBS}/{name}/requeue").status == 409
    fail_next(scene)
    assert ask(client, "POST", f"{JOBS}/{name}/requeue").json == {"status": 200, "detail": "requeued"}
    fail_next(scene)
    assert ask(client, "DELETE", f"/api/v1/results/{name}").json == {"status": 200, "detail": "purged"}
    assert scene.queue.find(name) is None
    assert ask(client, "DELETE", f"/api/v1/results/{name}").status == 404
    assert ask(client, "DELETE", "/api/v1/results/nonsense").status == 404


def test_a_result_that_is_being_downloaded_answers_no_more_but_stays_whole(
    client: AsgiClient, scene: Scene
) -> None:
    name = submit(scene)
    fail_next(scene)
    store = scene.store()
    with store.scratch() as scratch:
        (scratch / "images").mkdir()
        store.publish(name, scratch / "images")
    with store.hold(name):
        answer = ask(client, "DELETE", f"/api/v1/results/{name}")
        assert (answer.status, scene.queue.find(name)) == (409, None)
        assert store.holds(name)
    assert ask(client, "DELETE", f"/api/v1/results/{name}").status == 200
    assert not store.holds(name)


def test_workers_are_paused_and_resumed_and_every_act_is_written_down(
    client: AsgiClient, scene: Scene
) -> None:
    submit(scene)
    assert ask(client, "GET", "/api/v1/workers").json == {
        "paused": False,
        "since": None,
        "operator": None,
        "nodes": [],
    }
    paused = ask(client, "POST", "/api/v1/workers/pause").json
    assert (paused["paused"], paused["operator"]) == (True, "alice")
    assert scene.queue.claim("w/1", lease_for=timedelta(minutes=1)) is None
    assert ask(client, "POST", "/api/v1/workers/resume").json["paused"] is False
    assert scene.queue.claim("w/1", lease_for=timedelta(minutes=1)) is not None
    acts = ask(client, "GET", "/api/v1/acts").json["acts"]
    assert [(act["operator"], act["act"]) for act in acts] == [("alice", "resume"), ("alice", "pause")]


def test_where_a_verdict_was_wrong_is_listed_first_and_can_be_enforced_again(
    client: AsgiClient, scene: Scene
) -> None:
    records = SqlPreflightRecords(scene.database)
    at_time(records, NOON).note_sample("releases/24.10.5", "pico/nine", disagreement="foretold; built")
    at_time(records, NOON + timedelta(hours=1)).note_sample("snapshots", "x86/64")
    first, second = ask(client, "GET", "/api/v1/preflight").json["targets"]
    assert first == {
        "version": "24.10.5",
        "target": "pico/nine",
        "mode": "advise",
        "since": "2026-03-01T12:00:00Z",
        "sampled": 1,
        "disagreements": 1,
        "last_disagreement": "foretold; built",
    }
    assert (second["version"], second["mode"], second["sampled"]) == ("SNAPSHOT", "enforce", 1)
    path = "/api/v1/preflight/24.10.5/pico/nine/enforce"
    assert ask(client, "POST", path).status == 200
    targets = ask(client, "GET", "/api/v1/preflight").json["targets"]
    assert {target["mode"] for target in targets} == {"enforce"}
    assert ask(client, "POST", path).status == 409
    (act,) = ask(client, "GET", "/api/v1/acts").json["acts"]
    assert (act["operator"], act["act"], act["subject"]) == ("alice", "enforce", "24.10.5 pico/nine")
