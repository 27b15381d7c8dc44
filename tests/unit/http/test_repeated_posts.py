"""POSTs whose bytes came before: answered past the parser, as the ordinary way would answer them."""

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Iterator, Sequence

import pytest

from asu_builder.domain.access import Token, digest_of
from asu_builder.http.api.builds import FINAL_SECONDS
from asu_builder.log_context import REQUEST_ID
from door_rig import Served, door_settings, is_closed, serve
from factories import eventually
from fake_builds import FakeBuilds
from web_scene import Scene

BODY = b'{"version":"24.10.5","target":"pico/nine","profile":"acme_widget-5"}'
SPACED = BODY.replace(b",", b", ")
_SECRET = "a secret of twenty-one"

Pieces = Sequence[bytes]


def _post(
    *headers: str,
    target: str = "/api/v1/build",
    version: str = "1.1",
    body: bytes = BODY,
    length: bool = True,
) -> bytes:
    lines = [f"POST {target} HTTP/{version}", "Host: x", *headers]
    lines += [f"Content-Length: {len(body)}"] if length else []
    return "\r\n".join((*lines, "", "")).encode() + body


def _chunked(body: bytes) -> bytes:
    return b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)


class Recalls:
    """Counts what of the requests was answered from their bytes alone."""

    def __init__(self, served: Served) -> None:
        self.count = 0
        self.off = False
        self._recall = served.door.known_answer
        served.door.known_answer = self

    def __call__(self, head: bytes, body: bytes) -> bytes | None:
        answer = None if self.off else self._recall(head, body)
        self.count += bool(answer)
        return answer


@pytest.fixture
def served(scene: Scene) -> Iterator[Served]:
    """The application with its limits, and a token that it knows."""
    scene.tokens = (Token("ops", digest_of(_SECRET), frozenset()),)
    with serve(scene, door_settings()) as served:
        yield served


def _ask(connection: socket.socket, *pieces: bytes) -> tuple[list[bytes], bytes]:
    """The lines of the head, without what each answer has of its own, and the body."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for number, piece in enumerate(pieces):
        if number:
            time.sleep(0.02)  # so that it is read by itself
        connection.sendall(piece)
    return _read_answer(connection)


def _read_answer(connection: socket.socket) -> tuple[list[bytes], bytes]:
    with connection.makefile("rb", buffering=0) as reader:
        lines = list(iter(reader.readline, b"\r\n"))
        if b" 100 " in lines[0]:
            lines = list(iter(reader.readline, b"\r\n"))
        length = next(int(line[15:]) for line in lines if line.startswith(b"content-length:"))
        body = b""
        while len(body) < length:
            body += reader.read(length - len(body)) or b""
    own = (b"server-timing:", b"x-request-id: ")
    return [line for line in lines if not line.startswith(own) or b"mine" in line], body


FORMS: dict[str, tuple[Pieces, bool]] = {
    "plain": ([_post()], True),
    "with a user agent": ([_post("User-Agent: auc (0.3.2)")], True),
    "with an id": ([_post("X-Request-Id: mine-1")], True),
    "with an id that is none": ([_post("X-Request-Id: mine<>")], False),
    "from a proxy": ([_post("X-Forwarded-For: 192.0.2.1", "X-Forwarded-Proto: https")], True),
    "with a password": ([_post("Authorization: Basic abc")], True),
    "with a token": ([_post(f"Authorization: Bearer {_SECRET}")], True),
    "with a query": ([_post(target="//api//v1/build/?x=1")], True),
    "accepting gzip": ([_post("Accept-Encoding: gzip", "Accept: text/html")], True),
    "wishing for h2c": ([_post("Connection: Upgrade", "Upgrade: h2c")], True),
    "behind an empty line": ([b"\r\n" + _post()], False),
    "in chunks": ([_post("Transfer-Encoding: chunked", length=False, body=_chunked(BODY))], False),
    "after asking": ([_post("Expect: 100-continue")], False),
    "with two ids": ([_post("X-Request-Id: mine-1", "x-request-id: mine-2")], False),
    "with an id and none": ([_post("X-Request-Id: mine-1", "X-Request-Id: mine<>")], False),
    "with none and an id": ([_post("X-Request-Id: mine<>", "X-Request-Id: mine-1")], False),
    "with an empty id": ([_post("X-Request-Id:", "X-Request-Id: mine-1")], False),
    "head and body apart": ([_post()[: -len(BODY)], BODY], True),
    "in three pieces": ([_post()[:-20], BODY[-20:-10], BODY[-10:]], True),
    "with a head in pieces": ([_post()[:40], _post()[40:-10], _post()[-10:]], False),
}


def test_each_form_is_answered_as_the_ordinary_way_answers_it(
    served: Served, builds: FakeBuilds, scene: Scene
) -> None:
    builds.complete()
    recalls = Recalls(served)
    for form, (pieces, short) in FORMS.items():
        scene.seconds += FINAL_SECONDS
        recalls.count = 0
        answers = []
        for recalls.off in (True, False):
            with served.connect() as connection:
                answers += [_ask(connection, *pieces) for _ in range(3)]
        submitted, *others = answers
        # A look of the door's between two pieces sends one of them the ordinary way.
        assert 3 * short - (len(pieces) > 1) <= recalls.count <= 3 * short, form
        assert all(answer == others[0] for answer in others), form
        assert (sorted(submitted[0]), submitted[1]) == (sorted(others[0][0]), others[0][1]), form
        assert submitted[0][0] == b"HTTP/1.1 200 OK\r\n"
        client = "auc/0.3.2" if "agent" in form else "unknown/0"
        assert scene.statistics.events == [("cache_hit", client)] * 5, "the first was submitted"
        scene.statistics.events.clear()
    assert served.app.requests == {("POST", "/api/v1/build", 200): 6 * len(FORMS)}


def test_lines_that_a_proxy_writes_anew_make_no_other_request(served: Served, builds: FakeBuilds) -> None:
    builds.complete()
    recalls = Recalls(served)
    with served.connect() as connection:
        for number in range(5):
            own = f"X-Forwarded-For: 192.0.2.{number}", f"X-Request-ID: mine-{number}"
            lines, _ = _ask(connection, _post(*own, "User-Agent: x"))
            assert f"x-request-id: mine-{number}\r\n".encode() in lines
            lines, _ = _ask(connection, _post("X-Forwarded-For: unknown", "User-Agent: x"))
            assert not [line for line in lines if line.startswith(b"x-request-id")]
    assert recalls.count == 3 + 4


def test_who_stops_in_a_body_whose_head_is_known_gets_408(scene: Scene, builds: FakeBuilds) -> None:
    builds.complete()
    with serve(scene, door_settings(seconds=0.3)) as served:
        with served.connect() as connection:
            for _ in range(2):
                _ask(connection, _post())
            began = time.monotonic()
            assert _ask(connection, _post()[:-10])[0][0] == b"HTTP/1.1 408 Request Timeout\r\n"
            assert time.monotonic() - began > 0.2
            assert is_closed(connection)


def test_a_known_body_that_takes_long_is_answered_by_the_ordinary_way(
    scene: Scene, builds: FakeBuilds
) -> None:
    builds.complete()
    with serve(scene, door_settings(seconds=0.8)) as served:
        recalls = Recalls(served)
        with served.connect() as connection:
            known = [_ask(connection, _post()) for _ in range(2)]
            connection.sendall(_post()[:-10])
            time.sleep(0.4)  # the door has looked meanwhile
            assert _ask(connection, _post()[-10:]) == known[-1]
    assert recalls.count == 0


def test_requests_in_one_breath_are_answered_in_order(served: Served, builds: FakeBuilds) -> None:
    builds.complete()
    recalls = Recalls(served)
    with served.connect() as connection:
        known = [_ask(connection, _post())[1] for _ in range(3)][-1]
        poll = b"GET /api/v1/build/" + b"f" * 64 + b" HTTP/1.1\r\nHost: x\r\n\r\n"
        connection.sendall(_post() + poll + _post() + _post())
        answers = [_read_answer(connection) for _ in range(4)]
    assert [lines[0].split()[1] for lines, _ in answers] == [b"200", b"404", b"200", b"200"]
    assert [body == known for _, body in answers] == [True, False, True, True]
    assert recalls.count == 1


def test_what_comes_while_another_answer_is_due_waits_for_it(served: Served, builds: FakeBuilds) -> None:
    builds.complete()
    with served.connect() as connection:
        for _ in range(3):
            _ask(connection, _post())
        builds.gate.clear()
        connection.sendall(_post(body=SPACED))
        assert eventually(lambda: bool(served.running))
        connection.sendall(_post("X-Request-Id: mine-2"))
        time.sleep(0.05)  # so that each is read by itself
        connection.sendall(_post())
        time.sleep(0.05)
        builds.gate.set()
        answers = [_read_answer(connection)[0] for _ in range(3)]
    assert [b"x-request-id: mine-2\r\n" in lines for lines in answers] == [False, True, False]


def test_another_body_behind_the_same_head_has_its_own_answer(
    served: Served, builds: FakeBuilds, scene: Scene
) -> None:
    builds.complete()
    other = BODY.replace(b"widget-5", b"widget-6")
    recalls = Recalls(served)
    with served.connect() as connection:
        first = [_ask(connection, _post())[1] for _ in range(3)]
        second = [_ask(connection, _post(body=other))[0][0] for _ in range(3)]
        third = [_ask(connection, _post())[1] for _ in range(2)]
    assert set(first) == set(third)
    assert {line.split()[1] for line in second} == {b"202"}
    assert recalls.count == 3


@pytest.mark.parametrize("headers", [["Connection: close"], ["Authorization: Bearer wrong"]])
def test_what_ends_the_connection_or_is_refused_is_never_answered_by_its_bytes(
    served: Served, builds: FakeBuilds, headers: list[str]
) -> None:
    builds.complete()
    recalls = Recalls(served)
    answers = []
    for _ in range(3):
        with served.connect() as connection:
            answers.append(_ask(connection, _post(*headers))[0])
            assert is_closed(connection) if "close" in headers[0] else True
    assert recalls.count == 0
    assert {lines[0].split()[1] for lines in answers} == {b"200" if "close" in headers[0] else b"401"}


def test_only_results_are_answered_by_their_bytes(served: Served, builds: FakeBuilds, scene: Scene) -> None:
    builds.complete()
    recalls = Recalls(served)
    with served.connect() as connection:
        for _ in range(2):
            _ask(connection, _post())
        for state in ("building", "failed"):
            builds.build() if state == "building" else builds.fail()
            scene.seconds += FINAL_SECONDS
            statuses = {_ask(connection, _post())[0][0].split()[1] for _ in range(3)}
            assert statuses == {b"202" if state == "building" else b"500"}
    assert recalls.count == 0
    assert len(scene.statistics.events) == 1


@pytest.mark.parametrize("change", ["forgotten", "taken back elsewhere", "too long ago"])
def test_what_may_be_true_no_more_is_submitted_anew(
    served: Served, builds: FakeBuilds, scene: Scene, change: str
) -> None:
    name = builds.complete()
    recalls = Recalls(served)
    with served.connect() as connection:
        for _ in range(3):
            _ask(connection, _post())
        assert (recalls.count, builds.submits) == (1, 1)
        del builds.jobs[name]
        if change == "forgotten":
            served.app._answers.forget(name)
        elif change == "taken back elsewhere":
            scene.revoked += 1
        else:
            scene.seconds += FINAL_SECONDS
        assert _ask(connection, _post())[0][0].split()[1] == b"202"
        assert (recalls.count, builds.submits) == (1, 2)


def test_what_a_body_means_is_asked_again_and_its_head_stays_known(
    served: Served, builds: FakeBuilds, scene: Scene
) -> None:
    builds.complete()
    recalls = Recalls(served)
    with served.connect() as connection:
        for _ in range(2):
            _ask(connection, _post())
        for _ in range(3):
            scene.seconds += FINAL_SECONDS
            _ask(connection, _post())
            _ask(connection, _post())
    assert (recalls.count, builds.submits) == (3, 4)


def test_another_connection_is_answered_by_the_same_bytes_and_may_then_be_silent(
    scene: Scene, builds: FakeBuilds
) -> None:
    builds.complete()
    with serve(scene, door_settings(seconds=0.3)) as served:
        recalls = Recalls(served)
        with served.connect() as first:
            for _ in range(2):
                _ask(first, _post())
        with served.connect() as second:
            answer = _ask(second, _post())
            time.sleep(0.7)
            assert _ask(second, _post()) == answer
    assert recalls.count == 2


def test_chunks_that_are_none_are_refused_though_their_head_is_known(
    served: Served, builds: FakeBuilds
) -> None:
    builds.complete()
    chunked = _post("Transfer-Encoding: chunked", length=False, body=_chunked(BODY))
    with served.connect() as connection:
        for _ in range(3):
            _ask(connection, chunked)
        assert _ask(connection, chunked.replace(_chunked(BODY), BODY))[0][0].split()[1] == b"400"


def test_a_body_that_is_arriving_when_the_server_ends_is_answered(scene: Scene, builds: FakeBuilds) -> None:
    builds.complete()
    with contextlib.ExitStack() as opened:
        with serve(scene, door_settings()) as served:
            connection = opened.enter_context(served.connect())
            for _ in range(2):
                _ask(connection, _post())
            connection.sendall(_post()[:-10])
            rest = threading.Timer(0.4, connection.sendall, (_post()[-10:],))
            rest.start()
        assert _read_answer(connection)[0][0] == b"HTTP/1.1 200 OK\r\n"
        rest.join()


def test_each_has_its_line_in_the_log(
    served: Served, builds: FakeBuilds, caplog: pytest.LogCaptureFixture
) -> None:
    builds.complete()
    caplog.set_level(logging.DEBUG, "asu_builder")
    recalls = Recalls(served)
    with served.connect() as connection:
        for _ in range(3):
            _ask(connection, _post("X-Request-Id: mine-1"))
    assert recalls.count == 1
    before = REQUEST_ID.get()
    assert served.app.known_answer(_post()[: -len(BODY)], BODY)
    assert REQUEST_ID.get() == before, "what is logged next is not about this request"
    lines = [record.getMessage() for record in caplog.records if "POST" in record.getMessage()]
    assert lines == ["POST /api/v1/build 200", *["POST /api/v1/build 200 from memory"] * 3]
