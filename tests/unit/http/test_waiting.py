"""Answers that wait for documents: on the event loop, holding no thread, for a bounded time."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import pytest

from asu_builder.domain.access import Caller, Token
from asu_builder.domain.errors import TooManyRequests, Unavailable
from asu_builder.domain.reading import DocumentState, Reading, current_reading
from asu_builder.http.cache import MadeAnswers, Rendered
from asu_builder.http.door import Client, ClientGone
from asu_builder.http.threads import WAITS_FOR, AdmitFetch, Threads, Waiting

ASKER = Caller("192.0.2.1")


class Documents:
    """Documents that come when the test says so."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.states: dict[str, DocumentState] = {}
        self.fetches: dict[str, Future[None]] = {}
        self.reads = 0

    def read(self, *names: str) -> str:
        """What an answer is made of; lacks those that have not come."""
        self.reads += 1
        reading = current_reading()
        assert reading is not None
        lacking = False
        for name in names:
            if name in self.states:
                reading.note(name, self.states[name])
                continue
            if reading.over:
                raise Unavailable(f"{name} is not here.")
            if refusal := reading.refusal():
                raise refusal
            reading.await_first(self.fetches.setdefault(name, Future()))
            lacking = True
        if lacking:
            raise Unavailable("Not yet.")
        return " ".join(f"{name}={self.states[name].digest.decode()}" for name in names)

    def come(self, name: str, content: str = "1") -> None:
        """The document is here, or has changed."""
        state = self.states.setdefault(name, DocumentState(lambda: self.seconds))
        state.digest, state.checked, state.fresh_for = content.encode(), self.seconds, 300.0
        if name in self.fetches:
            self.fetches.pop(name).set_result(None)


@pytest.fixture
def threads() -> Iterator[Threads]:
    made = Threads(1, name="test")
    yield made
    made.close()


def waiting_in(threads: Threads, admit: AdmitFetch | None = None) -> Waiting:
    return Waiting(threads, admit=admit or (lambda _, __: None))


async def rounds(documents: Documents, count: int) -> None:
    """Returns when so many have been made."""
    while documents.reads < count:
        await asyncio.sleep(0.001)


def test_many_wait_at_once_for_different_documents_and_hold_no_thread(threads: Threads) -> None:
    documents = Documents()

    async def play() -> list[str]:
        waiting = waiting_in(threads)
        asking = [
            asyncio.ensure_future(waiting.ask(ASKER, str(number), documents.read, f"d{number}"))
            for number in range(200)
        ]
        await rounds(documents, 200)
        assert await threads.run(threading.current_thread), "the only thread is free"
        for number in range(200):
            documents.come(f"d{number}")
        return list(await asyncio.gather(*asking))

    assert asyncio.run(play()) == [f"d{number}=1" for number in range(200)]


def test_an_answer_waits_for_its_documents_side_by_side(threads: Threads) -> None:
    documents = Documents()

    async def play() -> str:
        asking = asyncio.ensure_future(waiting_in(threads).ask(ASKER, "", documents.read, "a", "b", "c"))
        await rounds(documents, 1)
        for name in ("c", "a"):
            documents.come(name)
            await asyncio.sleep(0.01)
        assert documents.reads == 1, "it is made again when all are here"
        documents.come("b")
        return await asking

    assert asyncio.run(play()) == "a=1 b=1 c=1"
    assert documents.reads == 2


def test_who_goes_away_takes_nothing_along_and_leaves_nothing_behind(threads: Threads) -> None:
    documents = Documents()

    async def play() -> str:
        waiting = waiting_in(threads)
        leaving, staying = (
            asyncio.ensure_future(waiting.ask(ASKER, "", documents.read, "a")) for _ in range(2)
        )
        await rounds(documents, 2)
        await asyncio.sleep(0.01)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        assert not documents.fetches["a"].cancelled()
        documents.come("a")
        return await staying

    assert asyncio.run(play()) == "a=1"


def test_what_does_not_come_is_given_up_and_a_stop_ends_every_wait(threads: Threads) -> None:
    documents = Documents()

    async def play() -> None:
        waiting = waiting_in(threads)
        with pytest.raises(Unavailable, match="a is not here"):
            await waiting.ask(ASKER, "", documents.read, "a", patience=0.01)
        before = documents.reads
        asking = asyncio.ensure_future(waiting.ask(ASKER, "", documents.read, "b"))
        await rounds(documents, before + 1)
        waiting.stop()
        with pytest.raises(Unavailable, match="b is not here"):
            await asking
        with pytest.raises(Unavailable, match="c is not here"):
            await waiting.ask(ASKER, "", documents.read, "c")

    asyncio.run(play())


@pytest.mark.parametrize(
    ("caller", "counted"),
    [(ASKER, True), (Caller("farm", Token("farm", "")), False), (Caller("127.0.0.1", many=True), False)],
)
def test_only_an_caller_that_is_one_is_counted_and_only_where_a_document_is_lacking(
    threads: Threads, caller: Caller, counted: bool
) -> None:
    documents = Documents()
    asked: list[tuple[str, str]] = []

    def admit(name: str, what: str) -> TooManyRequests:
        asked.append((name, what))
        return TooManyRequests("Too many.", retry_after=7)

    async def play() -> None:
        waiting = waiting_in(threads, admit)
        asking = asyncio.ensure_future(waiting.ask(caller, "question", documents.read, "a"))
        if counted:
            with pytest.raises(TooManyRequests):
                await asking
        else:
            await rounds(documents, 1)
        documents.come("a")
        assert await waiting.ask(caller, "question", documents.read, "a") == "a=1"
        if not counted:
            await asking

    asyncio.run(play())
    assert asked == ([(caller.name, "question")] if counted else [])


class Made:
    """Answers that are kept, over documents that change."""

    def __init__(self, threads: Threads, admit: Any = None) -> None:
        self.documents = Documents()
        self.answers = MadeAnswers(
            waiting_in(threads, admit), budget=100_000, largest=10_000, clock=lambda: self.documents.seconds
        )

    async def get(self, *names: str, caller: Caller = ASKER) -> tuple[str, dict[bytes, bytes]]:
        """The body and the headers that say how old it is."""
        made = await self.answers.get(
            " ".join(names), caller, lambda: Rendered(self.documents.read(*names).encode(), 20.0)
        )
        return made.document.body.decode(), dict(made.headers)


def test_an_answer_is_kept_until_a_document_in_it_changes(threads: Threads) -> None:
    made = Made(threads)

    async def play() -> None:
        made.documents.come("a")
        made.documents.come("b")
        for _ in range(3):
            assert (await made.get("a", "b"))[0] == "a=1 b=1"
        assert made.documents.reads == 1
        made.documents.come("b", "2")
        assert (await made.get("a", "b"))[0] == "a=1 b=2", "at once, not after its time"
        made.documents.states["b"].digest = b""  # forgotten
        made.documents.come("b", "3")
        assert (await made.get("a", "b"))[0] == "a=1 b=3"

    asyncio.run(play())


def test_it_says_how_old_the_oldest_document_in_it_is(threads: Threads) -> None:
    made = Made(threads)

    async def play() -> None:
        made.documents.come("a")
        made.documents.seconds = 100.0
        made.documents.come("b")
        made.documents.seconds = 105.0
        assert (await made.get("a", "b"))[1] == {b"age": b"105"}
        made.documents.come("a")
        assert (await made.get("a", "b"))[1] == {b"age": b"5"}, "confirmed, and not made again"
        assert made.documents.reads == 1
        made.documents.seconds = 450.0
        assert (await made.get("a", "b"))[1] == {b"age": b"350", b"x-stale-seconds": b"50"}

    asyncio.run(play())


def test_what_was_made_of_stale_documents_is_soon_made_again(threads: Threads) -> None:
    made = Made(threads)

    async def play() -> None:
        made.documents.come("a")
        await made.get("a")
        made.documents.seconds = 301.5
        for _ in range(3):
            await made.get("a")
        assert made.documents.reads == 2
        made.documents.seconds += 2.5
        await made.get("a")
        assert made.documents.reads == 3

    asyncio.run(play())


def test_what_was_made_without_a_feed_is_made_again_after_ten_seconds_however_fresh_the_rest(
    threads: Threads,
) -> None:
    documents = Documents()
    answers = MadeAnswers(
        waiting_in(threads), budget=100_000, largest=10_000, clock=lambda: documents.seconds
    )

    def without_luci() -> Rendered:
        body = documents.read("a").encode()
        reading = current_reading()
        assert reading is not None
        reading.left_out["luci"] = None
        return Rendered(body, 20.0)

    async def play() -> list[int]:
        documents.come("a")
        reads = []
        for at in (0.0, 9.9, 10.0, 19.9, 20.1):
            documents.seconds = at
            made = await answers.get("index", ASKER, without_luci)
            assert dict(made.headers)[b"x-incomplete"] == b"luci"
            reads.append(documents.reads)
        return reads

    assert asyncio.run(play()) == [1, 1, 2, 2, 3]


def test_who_joins_one_whose_share_is_used_up_is_not_refused_for_it(threads: Threads) -> None:
    def admit(name: str, _: str) -> TooManyRequests | None:
        return TooManyRequests("Too many.", retry_after=7) if name == "greedy" else None

    made = Made(threads, admit)

    async def play() -> None:
        first = asyncio.ensure_future(made.get("a", caller=Caller("greedy")))
        second = asyncio.ensure_future(made.get("a", caller=Caller("modest")))
        with pytest.raises(TooManyRequests):
            await first
        while "a" not in made.documents.fetches:
            await asyncio.sleep(0.001)
        made.documents.come("a")
        assert (await second)[0] == "a=1"

    asyncio.run(play())


def test_a_reading_that_never_comes_to_rest_is_given_up(threads: Threads) -> None:
    done: Future[None] = Future()
    done.set_result(None)
    calls: list[int] = []

    def restless() -> str:
        calls.append(1)
        reading = current_reading()
        assert reading is not None
        if reading.over:
            raise Unavailable("It goes on and on.")
        reading.await_first(done)
        return "never"

    async def play() -> None:
        with pytest.raises(Unavailable):
            await waiting_in(threads).run(Reading(), restless)

    asyncio.run(play())
    assert len(calls) < 50


def test_a_document_that_is_read_twice_is_waited_for_once(threads: Threads) -> None:
    documents = Documents()

    async def play() -> str:
        asking = asyncio.ensure_future(waiting_in(threads).ask(ASKER, "", documents.read, "a", "a"))
        await rounds(documents, 1)
        await asyncio.sleep(0.01)
        documents.come("a")
        async with asyncio.timeout(60):
            return await asking

    assert asyncio.run(play()) == "a=1 a=1"


def test_who_leaves_leaves_nothing_at_a_fetch_that_goes_on(threads: Threads) -> None:
    documents = Documents()

    async def play() -> None:
        waiting, client = waiting_in(threads), Client()
        WAITS_FOR.set(client)
        leaving = [asyncio.ensure_future(waiting.ask(ASKER, "", documents.read, "a", "b")) for _ in range(20)]
        await rounds(documents, 20)
        while len(client.on_gone) < 20:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.01)
        client.leave()
        for each in await asyncio.gather(*leaving, return_exceptions=True):
            assert isinstance(each, ClientGone)
        assert client.on_gone == set()
        assert [set() for _ in documents.fetches] == list(waiting._fetches.values())
        with pytest.raises(ClientGone):
            await waiting.ask(ASKER, "", documents.read, "a")
        for name in ("a", "b"):
            documents.come(name)
        await asyncio.sleep(0.01)
        assert waiting._fetches == {}

    asyncio.run(play())


def test_a_task_cancelled_for_another_reason_is_cancelled(threads: Threads) -> None:
    documents = Documents()

    async def play() -> None:
        WAITS_FOR.set(Client())
        asking = asyncio.ensure_future(waiting_in(threads).ask(ASKER, "", documents.read, "a"))
        await rounds(documents, 1)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking

    asyncio.run(play())


def test_no_cache_keeps_what_is_stale_or_lacks_something(threads: Threads) -> None:
    made = Made(threads)

    async def play() -> list[bool]:
        documents = made.documents
        documents.come("a")
        lasting = []
        for key, complete, left_out in (("whole", True, ""), ("half", False, ""), ("feed", True, "luci")):

            def render(complete: bool = complete, left_out: str = left_out) -> Rendered:
                body = documents.read("a").encode()
                reading = current_reading()
                assert reading is not None
                reading.left_out.update({left_out: None} if left_out else {})
                return Rendered(body, 20.0, complete)

            lasting.append((await made.answers.get(key, ASKER, render)).lasts)
        documents.seconds = 301.0
        stale = await made.answers.get("stale", ASKER, lambda: Rendered(documents.read("a").encode(), 20.0))
        return [*lasting, stale.lasts]

    assert asyncio.run(play()) == [True, False, False, False]
