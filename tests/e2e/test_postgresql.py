"""Processes of an installation on PostgreSQL: what one takes, another builds, and all of them tell."""

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from asu_builder.domain.access import digest_of
from e2e.conftest import Make
from e2e.roles import make_api, make_worker
from e2e.service import READ_SECRET, Service, run
from e2e.test_crashes import a_body
from factories import eventually
from postgresql import empty_place, shared_server

pytestmark = pytest.mark.timeout(600)
TOKENS = json.dumps([{"name": "operator", "digest": digest_of(READ_SECRET), "rights": ["read", "operate"]}])
OPERATOR = {"Authorization": f"Bearer {READ_SECRET}"}
PAGES = ("/", "/queue", "/statistics", "/api/v1/stats", "/metrics", "/health", "/api/v1/overview")


@pytest.fixture
def api(make_local: Make) -> Iterator[Service]:
    """A process that answers, on an empty PostgreSQL database."""
    yield make_api(make_local, api_tokens=TOKENS, database_url=empty_place())


def a_worker(make: Make, api: Service, name: str = "hut", **settings: object) -> Service:
    url = api.settings()["database_url"]
    # Looks rarely by itself: what it does at once it was told.
    return make_worker(make, api, name, database_url=url, **{"worker_poll": "30s", **settings})


@pytest.mark.long
def test_what_one_process_accepts_others_build_and_every_command_and_page_works(
    make_local: Make, api: Service, tmp_path: Path
) -> None:
    api.start()
    worker = a_worker(make_local, api).start()
    with api.client() as client:
        done = client.build(a_body("vim"))
        assert done.status == 200, done.body
        name = done.json["request_hash"]
        assert client.get(f"/store/{name}/{done.json['images'][0]['name']}").status == 200
        assert client.post(a_body("vim")).status == 200
        for page in (*PAGES, f"/build/{name}"):
            assert client.get(page).status == 200, page
        for arguments in (
            ["jobs", "list"],
            ["status", name],
            ["log", name],
            ["gc", "--dry-run"],
            ["migrate"],
        ):
            ended = run(api, *arguments)
            assert ended.returncode == 0, (arguments, ended.stderr)
        ended = run(api, "doctor", "--no-build", "--json")
        (found,) = [check for check in json.loads(ended.stdout)["checks"] if check["name"] == "database"]
        assert found["status"] == "ok" and "schema" in found["sentence"], found
        require_backups(api, tmp_path / "dump")
        ended = run(api, "jobs", "purge", name)
        assert ended.returncode == 0, ended.stderr
        assert eventually(lambda: client.look(name).status == 404)
    assert worker.stop() == 0
    assert api.stop() == 0
    assert "Traceback" not in api.stderr() + worker.stderr()


def require_backups(api: Service, dump: Path) -> None:
    """The command says what makes a dump, and tells a whole one from half of it."""
    missing = run(api, "backup", str(dump))
    assert missing.returncode != 0 and "pg_dump --format=custom" in missing.stderr
    address = str(api.settings()["database_url"])
    schema = address.rpartition("%3D")[2]
    subprocess.run(
        [
            shared_server().programs / "pg_dump",
            "--format=custom",
            f"--file={dump}",
            f"--schema={schema}",
            address,
        ],
        check=True,
    )
    whole = run(api, "backup", str(dump))
    assert whole.returncode == 0 and "checked" in whole.stdout, whole.stderr
    dump.write_bytes(dump.read_bytes()[: dump.stat().st_size * 2 // 3])
    half = run(api, "backup", str(dump))
    assert half.returncode != 0 and "cannot be restored" in half.stderr, half.stderr


def test_a_job_starts_and_ends_on_another_host_as_soon_as_it_is_told(make_local: Make, api: Service) -> None:
    """Each process looks by itself every 30 seconds only."""
    api.start()
    worker = a_worker(make_local, api).start()
    with api.client() as client:
        client.build(a_body("vim"))
        slow = client.started(a_body("sample-slow-60"))
        began = time.monotonic()
        assert client.ask("DELETE", f"/api/v1/build/{slow}", headers=OPERATOR).status in (200, 204)
        assert client.build(a_body("tmux")).status == 200
        took = time.monotonic() - began
        assert took < 25, "it waited for a look"
    assert worker.stop() == 0
    assert "Traceback" not in api.stderr() + worker.stderr()


@pytest.mark.long
def test_a_host_with_the_name_of_another_that_lives_does_not_start(make_local: Make, api: Service) -> None:
    api.start()
    first = a_worker(make_local, api).start()
    second = a_worker(make_local, api, "twin", worker_id="hut")
    second.change(database_path=str(second.directory / "its own" / "asu.db"))
    second.launch()
    assert second.wait() == 4
    assert (
        "Another machine works on this database under the name hut. Set another worker_id" in second.stderr()
    )
    drained = run(api, "worker", "--drain", "--name", "hut")
    assert drained.returncode == 0, drained.stderr
    with api.client() as client:
        waiting = client.post(a_body("vim")).json["request_hash"]
        assert first.stop() == 0
        third = a_worker(make_local, api, "other").start()
        assert client.wait(waiting).status == 200, "the job that a drained host left is another's"
    assert third.stop() == 0
    assert "Traceback" not in api.stderr() + first.stderr() + second.stderr() + third.stderr()
