"""Which faults come, in which order: all of it follows from the seed."""

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from chaos.links import FAULTY


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of fault. `lane` says what it breaks; of one lane there is one fault at a time."""

    name: str
    lane: str
    weight: int
    at_most: int = 1_000_000
    """In any run; slow ones are bounded."""
    only_long: bool = False


KINDS: tuple[Kind, ...] = (
    Kind("server_kill", "server", 3),
    Kind("server_stop", "server", 3),
    Kind("server_freeze", "server", 2),
    Kind("second_process", "server", 2),
    Kind("second_process_takes_over", "server", 2, only_long=True),
    Kind("server_freeze_beyond_lease", "server", 1, at_most=3, only_long=True),
    Kind("engine_kill", "engine", 4),
    Kind("engine_freeze", "engine", 3),
    Kind("engine_hang", "engine", 1, at_most=5, only_long=True),
    Kind("container_kill", "container", 5),
    Kind("container_remove", "container", 3),
    Kind("container_freeze", "container", 3),
    *(Kind(f"registry_{manner}", "registry", 1) for manner in FAULTY),
    *(Kind(f"upstream_{manner}", "upstream", 1) for manner in FAULTY),
    Kind("disk_full", "disk", 3),
    Kind("disk_nearly_full", "disk", 2),
    Kind("clock_forward", "clock", 3),
    Kind("clock_back", "clock", 3),
)
CLUSTER_KINDS: tuple[Kind, ...] = (
    Kind("database_restart", "database", 3),
    Kind("database_crash", "database", 3),
    Kind("database_sessions", "database", 4),
    Kind("database_freeze", "database", 3),
    Kind("database_freeze_long", "database", 1, at_most=4, only_long=True),
    *(Kind(f"store_{manner}", "store", 1) for manner in FAULTY),
    Kind("store_busy", "store", 3),
    Kind("worker_kill", "worker", 4),
    Kind("worker_stop", "worker", 2),
    Kind("worker_freeze", "worker", 2),
    Kind("worker_cut", "worker", 3),
    Kind("worker_freeze_beyond_lease", "worker", 1, at_most=3, only_long=True),
    Kind("worker_cut_beyond_lease", "worker", 1, at_most=3, only_long=True),
    Kind("api_kill", "api", 3),
    Kind("api_stop", "api", 2),
    Kind("api_freeze", "api", 2),
)
ALL_KINDS = (*KINDS, *CLUSTER_KINDS)
LANES = tuple(dict.fromkeys(kind.lane for kind in ALL_KINDS))
SHORT = 100
"""A run of fewer faults is a short one."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault to come; whatever it chooses, it takes from `chance`."""

    number: int
    kind: Kind
    chance: random.Random


def plan(
    seed: int, count: int, *, kinds: Sequence[Kind] = KINDS, without: Sequence[str] = ()
) -> Sequence[Fault]:
    """Every kind at least once as far as `count` goes, then by weight."""
    chance = random.Random(seed)
    left = {kind.name: _allowed(kind, count) for kind in kinds if kind.lane not in without}
    first = [kind for kind in kinds if left.get(kind.name)]
    chance.shuffle(first)
    chosen = first[:count]
    for kind in chosen:
        left[kind.name] -= 1
    while len(chosen) < count:
        open_kinds = [kind for kind in kinds if left.get(kind.name, 0) > 0]
        (kind,) = chance.choices(open_kinds, [kind.weight for kind in open_kinds])
        left[kind.name] -= 1
        chosen.append(kind)
    return [
        Fault(number, kind, random.Random(f"{seed}/{number}")) for number, kind in enumerate(chosen, start=1)
    ]


def _allowed(kind: Kind, count: int) -> int:
    if count >= SHORT:
        return kind.at_most
    return 0 if kind.only_long else min(kind.at_most, 1 if kind.at_most < 10 else count)


def lanes(faults: Sequence[Fault]) -> Mapping[str, Sequence[Fault]]:
    """The faults of each lane, in order."""
    found: dict[str, list[Fault]] = defaultdict(list)
    for fault in faults:
        found[fault.kind.lane].append(fault)
    return found
