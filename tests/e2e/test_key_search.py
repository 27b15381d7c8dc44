"""The keys that sign are looked for, byte by byte, wherever a build in containers leaves traces."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from e2e.conftest import Make
from e2e.service import READ_TOKENS, Client, Service, run
from e2e.test_builds import a_body
from e2e.test_provenance import a_provenance_key, stating
from podman_service import APK_VERSION, OPKG_VERSION, PodmanService
from secret_search import found_in, found_in_files, memory_of, secret_forms

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

_PAGES = (
    "/",
    "/build",
    "/queue",
    "/statistics",
    "/compare",
    "/configuration",
    "/docs",
    "/openapi.json",
    "/metrics",
)


def _containers(socket: Path) -> Iterator[Iterable[bytes]]:
    """Of each running container its file system, and all that the engine tells of it."""
    from podman import PodmanClient

    with PodmanClient(base_url=f"unix://{socket}") as client:
        running = client.containers.list()
        assert running, "a build runs"
        for container in running:
            yield container.export()
            told = client.api.get(f"/containers/{container.id}/json")
            told.raise_for_status()
            assert b'"Mounts"' in told.content and b'"Env"' in told.content
            yield (told.content,)
            logs = container.logs(stdout=True, stderr=True)
            yield (logs,) if isinstance(logs, bytes) else logs


def _answers(client: Client, request_hash: str, names: Iterable[str]) -> Iterator[bytes]:
    """Every answer that anybody gets: pages, the API, metrics, what is published."""
    described = client.get("/openapi.json").json["paths"]
    paths = {*_PAGES, *(path for path, operations in described.items() if "get" in operations)}
    paths |= {f"/store/{request_hash}/{name}" for name in names}
    statuses = []
    for path in sorted(paths):
        filled = path.replace("{request_hash}", request_hash).replace("{other}", request_hash)
        if "{" in filled or "stream" in filled or filled.endswith(("/events", "/watch")):
            continue
        answer = client.get(filled)
        statuses.append(answer.status)
        yield repr(answer.headers).encode() + answer.body
    assert statuses.count(200) > 12, statuses


@pytest.mark.parametrize("version", [APK_VERSION, OPKG_VERSION])
def test_nothing_of_the_keys_is_in_containers_logs_backups_answers_or_memory(
    make_podman: Make, podman_service: PodmanService, podman_socket: Path, version: str
) -> None:
    path = make_podman().directory / "signing.key"
    path.parent.mkdir(parents=True, exist_ok=True)
    of_statements = a_provenance_key(make_podman())
    service: Service = make_podman(
        **stating(of_statements),
        signing_key=f"file:{path}",
        signing_required=True,
        install_signing_key=True,
        api_tokens=READ_TOKENS,
    )
    assert run(make_podman(), "keys", "new", str(path)).returncode == 0
    forms = {
        f"{name} of {key.name}": form
        for key in (path, of_statements)
        for name, form in secret_forms(key.read_bytes()).items()
    }
    with service.start().client() as client:
        held = client.started(a_body(version=version, packages=["sample-slow-5"]))
        for parts in _containers(podman_socket):
            assert found_in(parts, forms) == set()
        assert found_in_files(podman_service.directory, forms) == {}
        done = client.wait(held).json
        assert re.fullmatch("[0-9a-f]{16}", done["signed_by"])
        for _ in range(2):  # what signed a moment ago, and what has kept nothing of it
            assert found_in(memory_of(service.pid), forms) == set()
        files = [file.name for file in (service.store / held).iterdir()]
        assert {"sha256sums.sig", done["provenance"]} <= {*files}
        assert found_in(_answers(client, held, files), forms) == set()
        saved = run(service, "backup", str(service.directory / "backup.db"))
        assert saved.returncode == 0, saved.stderr
        diagnosed = run(service, "doctor")
        assert found_in([f"{diagnosed.stdout}{diagnosed.stderr}".encode()], forms) == set()
    service.stop()
    assert set(found_in_files(service.directory, forms)) == {path, of_statements}
    assert found_in_files(podman_service.directory, forms) == {}
