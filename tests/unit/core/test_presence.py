"""What a process says of itself, and what it does while another has its name."""

from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from unittest.mock import MagicMock

import pytest

from asu_builder.core.presence import NO_JOB, Presence
from asu_builder.database.connection import Database
from asu_builder.database.nodes import SqlNodes
from asu_builder.domain.errors import StoreUnavailable, Unavailable
from asu_builder.domain.nodes import LOST, Node, NodeFacts
from database_clock import CLOCK
from factories import NOON


class Process:
    """A process `hut` with its own workers, store and health."""

    def __init__(self, nodes: SqlNodes, *, machine: str = "m1", builds: bool = True) -> None:
        self.workers = MagicMock(concurrent=4, running=1, only=None)
        self.store = MagicMock()
        self.store.room.return_value = 7
        self.health = MagicMock()
        self.health.hindrance.return_value = "engine"
        self.presence = Presence(
            nodes,
            self.workers,
            name="hut",
            machine=machine,
            version="1.0",
            answers=True,
            builds=builds,
            health=self.health,
            store=self.store,
            rules=lambda: "f" * 64,
        )


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[SqlNodes]:
    database = Database(tmp_path / "a.db", clock=CLOCK)
    yield SqlNodes(database)
    database.close()


def facts_of(nodes: Sequence[Node]) -> list[NodeFacts]:
    return [node.facts for node in nodes]


def test_it_says_what_it_does_and_what_keeps_it_from_more(nodes: SqlNodes) -> None:
    process = Process(nodes)
    process.presence.renew()
    assert facts_of(nodes.all()) == [NodeFacts("1.0", True, True, 4, 1, "f" * 64, 7, "engine")]
    process.store.room.side_effect = StoreUnavailable("The store cannot be read")
    process.presence.renew()
    assert facts_of(nodes.all())[0].room is None, "not known is not zero"
    process.presence.leave()
    assert not nodes.all()


def test_who_builds_nothing_is_kept_from_nothing(nodes: SqlNodes) -> None:
    Process(nodes, builds=False).presence.renew()
    assert facts_of(nodes.all())[0].hindrance == ""


def test_while_another_machine_has_its_name_it_claims_nothing(nodes: SqlNodes) -> None:
    cut_off, successor = Process(nodes), Process(nodes, machine="m2")
    cut_off.presence.renew()
    CLOCK.moment = NOON + LOST + timedelta(seconds=1)
    successor.presence.renew()
    for _ in range(2):
        with pytest.raises(Unavailable, match="Another machine has taken the name hut"):
            cut_off.presence.renew()
        assert cut_off.workers.only == NO_JOB
    cut_off.presence.leave()
    assert len(nodes.all()) == 1, "it does not take the other's row away"
    successor.presence.leave()
    cut_off.presence.renew()
    assert cut_off.workers.only is None and successor.workers.only is None
