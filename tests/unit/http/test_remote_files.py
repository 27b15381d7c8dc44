"""Files from object storage: pieces that follow the client, bounded memory, and no false end."""

import asyncio
import random
from datetime import UTC, datetime

import pytest
from starlette.types import Message

from asu_builder.domain.errors import BuildNotFound, StoreUnavailable
from asu_builder.http import remote_files
from asu_builder.http.door import Client
from asu_builder.http.remote_files import FIRST, LEAST, MOST, send_remote

CONTENT = random.Random(2).randbytes(9 << 20)
HEAD: Message = {"type": "http.response.start", "status": 200, "headers": []}


class Remote:
    """A file that notes what is read of it, and fails from some byte on."""

    size = len(CONTENT)
    etag = "x"
    modified_at = datetime(2026, 1, 1, tzinfo=UTC)

    def __init__(self, *, fails_at: int = len(CONTENT) + 1) -> None:
        self.counts: list[int] = []
        self.error: Exception = StoreUnavailable("half a body")
        self._fails_at = fails_at

    async def read(self, start: int, count: int) -> memoryview:
        await asyncio.sleep(0)
        self.counts.append(count)
        if start + count > self._fails_at:
            raise self.error
        return memoryview(CONTENT)[start : start + count]

    def signed_url(self) -> str:
        return ""


class Receiver:
    """A client: what it got, and how it goes away."""

    def __init__(self, *, seconds: float = 0.0, leaves_after: int = 1 << 62) -> None:
        self.client = Client()
        self.body = b""
        self.messages: list[Message] = []
        self.aborted = False
        self._seconds = seconds
        self._leaves_after = leaves_after

    async def send(self, message: Message) -> None:
        self.messages.append(message)
        self.body += bytes(message.get("body", b""))
        await asyncio.sleep(self._seconds)
        if len(self.body) >= self._leaves_after:
            self.leave()
            await asyncio.sleep(0)

    def leave(self) -> None:
        self.client.gone = True
        for leave in [*self.client.on_gone]:
            leave()

    def abort(self) -> None:
        self.aborted = True
        asyncio.get_running_loop().call_soon(self.leave)

    def receive(self, file: Remote, start: int = 0, end: int = len(CONTENT)) -> None:
        asyncio.run(send_remote(HEAD, file, start, end, client=self.client, abort=self.abort, send=self.send))


@pytest.mark.parametrize(
    ("start", "end"), [(0, len(CONTENT)), (0, 1), (5, FIRST + 5), (FIRST - 1, FIRST + 1), (12345, 8 << 20)]
)
def test_every_byte_comes_once_and_in_order_and_the_last_piece_ends_the_answer(start: int, end: int) -> None:
    receiver, file = Receiver(), Remote()
    receiver.receive(file, start, end)
    assert receiver.body == CONTENT[start:end]
    assert receiver.messages[0] == HEAD
    assert [message["more_body"] for message in receiver.messages[1:]] == [True] * (len(file.counts) - 1) + [
        False
    ]


def test_a_quick_client_gets_larger_pieces_and_a_slow_one_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    quick = Remote()
    Receiver().receive(quick)
    assert quick.counts[:4] == [FIRST, 2 * FIRST, MOST, MOST]
    assert max(quick.counts) == MOST
    monkeypatch.setattr(remote_files, "_QUICK_SECONDS", 0.0)
    monkeypatch.setattr(remote_files, "_SLOW_SECONDS", 0.0)
    slow = Remote()
    Receiver(seconds=0.001).receive(slow)
    assert slow.counts[:4] == [FIRST, FIRST // 2, FIRST // 4, FIRST // 8]
    assert set(slow.counts[4:-1]) == {LEAST}


def test_a_piece_is_read_only_when_the_one_before_the_last_has_left() -> None:
    file = Remote()
    ahead: list[int] = []

    class Watched(Receiver):
        async def send(self, message: Message) -> None:
            await super().send(message)
            ahead.append(sum(file.counts) - len(self.body))

    Watched().receive(file)
    assert max(ahead[1:]) <= MOST


@pytest.mark.parametrize("error", [StoreUnavailable("x"), BuildNotFound("x")])
def test_what_fails_at_once_is_an_answer_of_its_own(error: Exception) -> None:
    receiver, file = Receiver(), Remote(fails_at=0)
    file.error = error
    with pytest.raises(type(error)):
        receiver.receive(file)
    assert receiver.messages == []
    assert not receiver.aborted


def test_what_fails_later_breaks_the_connection_off_and_is_no_end(caplog: pytest.LogCaptureFixture) -> None:
    receiver = Receiver()
    receiver.receive(Remote(fails_at=3 << 20))
    assert receiver.aborted
    assert receiver.messages[-1]["more_body"]
    assert 0 < len(receiver.body) < len(CONTENT)
    assert f"broke off at byte {len(receiver.body)} of {len(CONTENT)}: half a body" in caplog.text


def test_without_our_server_what_fails_later_is_raised() -> None:
    receiver, file = Receiver(), Remote(fails_at=3 << 20)
    sending = send_remote(HEAD, file, 0, len(CONTENT), client=None, abort=None, send=receiver.send)
    with pytest.raises(StoreUnavailable):
        asyncio.run(sending)


@pytest.mark.parametrize("when", [1, FIRST, 4 << 20])
def test_a_client_that_leaves_ends_the_reading(when: int) -> None:
    receiver, file = Receiver(leaves_after=when), Remote()
    receiver.receive(file)
    assert sum(file.counts) < len(CONTENT)
    assert not receiver.aborted


def test_a_client_that_leaves_does_not_wait_for_a_silent_bucket() -> None:
    receiver = Receiver()

    class Silent(Remote):
        async def read(self, start: int, count: int) -> memoryview:
            asyncio.get_running_loop().call_later(0.01, receiver.leave)
            await asyncio.Event().wait()
            raise AssertionError("never")

    receiver.receive(Silent())
    assert receiver.messages == []
