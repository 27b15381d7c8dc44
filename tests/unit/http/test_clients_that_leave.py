"""Clients that ask what needs upstream and go away at once, over real sockets: they cost nothing."""

import asyncio
import gc
import json
import logging
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import ExitStack
from functools import partial

import pytest

from asu_builder.core.submit import Ask, BuildView
from asu_builder.domain.access import Token, digest_of
from asu_builder.domain.errors import Unavailable
from asu_builder.domain.reading import current_reading
from asu_builder.domain.release import VersionList
from asu_builder.http.protocol import HttpProtocol
from asu_builder.settings import Settings
from door_rig import Served, answer_of, head_of, serve
from factories import eventually
from fake_builds import FakeBuilds, a_body
from web_scene import DescribingUpstream, Scene

pytestmark = pytest.mark.waits

_CLIENTS = 600
_AT_ONCE = 200
_TOKEN = "Authorization: Bearer secret"


class _Hanging:
    """A document that comes when the test says so."""

    def __init__(self) -> None:
        self.fetch: Future[None] = Future()
        self.callers = 0

    def need(self) -> None:
        """Raises `Unavailable` until it is here, as the upstream client does for what is on its way."""
        reading = current_reading()
        if not self.fetch.done():
            assert reading is not None
            self.callers += 1
            reading.await_first(self.fetch)
            raise Unavailable("Not yet.")


class _HangingUpstream(DescribingUpstream):
    def __init__(self, document: _Hanging) -> None:
        super().__init__()
        self._document = document

    def versions(self) -> VersionList:
        self._document.need()
        return super().versions()


class _HangingBuilds(FakeBuilds):
    def __init__(self, document: _Hanging) -> None:
        super().__init__()
        self._document = document

    def submit(self, ask: Ask) -> BuildView:
        assert ask.reading is not None
        with ask.reading.active():
            self._document.need()
        return super().submit(ask)


def _post(path: str, body: bytes, kind: str = "application/json") -> bytes:
    headers = (_TOKEN, f"Content-Type: {kind}", f"Content-Length: {len(body)}")
    return head_of(path, *headers, method="POST") + body


_FORM = b"version=24.10.5&target=pico/nine&profile=acme_widget-5&do="
_FORM_TYPE = "application/x-www-form-urlencoded"
_OVERVIEW = head_of("/json/v1/overview.json", _TOKEN)
_QUESTIONS = (
    _OVERVIEW,
    head_of("/json/v1/releases/24.10.5/targets/pico/nine/index.json", _TOKEN),
    head_of("/api/v1/revision/24.10.5/pico/nine", _TOKEN),
    head_of("/api/v1/devices?version=24.10.5&search=acme", _TOKEN),
    head_of("/build?version=24.10.5&target=pico/nine&profile=acme_widget-5", _TOKEN),
    _post("/api/v1/build", json.dumps(a_body()).encode()),
    _post("/api/v1/packages/preview", json.dumps(a_body()).encode()),
    _post("/build", _FORM + b"check", _FORM_TYPE),
    _post("/build", _FORM + b"build", _FORM_TYPE),
)
"""What cannot be answered without the list of versions; of one with a token, whom no limit keeps out."""


@pytest.fixture
def document(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> _Hanging:
    """What all of them wait for, and would for ten minutes."""
    monkeypatch.setattr("asu_builder.http.threads.FIRST_SECONDS", 600.0)
    document = _Hanging()
    scene.tokens = (Token("test", digest_of("secret")),)
    scene.upstream, scene.builds = _HangingUpstream(document), _HangingBuilds(document)
    return document


@pytest.fixture
def served(scene: Scene, document: _Hanging) -> Iterator[Served]:
    """The application before it has seen anything of upstream."""
    with serve(scene, Settings()) as running:
        yield running


def _send_and_leave(served: Served, count: int, *, beside: int) -> None:
    """Every question by turns; `beside` others are being answered, before and after."""
    for start in range(0, count, _AT_ONCE):
        some = min(_AT_ONCE, count - start)
        with ExitStack() as opened:
            for number in range(start, start + some):
                connection = opened.enter_context(served.connect())
                connection.sendall(_QUESTIONS[number % len(_QUESTIONS)])
            assert eventually(partial(_are_answered, served, beside + some))
        assert eventually(partial(_are_answered, served, beside)), "no client waits for an answer any more"


def _are_answered(served: Served, count: int) -> bool:
    return len(served.running) == count


def _held() -> dict[str, int]:
    """What there is of what every request has."""
    gc.collect()
    objects = gc.get_objects()
    kinds = (HttpProtocol, asyncio.Task, asyncio.Event, asyncio.Future)
    return {kind.__name__: sum(isinstance(held, kind) for held in objects) for kind in kinds}


def test_thousands_of_questions_whose_callers_have_left_cost_nothing(
    served: Served, document: _Hanging, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with served.connect() as staying:
        staying.sendall(_OVERVIEW)
        _send_and_leave(served, len(_QUESTIONS), beside=1)  # loads what is loaded at its first use
        before = _held()
        caplog.clear()
        _send_and_leave(served, _CLIENTS, beside=1)
        assert document.callers > _CLIENTS // len(_QUESTIONS), "they waited"
        assert eventually(lambda: served.door.connections == 1)
        after = _held()
        assert {kind: count - before[kind] for kind, count in after.items() if count > before[kind] + 9} == {}
        assert caplog.messages == [], "nor a line in the log"
        document.fetch.set_result(None)
        status, overview, _ = answer_of(staying)
        assert (status, "24.10" in overview["branches"]) == (200, True)
    assert not [key for key in served.app.requests if key[2] == 500]
    assert sum(count for key, count in served.app.requests.items() if key[2] == 499) >= _CLIENTS


@pytest.mark.parametrize("number", range(len(_QUESTIONS)))
def test_who_stays_is_answered_though_the_first_who_asked_the_same_has_left(
    served: Served, document: _Hanging, number: int
) -> None:
    with served.connect() as staying:
        with served.connect() as leaving:
            leaving.sendall(_QUESTIONS[number])
            assert eventually(lambda: document.callers >= 1)
            staying.sendall(_QUESTIONS[number])
            assert eventually(lambda: len(served.running) == 2)
        assert eventually(lambda: len(served.running) == 1)
        document.fetch.set_result(None)
        status, _, _ = answer_of(staying)
        assert status in (200, 202, 303)


def test_who_asks_right_after_the_last_has_left_is_answered(served: Served, document: _Hanging) -> None:
    """What is about to end is not joined."""
    for _ in range(20):
        with served.connect() as leaving:
            leaving.sendall(_OVERVIEW)
            assert eventually(lambda: len(served.running) >= 1)
    with served.connect() as staying:
        staying.sendall(_OVERVIEW)
        assert eventually(lambda: len(served.running) == 1)
        document.fetch.set_result(None)
        assert answer_of(staying)[0] == 200
