"""The processes on one database, as they say themselves, and as operators order."""

from datetime import timedelta

import pytest
from msgspec.structs import replace

from asu_builder.database.dialect import SqlDatabase
from asu_builder.database.nodes import SqlNodes
from asu_builder.database.postgresql import ServerDatabase
from asu_builder.doctor.installation import check_server
from asu_builder.domain.errors import Unavailable
from asu_builder.domain.nodes import LOST, NodeFacts, disagreements
from asu_builder.ports import JobQueue, Nodes
from database_clock import CLOCK
from factories import NOON, a_submission

FACTS = NodeFacts("1.0", answers=False, builds=True, concurrent=4, running=0, rules="f" * 64)
LEASE = timedelta(minutes=1)


@pytest.fixture
def nodes(database: SqlDatabase) -> Nodes:
    return SqlNodes(database)


def test_a_sign_of_life_is_what_is_told(nodes: Nodes) -> None:
    assert nodes.all() == []
    assert nodes.renew("hut", "m1", "a", FACTS)
    later = replace(FACTS, running=2, room=7, hindrance="engine")
    assert nodes.renew("hut", "m1", "a", later) and nodes.renew("api", "m2", "b", FACTS)
    assert [(node.name, node.facts, node.drained, node.lost) for node in nodes.all()] == [
        ("api", FACTS, False, False),
        ("hut", later, False, False),
    ]
    assert nodes.all()[0].seen_at == NOON
    nodes.leave("hut", "another life")
    nodes.leave("api", "b")
    assert [node.name for node in nodes.all()] == ["hut"]


def test_who_gives_no_sign_is_lost_and_forgotten_a_day_later(nodes: Nodes) -> None:
    nodes.renew("hut", "m1", "a", FACTS)
    CLOCK.moment = NOON + LOST
    assert nodes.all()[0].lost
    CLOCK.moment = NOON + timedelta(days=1, seconds=1)
    nodes.renew("api", "m1", "b", FACTS)
    assert [node.name for node in nodes.all()] == ["api"]


def test_two_machines_of_one_name_do_not_take_each_others_place(nodes: Nodes) -> None:
    assert nodes.renew("hut", "m1", "a", FACTS)
    nodes.require_free("hut", "m1")
    nodes.require_free("other", "m2")
    with pytest.raises(Unavailable, match="Another machine works on this database under the name hut"):
        nodes.require_free("hut", "m2")
    assert not nodes.renew("hut", "m2", "b", FACTS)
    assert nodes.renew("hut", "m1", "a life after a restart", FACTS), "the lock on its name was free"
    CLOCK.moment = NOON + LOST + timedelta(seconds=1)
    nodes.require_free("hut", "m2")
    assert nodes.renew("hut", "m2", "b", FACTS), "who is lost keeps its name from no one"


def test_a_drained_process_claims_nothing_until_it_may_again(nodes: Nodes, queue: JobQueue) -> None:
    nodes.renew("hut", "m1", "a", FACTS)
    for name in ("vim", "tmux", "nano"):
        queue.submit(a_submission(packages=(name,)))
    assert queue.claim("hut/1", lease_for=LEASE) is not None
    assert nodes.drain("hut", True) and not nodes.drain("another", True)
    assert nodes.running("hut") == 1 and nodes.running("hu") == 0
    assert queue.claim("hut/2", lease_for=LEASE) is None
    assert queue.claim("hut-2/1", lease_for=LEASE) is not None, "another process goes on"
    nodes.leave("hut", "a")
    assert nodes.all()[0].drained, "a restart changes nothing about it"
    assert nodes.drain("hut", False)
    assert queue.claim("hut/2", lease_for=LEASE) is not None


def test_the_doctor_is_told_which_living_processes_differ(database: SqlDatabase, nodes: Nodes) -> None:
    nodes.renew("old", "m1", "a", replace(FACTS, version="0.9"))
    CLOCK.moment = NOON + LOST
    nodes.renew("hut", "m1", "b", FACTS)
    nodes.renew("api", "m1", "c", replace(FACTS, builds=False))
    nodes.renew("new", "m1", "d", replace(FACTS, rules=""))
    assert disagreements(nodes.all()) == "", "who is lost or has not read the rules yet does not count"
    nodes.renew("new", "m1", "d", replace(FACTS, version="1.1", rules="e" * 64))
    assert disagreements(nodes.all()) == (
        "The processes on it do not have the same version of the program: 1.0 (api, hut); 1.1 (new). "
        f"The processes on it do not have the same package rules: {'e' * 12} (new); {'f' * 12} (api, hut)."
    )


@pytest.mark.parametrize("place", ["postgresql"], indirect=True)
def test_the_doctor_finds_them_on_the_server(place: str) -> None:
    database = ServerDatabase(place)
    try:
        nodes = SqlNodes(database)
        nodes.renew("hut", "m1", "a", FACTS)
        alike = check_server(place)
        nodes.renew("api", "m1", "b", replace(FACTS, rules="e" * 64))
        differing = check_server(place)
    finally:
        database.close()
    assert alike.status == "ok" and "has schema" in alike.sentence
    assert differing.status == "warning" and "do not have the same package rules" in differing.sentence
