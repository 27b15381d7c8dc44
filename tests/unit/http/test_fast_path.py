"""The fast path by itself: what it reads, and what it does when a client leaves."""

import asyncio
from collections.abc import Iterator

import pytest
from starlette.types import Message, Scope

from asu_builder.http.door import WRITE
from asu_builder.http.fast_path import FastPath
from factories import a_request
from fake_builds import FakeBuilds


def _scope(method: str, path: str) -> Scope:
    return {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "headers": [],
        "query_string": b"",
    }


def test_a_client_who_leaves_in_the_middle_of_a_body_asks_for_nothing(
    app: FastPath, builds: FakeBuilds
) -> None:
    messages: Iterator[Message] = iter(
        [{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}]
    )

    async def receive() -> Message:
        return next(messages)

    async def send(message: Message) -> None:
        pytest.fail("no client is there to read")

    asyncio.run(app(_scope("POST", "/api/v1/build"), receive, send))
    assert builds.submits == 0


def test_a_bug_in_the_middle_of_an_answer_breaks_the_connection(app: FastPath) -> None:
    """Half a document must not look like a whole one: the server closes when the application raises."""

    async def half(scope: Scope, receive: object, send: object) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})  # type: ignore[operator]
        await send({"type": "http.response.body", "body": b"{", "more_body": True})  # type: ignore[operator]
        raise RuntimeError("half way")

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        pass

    app._app = half
    with pytest.raises(RuntimeError, match="half way"):
        asyncio.run(app(_scope("GET", "/"), receive, send))


@pytest.mark.parametrize("begun", [False, True])
def test_a_server_that_stops_says_so_to_who_still_waits(app: FastPath, begun: bool) -> None:
    messages: list[Message] = []

    async def hang(scope: Scope, receive: object, send: object) -> None:
        if begun:
            await send({"type": "http.response.start", "status": 200, "headers": []})  # type: ignore[operator]
        await asyncio.Event().wait()

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        messages.append(message)

    async def stop() -> None:
        asking = asyncio.create_task(app(_scope("GET", "/"), receive, send))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        asking.cancel()
        await asking

    app._app = hang
    if begun:
        with pytest.raises(asyncio.CancelledError):
            asyncio.run(stop())
        assert len(messages) == 1
    else:
        asyncio.run(stop())
        assert messages[0]["status"] == 503
        assert b"retry-after" in dict(messages[0]["headers"])
        assert b"being stopped" in messages[1]["body"]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("known", [True, False])
def test_an_answer_in_one_piece_says_what_it_says_in_two(
    app: FastPath, builds: FakeBuilds, method: str, known: bool
) -> None:
    name = builds.hold(a_request()) if known else "f" * 64
    written: list[bytes] = []
    messages: list[Message] = []

    def write(scope: Scope, answer: bytes) -> bool:
        written.append(answer)
        return True

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        messages.append(message)

    asyncio.run(app({**_scope(method, f"/api/v1/build/{name}"), WRITE: write}, receive, send))
    assert not messages
    app._answers.forget(name)
    asyncio.run(app(_scope(method, f"/api/v1/build/{name}"), receive, send))
    start, body = messages
    (whole,) = written
    head, _, rest = whole.partition(b"\r\n\r\n")
    status, *lines = head.split(b"\r\n")
    assert status.startswith(b"HTTP/1.1 %d " % start["status"])
    assert rest == body["body"]
    assert bool(rest) == (method == "GET")
    changing = (b"x-request-id", b"server-timing")
    headers = [(header, value) for header, value in start["headers"] if header not in changing]
    said = [tuple(line.split(b": ", 1)) for line in lines]
    assert [header for header in said if header[0] not in changing] == headers
    assert {header for header, _ in said} == {header for header, _ in start["headers"]}
