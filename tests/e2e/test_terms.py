"""A hash that one process gave by its rules is never built by another's, nor by later rules."""

from pathlib import Path

import pytest

from asu_builder.domain.access import digest_of
from e2e.conftest import Make
from e2e.roles import make_api, make_worker
from e2e.service import Service
from e2e.test_crashes import a_body
from factories import eventually, never

pytestmark = pytest.mark.timeout(600)

RULES = """
format: 1
branches: {{24.10: 27990, 25.12: 32295}}
targets: [pico, x86, nano]
rules:
  - name: renamed
    for: builder
    why: "htop became another, in this test"
    versions: [25.12]
    rename: {{htop: {becomes}}}
    examples:
      - {{version: 25.12.0, packages: [htop, vim], becomes: [{becomes}, vim]}}
"""
OPERATOR = "secret of who may operate"
TOKENS = f'[{{"name": "boss", "digest": "{digest_of(OPERATOR)}", "rights": ["operate"]}}]'


def write(path: Path, becomes: str) -> Path:
    path.write_text(RULES.format(becomes=becomes))
    return path


def built(worker: Service) -> set[str]:
    """The hashes, shortened, of what this process has begun to build."""
    lines = [line for line in worker.stderr().splitlines() if "build started by worker" in line]
    return {word.strip("[]") for line in lines for word in line.split() if len(word.strip("[]")) == 12}


@pytest.mark.long
def test_two_workers_on_different_rules_build_each_its_own(make_local: Make, tmp_path: Path) -> None:
    files = {name: write(tmp_path / f"{name}.yaml", name) for name in ("tmux", "nano")}
    tmux = make_api(make_local, package_changes_path=files["tmux"]).start()
    nano = make_worker(make_local, tmux, "nano-api", package_changes_path=files["nano"])
    nano.program = (*Service.program, "serve", "--no-workers")
    nano.change(server_port=nano.port)
    nano.start()
    workers = {
        name: make_worker(make_local, tmux, f"{name}-worker", package_changes_path=file)
        for name, file in files.items()
    }
    workers["nano"].start()
    asked: dict[str, set[str]] = {}
    with tmux.client() as at_tmux, nano.client() as at_nano:
        for name, client in (("tmux", at_tmux), ("nano", at_nano)):
            bodies = [a_body("htop", other) for other in ("vim", "curl")]
            asked[name] = {client.post(body).json["request_hash"] for body in bodies}
        assert not asked["tmux"] & asked["nano"], "the rules are part of the hash"
        for request_hash in asked["nano"]:
            assert "nano" in at_nano.wait(request_hash).json["manifest"]
        waiting = "SELECT count(*) FROM build_jobs WHERE state = 'pending' AND lease_token = 0"
        assert never(lambda: tmux.rows(waiting) != [(2,)], seconds=1), "nobody here may build them"
        workers["tmux"].start()
        for request_hash in asked["tmux"]:
            assert "tmux" in at_tmux.wait(request_hash).json["manifest"]
    for name, worker in workers.items():
        assert built(worker) == {request_hash[:12] for request_hash in asked[name]}, worker.stderr()[-2000:]
        assert "Traceback" not in worker.stderr()


@pytest.mark.parametrize("restarts", [False, True])
def test_a_job_that_waits_while_the_rules_change_is_built_by_those_it_was_named_by(
    make_local: Make, tmp_path: Path, restarts: bool
) -> None:
    rules = write(tmp_path / "rules.yaml", "tmux")
    service = make_local(package_changes_path=rules, api_tokens=TOKENS).start()
    headers = {"Authorization": f"Bearer {OPERATOR}"}
    with service.client() as client:
        assert client.ask("POST", "/api/v1/workers/pause", headers=headers).status == 200
        before = client.post(a_body("htop")).json["request_hash"]
        if restarts:
            service.stop()
        write(rules, "nano")
    if restarts:
        service.start()
    with service.client() as client:

        def is_renamed() -> bool:
            return bool(client.post(a_body("htop")).json["request_hash"] != before)

        assert eventually(is_renamed)
        after = client.post(a_body("htop")).json["request_hash"]
        assert client.ask("POST", "/api/v1/workers/resume", headers=headers).status == 200
        assert "tmux" in client.wait(before).json["manifest"]
        assert "nano" in client.wait(after).json["manifest"]
    assert "Traceback" not in service.stderr()
