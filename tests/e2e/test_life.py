"""The whole life of a build as its caller and the operator see it, with the real service."""

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from asu_sample.distribution import Distribution
from e2e.clients.scene import a_body
from e2e.conftest import Make
from e2e.service import Answer, Client, Service, inherited, run
from e2e.slow_imagebuilder import write_slow_imagebuilder
from factories import eventually, sooner_than
from podman_service import APK_VERSION, SAMPLE_TARGET, PodmanService

SECRET = "the operator's secret"
TOKENS = json.dumps(
    [
        {"name": "alice", "digest": hashlib.sha256(SECRET.encode()).hexdigest(), "rights": ["operate"]},
        {"name": "farm", "digest": hashlib.sha256(b"farm's secret").hexdigest(), "priority": "bulk"},
    ]
)
AUTHORIZED = {"Authorization": f"Bearer {SECRET}"}


@pytest.fixture
def make_slow(make_local: Make, sample_world: Distribution, tmp_path: Path) -> Callable[..., Service]:
    """Makes services whose builds stay in each stage for a while."""

    def make(seconds: float, **settings: object) -> Service:
        template = write_slow_imagebuilder(
            sample_world, tmp_path / "builders", version=APK_VERSION, target=SAMPLE_TARGET, seconds=seconds
        )
        return make_local(imagebuilder_path=template, api_tokens=TOKENS, **settings)

    return make


def post(client: Client, body: object, **headers: str) -> Answer:
    """A POST with headers of the caller's own."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    content = json.dumps(body).encode()
    return client.ask("POST", "/api/v1/build", content, {"Content-Type": "application/json", **named})


def test_a_build_in_a_container_is_cancelled_long_before_its_end_and_its_container_is_gone(
    make_podman: Make, podman_service: PodmanService
) -> None:
    service = make_podman(worker_concurrent=1).start()
    with service.client() as client:
        posted = client.post_patiently(a_body(packages=["sample-slow-60"]))
        request_hash, secret = posted.json["request_hash"], posted.json["cancel_token"]
        client.wait_until(
            request_hash, lambda answer: answer.json.get("imagebuilder_status") == "building_image"
        )
        assert containers_of(podman_service, service)
        with sooner_than(60):
            answer = client.ask("DELETE", f"/api/v1/build/{request_hash}", headers={"X-Cancel-Token": secret})
            told = (answer.status, answer.json["state"], answer.json["detail"])
            assert told == (200, "cancelled", "cancelled")
            assert eventually(lambda: not containers_of(podman_service, service))
        assert client.look(request_hash).status == 500
        again = client.post(a_body(packages=["sample-slow-60"]))
        assert (again.status, again.json["state"]) == (202, "pending")
        client.ask(
            "DELETE", f"/api/v1/build/{request_hash}", headers={"X-Cancel-Token": again.json["cancel_token"]}
        )


def containers_of(podman: PodmanService, service: Service) -> list[str]:
    """Containers of this installation."""
    (installation,) = service.rows("SELECT id FROM installation")[0]
    return podman.containers(f"asu.installation={installation}")


def test_a_waiting_job_is_cancelled_at_once_and_only_by_whom_it_belongs_to(make_local: Make) -> None:
    service = make_local(worker_concurrent=0, trusted_proxies="127.0.0.1").start()
    with service.client() as client:
        client.post_patiently(a_body())
        posted = post(client, a_body(packages=["vim"]), x_forwarded_for="192.0.2.1")
        path = f"/api/v1/build/{posted.json['request_hash']}"
        assert client.ask("DELETE", path).status == 403
        joined = post(client, a_body(packages=["vim"]), x_forwarded_for="192.0.2.2")
        assert "cancel_token" not in joined.json
        refused = client.ask("DELETE", path, headers={"X-Cancel-Token": posted.json["cancel_token"]})
        assert (refused.status, "Others have asked" in refused.json["detail"]) == (409, True)
        other = post(client, a_body(packages=["tmux"]), x_forwarded_for="192.0.2.1")
        cancelled = client.ask(
            "DELETE",
            f"/api/v1/build/{other.json['request_hash']}",
            headers={"X-Cancel-Token": other.json["cancel_token"]},
        )
        assert cancelled.json["state"] == "cancelled"
    assert b"cancel_token" not in service.database.read_bytes()
    assert other.json["cancel_token"].encode() not in service.database.read_bytes()


def test_askers_take_turns_and_tokens_have_a_class(make_local: Make) -> None:
    service = make_local(worker_concurrent=0, trusted_proxies="127.0.0.1", api_tokens=TOKENS).start()
    with service.client() as client:
        client.post_patiently(a_body())
        for number in range(4):
            post(client, a_body(packages=[f"a{number}"]), x_forwarded_for="192.0.2.1")
        bulk = post(client, a_body(packages=["bulk"]), authorization="Bearer farm's secret")
        late = post(client, a_body(packages=["b"]), x_forwarded_for="2001:db8::1")
        assert (bulk.json["queue_position"], late.json["queue_position"]) == (5, 2)


def test_a_popular_build_comes_as_early_as_the_best_of_those_who_ask_for_it(make_local: Make) -> None:
    service = make_local(worker_concurrent=0, trusted_proxies="127.0.0.1", api_tokens=TOKENS).start()
    popular = a_body(packages=["popular"])
    with service.client() as client:
        client.post_patiently(a_body())
        first = post(client, popular, authorization="Bearer farm's secret")
        for number in range(4):
            post(client, a_body(packages=[f"a{number}"]), x_forwarded_for="192.0.2.1")
        joined = post(client, popular, x_forwarded_for="2001:db8::1")
        seen = client.look(first.json["request_hash"]).json["queue_position"]
        assert (first.json["queue_position"], joined.json["queue_position"], seen) == (1, 1, 1)
        after = post(client, a_body(packages=["b"]), x_forwarded_for="2001:db8::1")
        assert after.json["queue_position"] == 4


def test_new_builds_are_limited_for_each_address_and_nothing_else_is(make_local: Make) -> None:
    service = make_local(
        new_builds_limit="3/minute", trusted_proxies="127.0.0.1", worker_concurrent=0, api_tokens=TOKENS
    ).start()
    with service.client() as client:
        client.post_patiently(a_body())
        for number in range(3):
            answer = post(client, a_body(packages=[f"p{number}"]), x_forwarded_for="2001:db8:1:2::1")
            assert answer.status == 202
        refused = post(client, a_body(packages=["more"]), x_forwarded_for="2001:db8:1:2::ffff")
        assert (refused.status, "3 per minute" in refused.json["detail"]) == (429, True)
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        again = post(client, a_body(packages=["p1"]), x_forwarded_for="2001:db8:1:2::1")
        assert (again.status, client.look(again.json["request_hash"]).status) == (202, 202)
        for headers in ({"x_forwarded_for": "2001:db8:1:3::1"}, {"authorization": "Bearer farm's secret"}):
            assert post(client, a_body(packages=["more", headers.popitem()[0]]), **headers).status == 202


def test_a_stop_lets_builds_end_and_answers_polls_meanwhile(make_slow: Callable[..., Service]) -> None:
    service = make_slow(0.6, shutdown_grace="120s").start()
    with service.client() as client:
        request_hash = client.started(a_body(), "validate_manifest")
        waits = client.post(a_body(packages=["vim"]))
        others = [client.post(a_body(packages=[name])).json["request_hash"] for name in ("tmux", "nano")]
        os.kill(service.pid, signal.SIGTERM)
        seen = client.wait_until(request_hash, lambda answer: answer.status == 200)
    assert seen.json["detail"] == "done"
    assert service.wait() == 0
    assert service.rows("SELECT max(attempts), max(retries) FROM build_jobs") == [(0, 0)]
    service.start()
    with service.client() as client:
        for name in (waits.json["request_hash"], *others):
            assert client.wait(name).status == 200


def test_a_terminal_that_is_closed_lets_builds_end_too(make_slow: Callable[..., Service]) -> None:
    with inherited(signal.SIGHUP, signal.SIG_DFL):
        service = make_slow(0.6, shutdown_grace="120s").start()
    with service.client() as client:
        client.started(a_body(), "validate_manifest")
    os.kill(service.pid, signal.SIGHUP)
    assert service.wait() == 0
    assert service.rows("SELECT state FROM build_jobs") == [("completed",)]
    assert service.leftovers() == []


def test_a_service_that_outlives_its_terminal_goes_on(make_local: Make) -> None:
    with inherited(signal.SIGHUP, signal.SIG_IGN):  # as nohup leaves it to its command
        service = make_local().start()
    os.kill(service.pid, signal.SIGHUP)
    time.sleep(0.5)
    with service.client() as client:
        assert client.get("/health").status == 200


def signal_until_ended(service: Service) -> int:
    """The exit status; two signals that come too soon for a slow machine are one to it."""
    while True:
        os.kill(service.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            return service.wait(seconds=3)


def test_a_second_signal_gives_builds_back_at_once(make_slow: Callable[..., Service]) -> None:
    service = make_slow(5, shutdown_grace="60s").start()
    with service.client() as client:
        request_hash = client.started(a_body(), "container_setup")
        place = client.post(a_body(packages=["vim"])).json
    os.kill(service.pid, signal.SIGTERM)
    time.sleep(0.3)
    with sooner_than(60):
        assert signal_until_ended(service) == 0
    rows = service.rows("SELECT request_hash, state, attempts, retries FROM build_jobs ORDER BY id")
    assert rows[0] == (request_hash, "pending", 0, 0)
    service.change(worker_concurrent=0)
    service.start()
    with service.client() as client:
        assert client.look(request_hash).json["queue_position"] == 0
        assert client.look(place["request_hash"]).json["queue_position"] == 1


def test_results_give_way_within_the_budget_but_never_under_a_download(
    make_local: Make, sample_world: Distribution
) -> None:
    service = make_local().start()
    with service.client() as client:
        first = client.build(a_body(packages=["vim"]))
        second = client.build(a_body(packages=["tmux"]))
    service.stop()
    (size,) = service.rows("SELECT max(stored_bytes) FROM build_jobs")[0]
    assert size > 0
    found = run_with(service, store_max_size=size + 1, arguments=("gc", "--dry-run"))
    assert "0 least used" in found.stdout, "what was used within two minutes stays"
    age(service, minutes=10)
    found = run_with(service, store_max_size=size + 1, arguments=("gc", "--dry-run"))
    assert "1 least used would go" in found.stdout
    assert len(service.published()) == 2
    assert "1 least used gone" in run_with(service, store_max_size=size + 1, arguments=("gc",)).stdout
    assert service.published() == [second.json["request_hash"]]
    service.start()
    with service.client() as client:
        assert client.look(first.json["request_hash"]).status == 404
        assert client.look(second.json["request_hash"]).status == 200


def run_with(service: Service, *, arguments: tuple[str, ...], **changes: object) -> Any:
    """A command with some settings changed."""
    changed = Service(service.directory, service.settings(**changes))
    return run(changed, *arguments)


def age(service: Service, *, minutes: int) -> None:
    """Makes it so long ago that results were used."""
    import sqlite3

    with sqlite3.connect(service.database) as connection:
        connection.execute(
            "UPDATE build_jobs SET last_accessed_at = last_accessed_at - ?", (minutes * 60_000_000,)
        )


def test_below_the_floor_new_builds_are_refused_and_all_else_goes_on(make_local: Make) -> None:
    service = make_local().start()
    with service.client() as client:
        done = client.build(a_body())
    service.stop()
    service.change(disk_floor="100000G")
    service.start()
    with service.client() as client:
        refused = client.post(a_body(packages=["vim"]))
        assert (refused.status, "disk is nearly full" in refused.json["detail"]) == (503, True)
        assert int(refused.headers["retry-after"]) > 0
        assert client.look(done.json["request_hash"]).status == 200
        image = done.json["images"][0]
        file = client.get(f"/store/{done.json['bin_dir']}/{image['name']}")
        assert hashlib.sha256(file.body).hexdigest() == image["sha256"]
        assert eventually(lambda: client.get("/health?for=build").status == 503)
        assert eventually(lambda: client.get("/health").json["parts"]["store"]["status"] == "degraded")


@pytest.mark.long
def test_an_operator_sees_and_moves_jobs_from_the_command_line(make_slow: Callable[..., Service]) -> None:
    service = make_slow(3, worker_concurrent=1).start()
    with service.client() as client:
        running = client.started(a_body(), "container_setup")
        waiting = client.post(a_body(packages=["vim"])).json["request_hash"]
        # Before the build ends by itself.
        assert run(service, "jobs", "pause").stdout == "paused\n"
        assert run(service, "jobs", "cancel", running[:12]).stdout == "cancelled\n"
        assert eventually(lambda: client.look(running).json["detail"] == "cancelled")
        listed = run(service, "jobs", "list")
        assert [line.split()[-1] for line in listed.stdout.splitlines()] == [waiting, running], listed.stderr
        assert (
            json.loads(run(service, "jobs", "list", "--state", "pending", "--json").stdout)["request_hash"]
            == waiting
        )
        assert client.look(waiting).json["detail"] == "queued", "the workers are paused"
        assert eventually(lambda: "paused" in client.get("/health").json["parts"]["workers"]["sentence"])
        assert run(service, "jobs", "requeue", f"{running[:12]}…").stdout == "requeued\n"
        assert run(service, "jobs", "resume").stdout == "resumed\n"
        # For some seconds its end is told from memory: another process has brought it back.
        client.wait_until(running, lambda answer: answer.status == 200)
        assert client.wait(waiting).status == 200
        assert run(service, "jobs", "purge", running).stdout == "purged\n"
        assert running not in service.published()
        wrong = run(service, "jobs", "cancel", "f" * 64)
        assert (wrong.returncode, wrong.stderr) == (3, "asu-builder: There is no job under this hash.\n")
        acts = [line.split()[2] for line in run(service, "jobs", "acts").stdout.splitlines()]
        assert acts == ["purge", "resume", "requeue", "cancel", "pause"]
        shown = json.loads(run(service, "jobs", "show", waiting).stdout)
        assert (shown["state"], shown["request"]["packages"]) == ("completed", ["vim"])


def test_a_command_for_an_installation_that_is_not_there_makes_none(make_local: Make, tmp_path: Path) -> None:
    service = make_local()
    service.directory.mkdir(parents=True)
    for arguments in (("jobs", "list"), ("jobs", "pause"), ("gc",)):
        told = run(service, *arguments)
        assert told.returncode == 4
        assert told.stderr.startswith(f"asu-builder: There is no database {service.database}. Name it by ")
    assert list(service.directory.iterdir()) == []


def test_a_backup_taken_while_builds_run_brings_everything_back(make_local: Make, tmp_path: Path) -> None:
    service = make_local(worker_concurrent=1).start()
    with service.client() as client:
        done = client.build(a_body()).json["request_hash"]
        waiting = [client.post(a_body(packages=[name])).json["request_hash"] for name in ("vim", "tmux")]
        copy = tmp_path / "copy.db"
        taken = run(service, "backup", str(copy))
        assert (taken.returncode, "checked" in taken.stdout) == (0, True), taken.stderr
        assert run(service, "backup", str(copy)).returncode == 3
    service.kill()
    for file in service.database.parent.glob("asu-builder.db*"):
        file.unlink()
    copy.rename(service.database)
    service.start()
    with service.client() as client:
        assert client.look(done).status == 200
        assert [client.wait(name).status for name in waiting] == [200, 200]


def test_a_token_is_made_by_the_command_line_and_known_after_a_restart(make_local: Make) -> None:
    service = make_local(worker_concurrent=0).start()
    made = run(service, "token", "bob", "--right", "read")
    secret = made.stdout.splitlines()[0].rpartition(" ")[2]
    assert "\nRights: read. Its holder sees every job" in made.stdout
    (service.directory / "config.yaml").write_text(
        "api_tokens:\n" + "\n".join(line for line in made.stdout.splitlines() if line.startswith("  ")) + "\n"
    )
    with service.client() as client:
        bearer = {"Authorization": f"Bearer {secret}"}
        assert client.ask("GET", "/api/v1/jobs", headers=bearer).status == 401
        service.stop()
        service.start()
        assert client.ask("GET", "/api/v1/jobs", headers=bearer).status == 200
        assert client.ask("POST", "/api/v1/workers/pause", headers=bearer).status == 403


@pytest.mark.parametrize("act", ["purge", "requeue"])
def test_what_the_command_line_takes_back_beside_the_service_is_never_answered_again(
    make_local: Make, act: str
) -> None:
    """Polls keep the result in the service's memory all the while."""
    service = make_local(worker_concurrent=1).start()
    with service.client() as client:
        request_hash = client.build(a_body()).json["request_hash"]
        statuses: list[int] = []
        ended = threading.Event()

        def poll() -> None:
            with service.client() as poller:
                while not ended.is_set():
                    statuses.append(poller.ask("GET", f"/api/v1/build/{request_hash}").status)

        polling = threading.Thread(target=poll)
        polling.start()
        try:
            assert eventually(lambda: statuses[-10:] == [200] * 10)
            command("jobs", "pause", service=service)
            command("jobs", act, request_hash, service=service)
            after = [client.ask("GET", f"/api/v1/build/{request_hash}").status for _ in range(5)]
            posted = client.post_once(a_body()).status
        finally:
            ended.set()
            polling.join()
    assert (set(after), posted) == ({404 if act == "purge" else 202}, 202)
    assert statuses[-1] != 200 and 200 not in statuses[statuses.index(after[0]) :]


def command(*arguments: str, service: Service) -> None:
    """One of the command line, which must succeed."""
    ended = run(service, *arguments)
    assert ended.returncode == 0, ended.stderr
