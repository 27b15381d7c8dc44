"""What happens to the server's process, and to its clock."""

import random
import subprocess
from collections.abc import Callable
from threading import Event

from chaos.clock import SEEN_WITHIN
from chaos.order import compare_order, waiting_order
from chaos.servers import Server
from chaos.world import OneHost, World

LEASE_SECONDS = 60
"""As `core.worker.LEASE`."""
_ENDED_WITHIN = 60.0
"""Seconds; the grace time is two."""


def pause(seconds: float, *, until: Callable[[], bool] = lambda: False) -> None:
    """The span of a fault is what is varied; it ends early when it has done what it is for."""
    never = Event()
    for _ in range(max(1, round(seconds / 0.05))):
        if until():
            return
        never.wait(0.05)


def server_kill(world: World, chance: random.Random) -> bool:
    """As a crash or the kernel would; started again at once."""
    before = waiting_order(world)
    with world.servers.disturbed():
        world.servers.current.kill()
        bring_up(world, world.servers.current)
    compare_order(world, before)
    return True


def server_stop(world: World, chance: random.Random) -> bool:
    """As systemd does for a restart; it must end well and give its builds back."""
    before = waiting_order(world)
    with world.servers.disturbed():
        stop(world, world.servers.current)
        bring_up(world, world.servers.current)
    compare_order(world, before)
    return True


def server_freeze(world: World, chance: random.Random) -> bool:
    """The whole process stands still for some seconds."""
    with world.servers.disturbed():
        world.servers.current.freeze()
        pause(chance.uniform(0.5, 4))
        world.servers.current.thaw()
    return True


def server_freeze_beyond_lease(world: World, chance: random.Random) -> bool:
    """It stands still for longer than a lease lasts, while another process takes what has lapsed."""
    frozen, second = world.servers.current, world.servers.other
    with world.servers.disturbed():
        frozen.freeze()
        world.servers.current = second
        bring_up(world, second)
        pause(LEASE_SECONDS + 10)
        frozen.thaw()
        pause(chance.uniform(1, 4))
        stop(world, frozen)
    return True


def second_process(world: World, chance: random.Random) -> bool:
    """Another process beside the first for some seconds, as when a restart overlaps; it builds too."""
    first, second = world.servers.current, world.servers.other
    bring_up(world, second)
    pause(chance.uniform(1, 3))
    with world.servers.disturbed():
        world.servers.current = first
        stop(world, second)
    return True


def second_process_takes_over(world: World, chance: random.Random) -> bool:
    """Another process starts beside the first, which then stops or is killed."""
    first, second = world.servers.current, world.servers.other
    bring_up(world, second)
    with world.servers.disturbed():
        world.servers.current = second
        pause(chance.uniform(0.5, 3))
        if chance.random() < 0.5:
            first.kill()
        else:
            stop(world, first)
    return True


def clock_forward(world: OneHost, chance: random.Random) -> bool:
    """The server's wall clock leaps ahead."""
    world.clock.set(world.clock.offset + chance.choice((2, 45, 400, 3 * 3600)))
    pause(SEEN_WITHIN + chance.uniform(0.5, 2))
    return True


def clock_back(world: OneHost, chance: random.Random) -> bool:
    """The server's wall clock leaps back; half the time to what is right."""
    back = world.clock.offset - chance.choice((2, 45, 400, 3 * 3600))
    world.clock.set(0.0 if world.clock.offset > 0 and chance.random() < 0.5 else back)
    pause(SEEN_WITHIN + chance.uniform(0.5, 2))
    return True


def bring_up(world: World, server: Server) -> None:
    """Starts a process; one that does not come up is a violation and is tried again.

    One that has a reason is tried until it has none, as whatever looks after services does.
    """
    tries = 0
    while tries < 3:
        try:
            server.start()
        except AssertionError:
            if server.is_running:
                server.kill()
            if world.may_refuse_to_start():
                pause(0.5)
                continue
            tries += 1
            world.ledger.violation(f"{server.name} did not start: {server.stderr()[-500:]}")
        else:
            return
    raise RuntimeError(f"the server does not start any more: {server.stderr()[-2000:]}")


def stop(world: World, server: Server) -> None:
    """SIGTERM; anything but a clean end is a violation."""
    try:
        status = server.stop(seconds=_ENDED_WITHIN)
    except subprocess.TimeoutExpired:
        world.ledger.violation(f"{_ENDED_WITHIN:g} seconds after SIGTERM the server was still there")
        server.kill()
    else:
        if status:
            world.ledger.violation(f"after SIGTERM the server ended with status {status}")
