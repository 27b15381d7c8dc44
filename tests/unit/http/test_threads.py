import asyncio
import threading
from collections.abc import Iterator

import pytest

from asu_builder.http.threads import Batcher, SingleFlight, Threads


@pytest.fixture
def threads() -> Iterator[Threads]:
    made = Threads(1, name="test")
    yield made
    made.close()


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
        asking = [asyncio.ensure_future(together.ask(number)) for number in range(6)]
        await asyncio.sleep(0)
        calls.gate.set()
        return list(await asyncio.gather(*asking))

    assert asyncio.run(ask_all()) == [0, 2, 4, 6, 8, 10]
    assert calls.batches == [[0], [1, 2, 3], [4, 5]]


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
