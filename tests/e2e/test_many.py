"""Hundreds of requests at once: one build for each hash, none lost, none doubled."""

from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from e2e.cheap import write_cheap_imagebuilder
from e2e.conftest import Make
from e2e.service import Answer, Service
from factories import eventually

CONNECTIONS = 20
REQUESTS = 200


def a_body(**changes: object) -> dict[str, object]:
    """What a client posts."""
    return {"version": "25.12.0", "target": "pico/nine", "profile": "acme_small", **changes}


def post_all(service: Service, bodies: list[dict[str, object]]) -> list[Answer]:
    """Posts everything over twenty keep-alive connections, all starting at the same moment."""
    barrier = Barrier(CONNECTIONS)

    def post(number: int) -> list[Answer]:
        with service.client() as client:
            client.get("/health")
            barrier.wait(60)
            return [client.post(body) for body in bodies[number::CONNECTIONS]]

    with ThreadPoolExecutor(CONNECTIONS) as threads:
        return [answer for answers in threads.map(post, range(CONNECTIONS)) for answer in answers]


def wait_for_all(service: Service, hashes: Iterable[str], *, seconds: float) -> list[Answer]:
    """The final answers, once the database holds no live job."""

    def idle() -> bool:
        return service.rows("SELECT count(*) FROM build_jobs WHERE finished_at IS NULL") == [(0,)]

    assert eventually(idle, seconds=seconds), service.rows(
        "SELECT state, count(*) FROM build_jobs GROUP BY 1"
    )
    with service.client() as client:
        return [client.wait(request_hash) for request_hash in hashes]


def events(service: Service) -> Counter[str]:
    """How many statistics events of each kind are written."""
    return Counter(kind for (kind,) in service.rows("SELECT kind FROM build_stats"))


def eventual_events(service: Service, holds: Callable[[Counter[str]], bool]) -> Counter[str]:
    """The events, once they are as wanted: they are written in batches."""
    eventually(lambda: holds(events(service)))
    return events(service)


def test_two_hundred_equal_requests_at_once_are_built_once(make_local: Make) -> None:
    service = make_local().start()
    # As different clients would write the same: order, doubles, alias, name of the client.
    bodies = [
        a_body(
            packages=["vim", "tmux", "vim"] if number % 2 else ["vim", "tmux"],
            profile="acme,small" if number % 3 else "acme_small",
            client=f"owut/{number}",
        )
        for number in range(REQUESTS)
    ]
    answers = post_all(service, bodies)
    hashes = {answer.json["request_hash"] for answer in answers}

    assert {answer.status for answer in answers} <= {200, 202}
    assert len(answers) == REQUESTS and len(hashes) == 1
    (final,) = wait_for_all(service, hashes, seconds=300)
    assert final.status == 200
    assert service.rows("SELECT state, attempts, retries, lease_token FROM build_jobs") == [
        ("completed", 0, 0, 1)
    ]
    counted = eventual_events(service, lambda found: found["completed"] >= 1)
    assert (counted["request"], counted["completed"], counted["failed"]) == (1, 1, 0)
    assert service.published() == list(hashes)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_two_hundred_different_requests_at_once_are_all_built_once(make_local: Make, tmp_path: Path) -> None:
    template = write_cheap_imagebuilder(tmp_path / "cheap", version="25.12.0")
    service = make_local(imagebuilder_path=template, max_pending_jobs=2 * REQUESTS).start()
    bodies = [a_body(packages=["base-files", f"-extra-{number}"]) for number in range(REQUESTS)]
    answers = post_all(service, bodies)
    hashes = [answer.json["request_hash"] for answer in answers]

    assert {answer.status for answer in answers} == {202}
    assert len(set(hashes)) == REQUESTS
    finals = wait_for_all(service, hashes, seconds=300)
    assert {answer.status for answer in finals} == {200}
    asked = [tuple(answer.json["request"]["packages"]) for answer in finals]
    assert sorted(asked) == sorted(("base-files", f"-extra-{number}") for number in range(REQUESTS))
    for request_hash, answer in zip(hashes, finals, strict=True):
        assert answer.json["bin_dir"] == request_hash
        assert f"EXTRA_IMAGE_NAME={request_hash[:12]}" in answer.json["build_cmd"]
    _require_each_once(service, hashes)


def _require_each_once(service: Service, hashes: list[str]) -> None:
    query = "SELECT state, attempts, retries, lease_token, count(*) FROM build_jobs GROUP BY 1, 2, 3, 4"
    assert service.rows(query) == [("completed", 0, 0, 1, REQUESTS)]
    counted = eventual_events(service, lambda found: found["completed"] >= REQUESTS)
    assert (counted["request"], counted["completed"], counted["failed"]) == (REQUESTS, REQUESTS, 0)
    assert service.published() == sorted(hashes)
    assert eventually(lambda: service.leftovers() == [])
    assert "ERROR" not in service.stderr()


@pytest.mark.long
def test_a_queue_under_pressure_keeps_every_promise_it_made(make_local: Make, tmp_path: Path) -> None:
    """More requests than the queue holds: whoever got 202 is built, everybody else got 429."""
    template = write_cheap_imagebuilder(tmp_path / "cheap", version="25.12.0")
    service = make_local(imagebuilder_path=template, max_pending_jobs=20).start()
    answers = post_all(service, [a_body(packages=[f"-extra-{number}"]) for number in range(REQUESTS)])
    accepted = [answer.json["request_hash"] for answer in answers if answer.status == 202]

    statuses = Counter(answer.status for answer in answers)
    assert statuses.keys() <= {202, 429} and statuses[202] >= 20
    assert all("retry-after" in answer.headers for answer in answers if answer.status == 429)
    finals = wait_for_all(service, accepted, seconds=300)
    assert {answer.status for answer in finals} == {200}
    assert service.published() == sorted(accepted)
