"""What is remembered of a download server's faults stays within bounds, and the latest stay."""

import re
from collections.abc import Callable

import pytest

from asu_builder.upstream.lenient import LeftOut
from asu_builder.upstream.offer import Incomplete

FAULTS = 20_000


def incomplete_indexes() -> tuple[Callable[[str], None], Callable[[], str]]:
    incomplete = Incomplete(clock=lambda: 1000.0)
    return lambda name: incomplete.note(name, ("luci",)), incomplete.sentence


def odd_documents() -> tuple[Callable[[str], None], Callable[[], str]]:
    left_out = LeftOut()
    return lambda name: left_out.note(name, "an odd value"), left_out.sentence


@pytest.mark.parametrize("make", [incomplete_indexes, odd_documents])
def test_only_the_latest_faults_are_remembered(
    make: Callable[[], tuple[Callable[[str], None], Callable[[], str]]],
) -> None:
    note, sentence = make()
    for number in range(FAULTS):
        note(f"releases/{number}/index.json")
    more = re.search(r"and (\d+) more", sentence())
    assert more is not None and 10 < int(more[1]) < 1000
    # The oldest one left is the first that is named.
    named = re.search(r"releases/(\d+)/", sentence())
    assert named is not None and int(named[1]) >= FAULTS - 1000
    assert len(sentence()) < 500
