import asyncio
import functools
import threading
from collections.abc import Iterator
from contextvars import ContextVar

import pytest

from asu_builder.http.threads import Batcher, Relay, SingleFlight, Threads


@pytest.fixture
def threads() -> Iterator[Threads]:
    made = Threads(1, name="test")
    yield made
    made.close()


WHO: ContextVar[str] = ContextVar("who", default="nobody")


def test_a_call_knows_the_context_of_its_caller_and_changes_nothing_in_it(threads: Threads) -> None:
    def call() -> tuple[str, str]:
        before = WHO.get()
        WHO.set("thread")
        return before, threading.current_thread().name

    async def ask() -> tuple[str, str, str]:
        WHO.set("caller")
        return (*await threads.run(call), WHO.get())

    assert asyncio.run(ask()) == ("caller", "test_0", "caller")


def test_threads_are_started_as_they_are_needed_and_never_more_than_allowed() -> None:
    made = Threads(2, name="test")
    both = threading.Barrier(2)

    def call(barrier: threading.Barrier | None = None) -> str:
        if barrier:
            barrier.wait(60)
        return threading.current_thread().name

    async def ask_all() -> tuple[list[str], list[str]]:
        alone = [await made.run(call) for _ in range(2)]
        return alone, await asyncio.gather(*(made.run(call, both) for _ in range(6)))

    alone, together = asyncio.run(ask_all())
    made.close()
    assert alone == ["test_0", "test_0"]
    assert set(together) == {"test_0", "test_1"}


def test_an_end_lets_running_calls_end_and_cancels_the_rest() -> None:
    made = Threads(1, name="test")
    begun, gate, calls = threading.Event(), threading.Event(), []

    def call(number: int) -> int:
        calls.append(number)
        begun.set()
        gate.wait(60)
        return number

    async def ask_and_close() -> list[int | BaseException]:
        asking = [made.run(call, number) for number in range(3)]
        begun.wait(60)
        asyncio.get_running_loop().call_later(0.01, gate.set)
        closing = threading.Thread(target=made.close)
        closing.start()
        answers = await asyncio.gather(*asking, return_exceptions=True)
        closing.join()
        with pytest.raises(RuntimeError, match="have ended"):
            made.run(call, 4)
        return list(answers)

    first, *others = asyncio.run(ask_and_close())
    assert first == 0
    assert [type(other) for other in others] == [asyncio.CancelledError] * 2
    assert calls == [0]


def test_a_call_whose_caller_has_gone_before_it_began_is_not_made(threads: Threads) -> None:
    gate = threading.Event()
    calls: list[str] = []

    async def ask_and_leave() -> None:
        blocking = threads.run(gate.wait, 60)
        leaving = threads.run(calls.append, "left")
        leaving.cancel()
        gate.set()
        await blocking
        await threads.run(calls.append, "stayed")

    asyncio.run(ask_and_leave())
    assert calls == ["stayed"]


def test_what_a_call_raises_reaches_its_caller_and_the_thread_lives_on(threads: Threads) -> None:
    def call() -> None:
        raise OSError("the disk is gone")

    async def ask_twice() -> int:
        with pytest.raises(OSError, match="the disk is gone"):
            await threads.run(call)
        return await threads.run(lambda: 2)

    assert asyncio.run(ask_twice()) == 2


def test_a_loop_that_has_been_closed_ends_no_thread(threads: Threads) -> None:
    gate = threading.Event()

    async def begin() -> None:
        threads.run(gate.wait, 60)

    asyncio.run(begin())
    gate.set()

    async def ask() -> int:
        return await threads.run(lambda: 2)

    assert asyncio.run(ask()) == 2


class Calls:
    """Doubles numbers, refuses negative ones, and waits at a gate."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, numbers: list[int]) -> list[int | Exception]:
        self.gate.wait(60)
        self.batches.append(numbers)
        return [ValueError(number) if number < 0 else 2 * number for number in numbers]


def test_what_arrives_while_a_call_runs_is_called_together_by_the_next(threads: Threads) -> None:
    calls = Calls()

    async def ask_all() -> list[int]:
        together = Batcher(threads, calls, largest=3)
        calls.gate.clear()
        first = together.ask(0)
        for _ in range(3):
            await asyncio.sleep(0)
        asking = [together.ask(number) for number in range(1, 6)]
        calls.gate.set()
        return list(await asyncio.gather(first, *asking))

    assert asyncio.run(ask_all()) == [0, 2, 4, 6, 8, 10]
    assert calls.batches == [[0], [1, 2, 3], [4, 5]]


def test_what_arrives_at_the_same_moment_is_called_together(threads: Threads) -> None:
    calls = Calls()

    async def ask_all() -> list[int]:
        together = Batcher(threads, calls, largest=9)
        return list(await asyncio.gather(*map(together.ask, range(4))))

    assert asyncio.run(ask_all()) == [0, 2, 4, 6]
    assert calls.batches == [[0, 1, 2, 3]]


def test_those_who_ask_again_as_soon_as_they_are_answered_share_the_next_call(threads: Threads) -> None:
    calls = Calls()

    async def ask_thrice(together: Batcher[int, int], turns: int) -> None:
        for number in range(3):
            await together.ask(number)
            for _ in range(turns):  # as long as an answer is on its way to its client and back
                await asyncio.sleep(0)

    async def ask_all() -> None:
        together = Batcher(threads, calls, largest=9)
        await asyncio.gather(*(ask_thrice(together, turns) for turns in range(4)))

    asyncio.run(ask_all())
    assert calls.batches == [[number] * 4 for number in range(3)]


def test_one_that_is_refused_takes_nothing_from_the_others(threads: Threads) -> None:
    calls = Calls()

    async def ask_all() -> list[int | BaseException]:
        together = Batcher(threads, calls, largest=9)
        return list(await asyncio.gather(*map(together.ask, (1, -1, 2)), return_exceptions=True))

    one, refused, two = asyncio.run(ask_all())
    assert (one, two) == (2, 4)
    assert isinstance(refused, ValueError)


def test_a_call_that_breaks_breaks_for_its_callers_and_the_next_goes_on(threads: Threads) -> None:
    broken = [True]

    def call(numbers: list[int]) -> list[int | Exception]:
        if broken.pop() if broken else False:
            raise OSError("the disk is gone")
        return list(numbers)

    async def ask_twice() -> int:
        together = Batcher(threads, call, largest=9)
        with pytest.raises(OSError, match="the disk is gone"):
            await together.ask(1)
        return await together.ask(2)

    assert asyncio.run(ask_twice()) == 2


def test_an_caller_who_goes_away_does_not_disturb_the_rest(threads: Threads) -> None:
    calls = Calls()

    async def ask_and_leave() -> int:
        together = Batcher(threads, calls, largest=9)
        calls.gate.clear()
        leaving = asyncio.ensure_future(together.ask(1))
        staying = asyncio.ensure_future(together.ask(2))
        await asyncio.sleep(0)
        leaving.cancel()
        calls.gate.set()
        return await staying

    assert asyncio.run(ask_and_leave()) == 4


def test_a_shared_call_ends_with_the_last_who_asks_and_is_not_joined_then() -> None:
    async def ask_and_leave() -> None:
        shared: SingleFlight[int] = SingleFlight()
        ended: list[int] = []
        gate = asyncio.Event()

        async def call(number: int) -> int:
            try:
                await gate.wait()
            except asyncio.CancelledError:
                ended.append(number)
                raise
            return number

        first, second = (asyncio.ensure_future(shared.ask("key", lambda: call(1))) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.sleep(0.01)
        assert ended == [] and shared.runs("key"), "somebody still asks"
        second.cancel()
        await asyncio.sleep(0)
        third = asyncio.ensure_future(shared.ask("key", lambda: call(2)))
        await asyncio.sleep(0.01)
        assert ended == [1] and shared.runs("key")
        gate.set()
        assert await third == (2, True)
        assert not shared.runs("key")

    asyncio.run(ask_and_leave())


def test_a_relayed_call_is_made_once_and_begun_again_by_the_next_when_its_caller_leaves() -> None:
    async def ask_and_leave() -> None:
        relay: Relay[int] = Relay()
        begun: list[int] = []
        gate = asyncio.Event()

        async def call(number: int) -> int:
            begun.append(number)
            await gate.wait()
            if number == 3:
                raise OSError("the disk is gone")
            return number

        first, second, third = (
            asyncio.ensure_future(relay.ask("key", functools.partial(call, number))) for number in range(3)
        )
        await asyncio.sleep(0)
        assert begun == [0], "the others wait for the first"
        first.cancel()
        await asyncio.sleep(0.01)
        assert begun == [0, 1]
        gate.set()
        assert [await second, await third] == [(1, True), (1, False)]
        gate.clear()
        asyncio.get_running_loop().call_later(0.01, gate.set)
        failing = [asyncio.ensure_future(relay.ask("key", lambda: call(3))) for _ in range(2)]
        errors = await asyncio.gather(*failing, return_exceptions=True)
        assert [type(error) for error in errors] == [OSError, OSError] and begun == [0, 1, 3]

    asyncio.run(ask_and_leave())


def test_who_comes_after_what_was_answered_may_be_out_of_date_does_not_join() -> None:
    async def ask_and_part() -> list[tuple[int, bool]]:
        relay: Relay[int] = Relay()
        gate = asyncio.Event()

        async def call(number: int) -> int:
            await gate.wait()
            return number

        before = [asyncio.ensure_future(relay.ask("key", lambda: call(1))) for _ in range(2)]
        await asyncio.sleep(0)
        relay.part()
        after = [asyncio.ensure_future(relay.ask("key", lambda: call(2))) for _ in range(2)]
        await asyncio.sleep(0)
        gate.set()
        return [await asked for asked in (*before, *after)]

    assert asyncio.run(ask_and_part()) == [(1, True), (1, False), (2, True), (2, False)]
