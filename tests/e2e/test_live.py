"""Watching builds of the real service: by WebSocket, as server-sent events, as text, from another process."""

import hashlib
import http.client
import json
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosedOK
from websockets.sync.client import connect

from asu_sample.distribution import Distribution
from e2e.clients.scene import a_body
from e2e.conftest import Make
from e2e.service import Client, Service
from e2e.slow_imagebuilder import write_slow_imagebuilder
from podman_service import APK_VERSION, SAMPLE_TARGET

STAGES = ["validate_revision", "validate_manifest", "building_image"]
SECRET = "the operator's secret"
TOKENS = json.dumps(
    [{"name": "alice", "digest": hashlib.sha256(SECRET.encode()).hexdigest(), "rights": ["operate"]}]
)
AUTHORIZED = {"Authorization": f"Bearer {SECRET}"}


@pytest.fixture
def make_slow(make_local: Make, sample_world: Distribution, tmp_path: Path) -> Callable[..., Service]:
    """Makes services whose builds stay in each stage for a while, and say so when they are set up."""

    def make(name: str = "service", *, seconds: float, **settings: object) -> Service:
        folder = tmp_path / "builders"
        if not folder.exists():
            template = write_slow_imagebuilder(
                sample_world, folder, version=APK_VERSION, target=SAMPLE_TARGET, seconds=seconds
            )
            script = folder / APK_VERSION / SAMPLE_TARGET / "setup.sh"
            script.write_text(f"echo setting up; echo 'with a complaint' >&2; {script.read_text()}")
        template = f"{folder}/{{version}}/{{target}}/{{subtarget}}"
        return make_local(name, imagebuilder_path=template, api_tokens=TOKENS, **settings)

    return make


def watch(port: int, request_hash: str, *, after: int = 0, seconds: float = 60.0) -> list[Any]:
    """Every message of a WebSocket until it is closed in good order."""
    address = f"ws://127.0.0.1:{port}/api/v1/build/{request_hash}/events?after={after}"
    messages: list[Any] = []
    until = time.monotonic() + seconds
    with connect(address, compression=None, open_timeout=60) as watching:
        try:
            while True:
                messages.append(json.loads(watching.recv(timeout=until - time.monotonic())))
        except ConnectionClosedOK:
            return messages


def lines_of(messages: Sequence[Any]) -> list[Any]:
    return [line for message in messages if message["type"] == "lines" for line in message["lines"]]


def states_of(messages: Sequence[Any]) -> list[tuple[str, str | None]]:
    return [(told["state"], told["stage"]) for told in messages if told["type"] == "state"]


def events_of(body: bytes) -> list[Any]:
    """The documents of server-sent events, comments left out."""
    events = []
    for block in body.decode().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if fields:
            document = json.loads(fields["data"])
            assert document["type"] == fields["event"]
            assert fields.get("id", "0") == str(document.get("lines", [{"seq": 0}])[-1]["seq"])
            events.append(document)
    return events


def begin(client: Client, **changes: Any) -> str:
    return str(client.post_patiently(a_body(**changes)).json["request_hash"])


def get(port: int, path: str) -> bytes:
    """A whole answer, however long it takes to come."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", path)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    assert answer.status == 200, body
    return body


def test_a_build_is_watched_in_three_ways_and_all_tell_the_same(make_slow: Callable[..., Service]) -> None:
    service = make_slow(seconds=0.6).start()
    with service.client() as client, ThreadPoolExecutor(3) as pool:
        request_hash = begin(client, packages=["vim"])
        path = f"/api/v1/build/{request_hash}"
        by_socket = pool.submit(watch, service.port, request_hash)
        by_events = pool.submit(get, service.port, f"{path}/events")
        by_text = pool.submit(get, service.port, f"{path}/log?follow=1")
        messages, events, text = by_socket.result(), events_of(by_events.result()), by_text.result().decode()
        final = client.look(request_hash)
        assert final.status == 200

        lines = lines_of(messages)
        assert [line["seq"] for line in lines] == list(range(1, len(lines) + 1))
        assert [line["text"] for line in lines[:2]] == ["setting up", "with a complaint"]
        assert list(dict.fromkeys(line["stage"] for line in lines)) == ["container_setup", *STAGES]
        assert [line["at"] for line in lines] == sorted(line["at"] for line in lines)
        printed = "\n".join(line["text"] for line in lines)
        for said in final.json["stdout"].splitlines():
            assert said.replace("\t", " ") in printed
        assert states_of(messages)[-1] == ("completed", None)
        assert [stage for _, stage in states_of(messages)][-4:-1] == STAGES
        assert messages[-1] == {"type": "final", "status": 200, "document": final.json}

        assert lines_of(events) == lines
        assert events[-1] == messages[-1]
        told = [line for line in text.splitlines() if not line.startswith("-- ")]
        assert [line[28:] for line in told] == [line["text"] for line in lines]
        assert text.endswith("-- completed\n")
        assert client.get(f"{path}/log").body.decode().splitlines() == told
    assert request_hash[:20] not in service.stderr()
    ((last_accessed_at, finished_at),) = service.rows("SELECT last_accessed_at, finished_at FROM build_jobs")
    assert last_accessed_at >= finished_at


def test_lines_are_seen_while_the_command_runs(make_slow: Callable[..., Service]) -> None:
    service = make_slow(seconds=10, shutdown_grace="0s").start()
    with service.client() as client:
        request_hash = begin(client)
        address = f"ws://127.0.0.1:{service.port}/api/v1/build/{request_hash}/events"
        with connect(address, compression=None) as watching:
            while (message := json.loads(watching.recv(timeout=60)))["type"] != "lines":
                pass
        assert message["lines"][0]["text"] == "setting up"
        # setup.sh speaks at once, and is at it for long.
        # A poll may be answered for a second from what was before.
        client.wait_until(
            request_hash, lambda answer: answer.json.get("imagebuilder_status") == "container_setup"
        )


@pytest.mark.long
def test_whoever_has_seen_the_end_is_told_the_end_by_the_next_poll(make_slow: Callable[..., Service]) -> None:
    """A live answer is remembered for about a second, which is longer than a client needs to ask again."""
    service = make_slow(seconds=0.1, worker_concurrent=1).start()
    over = threading.Event()

    def keep_polling(request_hashes: Sequence[str]) -> None:
        with service.client() as client:
            while not over.wait(0.01):
                for request_hash in request_hashes:
                    client.look(request_hash)

    with service.client() as client, ThreadPoolExecutor(1) as pool:
        choices: tuple[list[str], ...] = ([], ["vim"], ["tmux"], ["htop"], ["vim", "tmux"], ["vim", "htop"])
        request_hashes = [begin(client, packages=packages) for packages in choices]
        polling = pool.submit(keep_polling, request_hashes)
        try:
            for request_hash in request_hashes:
                get(service.port, f"/api/v1/build/{request_hash}/log?follow=1")
                assert client.look(request_hash).status == 200
        finally:
            over.set()
        polling.result(60)


def test_a_failed_build_ends_with_its_failure(make_local: Make) -> None:
    service = make_local().start()
    with service.client() as client:
        messages = watch(service.port, begin(client, packages=["nosuch"]))
        assert (messages[-1]["status"], messages[-1]["document"]["reason"]) == (500, "impossible_selection")
        assert any("nosuch" in line["text"] for line in lines_of(messages))
        text = get(service.port, f"/api/v1/build/{messages[-1]['document']['request_hash']}/log?follow=1")
        assert b"\n-- failed: Error: Impossible package selection" in text


@pytest.mark.long
def test_a_build_in_a_container_is_watched_too(make_podman: Make) -> None:
    service = make_podman(worker_concurrent=1).start()
    with service.client() as client:
        messages = watch(service.port, begin(client, packages=["vim", "sample-slow-1"]), seconds=120)
    lines = lines_of(messages)
    assert [line["seq"] for line in lines] == list(range(1, len(lines) + 1))
    assert set(STAGES) >= {line["stage"] for line in lines} >= set(STAGES[1:])
    assert messages[-1]["status"] == 200
    assert len(messages) > 4


def test_a_build_of_one_process_is_watched_through_another(make_slow: Callable[..., Service]) -> None:
    builder = make_slow("builder", seconds=0.5, worker_concurrent=1).start()
    shown = make_slow(
        "shown",
        seconds=0.5,
        worker_concurrent=0,
        worker_id="shown",
        database_path=builder.database,
        public_path=builder.directory / "public",
    ).start()
    with builder.client() as client:
        request_hash = begin(client)
        messages = watch(shown.port, request_hash)
        assert messages[-1]["document"]["request_hash"] == request_hash
        assert messages[-1]["document"] == client.look(request_hash).json
    assert [stage for _, stage in states_of(messages)][-4:-1] == STAGES
    assert sum(message["type"] == "lines" for message in messages) >= 3
    assert [line["seq"] for line in lines_of(messages)] == list(range(1, len(lines_of(messages)) + 1))


def test_a_job_that_is_given_back_and_started_again_goes_on_counting(
    make_slow: Callable[..., Service],
) -> None:
    service = make_slow(seconds=0.8, worker_concurrent=1).start()
    with service.client() as client, ThreadPoolExecutor(1) as pool:
        request_hash = begin(client)
        watching = pool.submit(watch, service.port, request_hash)
        client.wait_until(
            request_hash, lambda answer: answer.json.get("imagebuilder_status") == "validate_manifest"
        )
        assert client.ask("POST", f"/api/v1/jobs/{request_hash}/requeue", headers=AUTHORIZED).status in (
            200,
            202,
        )
        messages = watching.result()
    lines = lines_of(messages)
    assert [line["seq"] for line in lines] == list(range(1, len(lines) + 1))
    assert [line["text"] for line in lines].count("setting up") == 2
    assert messages[-1]["status"] == 200
    assert service.rows("SELECT lease_token FROM build_jobs") == [(2,)]


def test_a_restart_ends_the_streams_at_once_and_the_log_goes_on(make_slow: Callable[..., Service]) -> None:
    service = make_slow(seconds=1, worker_concurrent=1, shutdown_grace="0s").start()
    ended: list[bytes] = []
    with service.client() as client:
        request_hash = begin(client)
        client.wait_until(
            request_hash, lambda answer: answer.json.get("imagebuilder_status") == "validate_manifest"
        )

    def follow() -> None:
        try:
            ended.append(get(service.port, f"/api/v1/build/{request_hash}/events"))
        except http.client.IncompleteRead as cut_off:
            ended.append(cut_off.partial)

    following = threading.Thread(target=follow)
    following.start()
    time.sleep(0.5)
    assert service.stop() == 0
    following.join(60)
    assert b"event: problem" in ended[0], f"it was cut off, not told: {ended[0]!r}\n{service.stderr()}"
    ((last,),) = service.rows("SELECT max(seq) FROM build_log")
    service.start()
    messages = watch(service.port, request_hash, after=last)
    assert lines_of(messages)[0]["seq"] == last + 1
    assert messages[-1]["status"] == 200
    assert "Traceback" not in service.stderr() and "ERROR" not in service.stderr()


def test_a_purged_result_leaves_no_log(make_local: Make) -> None:
    service = make_local(api_tokens=TOKENS).start()
    with service.client() as client:
        request_hash = begin(client, defaults="echo secret")
        client.wait(request_hash)
        path = f"/api/v1/build/{request_hash}/log"
        assert client.get(path).body
        assert service.rows("SELECT count(*) FROM build_log")[0][0] > 0
        purged = client.ask("DELETE", f"/api/v1/results/{request_hash}", headers=AUTHORIZED)
        assert purged.status in (200, 204)
        assert service.rows("SELECT count(*) FROM build_log") == [(0,)]
        assert client.get(path).status == 404


def test_a_hundred_watchers_of_one_build_all_see_every_line(make_slow: Callable[..., Service]) -> None:
    service = make_slow(seconds=1).start()
    with service.client() as client, ThreadPoolExecutor(100) as pool:
        request_hash = begin(client)
        watching = [pool.submit(watch, service.port, request_hash) for _ in range(100)]
        on_output = [each.result() for each in watching]
        ((count,),) = service.rows("SELECT count(*) FROM build_log")
        for messages in on_output:
            assert [line["seq"] for line in lines_of(messages)] == list(range(1, count + 1))
            assert messages[-1]["status"] == 200
