"""What happens to what many hosts share, and to the hosts."""

import random
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from http.client import HTTPException

import psycopg

from chaos.cluster import Cluster, Node
from chaos.faults import Inject
from chaos.links import FAULTY, Link, Manner
from chaos.server_faults import LEASE_SECONDS, bring_up, pause, stop
from factories import eventually

_REMEMBERED = 4
"""Finished builds that are polled before the database breaks, and must be answered while it is broken."""
_ANSWER_SECONDS = 10.0
_BUILD_WITHIN = 8.0
"""Seconds; when nobody builds until then, there is nothing to break, which is no failure."""
_PAUSE_SECONDS = (30.0, 60.0)
"""The long pauses of the database."""


@contextmanager
def _broken_database(world: Cluster) -> Iterator[None]:
    """Meanwhile processes may refuse to start; polls of finished builds are answered from memory."""
    done = [asked.request_hash for asked in world.ledger.all() if asked.outcome == "done"][-_REMEMBERED:]
    calm = world.servers.calm_since()
    remembered = [
        (node, name) for node in world.nodes.answering for name in done if _status(node, name) == "200"
    ]
    with world.trouble.disturbed():
        yield
        for node, name in remembered:
            found = _status(node, name)
            if found != "200" and 0 <= calm == world.servers.calm_since():
                world.ledger.violation(
                    f"{name[:12]} was finished, and while the database was broken {node.name} said {found}"
                )
            world.ledger.count(f"poll while the database was broken: {found}")


def _status(node: Node, request_hash: str) -> str:
    try:
        with node.client(timeout=_ANSWER_SECONDS) as client:
            return str(client.ask("GET", f"/api/v1/build/{request_hash}").status)
    except (OSError, HTTPException) as error:
        return repr(error)


def database_restart(world: Cluster, chance: random.Random) -> bool:
    """Stopped in order and started again, as for an update."""
    return _restart(world, chance, mode="fast")


def database_crash(world: Cluster, chance: random.Random) -> bool:
    """Ended at once; what was committed durably is there when it comes back."""
    return _restart(world, chance, mode="immediate")


def _restart(world: Cluster, chance: random.Random, *, mode: str) -> bool:
    with world.trouble.disturbed():
        with _broken_database(world):
            world.database.stop(mode)
            pause(chance.uniform(0, 4))
        world.database.start()
    return True


def database_sessions(world: Cluster, chance: random.Random) -> bool:
    """An administrator, or a pooler, ends all sessions or some of them."""
    some = chance.choice(("TRUE", "pid % 2 = 0", "state <> 'idle'"))
    with world.trouble.disturbed():
        ended = world.database.query(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            f" WHERE application_name = 'asu-builder' AND {some}"
        )
    return bool(ended)


def database_freeze(world: Cluster, chance: random.Random) -> bool:
    """All of its processes stand still for some seconds: connections stay open, nothing is answered."""
    return _freeze(world, chance.uniform(0.5, 6))


def database_freeze_long(world: Cluster, chance: random.Random) -> bool:
    """They stand still for up to a minute, as while a virtual machine is moved."""
    return _freeze(world, chance.uniform(*_PAUSE_SECONDS))


def _freeze(world: Cluster, seconds: float) -> bool:
    # Those that wait for it go on only after it.
    with world.trouble.disturbed():
        with _broken_database(world):
            world.database.signal(signal.SIGSTOP)
            pause(seconds)
        world.database.signal(signal.SIGCONT)
    return True


def store_fault(world: Cluster, chance: random.Random, manner: Manner) -> bool:
    """The object storage is not itself."""
    world.store.truncate_after = chance.choice((0, 100, 300, 1500, 200_000))
    before = world.store.connections
    world.store.become(manner)
    try:
        pause(6, until=lambda: world.store.connections > before)
        pause(chance.uniform(0.5, 3))
    finally:
        world.store.become("fine")
    return True


def worker_kill(world: Cluster, chance: random.Random) -> bool:
    """A host that builds is lost in the middle of it; another life of it comes back."""
    node = _builder(world, chance)
    if node is None:
        return False
    node.kill()
    pause(chance.uniform(0, 3))
    bring_up(world, node)
    return True


def worker_stop(world: Cluster, chance: random.Random) -> bool:
    """A host that builds is drained, and gives its build back."""
    node = _builder(world, chance)
    if node is None:
        return False
    stop(world, node)
    bring_up(world, node)
    return True


def worker_freeze(world: Cluster, chance: random.Random) -> bool:
    """It stands still in the middle of a build."""
    return _freeze_worker(world, chance, chance.uniform(0.5, 6))


def worker_freeze_beyond_lease(world: Cluster, chance: random.Random) -> bool:
    """It stands still until others have its build, and then goes on."""
    return _freeze_worker(world, chance, LEASE_SECONDS + 15)


def _freeze_worker(world: Cluster, chance: random.Random, seconds: float) -> bool:
    node = _builder(world, chance)
    if node is None:
        return False
    node.freeze()
    pause(seconds)
    node.thaw()
    return True


def worker_cut(world: Cluster, chance: random.Random) -> bool:
    """It does not reach the database: packets are lost, or connections are cut and refused."""
    return _cut(world, chance, chance.uniform(0.5, 8))


def worker_cut_beyond_lease(world: Cluster, chance: random.Random) -> bool:
    """It does not reach the database until others have its build; it goes on building meanwhile."""
    return _cut(world, chance, LEASE_SECONDS + 15)


def _cut(world: Cluster, chance: random.Random, seconds: float) -> bool:
    manner: Manner = chance.choice(("held", "dead"))
    node = _builder(world, chance)
    if node is None:
        return False
    link = _link(node)
    link.become(manner)
    try:
        pause(seconds)
    finally:
        link.become("fine")
    return True


def _link(node: Node) -> Link:
    assert node.link is not None
    return node.link


def api_kill(world: Cluster, chance: random.Random) -> bool:
    """A host that answers is lost; clients go to the other."""
    node = chance.choice(world.nodes.answering)
    with world.servers.disturbed():
        node.kill()
        pause(chance.uniform(0, 2))
        bring_up(world, node)
    return True


def api_stop(world: Cluster, chance: random.Random) -> bool:
    """It is stopped in order and started again."""
    node = chance.choice(world.nodes.answering)
    with world.servers.disturbed():
        stop(world, node)
        bring_up(world, node)
    return True


def api_freeze(world: Cluster, chance: random.Random) -> bool:
    """It stands still for some seconds."""
    node = chance.choice(world.nodes.answering)
    with world.servers.disturbed():
        node.freeze()
        pause(chance.uniform(0.5, 6))
        node.thaw()
    return True


def _builder(world: Cluster, chance: random.Random) -> Node | None:
    """One that is in the middle of a build; None when there is none for a while."""
    found: list[Node] = []

    def look() -> bool:
        try:
            rows = world.database.query("SELECT worker FROM build_jobs WHERE state = 'building'")
        except psycopg.Error:
            return False
        names = {worker.partition("/")[0] for (worker,) in rows}
        found[:] = [node for node in world.nodes.building if node.name in names]
        return bool(found)

    # Not always in its first moments.
    pause(chance.uniform(0, 1))
    return chance.choice(found) if eventually(look, seconds=_BUILD_WITHIN) else None


IN_A_CLUSTER: Mapping[str, Inject] = {
    **{
        fault.__name__: fault
        for fault in (
            *(database_restart, database_crash, database_sessions, database_freeze, database_freeze_long),
            *(worker_kill, worker_stop, worker_freeze, worker_freeze_beyond_lease),
            *(worker_cut, worker_cut_beyond_lease, api_kill, api_stop, api_freeze),
        )
    },
    **{f"store_{manner}": partial(store_fault, manner=manner) for manner in (*FAULTY, "busy")},
}
"""What carries out each kind."""
