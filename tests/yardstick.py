"""What this machine needs for a fixed piece of work, to compare with what a test measures in the same run."""

import time
from collections.abc import Callable
from functools import cache

_ROUNDS = 5


def least_seconds(work: Callable[[], object]) -> float:
    """CPU seconds of this thread for a piece of work: the least of some rounds, the others were disturbed."""
    spent = []
    for _ in range(_ROUNDS):
        began = time.thread_time()
        work()
        spent.append(time.thread_time() - began)
    return min(spent)


@cache
def yardstick() -> float:
    """`fresh_yardstick`, measured once a run."""
    return fresh_yardstick()


def fresh_yardstick() -> float:
    """CPU seconds for a hundred thousand words that are split, counted and sorted, as the machine is now."""
    text = " ".join(f"{number % 977:x}" for number in range(100_000))

    def count() -> list[tuple[int, str]]:
        seen: dict[str, int] = {}
        for word in text.split():
            seen[word] = seen.get(word, 0) + 1
        return sorted((times, word) for word, times in seen.items())

    return least_seconds(count)


def takes_at_most(work: Callable[[], object], yardsticks: float, *, least: float = 0.01) -> bool:
    """Whether a piece of work takes at most so many yardsticks of CPU, each of at least `least` seconds.

    The machine may have become slower since the yardstick was measured: then both are measured again.
    """
    if least_seconds(work) <= yardsticks * max(yardstick(), least):
        return True
    return any(least_seconds(work) <= yardsticks * max(fresh_yardstick(), least) for _ in range(_ROUNDS))


def grows_in_proportion(whole: Callable[[], object], half: Callable[[], object], *, least: float) -> bool:
    """Whether twice the text takes at most 2.5 times as long, in one of some tries; less than `least`
    seconds count as that much. A machine that is busy can only spoil a try."""
    return any(least_seconds(whole) <= 2.5 * max(least_seconds(half), least) for _ in range(_ROUNDS))
