"""A real Prometheus beside the real service."""

import json
import re
import shutil
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from e2e.conftest import Make
from e2e.service import Service
from factories import eventually
from podman_service import APK_VERSION, SAMPLE_TARGET
from ports import free_port
from tools import require_tool

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"

WISH = {"version": APK_VERSION, "target": SAMPLE_TARGET, "profile": "acme_widget-5"}

Query = Callable[[str], dict[str, float]]


def _ask(port: int, path: str) -> Any:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/{path}", timeout=60) as answer:
        document = json.load(answer)
    assert document["status"] == "success", document
    return document["data"]


def _is_ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/-/ready", timeout=60) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


@pytest.fixture
def service(make_local: Make) -> Service:
    """A service of its own, so that its counters begin at 0."""
    return make_local().start()


@pytest.fixture
def prometheus(service: Service, tmp_path: Path) -> Iterator[int]:
    """Prometheus with the configuration in `deploy/`, only hastier; its port."""
    require_tool("prometheus")
    configuration = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())
    configuration["global"] = {
        "scrape_interval": "500ms",
        "scrape_timeout": "400ms",
        "evaluation_interval": "500ms",
    }
    (scrape,) = configuration["scrape_configs"]
    scrape["static_configs"] = [{"targets": [f"127.0.0.1:{service.port}"]}]
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(configuration))
    shutil.copy(DEPLOY / "alerts.yaml", tmp_path)
    port = free_port()
    command = [
        "prometheus",
        f"--config.file={tmp_path / 'prometheus.yml'}",
        f"--storage.tsdb.path={tmp_path / 'series'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    log = tmp_path / "prometheus.log"
    with log.open("wb") as out, subprocess.Popen(command, stdout=out, stderr=out, cwd=tmp_path) as process:
        try:
            assert eventually(lambda: _is_ready(port)), log.read_text()
            yield port
        finally:
            process.terminate()
            process.wait(60)


@pytest.fixture
def query(prometheus: int) -> Query:
    """Asks for an expression; values by their labels, written as in a query."""

    def ask(expression: str) -> dict[str, float]:
        data = _ask(prometheus, f"query?query={urllib.parse.quote(expression)}")
        return {
            ",".join(f"{name}={text}" for name, text in sorted(found["metric"].items())): float(
                found["value"][1]
            )
            for found in data["result"]
        }

    return ask


def test_what_happened_is_what_prometheus_says(service: Service, prometheus: int, query: Query) -> None:
    with service.client() as client:
        done = client.build(WISH)
        assert done.status == 200, done.body
        failed = client.build({**WISH, "packages": ["no-such-package"]})
        assert failed.status == 500
        again = client.post(WISH)
        assert again.status == 200
        polls = sum(client.look(done.json["request_hash"]).status == 200 for _ in range(5))
    assert polls == 5
    assert failed.json["fault"] == "user"
    reason = failed.json["reason"]

    expected = {
        f'sum(asu_builder_builds_failed_total{{reason="{reason}",side="user"}})': {"": 1},
        "sum by (outcome) (asu_builder_builds_ended_total)": {
            "outcome=cancelled": 0,
            "outcome=completed": 1,
            "outcome=failed": 1,
        },
        "sum(asu_builder_builds_requested_total)": {"": 2},
        "sum(asu_builder_cache_hits_total)": {"": 1},
        "sum(asu_builder_queue_jobs)": {"": 0},
        "sum(asu_builder_running_builds)": {"": 0},
    }
    route = 'route="/api/v1/build/{request_hash}",method="GET",status="200"'
    there = [
        f"sum(asu_builder_http_requests_total{{{route}}}) >= 6",
        "sum(asu_builder_store_bytes)",
        'asu_builder_build_stage_duration_seconds_count{stage="building_image"} >= 1',
        'asu_builder_part_state{part="database",state="ok"} == 1',
    ]

    def missing() -> list[str]:
        """What Prometheus does not say yet: a counter is told by the scrape that comes after it."""
        wrong = [expression for expression, values in expected.items() if query(expression) != values]
        return wrong + [expression for expression in there if not query(expression)]

    assert eventually(lambda: not missing()), missing()
    seconds = query("sum(asu_builder_build_duration_seconds_sum)")[""]
    assert query("sum(asu_builder_build_stage_duration_seconds_sum)")[""] == pytest.approx(seconds, abs=0.001)
    assert query('up{job="asu-builder"}') == {
        f"__name__=up,instance=127.0.0.1:{service.port},job=asu-builder": 1
    }


def test_the_rules_are_loaded_and_a_service_that_is_gone_is_noticed(
    service: Service, prometheus: int, query: Query
) -> None:
    (group,) = _ask(prometheus, "rules")["groups"]
    assert {rule["health"] for rule in group["rules"]} <= {"ok", "unknown"}
    assert eventually(lambda: query("up") != {} and set(query("up").values()) == {1})
    assert service.stop() == 0

    def alerts() -> set[str]:
        return {alert["labels"]["alertname"] for alert in _ask(prometheus, "alerts")["alerts"]}

    assert eventually(lambda: "AsuBuilderUnreachable" in alerts())


def test_the_log_as_json_is_an_object_a_line_and_joins_answers_to_builds(make_local: Make) -> None:
    service = make_local(log_format="json").start()
    with service.client() as client:
        answer = client.build(WISH)
        assert answer.status == 200
        submitted = client.post(WISH)
        assert submitted.status == 200
    assert service.stop() == 0
    name = answer.json["request_hash"]
    assert name not in service.stderr()
    lines = [json.loads(line) for line in service.stderr().splitlines()]
    assert all({"time", "level", "logger", "message"} <= set(line) for line in lines)
    # A machine that is busy also tells of answers that began late.
    said = [line["message"] for line in lines if line.get("request_hash") == name[:12]]
    told = [message for message in said if message.startswith("build ")]
    # The worker may begin before the one who asked is answered.
    assert sorted(re.sub(r"e2e/\d|\d+\.\d s", "…", message) for message in told) == [
        "build completed in …",
        "build started by worker …",
        "build submitted",
    ]
    assert told[-1].startswith("build completed")
    (submission,) = [line for line in lines if line["message"] == "build submitted"]
    assert submission["request_id"]
