"""What Prometheus reads."""

import re
import subprocess
import sys
from collections.abc import Mapping
from datetime import timedelta

import pytest
from prometheus_client.parser import text_string_to_metric_families

from asgi_client import AsgiClient
from asu_builder.database import operator
from asu_builder.database.preflight import SqlPreflightRecords
from asu_builder.domain.errors import FailureReason, Side
from asu_builder.domain.health import CheckResult
from asu_builder.domain.job import IdlePolicy, Priority, Retention, Stage
from asu_builder.domain.make import Step
from asu_builder.domain.preflight import Feasibility
from database_clock import at_time
from factories import NOON, a_result, a_submission
from fake_builds import FakeBuilds, a_body
from tools import require_tool
from web_scene import Scene

HOUR = timedelta(hours=1)

Key = tuple[str, frozenset[tuple[str, str]]]


def scraped(client: AsgiClient) -> Mapping[Key, float]:
    """Every sample by its name and labels."""
    answer = client.get("/metrics")
    assert answer.status == 200
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.body.decode())
        for sample in family.samples
    }


def key(name: str, **labels: str) -> Key:
    """As `scraped` has it; `klass` stands for the label class."""
    return f"asu_builder_{name}", frozenset(
        (label.replace("klass", "class"), text) for label, text in labels.items()
    )


def test_it_is_the_text_format_that_every_prometheus_reads(client: AsgiClient) -> None:
    answer = client.get("/metrics")
    assert answer.header("content-type") == "text/plain; version=0.0.4; charset=utf-8"
    assert client.request("HEAD", "/metrics").body == b""


@pytest.mark.process
def test_promtool_finds_nothing_to_mend(client: AsgiClient, scene: Scene) -> None:
    require_tool("prometheus", "promtool")
    scene.housekeeping.stored_bytes = 7
    client.get("/health")
    result = subprocess.run(
        ["promtool", "check", "metrics"],
        input=client.get("/metrics").body,
        check=False,
        capture_output=True,
        timeout=120,
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, b"", b"")


def test_answers_are_counted_by_the_route_not_by_the_address(client: AsgiClient, builds: FakeBuilds) -> None:
    name = builds.complete()
    for _ in range(3):
        client.get(f"/api/v1/build/{name}")
    client.get(f"/api/v1/build/{'0' * 64}")
    client.get("/no/where")
    client.request("BREW", "/no/where")
    client.request("OPTIONS", "/anything")
    samples = scraped(client)

    def count(method: str, route: str, status: int) -> float:
        return samples[key("http_requests_total", method=method, route=route, status=str(status))]

    assert count("GET", "/api/v1/build/{request_hash}", 200) == 3
    assert count("GET", "/api/v1/build/{request_hash}", 404) == 1
    assert count("GET", "unknown", 404) == 1
    assert count("other", "unknown", 404) == 1
    assert count("OPTIONS", "any", 204) == 1


def test_waiting_jobs_are_counted_by_class_and_by_whether_a_client_polls_them(
    client: AsgiClient, scene: Scene
) -> None:
    for number, priority in enumerate((Priority.BULK, Priority.NORMAL, Priority.NORMAL)):
        submission = a_submission(packages=(f"p{number}",), priority=priority)
        at_time(scene.queue, NOON - number * HOUR).submit(submission)
    samples = scraped(client)
    assert samples[key("queue_jobs", klass="bulk", deprioritized="false")] == 1
    assert samples[key("queue_jobs", klass="normal", deprioritized="false")] == 2
    assert samples[key("queue_jobs", klass="interactive", deprioritized="false")] == 0
    at_time(scene.queue, NOON).expire_abandoned(IdlePolicy(HOUR / 2, 30 * HOUR), failure_ttl=HOUR)
    samples = scraped(client)
    assert samples[key("queue_jobs", klass="bulk", deprioritized="false")] == 1
    assert samples[key("queue_jobs", klass="normal", deprioritized="false")] == 0
    assert samples[key("queue_jobs", klass="normal", deprioritized="true")] == 2
    assert samples[key("queue_oldest_job_age_seconds", deprioritized="false")] == 0
    assert samples[key("queue_oldest_job_age_seconds", deprioritized="true")] == 3600


def test_builds_that_run_and_a_pause_are_told(client: AsgiClient, scene: Scene) -> None:
    scene.queue.submit(a_submission())
    assert scene.queue.claim("w/1", lease_for=HOUR)
    assert scraped(client)[key("building_jobs")] == 1
    assert scraped(client)[key("workers_paused")] == 0
    scene.operator().pause(operator="alice")
    samples = scraped(client)
    assert samples[key("workers_paused")] == 1
    assert samples[key("workers")] == 4
    assert samples[key("running_builds")] == 0


def test_outcomes_are_counted_and_failures_by_whose_side_they_are_on(
    client: AsgiClient, scene: Scene
) -> None:
    before = scraped(client)
    for reason in FailureReason:
        assert before[key("builds_failed_total", reason=reason, side=reason.side)] == 0
    for kind, why in (
        ("request", ""),
        ("cache_hit", ""),
        ("completed", ""),
        ("cancelled", ""),
        ("failed", FailureReason.TOO_BIG),
        ("failed", FailureReason.GAVE_UP),
    ):
        scene.counts.note(kind, why)  # type: ignore[arg-type]
    scene.counts.note("failed", FailureReason.IMPOSSIBLE_SELECTION, Side.INFRASTRUCTURE)
    samples = scraped(client)
    ended = {
        outcome: samples[key("builds_ended_total", outcome=outcome)]
        for outcome in ("completed", "failed", "cancelled")
    }
    assert ended == {"completed": 1, "failed": 3, "cancelled": 1}
    assert samples[key("builds_failed_total", reason="too_big", side="user")] == 1
    assert samples[key("builds_failed_total", reason="gave_up", side="internal")] == 1
    assert samples[key("builds_failed_total", reason="impossible_selection", side="infrastructure")] == 1
    assert samples[key("builds_failed_total", reason="impossible_selection", side="user")] == 0
    assert samples[key("builds_requested_total")] == samples[key("cache_hits_total")] == 1


def test_builds_that_contradict_what_was_foretold_are_counted_by_how(
    client: AsgiClient, scene: Scene
) -> None:
    scene.counts.preflight.note_compared(Feasibility.FINE)
    scene.counts.preflight.note_disagreed(FailureReason.TOO_BIG)
    records = SqlPreflightRecords(scene.database)
    records.note_sample("snapshots", "pico/nine", disagreement="wrong")
    records.note_sample("snapshots", "x86/64")
    samples = scraped(client)
    compared = {verdict: samples[key("preflight_compared_total", verdict=verdict)] for verdict in Feasibility}
    assert compared == {Feasibility.FINE: 1, Feasibility.IMPOSSIBLE: 0, Feasibility.UNKNOWN: 0}
    assert samples[key("preflight_disagreed_total", cause="too_big")] == 1
    assert samples[key("preflight_disagreed_total", cause="false_refusal")] == 0
    assert samples[key("preflight_advising")] == 1


def test_durations_are_histograms(client: AsgiClient, scene: Scene) -> None:
    scene.durations.stages[Stage.BUILDING_IMAGE].observe(7.0)
    scene.durations.builds[True].observe(9.0)
    scene.durations.steps[Step.PUBLISH].observe(0.2)
    samples = scraped(client)
    name = "build_stage_duration_seconds"
    assert samples[key(f"{name}_bucket", stage="building_image", le="5.0")] == 0
    assert samples[key(f"{name}_bucket", stage="building_image", le="10.0")] == 1
    assert samples[key(f"{name}_bucket", stage="building_image", le="+Inf")] == 1
    assert samples[key(f"{name}_sum", stage="building_image")] == 7
    assert samples[key(f"{name}_count", stage="init")] == 0
    assert samples[key("build_duration_seconds_sum", outcome="completed")] == 9
    assert samples[key("build_step_duration_seconds_sum", step="publish")] == 0.2
    assert samples[key("build_step_duration_seconds_count", step="pull")] == 0
    assert samples[key("build_duration_seconds_count", outcome="failed")] == 0


def test_each_part_is_in_one_state(client: AsgiClient, scene: Scene) -> None:
    scene.checked["engine"] = CheckResult("error", "Podman does not answer.")
    scene.health.check_all()
    samples = scraped(client)
    assert samples[key("part_state", part="engine", state="down")] == 1
    assert samples[key("part_state", part="engine", state="ok")] == 0
    assert samples[key("part_state", part="database", state="ok")] == 1
    assert samples[key("can_build")] == 0
    assert samples[key("polls_answered")] == 1


def test_the_size_of_the_store_is_told_once_it_is_known(client: AsgiClient, scene: Scene) -> None:
    assert key("store_bytes") not in scraped(client)
    scene.housekeeping.stored_bytes = 4711
    samples = scraped(client)
    assert samples[key("store_bytes")] == 4711
    assert samples[key("store_room_bytes")] > 0


def test_without_a_database_everything_else_is_told(client: AsgiClient, scene: Scene) -> None:
    assert scraped(client)[key("database_read")] == 1
    with scene.database.writing() as connection:
        connection.execute("ALTER TABLE worker_pause RENAME TO gone")
    samples = scraped(client)
    assert samples[key("database_read")] == 0
    assert key("queue_jobs", klass="normal", deprioritized="false") not in samples
    assert key("workers_paused") not in samples
    assert samples[key("workers")] == 4
    assert samples[key("version_info", version="1.2.3")] == 1


def test_nothing_says_what_was_asked_for_or_by_whom(
    client: AsgiClient, scene: Scene, builds: FakeBuilds
) -> None:
    submission = a_submission(profile="secret-device", packages=("secret-package",), version="77.7.7")
    scene.queue.submit(submission)
    client.post("/api/v1/build", a_body(client="secret-client/1"), {"User-Agent": "secret-agent"})
    client.get(f"/api/v1/build/{submission.request_hash}")
    client.get("/json/v1/secret-path/targets/secret/target/secret-profile.json")
    text = client.get("/metrics").body.decode()
    assert "secret" not in text and "77.7.7" not in text
    assert submission.request_hash[:12] not in text
    labels = {name for found in re.findall(r"{(.*?)}", text) for name in re.findall(r'(\w+)="', found)}
    assert labels == {
        *("version", "part", "state", "class", "deprioritized", "outcome", "reason", "side", "stage", "le"),
        *("method", "route", "status", "verdict", "cause", "of", "step"),
    }


def test_a_scrape_looks_at_no_job_that_has_ended(scene: Scene, app: object) -> None:
    for number in range(3):
        scene.queue.submit(a_submission(packages=(f"p{number}",)))
        claimed = scene.queue.claim("w/1", lease_for=HOUR)
        assert claimed is not None
        scene.queue.finish(claimed[1], a_result(), Retention(HOUR))
    with scene.database.reading() as connection:
        for statement in (operator.WAITING, operator.BUILDING):
            plan = connection.execute(f"EXPLAIN QUERY PLAN {statement}").fetchall()
            steps = [step for *_, step in plan if "build_jobs" in step or "first" in step]
            assert steps
            for step in steps:
                assert "build_jobs_order" in step or "build_jobs_lease" in step or "PRIMARY KEY" in step, step


def test_requests_for_numbers_are_counted_too(client: AsgiClient) -> None:
    client.get("/metrics")
    assert scraped(client)[key("http_requests_total", method="GET", route="/metrics", status="200")] == 1


@pytest.mark.process
def test_prometheus_client_is_not_loaded_before_the_first_scrape() -> None:
    code = "import sys, asu_builder.app; sys.exit('prometheus_client' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
