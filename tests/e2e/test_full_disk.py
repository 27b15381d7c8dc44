"""Disks that really fill up, and a store that is really gone: what health and clients are told."""

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from chaos.disk import SmallDisk
from e2e.clients.scene import a_body
from e2e.conftest import Make
from e2e.service import READ_TOKENS, Service
from factories import eventually
from tools import require_tool, tool_missing

FEW: dict[str, object] = {"worker_concurrent": 0, "api_tokens": READ_TOKENS, "disk_floor": "1 MiB"}
WITHIN_SECONDS = 2.0
ATTEMPTS = 3
"""The machine may have been busy with something else."""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """A disk of 24 MiB."""
    require_tool("mount", "mount", "umount")
    if os.geteuid() != 0:
        tool_missing("mount", "only root may mount a small disk")
    with SmallDisk(tmp_path / "disk", mebibytes=24) as mounted:
        yield mounted


def status_of(service: Service, part: str) -> str:
    """What health says of a part, "" while it does not answer."""
    with service.client() as client:
        found = client.ask("GET", "/health")
    return str(found.json["parts"][part]["status"])


def is_down_on_a_full_disk(service: Service, disk: SmallDisk) -> bool:
    """What health says of the database; room that the service frees meanwhile is taken, too."""
    disk.fill()
    return status_of(service, "database") == "down"


def seconds_until(happens: Callable[[], bool]) -> float:
    """How long it took."""
    began = time.monotonic()
    assert eventually(happens)
    return time.monotonic() - began


def started(make_local: Make, **settings: object) -> Service:
    """A service with an operator's rounds of background work."""
    service = make_local(**(FEW | settings))
    service.program = ("-m", "asu_builder", "serve")
    service.start()
    assert eventually(lambda: status_of(service, "database") == status_of(service, "store") == "ok")
    return service


@pytest.mark.timed
def test_health_is_red_within_two_seconds_of_a_full_disk_of_the_database(
    make_local: Make, disk: SmallDisk
) -> None:
    service = started(make_local, database_path=disk.place / "data" / "a.db")
    took = []
    for _ in range(ATTEMPTS):
        took.append(seconds_until(lambda: is_down_on_a_full_disk(service, disk)))
        with service.client() as client:
            assert client.ask("GET", "/health").status == 503
            assert "disk of the database is full" in client.health()["parts"]["database"]["sentence"]
            assert client.post_once(a_body()).status == 503
        disk.release()
        assert eventually(lambda: status_of(service, "database") == "ok"), "and green again by itself"
        if took[-1] <= WITHIN_SECONDS:
            break
    with service.client() as client:
        assert client.post_patiently(a_body()).status == 202
    assert min(took) <= WITHIN_SECONDS


def test_a_full_disk_of_the_store_is_told_and_takes_no_new_builds(make_local: Make, disk: SmallDisk) -> None:
    service = started(make_local, public_path=disk.place / "public")
    with service.client() as client:
        waiting = client.post_patiently(a_body()).json["request_hash"]
        disk.fill()
        assert eventually(lambda: status_of(service, "store") != "ok")
        refused = client.post_once(a_body(packages=["vim"]))
        assert (refused.status, "nearly full" in refused.json["detail"]) == (503, True)
        assert client.look(waiting).json["waiting_for"] == "disk_full"
        disk.release()
        assert client.post_patiently(a_body(packages=["vim"])).status == 202


def test_a_store_that_was_deleted_is_not_called_a_full_disk(make_local: Make) -> None:
    service = started(make_local, worker_concurrent=1)
    with service.client() as client:
        client.build(a_body())
        shutil.rmtree(service.store)
        told = [client.post_once(a_body(packages=["vim"]))]
        assert eventually(lambda: status_of(service, "store") == "down")
        told.append(client.post_once(a_body(packages=["vim"])))
        health = json.dumps(client.health())
    assert [answer.status for answer in told] == [503, 503]
    everything = health + "".join(answer.body.decode() for answer in told)
    assert "full" not in everything and "little room" not in everything
