"""What happens to everything around the server: engine, containers, registry, upstream, disk."""

import os
import random
import signal
from contextlib import suppress
from functools import partial

from chaos.engine import is_gone, signal_tree
from chaos.links import Link, Manner
from chaos.server_faults import pause
from chaos.world import OneHost, World
from factories import eventually

_CONTAINER_WITHIN = 8.0
"""Seconds; when no build has got that far, there is nothing to break, which is no failure."""


def engine_kill(world: World, chance: random.Random) -> bool:
    """`podman system service` dies and comes back; its containers live on."""
    world.around.engine.stop()
    pause(chance.uniform(0, 2))
    world.around.engine.start()
    return True


def engine_freeze(world: World, chance: random.Random) -> bool:
    """It answers nothing for some seconds."""
    world.around.engine.freeze()
    pause(chance.uniform(0.5, 5))
    world.around.engine.thaw()
    return True


def engine_hang(world: World, chance: random.Random) -> bool:
    """It answers nothing for longer than a build may take."""
    world.around.engine.freeze()
    pause(world.job_timeout + chance.uniform(2, 6))
    world.around.engine.thaw()
    return True


def container_kill(world: World, chance: random.Random) -> bool:
    """A build's container dies at once, with everything in it."""
    pid = _a_container(world, chance)[1]
    if not pid:
        return False
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    return is_gone(pid)


def container_remove(world: World, chance: random.Random) -> bool:
    """Somebody removes a build's container by force."""
    name = _a_container(world, chance)[0]
    if not name:
        return False
    try:
        world.around.engine.remove_container(name)
    except OSError:
        return False  # the engine is frozen or dead at this moment
    return True


def container_freeze(world: World, chance: random.Random) -> bool:
    """Everything in a build's container stands still for some seconds."""
    pid = _a_container(world, chance)[1]
    if not pid:
        return False
    signal_tree(pid, signal.SIGSTOP)
    pause(chance.uniform(0.5, 4))
    signal_tree(pid, signal.SIGCONT)
    return True


def registry_fault(world: World, chance: random.Random, manner: Manner) -> bool:
    """The images are gone from the engine, and the registry is not itself when they are asked for."""
    world.around.registry.truncate_after = chance.choice((100, 1500, 200_000, 5_000_000))
    world.around.registry.become(manner)
    try:
        dropped = [eventually(partial(_forget, world, name), seconds=6) for name in world.around.images]
        _until_felt(world.around.registry, seconds=6, then=chance.uniform(0.2, 1.5))
    finally:
        world.around.registry.become("fine")
    return any(dropped)


def upstream_fault(world: World, chance: random.Random, manner: Manner) -> bool:
    """The download server is not itself."""
    world.around.upstream.truncate_after = chance.choice((0, 100, 300, 1500))
    world.around.upstream.become(manner)
    try:
        _until_felt(world.around.upstream, seconds=3, then=chance.uniform(0.2, 1.5))
    finally:
        world.around.upstream.become("fine")
    return True


def disk_full(world: OneHost, chance: random.Random) -> bool:
    """Not a byte is left where images are stored."""
    return _fill(world, chance, leave=0)


def disk_nearly_full(world: OneHost, chance: random.Random) -> bool:
    """Some room is left, but less than images take."""
    return _fill(world, chance, leave=chance.choice((8 << 10, 64 << 10, 300 << 10)))


def _fill(world: OneHost, chance: random.Random, *, leave: int) -> bool:
    try:
        world.disk.fill(leave=leave)
        pause(chance.uniform(1, 4))
    finally:
        world.disk.release()
    return True


def _a_container(world: World, chance: random.Random) -> tuple[str, int]:
    found: dict[str, int] = {}

    def look() -> bool:
        found.update(world.around.engine.builds())
        return bool(found)

    # Not always in its first moments.
    pause(chance.uniform(0, 1.5))
    if not eventually(look, seconds=_CONTAINER_WITHIN):
        return "", 0
    return chance.choice(sorted(found.items()))


def _forget(world: World, image: str) -> bool:
    try:
        return world.around.engine.forget_image(image)
    except OSError:
        return False


def _until_felt(link: Link, *, seconds: float, then: float) -> None:
    before = link.connections
    pause(seconds, until=lambda: link.connections > before)
    pause(then)
