"""The order of waiting jobs, as their callers see it, before and after a restart."""

from collections.abc import Mapping
from itertools import combinations
from threading import Event

from chaos.world import World

_TRIES = 2
_REMEMBERED_SECONDS = 0.6
"""Answers to polls are remembered for half a second, so positions of one moment need two looks."""


def waiting_order(world: World) -> Mapping[str, int]:
    """Positions at one moment; empty when the queue did not stand still for long enough to see them."""
    for _ in range(_TRIES):
        first = _positions(world)
        Event().wait(_REMEMBERED_SECONDS)
        if len(first) > 1 and first == _positions(world):
            return first
    return {}


def compare_order(world: World, before: Mapping[str, int]) -> None:
    """Whoever still waits waits in the same order."""
    after = waiting_order(world) if before else {}
    still = [request_hash for request_hash in before if request_hash in after]
    if len(still) < 2:
        return
    world.ledger.orders_compared += 1
    for one, two in combinations(still, 2):
        if (before[one] - before[two]) * (after[one] - after[two]) < 0:
            world.ledger.violation(
                f"{one[:12]} and {two[:12]} have changed places over a restart: "
                f"{before[one]}, {before[two]} became {after[one]}, {after[two]}"
            )


def _positions(world: World) -> Mapping[str, int]:
    found = {}
    try:
        with world.servers.current.client(timeout=5) as client:
            for asked in world.ledger.live():
                answer = client.look(asked.request_hash)
                if answer.status == 202 and answer.json["detail"] == "queued":
                    found[asked.request_hash] = answer.json["queue_position"]
    except OSError:
        return {}
    return found
