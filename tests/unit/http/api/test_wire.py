"""What clients read: exact shapes, because one wrong key stops a router's upgrade."""

from datetime import datetime, timedelta

import msgspec
import pytest
from msgspec.structs import replace

from asgi_client import Answer, AsgiClient
from asu_builder.domain.errors import FailureReason
from asu_builder.domain.job import BuildFailure, JobState, SbomFiles, Stage
from asu_builder.http.api.wire import RequestEcho
from factories import NOON, a_request
from fake_builds import FakeBuilds, a_body, a_result

LUCI_STEPS = {
    "init",
    "container_setup",
    "validate_revision",
    "validate_manifest",
    "building_image",
    "signing_images",
    "done",
    "failed",
}
ECHO = {
    "distro": "openwrt",
    "version": "24.10.5",
    "version_code": "",
    "target": "pico/nine",
    "profile": "acme_widget-5",
    "packages": [],
    "packages_versions": {},
    "diff_packages": False,
    "defaults": None,
    "rootfs_size_mb": None,
    "filesystem": None,
    "repositories": {},
    "repositories_mode": "replace",
    "repository_keys": [],
    "client": "owut/1",
}


def _poll(client: AsgiClient, request_hash: str) -> Answer:
    return client.get(f"/api/v1/build/{request_hash}")


def test_traps_2_and_3_a_waiting_job_has_its_position_as_a_number_even_0(
    client: AsgiClient, builds: FakeBuilds
) -> None:
    answer = _poll(client, builds.hold(a_request()))
    assert answer.status == 202
    assert answer.json["detail"] == "queued"
    assert answer.json["queue_position"] == 0
    assert type(answer.json["queue_position"]) is int
    assert "imagebuilder_status" not in answer.json
    assert answer.header("x-imagebuilder-status") == "queued"
    assert answer.header("x-queue-position") == "0"


@pytest.mark.parametrize("stage", [*Stage, None])
def test_traps_2_and_4_a_started_job_has_no_position_and_a_step_that_luci_knows(
    client: AsgiClient, builds: FakeBuilds, stage: Stage | None
) -> None:
    answer = _poll(client, builds.build(stage=stage))
    assert answer.status == 202
    assert answer.json["detail"] == "started"
    assert "queue_position" not in answer.json
    assert answer.json["imagebuilder_status"] == (stage or "init")
    assert answer.json["imagebuilder_status"] in LUCI_STEPS
    assert answer.header("x-imagebuilder-status") == answer.json["imagebuilder_status"]
    assert answer.header("x-queue-position") == "0"


def test_every_202_has_a_position_or_a_step_never_both(client: AsgiClient, builds: FakeBuilds) -> None:
    waiting = builds.hold(a_request(packages=("a",)))
    started = builds.build(a_request(packages=("b",)), stage=None)
    for request_hash in (waiting, started):
        document = _poll(client, request_hash).json
        assert ("queue_position" in document) != ("imagebuilder_status" in document)


def test_trap_1_the_status_in_the_body_is_the_http_status_as_a_number(
    client: AsgiClient, builds: FakeBuilds
) -> None:
    for request_hash in (
        builds.hold(a_request(packages=("a",))),
        builds.build(a_request(packages=("b",))),
        builds.complete(a_request(packages=("c",))),
        builds.fail(),
        "0" * 64,
    ):
        answer = _poll(client, request_hash)
        assert type(answer.json["status"]) is int
        assert answer.json["status"] == answer.status


def test_trap_5_every_build_answer_has_the_request_hash_and_our_state(
    client: AsgiClient, builds: FakeBuilds
) -> None:
    for state, request_hash in {
        "pending": builds.hold(a_request(packages=("a",))),
        "building": builds.build(a_request(packages=("b",))),
        "completed": builds.complete(a_request(packages=("c",))),
        "failed": builds.fail(),
    }.items():
        document = _poll(client, request_hash).json
        assert document["request_hash"] == request_hash
        assert document["state"] == state
        datetime.fromisoformat(document["enqueued_at"])


def test_trap_6_a_repeated_post_is_answered_as_the_poll_is(client: AsgiClient, builds: FakeBuilds) -> None:
    polled = _poll(client, builds.complete())
    posted = client.post("/api/v1/build", a_body())
    assert posted.status == polled.status == 200
    assert posted.body == polled.body
    for name in ("x-imagebuilder-status", "x-queue-position", "content-type"):
        assert posted.header(name) == polled.header(name)


def test_trap_7_the_request_is_echoed_with_all_fields(client: AsgiClient, builds: FakeBuilds) -> None:
    assert _poll(client, builds.complete()).json["request"] == ECHO
    optional = {"on_missing", "as_of"}
    assert set(ECHO) == {field.name for field in msgspec.structs.fields(RequestEcho)} - optional


def test_what_was_asked_is_echoed(client: AsgiClient) -> None:
    body = a_body(
        packages=["vim"], defaults="uci set", rootfs_size_mb="256", filesystem="ext4", client="ofs/5"
    )
    echo = client.post("/api/v1/build", body).json["request"]
    asked = {"packages": ["vim"], "defaults": "uci set", "rootfs_size_mb": 256, "filesystem": "ext4"}
    assert echo == ECHO | asked | {"client": "ofs/5"}


def test_the_finished_document_has_everything_a_client_reads(client: AsgiClient, builds: FakeBuilds) -> None:
    request_hash = builds.complete()
    answer = _poll(client, request_hash)
    document = answer.json
    assert document["detail"] == document["imagebuilder_status"] == "done"
    assert answer.header("x-imagebuilder-status") == "done"
    assert answer.header("x-queue-position") == "0"
    assert document["id"] == "acme_widget-5"
    assert document["target"] == "pico/nine"
    assert document["version_number"] == "24.10.5"
    assert document["version_code"] == "r29087-d9c5716d1d"
    assert document["titles"] == [{"vendor": "Acme", "model": "Widget 5"}]
    assert document["build_cmd"][:2] == ["make", "image"]
    assert document["build_cmd_packages"] == ["vim"]
    assert (document["stdout"], document["stderr"]) == ("out", "err")


def test_trap_15_the_directory_is_the_request_hash(client: AsgiClient, builds: FakeBuilds) -> None:
    request_hash = builds.complete()
    assert _poll(client, request_hash).json["bin_dir"] == request_hash


def test_traps_32_and_35_images_name_their_digests_and_file_systems(
    client: AsgiClient, builds: FakeBuilds
) -> None:
    sysupgrade, kernel = _poll(client, builds.complete()).json["images"]
    assert sysupgrade == {
        "name": "openwrt-sysupgrade.bin",
        "type": "sysupgrade",
        "filesystem": "squashfs",
        "sha256": "a" * 64,
        "sha256_unsigned": "b" * 64,
        "size": 10,
    }
    assert "filesystem" not in kernel


def test_what_is_in_the_images_is_named_and_is_no_image(client: AsgiClient, builds: FakeBuilds) -> None:
    name = builds.complete(sbom=SbomFiles("x.cdx.json", "x.spdx.json"))
    done = client.get(f"/api/v1/build/{name}").json
    assert done["sbom"] == {"cyclonedx": "x.cdx.json", "spdx": "x.spdx.json"}
    assert not {*done["sbom"].values()} & {image["name"] for image in done["images"]}
    older = builds.complete(a_request(packages=("tmux",)))
    assert "sbom" not in client.get(f"/api/v1/build/{older}").json


def test_trap_25_the_manifest_is_an_object(client: AsgiClient, builds: FakeBuilds) -> None:
    assert _poll(client, builds.complete()).json["manifest"] == {"vim": "9.1-r1"}


@pytest.mark.parametrize("epoch", [1760000000, "1760000000"])
def test_trap_34_the_build_time_is_utc_whether_the_epoch_is_a_number_or_text(
    client: AsgiClient, builds: FakeBuilds, epoch: object
) -> None:
    request_hash = builds.complete(description={"source_date_epoch": epoch})
    assert _poll(client, request_hash).json["build_at"] == "2025-10-09T08:53:20.000000Z"


@pytest.mark.parametrize("epoch", [None, "soon", 10**20, -(10**20), [], 1.5])
def test_trap_34_a_build_time_that_is_none_is_when_the_job_ended(
    client: AsgiClient, builds: FakeBuilds, epoch: object
) -> None:
    request_hash = builds.complete(description={"source_date_epoch": epoch})
    assert _poll(client, request_hash).json["build_at"] == "2026-03-01T12:00:00.000000Z"


def test_what_the_imagebuilder_says_passes_through_but_replaces_nothing_of_ours(
    client: AsgiClient, builds: FakeBuilds
) -> None:
    hostile = {
        "linux_kernel": {"version": "6"},
        "status": "queued",
        "bin_dir": "../..",
        "titles": "x",
        "id": 5,
    }
    document = _poll(client, builds.complete(description=hostile)).json
    assert document["linux_kernel"] == {"version": "6"}
    assert document["status"] == 200
    assert len(document["bin_dir"]) == 64
    assert document["titles"] == []
    assert document["id"] == "acme_widget-5"


def test_a_failed_build_says_why_and_whose_side_it_is_on(client: AsgiClient, builds: FakeBuilds) -> None:
    answer = _poll(client, builds.fail())
    assert answer.status == 500
    document = answer.json
    assert document["detail"] == "Error: Impossible package selection: missing (nosuch)"
    assert document["imagebuilder_status"] == "failed"
    assert answer.header("x-imagebuilder-status") == "failed"
    assert (document["stdout"], document["stderr"]) == ("out", "err")
    assert (document["fault"], document["reason"]) == ("user", "impossible_selection")
    assert document["request"] == ECHO
    assert "queue_position" not in document
    assert "build_cmd" not in document


@pytest.mark.parametrize("reason", FailureReason)
def test_every_reason_has_a_side(client: AsgiClient, builds: FakeBuilds, reason: FailureReason) -> None:
    document = _poll(client, builds.fail(reason)).json
    assert document["reason"] == reason
    assert document["fault"] in {"user", "world", "ours"}


def test_a_failure_that_got_as_far_as_make_shows_the_command(client: AsgiClient, builds: FakeBuilds) -> None:
    request_hash = builds.fail()
    view = builds.jobs[request_hash]
    assert isinstance(view.job.outcome, BuildFailure)
    outcome = replace(view.job.outcome, build_cmd=("make", "image"))
    builds.jobs[request_hash] = replace(view, job=replace(view.job, outcome=outcome))
    assert _poll(client, request_hash).json["build_cmd"] == ["make", "image"]


def test_text_that_is_no_ascii_survives(client: AsgiClient, builds: FakeBuilds) -> None:
    request_hash = builds.complete(stdout="größe ✓", description=a_result().description)
    assert _poll(client, request_hash).json["stdout"] == "größe ✓"


def _timings(answer: Answer) -> list[str]:
    """What the header says, apart from how long this very answer took."""
    told = [value for name, value in answer.headers if name == "server-timing"]
    return [entry for value in told for entry in value.split(", ") if not entry.startswith("app;dur=")]


def test_a_finished_build_says_how_long_it_waited_and_was_built(
    client: AsgiClient, builds: FakeBuilds
) -> None:
    name = builds.hold(
        a_request(),
        state=JobState.COMPLETED,
        outcome=a_result(),
        started_at=NOON + timedelta(seconds=2.5),
        finished_at=NOON + timedelta(seconds=14),
    )
    first, remembered = _poll(client, name), _poll(client, name)
    assert _timings(first) == _timings(remembered) == ["wait;dur=2500", "build;dur=11500"]
    assert any(value.startswith("app;dur=") for _, value in first.headers)
    assert not any(value.startswith("app;dur=") for _, value in remembered.headers)


def test_a_finished_build_says_where_its_time_went(client: AsgiClient, builds: FakeBuilds) -> None:
    seconds = {"publish": 0.04, "pull": 0.0, "image": 11.25, "of another version": 1.0}
    name = builds.hold(
        a_request(), state=JobState.COMPLETED, outcome=replace(a_result(), seconds=seconds), finished_at=NOON
    )
    assert _timings(_poll(client, name)) == ["wait;dur=0", "pull;dur=0", "image;dur=11250", "publish;dur=40"]


def test_a_build_that_runs_says_how_long_it_waited(client: AsgiClient, builds: FakeBuilds) -> None:
    name = builds.hold(
        a_request(), state=JobState.BUILDING, stage=Stage.INIT, started_at=NOON + timedelta(seconds=3)
    )
    assert _timings(_poll(client, name)) == ["wait;dur=3000"]


def test_a_job_that_waits_has_nothing_to_tell_about_its_time(client: AsgiClient, builds: FakeBuilds) -> None:
    assert _timings(_poll(client, builds.hold(a_request()))) == []


def test_a_clock_that_was_set_back_makes_no_time_negative(client: AsgiClient, builds: FakeBuilds) -> None:
    name = builds.hold(
        a_request(),
        state=JobState.COMPLETED,
        outcome=a_result(),
        started_at=NOON - timedelta(seconds=9),
        finished_at=NOON - timedelta(seconds=20),
    )
    assert _timings(_poll(client, name)) == ["wait;dur=0", "build;dur=0"]


def test_only_build_answers_carry_times(client: AsgiClient) -> None:
    for path in ("/health", "/api/v1/builds-per-day", "/"):
        assert client.get(path).header("server-timing") is None
