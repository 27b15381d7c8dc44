"""Commands beside others: builds that run, end, are cancelled and followed, and the jobs of a service."""

import hashlib
import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from asu_sample.distribution import Distribution
from asu_sample.server import DownloadServer
from e2e.conftest import Make, slow_service
from e2e.service import Service
from e2e.terminal import PLACE, Ended, a_body, images_in, interrupt, place, run, start, wait_for
from factories import eventually

pytestmark = pytest.mark.long


@pytest.fixture
def slow(sample_world: Distribution, upstream: DownloadServer, tmp_path: Path) -> Iterator[Service]:
    """A running service whose builds stay half a second in each stage, longer with tmux or vim."""
    longer = {"tmux": 6, "vim": 60}
    with_it = slow_service(sample_world, upstream, tmp_path, seconds=0.5, longer=longer, worker_concurrent=1)
    with with_it as service:
        yield service


def test_ctrl_c_cancels_the_build(slow: Service, where: str) -> None:
    process = start(slow, "build", *PLACE, "-o", "out", *place(slow, where))
    wait_for(process, "building: ")
    interrupt(process)
    ended = Ended(process)
    assert ended.code == 130
    assert "is cancelled." in ended.err
    assert slow.rows("SELECT state FROM build_jobs") == [("cancelled",)]
    assert not (slow.directory / "out").exists()
    assert eventually(lambda: slow.leftovers() == [])


def test_a_second_ctrl_c_leaves_at_once(slow: Service, where: str) -> None:
    process = start(slow, "build", *PLACE, *place(slow, where))
    wait_for(process, "building: ")
    interrupt(process)
    wait_for(process, "Cancelling")
    interrupt(process)
    # Where it has just ended by itself, the signal ends what is left of it: a shell counts that as 130 too.
    assert process.wait(60) in (130, -signal.SIGINT)
    process.communicate()


def test_a_build_that_others_wait_for_goes_on(slow: Service) -> None:
    process = start(slow, "build", *PLACE, "-p", "tmux", *place(slow, "server"))
    wait_for(process, "building: ")
    joined = run(slow, "build", *PLACE, "-p", "tmux", "--detach")
    interrupt(process)
    ended = Ended(process)
    assert ended.code == 130 and "Others have asked for the same" in ended.err
    with slow.client() as client:
        assert client.wait(joined.out.strip()).status == 200


def test_a_build_here_takes_no_job_of_others_and_is_found_by_their_service(make_local: Make) -> None:
    service = make_local(worker_concurrent=0).start()
    with service.client() as client:
        waiting = [
            client.post_patiently(a_body(packages=[name])).json["request_hash"] for name in ("tmux", "vim")
        ]
        built = run(service, "build", *PLACE, "-p", "luci", "--json")
        assert built.code == 0, built.err
        assert client.look(json.loads(built.out)["request_hash"]).status == 200
        assert [client.look(name).json["queue_position"] for name in waiting] == [0, 1]


def test_two_commands_share_the_build_of_one_request(make_slow: Make) -> None:
    service = make_slow()
    commands = [start(service, "build", *PLACE, "-o", folder) for folder in ("one", "two")]
    ended = [Ended(command) for command in commands]
    assert [command.code for command in ended] == [0, 0], ended[0].err + ended[1].err
    assert images_in(service.directory / "one") == images_in(service.directory / "two")
    assert service.rows("SELECT state, lease_token FROM build_jobs") == [("completed", 1)]


def test_what_a_killed_command_was_building_is_taken_up_by_the_next(make_slow: Make) -> None:
    service = make_slow()
    process = start(service, "build", *PLACE)
    wait_for(process, "building: ")
    process.kill()
    process.communicate()
    again = run(service, "build", *PLACE, "--json")
    assert again.code == 0, again.err
    assert service.rows("SELECT state FROM build_jobs") == [("completed",)]
    assert service.leftovers() == []


@pytest.fixture
def make_slow(sample_world: Distribution, make_local: Make, tmp_path: Path) -> Make:
    """Makes services whose builds stay half a second in each stage."""
    from e2e.slow_imagebuilder import write_slow_imagebuilder

    template = write_slow_imagebuilder(
        sample_world, tmp_path / "builders", version="25.12.0", target="pico/nine", seconds=0.5
    )
    return lambda **settings: make_local(imagebuilder_path=template, **settings)


def test_paused_workers_are_told(make_local: Make) -> None:
    service = make_local().start()
    service.stop()
    assert run(service, "jobs", "pause").code == 0
    refused = run(service, "build", *PLACE)
    assert refused.code == 4 and "asu-builder jobs resume" in refused.err


def test_a_build_is_looked_at_followed_and_cancelled_by_its_hash(slow: Service, where: str) -> None:
    there = place(slow, where)
    asked = run(slow, "build", *PLACE, "--detach", *place(slow, "server"))
    request_hash = asked.out.strip()
    secret = asked.err.split()[-1]
    followed = run(slow, "log", "-f", request_hash, *there)
    assert followed.code == 0, followed.err
    assert re.search(r"^\d\d:\d\d:\d\d building_image +Building images\.\.\.$", followed.out, re.MULTILINE)
    assert run(slow, "log", request_hash, *there).out == followed.out
    late = run(slow, "cancel", request_hash, "--cancel-token", secret, *there)
    assert late.code == 3 and "has ended before" in late.err
    other = run(slow, "build", *PLACE, "-p", "vim", "--detach", *place(slow, "server"))
    status = run(slow, "status", other.out.strip(), *there)
    assert status.code == 0
    assert re.match(r"state\t(pending|building)\nrequest\t25\.12\.0 pico/nine acme_widget-5\n", status.out)
    options = ("--cancel-token", other.err.split()[-1]) if where == "server" else ()
    assert run(slow, "cancel", other.out.strip(), *options, *there).out == "cancelled\n"
    ended = run(slow, "log", "-f", other.out.strip(), *there)
    assert ended.code == 130
    assert json.loads(run(slow, "status", "--json", other.out.strip(), *there).out)["state"] == "cancelled"
    unknown = run(slow, "status", "f" * 64, *there)
    assert unknown.code == 3 and "could not find" in unknown.err


@pytest.fixture
def guarded(make_local: Make) -> Service:
    """A running service with a token of an operator, `secret`, and no worker."""
    digest = hashlib.sha256(b"secret").hexdigest()
    tokens = [{"name": "ops", "digest": digest, "rights": ["read", "operate"]}]
    return make_local(api_tokens=json.dumps(tokens), worker_concurrent=0).start()


def test_an_operator_sees_and_moves_jobs_of_a_server(guarded: Service) -> None:
    there = ("--server", f"http://127.0.0.1:{guarded.port}", "--token", "secret")
    with guarded.client() as client:
        names = [
            client.post_patiently(a_body(packages=[name])).json["request_hash"] for name in ("tmux", "vim")
        ]
    first, second = names
    here, listed = (run(guarded, "jobs", "list", *options) for options in ((), there))
    assert (here.code, listed.code) == (0, 0), listed.err
    assert here.out == listed.out
    assert [line.split()[-1] for line in listed.out.splitlines()] == [second, first]
    assert run(guarded, "jobs", "list", "--json").out == run(guarded, "jobs", *there, "list", "--json").out
    assert json.loads(run(guarded, "jobs", "show", first[:12], *there).out)["request_hash"] == first
    assert run(guarded, "jobs", "cancel", first[:12], *there).out == "cancelled\n"
    assert run(guarded, "jobs", "requeue", first[:12], *there).out == "requeued\n"
    assert run(guarded, "jobs", "pause", *there).out == "paused\n"
    assert run(guarded, "jobs", "resume", *there).out == "resumed\n"
    run(guarded, "jobs", "cancel", second, *there)
    assert run(guarded, "jobs", "purge", second[:12], *there).out == "purged\n"
    acts = run(guarded, "jobs", "acts", *there)
    assert [line.split()[1:3] for line in acts.out.splitlines()][-1] == ["ops", "cancel"]
    assert acts.out == run(guarded, "jobs", "acts").out
    refused = run(guarded, "jobs", "list", *there[:2])
    assert refused.code == 3 and "--token" in refused.err


def test_commands_take_as_many_digits_of_a_hash_as_the_log_shows(guarded: Service) -> None:
    url = ("--server", f"http://127.0.0.1:{guarded.port}")
    with guarded.client() as client:
        request_hash = client.post_patiently(a_body()).json["request_hash"]
    whole = run(guarded, "status", request_hash).out
    for given in (request_hash[:12], request_hash[:4].upper(), f"{request_hash[:12]}…"):
        for there in ((), (*url, "--token", "secret")):
            assert run(guarded, "status", given, *there).out == whole
            assert run(guarded, "log", given, *there).code == 0
    anonymous = run(guarded, "status", request_hash[:12], *url)
    assert anonymous.code == 3 and "need a token with the right read" in anonymous.err
    for given, said in (
        ("abc", "expected 4 to 64"),
        ("no-hash", "expected 4 to 64"),
        ("0" * 12, "begins with"),
    ):
        refused = run(guarded, "status", given)
        assert refused.code == 3 and said in refused.err, refused.err
    assert run(guarded, "cancel", request_hash[:12]).out == "cancelled\n"
