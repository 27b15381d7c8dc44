"""The traps of the wire format (facts on clients, §5) in what is said about branches and versions."""

import json
import os
import shutil
from pathlib import Path

from asu_sample.distribution import Distribution
from asu_sample.server import DownloadServer
from e2e.clients.scene import a_body
from e2e.conftest import Make
from e2e.service import Service
from e2e.warm import warmed
from podman_service import OPKG_VERSION


def test_trap_28_no_branch_that_upstream_has_is_hidden_from_a_client(local_service: Service) -> None:
    warmed(local_service)
    with local_service.client() as client:
        branches = client.get("/json/v1/overview.json").json["branches"]
    assert {"25.12", "24.10", "SNAPSHOT"} <= {name for name, branch in branches.items() if branch["versions"]}
    for branch in branches.values():
        assert not branch["versions"] or branch["targets"]
        assert isinstance(branch["path_packages"], str) and isinstance(branch["package_changes"], list)


def test_trap_29_versions_are_numbers_and_a_snapshot_is_of_its_branch(
    make_local: Make, sample_world: Distribution, tmp_path: Path
) -> None:
    downloads = tmp_path / "downloads"
    shutil.copytree(sample_world.downloads, downloads, copy_function=os.link)
    file = downloads / ".versions.json"
    versions = json.loads(file.read_text())
    versions["versions_list"] += ["24.10.10", "24.10.9", "24.10.0-rc2", "24.10.0-rc10", "24.10.0"]
    file.unlink()
    file.write_text(json.dumps(versions))
    with DownloadServer(downloads) as upstream:
        service = make_local(upstream_url=upstream.url).start()
        warmed(service)
        with service.client() as client:
            branches = client.get("/json/v1/overview.json").json["branches"]
            path = "releases/24.10-SNAPSHOT/targets/pico/nine/acme_small"
            snapshot = client.get(f"/json/v1/{path}.json").json
            refused = client.post(a_body(version="snapshot"))

    numbered = ["24.10.10", "24.10.9", OPKG_VERSION, "24.10.4", "24.10.0", "24.10.0-rc10", "24.10.0-rc2"]
    assert branches["24.10"]["versions"] == [*numbered, "24.10-SNAPSHOT"]
    assert branches["SNAPSHOT"]["versions"] == ["SNAPSHOT"]
    assert snapshot["version_number"] == "24.10-SNAPSHOT"
    assert (refused.status, refused.json["detail"]) == (400, "Unsupported branch: snapshot")
