"""What a server answers, in our words; and builds followed on servers that tell much or little."""

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from click.testing import CliRunner

from asu_builder.cli import main
from asu_builder.cli.exit_codes import ExitCode, code_of_error
from asu_builder.client.builds import Ended, LogLine, LogLines, Progress, ServerBuilds
from asu_builder.client.server import Server
from asu_builder.domain import errors
from asu_builder.domain.errors import AsuError, RequestMalformed, ServerMistake, Unavailable

NAME = "a" * 64
DONE = {"detail": "done", "status": 200, "request_hash": NAME}
Reply = tuple[int, dict[str, str], bytes]


class Scripted(ThreadingHTTPServer):
    """Answers each path with one reply after the other; the last one for good."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.replies: dict[str, list[Reply]] = {}
        self.asked: list[tuple[str, str, dict[str, str]]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def say(self, path: str, *replies: Reply) -> None:
        self.replies[path] = list(replies)

    def next_reply(self, path: str) -> Reply:
        replies = self.replies.get(path)
        if not replies:
            return as_json(404, {"detail": "Not Found"})
        return replies.pop(0) if len(replies) > 1 else replies[0]


class _Handler(BaseHTTPRequestHandler):
    server: Scripted

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.asked.append((self.command, self.path, headers))
        status, named, body = self.server.next_reply(self.path)
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **named}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        self.do_GET()

    def do_DELETE(self) -> None:
        self.do_GET()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing is logged."""


def as_json(status: int, document: object, **headers: str) -> Reply:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return status, {"Content-Type": "application/json", **named}, json.dumps(document).encode()


def as_events(*documents: object) -> Reply:
    body = "".join(f"data: {json.dumps(document)}\n\n" for document in documents)
    return 200, {"Content-Type": "text/event-stream"}, body.encode()


@pytest.fixture
def server() -> Iterator[Scripted]:
    """A running one that knows nothing yet."""
    with Scripted() as scripted:
        thread = threading.Thread(target=scripted.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield scripted
        scripted.shutdown()
        thread.join()


def builds_on(server: Scripted, *, patience: float = 5.0, token: str = "") -> ServerBuilds:
    return ServerBuilds(Server(server.url, token=token), patience=patience, pause=lambda _: None)


@pytest.mark.parametrize(
    ("status", "kind", "code"),
    [
        (400, errors.RequestRejected, ExitCode.REFUSED),
        (401, errors.NotAuthenticated, ExitCode.REFUSED),
        (403, errors.NotAllowed, ExitCode.REFUSED),
        (404, errors.BuildNotFound, ExitCode.REFUSED),
        (409, errors.Conflict, ExitCode.REFUSED),
        (413, errors.RequestRejected, ExitCode.REFUSED),
        (422, errors.RequestMalformed, ExitCode.REFUSED),
        (429, errors.TooManyRequests, ExitCode.UNAVAILABLE),
        (500, errors.ServerMistake, ExitCode.MISTAKE),
        (502, errors.Unavailable, ExitCode.UNAVAILABLE),
        (503, errors.Unavailable, ExitCode.UNAVAILABLE),
        (504, errors.Unavailable, ExitCode.UNAVAILABLE),
    ],
)
def test_a_refusal_keeps_its_sentence_and_gets_its_exit_code(
    server: Scripted, status: int, kind: type[AsuError], code: ExitCode
) -> None:
    server.say("/api/v1/build", as_json(status, {"detail": "The very sentence."}, Retry_After="7"))
    with pytest.raises(kind) as raised:
        builds_on(server).submit(b"{}")
    assert code_of_error(raised.value) is code
    assert status in (502, 504) or str(raised.value) == "The very sentence."
    if status in (429, 503):
        assert getattr(raised.value, "retry_after", 0) == 7


def test_a_build_that_failed_before_is_an_answer(server: Scripted) -> None:
    server.say("/api/v1/build", as_json(500, {"detail": "Too big", "request_hash": NAME}))
    assert builds_on(server).submit(b"{}").status == 500


def test_what_is_no_such_server_is_told(server: Scripted) -> None:
    server.say("/api/v1/build", (200, {"Content-Type": "text/html"}, b"<html>Welcome!</html>"))
    with pytest.raises(ServerMistake, match="no ASU server"):
        builds_on(server).submit(b"{}")


def test_a_redirect_names_the_address_to_use(server: Scripted) -> None:
    server.say("/api/v1/build", (301, {"Location": "https://new.example.org/api/v1/build"}, b""))
    with pytest.raises(ServerMistake, match=r"https://new\.example\.org"):
        builds_on(server).submit(b"{}")


def test_nobody_there_is_told_in_a_sentence() -> None:
    with pytest.raises(Unavailable, match=r"http://127\.0\.0\.1:9 does not answer: .*refused\.$"):
        Server("http://127.0.0.1:9").ask("GET", "/")


@pytest.mark.parametrize(
    "address", ["asu.example.org", "ftp://x", "http://", "http://me:pw@x", "https://x?y"]
)
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(RequestMalformed, match="expected an address"):
        Server(address)


def test_the_token_goes_with_questions_and_not_with_downloads(server: Scripted) -> None:
    server.say("/api/v1/build", as_json(200, DONE))
    server.say(f"/store/{NAME}/x", (200, {}, b"x"))
    builds = builds_on(server, token="geheim")
    builds.submit(b"{}")
    with builds.source(DONE)("x", 0) as stretch:
        assert b"".join(stretch.chunks) == b"x"
    (_, _, asked), (_, _, fetched) = server.asked
    assert asked["authorization"] == "Bearer geheim"
    assert "authorization" not in fetched


def test_a_build_is_followed_by_its_events(server: Scripted) -> None:
    line = {"seq": 1, "at": "2026-03-01T12:00:00Z", "stage": "init", "text": "hello"}
    server.say(
        f"/api/v1/build/{NAME}/events",
        as_events(
            {"type": "state", "state": "building", "stage": "init"},
            {"type": "lines", "lines": [line]},
            {"type": "final", "status": 200, "document": DONE},
        ),
    )
    assert list(builds_on(server).follow(NAME)) == [
        Progress("building", "init"),
        LogLines((LogLine(**line),)),  # type: ignore[arg-type]
        Ended(200, DONE),
    ]


def test_a_stream_that_breaks_off_goes_on_from_the_last_line(server: Scripted) -> None:
    def lines(number: int) -> dict[str, Any]:
        line = {"seq": number, "at": "2026-03-01T12:00:00Z", "stage": "init", "text": "hello"}
        return {"type": "lines", "lines": [line]}

    final = {"type": "final", "status": 200, "document": DONE}
    server.say(f"/api/v1/build/{NAME}/events", as_events(lines(4)), as_events(lines(5), final))
    events = list(builds_on(server).follow(NAME))
    assert [event.lines[0].seq for event in events if isinstance(event, LogLines)] == [4, 5]
    assert [headers["last-event-id"] for _, _, headers in server.asked] == ["0", "4"]


@pytest.mark.parametrize(
    "events",
    [
        as_json(404, {"detail": "Not Found"}),
        as_json(429, {"detail": "Too many watch."}),
        as_json(200, {"detail": "queued"}),
        as_events({"type": "problem", "status": 503, "title": "x", "detail": "The log is away."}),
    ],
)
def test_a_server_without_events_is_polled(server: Scripted, events: Reply) -> None:
    server.say(f"/api/v1/build/{NAME}/events", events)
    server.say(
        f"/api/v1/build/{NAME}",
        as_json(202, {"detail": "queued", "queue_position": 1}),
        as_json(202, {"detail": "queued", "queue_position": 1}),
        as_json(503, {"detail": "A moment."}),
        as_json(202, {"detail": "started", "imagebuilder_status": "init"}),
        as_json(200, DONE),
    )
    assert list(builds_on(server).follow(NAME)) == [
        Progress("pending", None, 1),
        Progress("building", "init"),
        Ended(200, DONE),
    ]


def test_a_server_that_stays_away_ends_the_following(server: Scripted) -> None:
    server.say(f"/api/v1/build/{NAME}", as_json(503, {"detail": "A moment."}))
    with pytest.raises(Unavailable, match="A moment"):
        list(builds_on(server, patience=0.2).follow(NAME))


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ((206, {"Content-Range": "bytes 5-7/8"}, b"abc"), (5, b"abc")),
        ((200, {}, b"whole"), (0, b"whole")),
        ((416, {}, b"{}"), (0, b"")),
    ],
)
def test_the_rest_of_a_file_begins_where_the_server_says(
    server: Scripted, reply: Reply, expected: tuple[int, bytes]
) -> None:
    server.say(f"/store/{NAME}/x", reply)
    with builds_on(server).source(DONE)("x", 5) as stretch:
        assert (stretch.start, b"".join(stretch.chunks)) == expected
    assert server.asked[0][2]["range"] == "bytes=5-"


def test_an_image_that_is_gone_is_told(server: Scripted) -> None:
    with pytest.raises(errors.BuildNotFound, match="not there any more"):
        take(builds_on(server).source(DONE))


def take(source: Callable[[str, int], Any]) -> Sequence[bytes]:
    with source("x", 0) as stretch:
        return list(stretch.chunks)


def test_a_build_is_cancelled_with_its_secret(server: Scripted) -> None:
    server.say(f"/api/v1/build/{NAME}", as_json(200, {"detail": "cancelled"}))
    builds_on(server).cancel(NAME, "secret")
    method, _, headers = server.asked[0]
    assert (method, headers["x-cancel-token"]) == ("DELETE", "secret")


def test_what_a_build_printed_is_text_or_nothing(server: Scripted) -> None:
    assert builds_on(server).printed(NAME) is None
    server.say(f"/api/v1/build/{NAME}/log", (200, {"Content-Type": "text/plain"}, b"one\ntwo\n"))
    assert builds_on(server).printed(NAME) == ["one", "two"]


SBOM = '{"name": "\u00e4", "evil": "\u009b31m"}\n'


@pytest.mark.parametrize(("options", "file"), [((), "x.cdx.json"), (("--format", "spdx"), "x.spdx.json")])
def test_what_is_in_an_image_is_printed(server: Scripted, options: Sequence[str], file: str) -> None:
    named = {"cyclonedx": "x.cdx.json", "spdx": "x.spdx.json"}
    server.say(f"/api/v1/build/{NAME}", as_json(200, DONE | {"bin_dir": NAME, "sbom": named}))
    server.say(f"/store/{NAME}/{file}", (200, {}, SBOM.encode()))
    ended = CliRunner().invoke(main, ["sbom", NAME, *options, "--server", server.url])
    assert ended.exit_code == 0, ended.output
    assert ended.output == SBOM.replace("\x9b", " "), "nothing that steers a terminal"


@pytest.mark.parametrize(
    ("document", "code"),
    [
        (DONE, ExitCode.REFUSED),
        (DONE | {"sbom": {"cyclonedx": "../../etc/passwd"}}, ExitCode.REFUSED),
        (DONE | {"sbom": "x"}, ExitCode.REFUSED),
        (DONE | {"sbom": {"cyclonedx": "gone.cdx.json"}}, ExitCode.REFUSED),
    ],
)
def test_an_image_of_which_nothing_is_told_ends_in_words(
    server: Scripted, document: dict[str, Any], code: ExitCode
) -> None:
    server.say(f"/api/v1/build/{NAME}", as_json(200, document))
    ended = CliRunner().invoke(main, ["sbom", NAME, "--server", server.url])
    assert ended.exit_code == code, ended.output


def test_a_build_that_goes_on_has_nothing_in_its_images(server: Scripted) -> None:
    server.say(f"/api/v1/build/{NAME}", as_json(202, {"detail": "queued", "request_hash": NAME}))
    ended = CliRunner().invoke(main, ["sbom", NAME, "--server", server.url])
    assert ended.exit_code and "Only a build that is done" in ended.output
