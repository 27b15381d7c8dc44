"""What the log says about requests, and the id that joins it to an answer."""

import json
import logging
import threading
from collections.abc import Iterator

import pytest

from asgi_client import AsgiClient
from asu_builder.http import fast_path
from asu_builder.log_context import CURRENT_HASH, REQUEST_ID
from factories import a_request
from fake_builds import FakeBuilds, a_body
from web_scene import Scene

BUILD = "/api/v1/build"
ANYWHERE = [
    ("GET", "/", b""),
    ("GET", "/health", b""),
    ("HEAD", "/health", b""),
    ("GET", "/metrics", b""),
    ("GET", "/openapi.json", b""),
    ("GET", "/api/v1/stats", b""),
    ("GET", "/api/v1/jobs", b""),
    ("GET", f"{BUILD}/{'0' * 64}", b""),
    ("GET", f"/store/{'0' * 64}/x.bin", b""),
    ("GET", "/store/..%2f..%2fetc/passwd", b""),
    ("GET", "/nowhere", b""),
    ("PUT", BUILD, b""),
    ("OPTIONS", BUILD, b""),
    ("POST", BUILD, b"{}"),
    ("POST", BUILD, b"no json"),
]


class Heard(logging.Handler):
    """Notes each line with the context in which it was logged."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[tuple[str, str, str, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append((record.levelname, record.getMessage(), REQUEST_ID.get(), CURRENT_HASH.get()))


@pytest.fixture
def on_output() -> Iterator[Heard]:
    """Everything that the web layer logs."""
    listener = Heard()
    logger = logging.getLogger("asu_builder.http")
    former = logger.level
    logger.addHandler(listener)
    logger.setLevel(logging.DEBUG)
    yield listener
    logger.removeHandler(listener)
    logger.setLevel(former)


@pytest.mark.parametrize(("method", "target", "body"), ANYWHERE)
def test_every_answer_has_the_id_that_was_sent_and_so_has_its_one_line(
    client: AsgiClient, on_output: Heard, method: str, target: str, body: bytes
) -> None:
    answer = client.request(method, target, body=body, headers={"X-Request-ID": "trace-7"})
    assert answer.header("x-request-id") == "trace-7"
    ((level, message, request_id, _),) = on_output.lines
    assert (level, request_id) == ("DEBUG", "trace-7")
    assert message.startswith(method) and str(answer.status) in message


def test_a_bug_is_logged_with_the_id_of_its_request(
    client: AsgiClient, builds: FakeBuilds, on_output: Heard
) -> None:
    builds.error = RuntimeError("a bug")
    answer = client.get("/api/v1/stats", {"X-Request-ID": "trace-8"})
    assert (answer.status, answer.header("x-request-id")) == (500, "trace-8")
    assert [(level, request_id) for level, _, request_id, _ in on_output.lines] == [
        ("ERROR", "trace-8"),
        ("DEBUG", "trace-8"),
    ]


def test_a_line_about_a_build_knows_it_and_the_next_request_begins_afresh(
    client: AsgiClient, builds: FakeBuilds, on_output: Heard
) -> None:
    name = builds.complete()
    client.get(f"{BUILD}/{name}")
    client.get(f"{BUILD}/{name}")
    client.get(f"/store/{name}/x.bin")
    client.get("/health")
    assert [request_hash for *_, request_hash in on_output.lines] == [name, name, name, ""]
    assert not any(name in message for _, message, *_ in on_output.lines)
    assert on_output.lines[1][1].endswith("from memory")


def test_who_submits_a_build_is_told_once_and_who_joins_is_not(
    client: AsgiClient, builds: FakeBuilds, scene: Scene, on_output: Heard
) -> None:
    client.post(BUILD, a_body(), {"X-Request-ID": "first"})
    scene.seconds += 60
    client.post(BUILD, a_body(), {"X-Request-ID": "second"})
    (name,) = builds.jobs
    told = [line for line in on_output.lines if line[0] == "INFO"]
    assert told == [("INFO", "build submitted", "first", name)]
    assert on_output.lines[-1][2:] == ("second", name)


def test_what_is_logged_while_many_are_submitted_together_is_not_laid_on_one_of_them(
    client: AsgiClient, builds: FakeBuilds
) -> None:
    seen: list[str] = []
    submit_all = builds.submit_all

    def note(asked: object) -> object:
        seen.append(REQUEST_ID.get())
        return submit_all(asked)  # type: ignore[arg-type]

    builds.submit_all = note  # type: ignore[assignment,method-assign]
    client.post(BUILD, a_body(), {"X-Request-ID": "alone"})
    bodies = [json.dumps(a_body(packages=[f"p{number}"])).encode() for number in range(5)]
    client.together(*[("POST", BUILD, body) for body in bodies])
    assert seen == ["alone", ""]  # the five came at the same moment


def test_an_answer_that_begins_late_is_a_warning(
    client: AsgiClient, builds: FakeBuilds, on_output: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fast_path, "_SLOW_SECONDS", 0.05)
    client.get("/health")
    assert [level for level, *_ in on_output.lines] == ["DEBUG"]
    builds.hold(a_request())
    builds.gate.clear()
    threading.Timer(0.1, builds.gate.set).start()
    client.get(f"{BUILD}/{next(iter(builds.jobs))}")
    level, message, _, request_hash = on_output.lines[-1]
    assert level == "WARNING"
    assert "began only after 0.1 s" in message
    assert request_hash in builds.jobs
