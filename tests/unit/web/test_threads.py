"""One call for all who ask at once, in threads that know who asked."""

import asyncio
import contextvars
import threading

import pytest

from asu_builder.web.threads import Shared, Threads


def test_a_call_runs_in_a_thread_with_the_askers_context() -> None:
    name: contextvars.ContextVar[str] = contextvars.ContextVar("name", default="nobody")

    async def ask() -> tuple[str, bool]:
        name.set("somebody")
        return await threads.run(lambda: (name.get(), threading.current_thread() is threading.main_thread()))

    threads = Threads(1, name="test")
    assert asyncio.run(ask()) == ("somebody", False)
    threads.close()


def test_those_who_ask_together_share_one_call_and_later_ones_do_not() -> None:
    calls = 0

    async def call() -> int:
        nonlocal calls
        calls += 1
        await asyncio.sleep(0.01)
        return calls

    async def ask() -> None:
        shared: Shared[int] = Shared()
        answers = await asyncio.gather(*(shared.ask("key", call) for _ in range(5)))
        assert sorted(answers) == [(1, False)] * 4 + [(1, True)]
        assert await shared.ask("key", call) == (2, True)

    asyncio.run(ask())


def test_an_asker_who_goes_away_takes_the_answer_from_nobody() -> None:
    async def call() -> str:
        await asyncio.sleep(0.02)
        return "answer"

    async def ask() -> None:
        shared: Shared[str] = Shared()
        first = asyncio.create_task(shared.ask("key", call))
        second = asyncio.create_task(shared.ask("key", call))
        await asyncio.sleep(0)
        first.cancel()
        assert await second == ("answer", False)
        with pytest.raises(asyncio.CancelledError):
            await first

    asyncio.run(ask())


def test_an_error_reaches_all_who_ask_and_is_not_kept() -> None:
    async def fail() -> str:
        await asyncio.sleep(0.01)
        raise ValueError("no")

    async def succeed() -> str:
        return "yes"

    async def ask() -> None:
        shared: Shared[str] = Shared()
        answers = await asyncio.gather(*(shared.ask("key", fail) for _ in range(3)), return_exceptions=True)
        assert [type(answer) for answer in answers] == [ValueError] * 3
        assert await shared.ask("key", succeed) == ("yes", True)

    asyncio.run(ask())
