"""Watching a build, through the real server on loopback."""

import contextlib
import http.client
import json
import logging
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from asgi_client import AsgiClient
from asu_builder.core.submit import BuildView
from asu_builder.domain.errors import EngineUnavailable, Unavailable
from asu_builder.domain.job import JobState, Stage
from asu_builder.http.api import watched
from asu_builder.http.api.live import WatchLimits
from asu_builder.http.server import DrainingServer, server_config
from factories import NOON, a_request, eventually, never
from fake_builds import FakeBuilds, a_result
from ports import free_port
from visitors import READER, TOKENS
from web_scene import Scene

pytestmark = pytest.mark.waits

BUILD = "/api/v1/build"


class Served:
    """The application on a port, and a build that the test moves."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.builds: FakeBuilds = scene.builds
        self.open: list[http.client.HTTPConnection | http.client.HTTPResponse] = []
        self.app = scene.app()
        self.port = free_port()
        config = server_config(self.app, "127.0.0.1", self.port)
        self.server = DrainingServer(config, drain=lambda: None, end_streams=self.app.end_streams)
        self.thread = threading.Thread(target=self.server.run)
        self.thread.start()
        assert eventually(lambda: self.server.started)
        self.name = self.builds.build(stage=Stage.VALIDATE_REVISION)
        self.job_id = self.builds.jobs[self.name].job.id

    def print(self, *texts: str) -> None:
        self.scene.log.print(self.job_id, *texts)
        self.scene.notifier.notify(self.name)

    def move(self, **changes: Any) -> None:
        self.builds.jobs[self.name] = BuildView(replace(self.builds.jobs[self.name].job, **changes))
        self.scene.notifier.notify(self.name)

    def complete(self) -> None:
        self.move(state=JobState.COMPLETED, stage=None, finished_at=NOON, outcome=a_result())

    def watch(self, query: str = "", **options: Any) -> AbstractContextManager[ClientConnection]:
        address = f"ws://127.0.0.1:{self.port}{BUILD}/{self.name}/events{query}"
        watching: AbstractContextManager[ClientConnection] = connect(
            address, compression=None, open_timeout=60, close_timeout=60, **options
        )
        return watching

    def get(self, path: str, headers: dict[str, str] | None = None) -> http.client.HTTPResponse:
        return self.ask("GET", path, headers)

    def ask(self, method: str, path: str, headers: dict[str, str] | None = None) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request(method, path, headers=headers or {})
        answer = connection.getresponse()
        self.open += [connection, answer]
        return answer

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(60)
        assert not self.thread.is_alive()
        for each in self.open:
            each.close()
        self.scene.database.close()


@pytest.fixture
def served(scene: Scene) -> Iterator[Served]:
    made = Served(scene)
    yield made
    made.stop()


def receive(watching: ClientConnection, seconds: float = 60.0) -> Any:
    message = watching.recv(timeout=seconds)
    assert isinstance(message, str)
    return json.loads(message)


def rest(watching: ClientConnection) -> list[Any]:
    """Every message to the end; what it was closed with comes last."""
    messages = []
    try:
        while True:
            messages.append(receive(watching))
    except ConnectionClosed as end:
        assert end.rcvd is not None
        return [*messages, (end.rcvd.code, end.rcvd.reason)]


def seqs(messages: list[Any]) -> list[int]:
    return [
        line["seq"]
        for message in messages
        if isinstance(message, dict) and message["type"] == "lines"
        for line in message["lines"]
    ]


def test_a_watcher_is_told_the_state_every_line_and_the_end(served: Served) -> None:
    served.print("before")
    with served.watch() as watching:
        assert receive(watching) == {
            "type": "state",
            "state": "building",
            "stage": "validate_revision",
            "position": None,
            "eta_seconds": None,
            "waiting_for": None,
            "late": False,
        }
        assert receive(watching) == {
            "type": "lines",
            "lines": [{"seq": 1, "at": "2026-03-01T12:00:00Z", "stage": "building_image", "text": "before"}],
        }
        served.print("live")
        assert seqs([receive(watching)]) == [2]
        served.move(stage=Stage.BUILDING_IMAGE)
        assert receive(watching)["stage"] == "building_image"
        served.scene.log.print(served.job_id, "last")
        served.complete()
        lines, state, final, end = rest(watching)
        assert (seqs([lines]), state["state"], end) == ([3], "completed", (1000, ""))
        assert (final["type"], final["status"]) == ("final", 200)
        assert final["document"] == json.loads(served.get(f"{BUILD}/{served.name}").read())


def test_the_news_of_another_process_are_seen_without_a_bell(served: Served) -> None:
    with served.watch() as watching:
        receive(watching)
        served.scene.log.print(served.job_id, "from elsewhere")
        assert seqs([receive(watching)]) == [1]


def test_a_waiting_build_is_told_with_its_position(served: Served) -> None:
    name = served.name = served.builds.hold(a_request(packages=("vim",)))
    served.builds.jobs[name] = BuildView(served.builds.jobs[name].job, 3)
    with served.watch() as watching:
        told = receive(watching)
        assert (told["state"], told["stage"], told["position"]) == ("pending", None, 3)
        served.builds.jobs[name] = BuildView(served.builds.jobs[name].job, 2)
        assert receive(watching)["position"] == 2


def test_a_watcher_of_a_waiting_build_is_told_what_it_waits_for(served: Served) -> None:
    job = replace(served.builds.jobs[served.name].job, state=JobState.PENDING, stage=None)
    with served.watch() as watching:
        for hindrance in ("", "paused", "engine", "disk_full", ""):
            served.builds.jobs[served.name] = BuildView(job, 0, waiting_for=hindrance)
            served.scene.notifier.notify(served.name)
            while (told := receive(watching))["state"] != "pending" or told["waiting_for"] != (
                hindrance or None
            ):
                assert told["state"] == "building", told


def wait_for_turn(served: Served, *packages: str) -> list[str]:
    """Builds that wait, one for each package."""
    return [served.builds.hold(a_request(packages=(package,))) for package in packages]


def reposition(served: Served, name: str, position: int) -> None:
    """Another place in the queue, without news."""
    served.builds.jobs[name] = BuildView(served.builds.jobs[name].job, position)


def watch_each(served: Served, stack: contextlib.ExitStack, names: list[str]) -> list[ClientConnection]:
    opened = []
    for served.name in names:
        opened.append(stack.enter_context(served.watch()))
        assert receive(opened[-1])["position"] == 0
    return opened


def test_waiting_builds_are_looked_at_together_and_one_of_them_where_nothing_was_written(
    served: Served,
) -> None:
    names = wait_for_turn(served, "vim", "tmux", "htop", "nano")
    with contextlib.ExitStack() as stack:
        opened = watch_each(served, stack, names)
        assert eventually(lambda: len(served.builds.compared) > 2 and len(served.builds.compared[-1]) == 1)
        looks = served.builds.looks
        reposition(served, names[2], 7)
        assert receive(opened[2])["position"] == 7
        assert frozenset(names) in served.builds.compared
        assert served.builds.looks == looks
        assert set(served.builds.noted) >= set(names), "who watches has an interest"
        for number in (0, 1, 3):
            with pytest.raises(TimeoutError):
                receive(opened[number], 0.01)


def test_what_all_wait_for_is_told_though_nothing_was_written(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = wait_for_turn(served, "vim", "tmux", "htop")
    with contextlib.ExitStack() as stack:
        opened = watch_each(served, stack, names)
        assert eventually(lambda: len(served.builds.compared) > 2 and len(served.builds.compared[-1]) == 1)
        progress = served.builds.progress
        monkeypatch.setattr(
            served.builds,
            "progress",
            lambda asked: {
                name: replace(each, waiting_for="engine") for name, each in progress(asked).items()
            },
        )
        assert [receive(each)["waiting_for"] for each in opened] == ["engine"] * 3


def test_an_end_that_moves_away_with_time_is_told_though_nothing_was_written(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watched, "_ETA_SLACK", 0.1)
    names = wait_for_turn(served, "vim", "tmux")
    for name in names:
        served.builds.jobs[name] = BuildView(
            served.builds.jobs[name].job, 0, remaining=timedelta(seconds=0.5)
        )
    with contextlib.ExitStack() as stack:
        opened = watch_each(served, stack, names)
        assert eventually(lambda: len(served.builds.compared) > 2 and len(served.builds.compared[-1]) == 1)
        together = served.builds.compared.count(frozenset(names))
        for _ in range(3):
            assert [receive(each)["eta_seconds"] for each in opened] == [1, 1]
        assert served.builds.compared.count(frozenset(names)) == together


def test_a_waiting_build_that_moves_or_goes_away_elsewhere_is_looked_at_alone(served: Served) -> None:
    names = wait_for_turn(served, "vim", "tmux", "htop")
    with contextlib.ExitStack() as stack:
        opened = watch_each(served, stack, names)
        job = served.builds.jobs[names[0]].job
        served.builds.jobs[names[0]] = BuildView(replace(job, state=JobState.BUILDING, stage=Stage.INIT))
        served.scene.log.print(job.id, "from elsewhere")
        del served.builds.jobs[names[1]]
        assert receive(opened[0])["state"] == "building"
        assert seqs([receive(opened[0])]) == [1]
        assert rest(opened[1])[-1][0] == 4404
        with pytest.raises(TimeoutError):
            receive(opened[2], 0.01)


def test_waiting_builds_outlive_a_database_that_is_away_and_not_a_bug(
    served: Served, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = wait_for_turn(served, "vim", "tmux")
    with contextlib.ExitStack() as stack:
        opened = watch_each(served, stack, names)
        served.builds.error = Unavailable("The database does not answer.", plain=True)
        compared = len(served.builds.compared)
        assert eventually(lambda: len(served.builds.compared) > compared + 1)
        served.builds.error = None
        reposition(served, names[1], 3)
        assert receive(opened[1])["position"] == 3
        assert "watching builds failed" not in caplog.text
        monkeypatch.setattr(served.builds, "progress", lambda names: names.nothing)
        assert [rest(each)[-1][0] for each in opened] == [4503, 4503]
        assert "watching builds failed: a bug" in caplog.text


def test_a_watcher_that_comes_back_goes_on_behind_its_last_line(served: Served) -> None:
    served.print(*"abcde")
    served.complete()
    with served.watch("?after=3") as watching:
        assert seqs(rest(watching)) == [4, 5]
    with served.watch("?after=99") as watching:
        assert seqs(rest(watching)) == [1, 2, 3, 4, 5]
    with served.watch("?after=5") as watching:
        assert [message["type"] for message in rest(watching)[:-1]] == ["state", "final"]


def test_watchers_at_different_places_all_get_everything(served: Served) -> None:
    served.print(*map(str, range(2500)))
    with served.watch() as first, served.watch("?after=1234") as second:
        assert seqs([receive(first), receive(first)])[0] == 1
        served.print("more")
        with served.watch("?after=2000") as third:
            served.complete()
            assert seqs(rest(third)) == list(range(2001, 2502))
            assert seqs(rest(second)) == list(range(1235, 2502))
        assert seqs(rest(first)) == list(range(1001, 2502))


def test_lines_that_are_too_old_to_be_kept_in_memory_are_read_again(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asu_builder.http.api.watchers.LARGEST_WINDOW", 10_000)
    with served.watch() as first:
        for number in range(5):
            served.print(*(f"{number} {'x' * 60}" for _ in range(200)))
            receive(first)
        with served.watch() as late:
            served.complete()
            assert seqs(rest(late)) == list(range(1, 1001))


def test_many_watchers_cost_one_reading(served: Served) -> None:
    with contextlib.ExitStack() as stack:
        watching = [stack.enter_context(served.watch()) for _ in range(30)]
        for each in watching:
            receive(each)
        looks, reads = served.builds.looks, served.scene.log.reads
        for number in range(10):
            served.print(f"line {number}")
            for each in watching:
                assert seqs([receive(each)]) == [number + 1]
        assert served.scene.log.reads - reads <= 10
        # Looking costs one reading for each line at most, beside the regular ones, and none for each watcher.
        assert served.builds.looks - looks < 10 * len(watching)
    assert eventually(lambda: served.app.requests["GET", f"{BUILD}/{{request_hash}}/events", 101] == 30)


def test_a_build_without_watchers_is_not_polled(served: Served) -> None:
    with served.watch() as watching:
        receive(watching)
    before = -1

    def is_left_alone() -> bool:
        nonlocal before
        before = served.builds.looks
        return never(lambda: served.builds.looks > before, seconds=0.8)

    assert eventually(is_left_alone)


def test_server_sent_events_say_the_same_and_go_on_behind_the_last_id(served: Served) -> None:
    served.print("a", "b", "c")
    served.complete()
    answer = served.get(
        f"{BUILD}/{served.name}/events", {"Accept": "text/event-stream", "Last-Event-ID": "1"}
    )
    assert answer.status == 200
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["access-control-allow-origin"] == "*"
    assert answer.headers["cache-control"] == "no-store"
    lines, state, final, nothing = answer.read().decode().split("\n\n")
    assert lines.startswith("event: lines\nid: 3\ndata: {")
    assert seqs([json.loads(lines.splitlines()[2][6:])]) == [2, 3]
    assert state.startswith("event: state\ndata: {")
    assert json.loads(final.splitlines()[1][6:])["document"]["status"] == 200
    assert nothing == ""


def test_a_quiet_stream_of_events_says_that_it_is_alive(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asu_builder.http.api.streams.HEARTBEAT_SECONDS", 0.1)
    answer = served.get(f"{BUILD}/{served.name}/events")
    assert answer.readline() == b"event: state\n"
    assert b": still here\n" in (answer.readline(), answer.readline(), answer.readline())
    served.complete()
    assert b"event: final\n" in answer.read()


def test_the_log_is_text_at_once_and_with_follow_to_the_end(served: Served) -> None:
    served.print("one", "two")
    path = f"{BUILD}/{served.name}/log"
    answer = served.get(path)
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.read() == b"12:00:00 building_image     one\n12:00:00 building_image     two\n"
    assert served.get(f"{path}?after=1").read() == b"12:00:00 building_image     two\n"
    following = served.get(f"{path}?follow=1&after=1")
    assert following.readline() == b"-- building\n"
    assert following.readline() == b"12:00:00 building_image     two\n"
    served.print("three")
    assert following.readline() == b"12:00:00 building_image     three\n"
    served.complete()
    assert following.read() == b"-- completed\n-- completed\n"


def test_a_request_for_the_head_of_a_stream_ends_at_once(served: Served) -> None:
    for path in ("events", "log?follow=1", "log"):
        answer = served.ask("HEAD", f"{BUILD}/{served.name}/{path}")
        assert (answer.status, answer.read()) == (200, b"")


@pytest.mark.parametrize("what", ["events", "log", "log?follow=1"])
def test_an_unknown_build_is_not_found_over_http(client: AsgiClient, what: str) -> None:
    for name in ("0" * 64, "nonsense"):
        answer = client.get(f"{BUILD}/{name}/{what}")
        assert (answer.status, answer.json["title"]) == (404, "Not Found")


@pytest.mark.parametrize("what", ["events", "log"])
def test_a_place_that_is_no_number_is_refused(client: AsgiClient, builds: FakeBuilds, what: str) -> None:
    answer = client.get(f"{BUILD}/{builds.complete()}/{what}?after=x")
    assert (answer.status, "after" in answer.json["detail"]) == (400, True)


def test_an_unknown_build_is_told_by_websocket_with_its_code(served: Served) -> None:
    served.name = "0" * 64
    with served.watch() as watching:
        problem, end = rest(watching)
    assert (problem["type"], problem["status"], problem["title"]) == ("problem", 404, "Not Found")
    assert end == (4404, problem["detail"])


def test_a_build_that_goes_away_is_told_to_its_watchers(served: Served) -> None:
    with served.watch() as watching:
        receive(watching)
        del served.builds.jobs[served.name]
        assert rest(watching)[-1][0] == 4404


def test_a_database_that_is_away_for_a_while_is_waited_for(served: Served) -> None:
    with served.watch() as watching:
        receive(watching)
        served.builds.error = Unavailable("The database does not answer.", plain=True)
        time.sleep(0.4)
        served.builds.error = None
        served.print("again")
        assert seqs([receive(watching)]) == [1]
    served.builds.error = Unavailable("The database does not answer.", plain=True)
    with served.watch() as watching:
        assert rest(watching)[-1] == (4503, "The database does not answer.")


BEARER = {"authorization": "Bearer may-read"}
OPERATORS = "No connection to /run/podman/podman.sock: PermissionError."


def last_words(served: Served, form: str, headers: dict[str, str]) -> tuple[str, str]:
    """What a watcher was told last, and with which reason its WebSocket was closed."""
    if form == "socket":
        with served.watch(additional_headers=headers) as watching:
            receive(watching)
            served.builds.error = EngineUnavailable(OPERATORS)
            *_, problem, (code, reason) = rest(watching)
            assert code == 4503
            return problem["detail"], reason
    answer = served.get(f"{BUILD}/{served.name}/{form}", headers)
    answer.readline()
    served.builds.error = EngineUnavailable(OPERATORS)
    return answer.read().decode(), ""


@pytest.mark.parametrize("form", ["socket", "events", "log?follow=1"])
def test_why_a_stream_breaks_off_is_told_in_details_to_a_reader_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    monkeypatch.setattr(watched, "_TRIES", 1)
    served = Served(Scene(tmp_path, tokens=TOKENS))
    # A cookie is what a browser adds by itself, also to what another site's page opens.
    for_all = [{}, {"authorization": "Bearer may-build"}, READER]
    try:
        public = [(each, EngineUnavailable.public_sentence) for each in for_all]
        for headers, sentence in [*public, (BEARER, OPERATORS)]:
            told, reason = last_words(served, form, headers)
            assert sentence in told and ("podman.sock" in told + reason) == (headers is BEARER)
            # The same where the build cannot even be looked at first.
            if form == "socket":
                with served.watch(additional_headers=headers) as watching:
                    assert rest(watching)[-1] == (4503, sentence)
            else:
                refused = served.get(f"{BUILD}/{served.name}/{form}", headers)
                assert (refused.status, json.loads(refused.read())["detail"]) == (503, sentence)
            served.builds.error = None
    finally:
        served.stop()


@pytest.mark.parametrize(
    "path", ["/", "/api/v1/build", f"{BUILD}/x/events", f"{BUILD}/{'0' * 64}%2fevents", f"{BUILD}/%00/events"]
)
def test_no_websocket_is_opened_elsewhere(
    served: Served, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(InvalidStatus) as refused:
        connect(f"ws://127.0.0.1:{served.port}{path}", open_timeout=60)
    response = refused.value.response
    assert (response.status_code, json.loads(response.body)["status"]) == (404, 404)
    assert response.headers["x-request-id"]
    assert not caplog.records or "completing" not in caplog.text


@pytest.mark.parametrize("path", [f"{BUILD}/{{name}}/events", f"{BUILD}/{'0' * 64}/events", "/health"])
@pytest.mark.parametrize("token", ["Bearer nobody's", "Bearer ", "Bearer \u00fc"])
def test_a_wrong_token_is_refused_with_401_before_a_websocket_is_opened(
    served: Served, path: str, token: str
) -> None:
    address = f"ws://127.0.0.1:{served.port}{path.format(name=served.name)}"
    with pytest.raises(InvalidStatus) as caught:
        connect(address, open_timeout=60, additional_headers={"Authorization": token}).close()
    answer = caught.value.response
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert answer.headers["content-type"] == "application/json" and answer.headers["x-request-id"]
    assert answer.headers["cache-control"] == "no-store"
    assert json.loads(answer.body or b"")["status"] == 401


def test_another_scheme_of_authorization_opens_a_websocket_all_the_same(served: Served) -> None:
    with served.watch(additional_headers={"Authorization": "Basic dTpw"}) as watching:
        assert receive(watching)["type"] == "state"


def test_two_slashes_lead_there_too_and_the_request_has_an_id(served: Served) -> None:
    served.complete()
    address = f"ws://127.0.0.1:{served.port}/{BUILD}/{served.name}/events/"
    with connect(address, compression=None, additional_headers={"X-Request-ID": "mine"}) as watching:
        assert watching.response is not None
        assert watching.response.headers["x-request-id"] == "mine"
        assert watching.response.headers.get("sec-websocket-extensions") is None
        assert rest(watching)[-1] == (1000, "")


def test_no_hash_is_written_into_the_log(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        served.complete()
        with served.watch() as watching:
            rest(watching)
        served.get(f"{BUILD}/{served.name}/events").read()
    # The access log is off, and on_output here only because the tests listen to every logger.
    told = [record.getMessage() for record in caplog.records if record.name != "uvicorn.access"]
    assert not [line for line in told if served.name[:12] in line]


def test_more_watchers_than_the_limit_are_refused(tmp_path: Path) -> None:
    scene = Scene(tmp_path / "store", watch_limits=WatchLimits(total=3, each=2))
    served = Served(scene)
    try:
        with served.watch() as first, served.watch() as second:
            receive(first), receive(second)
            assert b"\nasu_builder_watchers 2.0\n" in served.get("/metrics").read()
            with served.watch() as third:
                problem, end = rest(third)
                assert (problem["status"], end[0]) == (429, 4429)
                assert "2 watch builds already" in problem["detail"]
            answer = served.get(f"{BUILD}/{served.name}/events")
            assert (answer.status, answer.headers["retry-after"]) == (429, "30")
            answer.read()
            # The log that is there is no watching.
            assert served.get(f"{BUILD}/{served.name}/log").status == 200
        with served.watch() as again:
            assert receive(again)["type"] == "state"
    finally:
        served.stop()


def test_a_watcher_that_does_not_read_is_broken_off_and_the_others_notice_nothing(tmp_path: Path) -> None:
    scene = Scene(tmp_path / "store", watch_limits=WatchLimits(seconds=0.5))
    served = Served(scene)
    deaf = socket.create_connection(("127.0.0.1", served.port), 60)
    try:
        request = (
            f"GET {BUILD}/{served.name}/events HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n"
            "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        deaf.sendall(request.encode())
        silent = served.get(f"{BUILD}/{served.name}/log?follow=1")
        with served.watch(max_size=None) as reading:
            for _ in range(24):
                served.print(*["x" * 2000] * 1000)
                while seqs([receive(reading)])[-1:] != [scene.log.last(served.job_id)]:
                    pass
            assert eventually(lambda: served.app.requests.total() == 2)
            served.complete()
            assert rest(reading)[-1] == (1000, "")
        with pytest.raises(OSError):
            while deaf.recv(1 << 20):
                pass
            raise ConnectionResetError
        assert silent.status == 200
    finally:
        deaf.close()
        served.stop()


def test_every_stream_ends_by_itself_when_the_server_stops(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    served = Served(scene)
    events, text = (
        served.get(f"{BUILD}/{served.name}/events"),
        served.get(f"{BUILD}/{served.name}/log?follow=1"),
    )
    deaf = served.get(f"{BUILD}/{served.name}/log?follow=1")
    with served.watch(max_size=None) as watching:
        receive(watching)
        lines = ["x" * 2000] * 1000
        for _ in range(5):
            served.print(*lines)
            receive(watching)
        printed = 5 * sum(map(len, lines))
        bodies = {events: bytearray(), text: bytearray()}

        def read(answer: http.client.HTTPResponse) -> None:
            while chunk := answer.read1(1 << 20):
                bodies[answer] += chunk

        readers = [threading.Thread(target=read, args=(answer,)) for answer in bodies]
        for reader in readers:
            reader.start()
        assert eventually(lambda: all(len(body) > printed for body in bodies.values()))
        served.stop()
        for reader in readers:
            reader.join(60)
        assert "graceful shutdown exceeded" not in caplog.text
        assert b"event: problem\n" in bodies[events]
        assert bodies[text].endswith(b"last line's number.\n")
        assert rest(watching)[-1][0] in (1012, 4503)
    deaf.close()


@pytest.mark.process
def test_the_library_for_websockets_is_loaded_by_the_first_of_them() -> None:
    import subprocess
    import sys

    script = (
        "import sys; from asu_builder.http.app import create_app; from asu_builder.http.server import *;"
        "server_config(None, '', 0);"
        "print([name for name in ('websockets', 'asu_builder.http.api.watched') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"


def test_refused_watchers_are_closed_at_once_under_a_flood(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asu_builder.http.api.streams._MOST_LINGERING", 2)
    scene = Scene(tmp_path / "store", watch_limits=WatchLimits(total=1, each=1))
    served = Served(scene)
    handshake = (
        f"GET {BUILD}/{served.name}/events HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n"
        "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    ).encode()
    try:
        with served.watch() as first, contextlib.ExitStack() as opened:
            receive(first)
            refused = []
            for _ in range(6):
                connection = opened.enter_context(socket.create_connection(("127.0.0.1", served.port), 3))
                connection.sendall(handshake)
                refused.append(connection)
            ended = []
            for connection in refused:
                connection.settimeout(3)  # those that may linger do for five seconds
                with contextlib.suppress(TimeoutError, ConnectionResetError):
                    while connection.recv(65536):
                        pass
                    ended.append(connection)
            assert len(ended) >= 3
    finally:
        served.stop()
