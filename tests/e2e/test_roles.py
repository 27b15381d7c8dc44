"""One process answers, others build: on one machine, each in its role."""

from pathlib import Path
from typing import Any

import pytest

from asu_builder.database.nodes import FileLead
from e2e.conftest import Make
from e2e.roles import make_api, make_worker
from e2e.service import READ_SECRET, READ_TOKENS, run
from e2e.test_crashes import a_body, begin
from e2e.test_provenance import BUILDER, a_provenance_key, statement_of, stating
from e2e.test_signing import require_signed
from factories import eventually, never

pytestmark = pytest.mark.timeout(600)


@pytest.mark.long
def test_what_one_process_accepts_another_builds(make_local: Make) -> None:
    api = make_api(make_local, api_tokens=READ_TOKENS).start()
    worker = make_worker(make_local, api, shutdown_grace="60s")
    with api.client() as client:
        waiting = client.post(a_body("vim")).json
        assert waiting["state"] == "pending"
        assert not {"engine", "registry"} & set(client.health()["parts"]), "it has no engine to be asked"
        worker.start()
        done = client.wait(waiting["request_hash"])
        assert done.status == 200
        image = done.json["images"][0]["name"]
        assert client.get(f"/store/{waiting['request_hash']}/{image}").status == 200
        with worker.client() as monitor:
            assert {"engine", "registry"} <= set(monitor.health()["parts"])
            metrics = monitor.get("/metrics").body.decode()
            assert 'asu_builder_builds_ended_total{outcome="completed"} 1.0' in metrics
            assert 'asu_builder_http_requests_total{method="GET",route="/health",status="200"}' in metrics
            for path in ("/", "/queue", f"/api/v1/build/{waiting['request_hash']}", "/api/v1/stats"):
                assert monitor.ask("GET", path).status == 404, path
            assert monitor.post_once(a_body("tmux")).status == 404
        # Asked to stop, a worker first ends what it builds.
        slow = begin(api, client, a_body("sample-slow-1"))
        assert worker.stop() == 0
        assert api.rows("SELECT count(*) FROM build_jobs WHERE state = 'completed'") == [(2,)]
        assert client.wait(slow).status == 200
    assert "Traceback" not in api.stderr() + worker.stderr()


def test_the_public_halves_of_keys_are_enough_for_who_answers(make_local: Make) -> None:
    made = make_local()
    statements, images = a_provenance_key(made), made.directory / "signing.key"
    assert run(made, "keys", "new", str(images)).returncode == 0
    alike: dict[str, Any] = {"signing_required": True, "install_signing_key": True, "api_tokens": READ_TOKENS}
    halves = {"signing_public_key": f"{images}.pub", "provenance_public_key": f"{statements}.pub"}
    api = make_api(make_local, **alike, **halves).start()
    worker = make_worker(make_local, api, **alike, **stating(statements), signing_key=f"file:{images}")
    away = [path.rename(path.with_suffix(".away")) for path in (statements, images)]
    with api.client() as client:

        def states() -> set[str]:
            parts = client.health()["parts"]
            return {parts[part]["status"] for part in ("signing", "provenance")}

        assert eventually(lambda: states() == {"ok"})
        offered = client.get("/keys").json["files"]
        assert len(offered) == 2
        contents = {client.get(f"/keys/{name}").body for name in offered}
        assert contents >= {Path(f"{statements}.pub").read_bytes()}
        for path in away:
            path.rename(path.with_suffix(".key"))
        worker.start()
        done = client.build(a_body("vim"))
        assert done.status == 200 and done.json["signed_by"] in offered
        statement_of(client, done.json)
    # An administrator may look at the queue from there.
    assert run(api, "jobs", "list").returncode == 0


def test_the_key_on_one_node_only_and_every_image_is_signed(make_local: Make) -> None:
    made = make_local()
    statements, images = a_provenance_key(made), made.directory / "signing.key"
    assert run(made, "keys", "new", str(images)).returncode == 0
    alike: dict[str, Any] = {"signing_required": True, "install_signing_key": True, "api_tokens": READ_TOKENS}
    halves: dict[str, Any] = {
        "signing_public_key": f"{images}.pub",
        "provenance_public_key": f"{statements}.pub",
    }
    keys = {"signing_key": f"file:{images}", **stating(statements)}
    api = make_api(make_local, **alike, **halves).start()
    hut = make_worker(make_local, api, **alike, **halves, provenance_builder=BUILDER).start()
    assert "only the public half of a key" in hut.stderr()
    signer = make_worker(make_local, api, "signer", **alike, **keys)
    with api.client() as client:
        begun = client.post(a_body("vim")).json["request_hash"]

        def waits() -> bool:
            seen = client.get(f"/api/v1/build/{begun}").json
            return bool(seen.get("imagebuilder_status") == "signing_images")

        assert eventually(waits)
        hut.kill()  # what it has handed over is in the store
        signer.start()
        shared = client.wait(begun)
        assert shared.status == 200 and not shared.json["warnings"]
        require_signed(client, shared.json, shared.json["signed_by"])
        stated = statement_of(client, shared.json)
        document = client.get(f"/store/{begun}/{shared.json['sbom']['cyclonedx']}").body
        # One process that has the keys comes to the same result.
        assert run(api, "jobs", "purge", begun).returncode == 0
        alone = client.build(a_body("vim"))
        assert alone.json["images"] == shared.json["images"]
        assert document == client.get(f"/store/{begun}/{alone.json['sbom']['cyclonedx']}").body
        again = statement_of(client, alone.json)
        for statement in (stated, again):
            del statement["predicate"]["runDetails"]["metadata"]
        assert stated == again
    assert "Traceback" not in api.stderr() + hut.stderr() + signer.stderr()


@pytest.mark.long
def test_a_worker_is_seen_and_drained_and_works_again(make_local: Make) -> None:
    api = make_api(make_local, api_tokens=READ_TOKENS).start()
    worker = make_worker(make_local, api, worker_concurrent=1).start()
    read = {"Authorization": f"Bearer {READ_SECRET}"}
    with api.client() as client:

        def nodes() -> dict[str, Any]:
            listed = client.ask("GET", "/api/v1/workers", headers=read).json["nodes"]
            return {node["name"]: node for node in listed}

        assert eventually(lambda: len({node["rules"] for node in nodes().values()} - {""}) == 1)
        known = nodes()
        assert [(name, node["answers"], node["builds"]) for name, node in known.items()] == [
            ("api", True, False),
            ("hut", False, True),
        ]
        slow = begin(api, client, a_body("sample-slow-5"))
        drained = run(worker, "worker", "--drain")
        assert drained.returncode == 0, drained.stderr
        assert "hut takes no more jobs; 1 builds run" in drained.stderr and "builds nothing" in drained.stderr
        assert client.wait(slow).status == 200 and nodes()["hut"]["drained"]
        waiting = client.post(a_body("vim")).json["request_hash"]
        worker.stop()
        worker.start()
        assert never(lambda: client.look(waiting).json["state"] != "pending", seconds=1)
        assert run(worker, "worker", "--undrain", "--name", "nowhere").returncode == 3
        assert run(worker, "worker", "--undrain", "--name", "hut").returncode == 0
        assert client.wait(waiting).status == 200
        acts = api.rows("SELECT action, subject FROM audit_log ORDER BY id")
        assert acts == [("drain", "hut"), ("undrain", "hut")]
        worker.stop()
        assert eventually(lambda: set(nodes()) == {"api"}), "who stops in order is listed no more"
    assert "Traceback" not in api.stderr() + worker.stderr()


def test_the_lead_goes_on_when_its_holder_is_killed(make_local: Make) -> None:
    api = make_api(make_local).start()
    lead = Path(f"{api.database}-lead")
    assert eventually(lead.exists)
    worker = make_worker(make_local, api).start()
    # With rounds of three seconds it has been looked for more than once by then.
    api.kill()
    assert eventually(lambda: _holder_of(lead) == worker.pid)
    assert worker.stop() == 0
    anybody = FileLead(api.database)
    assert anybody.held(), "who stops lets go of it"
    anybody.release()


def _holder_of(lead: Path) -> int:
    """The process that has the lock, as the kernel tells it; 0 for none."""
    inode = f":{lead.stat().st_ino} "
    lines = [line for line in Path("/proc/locks").read_text().splitlines() if inode in line]
    return int(lines[0].split()[4]) if lines else 0


@pytest.mark.parametrize(
    ("command", "settings", "sentence"),
    [
        (["worker"], {"worker_concurrent": 0}, "worker_concurrent: expected a number of at least 1"),
        (["worker", "--port", "1"], {}, "asu-builder worker --port"),
    ],
)
def test_a_worker_that_cannot_start_says_why(
    make_local: Make, command: list[str], settings: dict[str, object], sentence: str
) -> None:
    if "--port" in command:
        command = [*command[:-1], str(make_local("taken").start().port)]
    worker = make_worker(make_local, make_api(make_local), "hut", **settings)
    worker.directory.mkdir()
    ended = run(worker, *command)
    assert ended.returncode in (2, 4) and sentence in ended.stderr, ended.stderr
