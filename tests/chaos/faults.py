"""Carrying out the plan: one thread for each lane, so that faults of different lanes overlap."""

import random
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from time import monotonic
from typing import Any

from chaos import outer_faults, server_faults
from chaos.links import FAULTY
from chaos.plan import Fault
from chaos.world import World

Inject = Callable[[Any, random.Random], bool]
"""Breaks something of its kind of world and heals it; False when there was nothing to break."""

_TRIES = 5
_BREATH_SECONDS = 3.0

ON_ONE_HOST: Mapping[str, Inject] = {
    **{
        name: getattr(server_faults, name)
        for name in (
            *("server_kill", "server_stop", "server_freeze", "server_freeze_beyond_lease"),
            *("second_process", "second_process_takes_over", "clock_forward", "clock_back"),
        )
    },
    **{
        name: getattr(outer_faults, name)
        for name in (
            *("engine_kill", "engine_freeze", "engine_hang", "disk_full", "disk_nearly_full"),
            *("container_kill", "container_remove", "container_freeze"),
        )
    },
    **{f"registry_{manner}": partial(outer_faults.registry_fault, manner=manner) for manner in FAULTY},
    **{f"upstream_{manner}": partial(outer_faults.upstream_fault, manner=manner) for manner in FAULTY},
}


class Injection:
    """Runs the lanes until the plan or the time is over."""

    def __init__(
        self, world: World, lanes: Mapping[str, Sequence[Fault]], inject: Mapping[str, Inject]
    ) -> None:
        """`inject` has what carries out each kind of fault."""
        self._world = world
        self._injects = inject
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self.injected: Counter[str] = Counter()
        self.missed: Counter[str] = Counter()
        self.seconds: Counter[str] = Counter()
        """How long the faults of each kind have lasted together."""
        self.timeline: list[str] = []
        """When each fault began, in UTC as in the server's log, and how long it lasted."""
        self._threads = [
            threading.Thread(target=self._carry_out, args=(faults,), name=lane, daemon=True)
            for lane, faults in lanes.items()
        ]

    def run(self, *, seconds: float, at_least: int, longest: float) -> None:
        """Returns when every lane has come to its end; none begins a fault when the time is over.

        Where fewer than `at_least` were injected by then, the time is longer.
        """
        ends, last = monotonic() + seconds, monotonic() + longest

        def is_time_left() -> bool:
            return monotonic() < (ends if sum(self.injected.values()) >= at_least else last)

        for thread in self._threads:
            thread.start()
        try:
            while any(thread.is_alive() for thread in self._threads) and is_time_left():
                self._stop.wait(0.2)
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join(120)
            heal(self._world)

    def _carry_out(self, faults: Sequence[Fault]) -> None:
        for fault in faults:
            if self._stop.is_set():
                return
            try:
                done = self._inject(fault)
            except Exception as error:  # noqa: BLE001 - whatever a fault meets must be seen in the report
                self._world.ledger.violation(f"fault {fault.number}, {fault.kind.name}, broke: {error!r}")
                done = False
            with self._lock:
                (self.injected if done else self.missed)[fault.kind.name] += 1
            # Work must go on between faults, or nothing but the retries would be seen.
            self._world.ledger.wait_for_progress(seconds=_BREATH_SECONDS)

    def _inject(self, fault: Fault) -> bool:
        inject = self._injects[fault.kind.name]
        for _ in range(_TRIES):
            at, begun = datetime.now(UTC), monotonic()
            done = inject(self._world, fault.chance)
            seconds = monotonic() - begun
            with self._lock:
                self.timeline.append(
                    f"{at:%H:%M:%S} {fault.kind.name} {seconds:.1f} s{'' if done else ', nothing to break'}"
                )
                if done:
                    self.seconds[fault.kind.name] += seconds  # type: ignore[assignment]
                    return True
            if self._stop.is_set():
                break
        return False


def heal(world: World) -> None:
    """Everything works again, whatever was broken."""
    world.heal()
    for server in world.servers.every:
        if server.is_running:
            server.thaw()
    for server in world.servers.start_again():
        if not server.is_running:
            server_faults.bring_up(world, server)
