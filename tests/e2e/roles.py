"""Processes with roles on one database and store: those that answer, and those that build."""

from e2e.conftest import Make
from e2e.service import Service


def make_api(make: Make, **settings: object) -> Service:
    """A process without workers, not yet started: the engine that its settings name is not there."""
    api = make("api", container_runtime="podman", container_socket_path="/nonexistent", **settings)
    api.program = (*Service.program, "serve", "--no-workers")
    api.change(worker_id="api", worker_poll="0.2s")
    return api


def make_worker(make: Make, api: Service, name: str = "hut", **settings: object) -> Service:
    """A process that only builds, on the database and store of another, not yet started."""
    shared = ("database_path", "public_path", "api_tokens", "new_builds_limit", "worker_poll")
    common = {key: value for key, value in api.settings().items() if key in shared}
    worker = make(name, **{**common, "worker_id": name, **settings})
    worker.program = (*Service.program, "worker")
    worker.change(monitoring_port=worker.port)
    worker.store, worker.database = api.store, api.database
    return worker
