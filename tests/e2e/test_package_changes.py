"""Package rules in really built images: in the process, through their own service, and without it."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from e2e.conftest import Make
from e2e.forked import Forked
from e2e.images import unsquash
from e2e.service import READ_TOKENS, Answer, Client
from factories import eventually
from ports import free_port

pytestmark = pytest.mark.long

RULES = """
format: 1
branches: {24.10: 27990, 25.12: 32295}
targets: [pico, x86, nano]
rules:
  - name: renamed
    for: both
    why: "htop became tmux, in this test"
    from_revision: 30000
    rename: {htop: tmux}
    examples:
      - {version: 25.12.0, packages: [htop, vim], becomes: [tmux, vim]}
  - name: switch-driver
    for: builder
    why: "Without it there is no network"
    versions: [25.12]
    targets: [pico/nine]
    add: [sample-service]
    mandatory: true
    examples:
      - {version: 25.12.0, target: pico/nine, packages: [vim], becomes: [vim, sample-service]}
"""


class RulesService:
    """`asu-package-changes` as a process of its own."""

    def __init__(self, rules: Path) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._rules = rules
        self._process: Forked | None = None

    def start(self) -> None:
        """Returns at once; the builder comes back until it answers."""
        variables = {
            **os.environ,
            "PACKAGE_CHANGES_PATH": str(self._rules),
            "PACKAGE_CHANGES_PORT": str(self.port),
        }
        self._process = Forked(
            "asu_builder.http.rules_service",
            environment=variables,
            directory=Path.cwd(),
            log=Path(os.devnull),
        )

    def kill(self) -> None:
        """Ends it as a power cut would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    path = tmp_path / "rules.yaml"
    path.write_text(RULES)
    return path


@pytest.fixture
def rules_service(rules: Path) -> Iterator[RulesService]:
    service = RulesService(rules)
    service.start()
    yield service
    service.kill()


def body(*packages: str, **changes: Any) -> dict[str, Any]:
    wanted = {"version": "25.12.0", "target": "pico/nine", "profile": "acme_small", "packages": packages}
    return wanted | changes


def require_changed(answer: Answer) -> Any:
    """The rename and the mandatory addition are in the image, and the answer says why."""
    document = answer.json
    assert answer.status == 200, document
    assert {"tmux", "sample-service", "vim"} <= set(document["manifest"])
    assert "htop" not in document["manifest"]
    assert document["build_cmd_packages"] == ["tmux", "vim", "sample-service"]
    changes = document["package_changes"]
    applied = {entry["rule"]: entry for entry in changes["applied"]}
    assert applied["renamed"]["renamed"] == {"htop": "tmux"}
    assert applied["switch-driver"]["added"] == ["sample-service"]
    assert document["request"]["packages"] == ["htop", "vim"], "the request stays as it was asked"
    return changes


def rules_are(client: Client, status: str, words: str = "") -> bool:
    part = client.health()["parts"]["rules"]
    return part["status"] == status and words in part["sentence"]


def test_rules_of_a_file_are_in_the_built_image(make_local: Make, rules: Path, tmp_path: Path) -> None:
    with make_local(package_changes_path=str(rules), api_tokens=READ_TOKENS).start().client() as client:
        answer = client.build(body("htop", "vim"))
        assert require_changed(answer)["warnings"] == []
        (name,) = [image["name"] for image in answer.json["images"] if image["type"] == "sysupgrade"]
        image = client.get(f"/store/{answer.json['bin_dir']}/{name}").body
        root = unsquash(image, tmp_path / "image")
        assert root.has_package("tmux") and root.has_package("sample-service")
        assert not root.has_package("htop")
        assert root.starts("sample-service")
        assert eventually(lambda: client.get("/json/v1/overview.json").status == 200)
        branches = client.get("/json/v1/overview.json").json["branches"]
        assert branches["25.12"]["package_changes"] == [
            {"source": "htop", "revision": 30000, "target": "tmux"}
        ]
        assert branches["24.10"]["package_changes"] == []


def test_a_renamed_name_is_not_compared_with_the_version_that_was_shown(
    make_local: Make, rules: Path
) -> None:
    with make_local(package_changes_path=str(rules), api_tokens=READ_TOKENS).start().client() as client:
        answer = client.build(body(packages_versions={"htop": "gone-1"}))
        assert answer.status == 200, answer.json
        assert "tmux" in answer.json["manifest"]


def test_an_edited_rule_makes_the_requests_it_concerns_new_ones_and_no_others(
    make_local: Make, rules: Path
) -> None:
    with make_local(package_changes_path=str(rules), api_tokens=READ_TOKENS).start().client() as client:
        concerned, other = body("vim"), body("vim", version="24.10.5")
        before = [client.post_patiently(request).json["request_hash"] for request in (concerned, other)]
        rules.write_text(
            RULES.replace("add: [sample-service]", "add: [nano]").replace(
                "[vim, sample-service]", "[vim, nano]"
            )
        )
        assert eventually(lambda: client.post(concerned).json["request_hash"] != before[0])
        assert client.post(other).json["request_hash"] == before[1]
        assert "nano" in client.build(concerned).json["manifest"]


def test_a_wrong_edit_keeps_the_last_good_rules_and_turns_health_yellow(
    make_local: Make, rules: Path
) -> None:
    service = make_local(package_changes_path=str(rules), api_tokens=READ_TOKENS).start()
    with service.client() as client:
        assert eventually(lambda: rules_are(client, "ok"))
        rules.write_text(RULES.replace("mandatory: true", "mandatry: true"))
        assert eventually(lambda: rules_are(client, "degraded", "line "))
        assert client.get("/health").status == 200
        require_changed(client.build(body("htop", "vim")))
    assert "mandatry" in service.stderr()
    assert "Traceback" not in service.stderr()


def test_the_service_is_asked_and_when_it_is_killed_its_last_rules_hold(
    make_local: Make, rules_service: RulesService
) -> None:
    service = make_local(package_changes_url=rules_service.url, api_tokens=READ_TOKENS).start()
    with service.client() as client:
        assert eventually(lambda: rules_are(client, "ok", rules_service.url))
        changes = require_changed(client.build(body("htop", "vim")))
        assert changes["warnings"] == []

        rules_service.kill()
        changes = require_changed(client.build(body("htop", "vim", version_code="", rootfs_size_mb=50)))
        assert any("did not answer" in warning for warning in changes["warnings"])
        assert eventually(lambda: rules_are(client, "degraded", "does not answer"))

        rules_service.start()
        assert eventually(lambda: rules_are(client, "ok"))
        assert require_changed(client.build(body("htop", "vim", rootfs_size_mb=51)))["warnings"] == []
    assert "Traceback" not in service.stderr()


def test_a_service_that_never_answered_leaves_the_built_in_rules(make_local: Make) -> None:
    with make_local(package_changes_url="http://127.0.0.1:9").start().client() as client:
        answer = client.build(body("auc", "vim", version="24.10.5"))
        assert answer.status == 200, answer.json
        assert answer.json["build_cmd_packages"] == ["vim", "owut"]
        assert any("did not answer" in warning for warning in answer.json["package_changes"]["warnings"])


def test_an_own_file_is_tested_from_the_command_line(rules: Path) -> None:
    def run() -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "asu_builder", "rules", "test", str(rules)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    good = run()
    assert (good.returncode, "2 rules, 2 examples: every rule fires" in good.stdout) == (0, True), good
    rules.write_text(RULES.replace("becomes: [tmux, vim]", "becomes: [vim]"))
    bad = run()
    assert bad.returncode == 1
    assert "FAILED" in bad.stdout
