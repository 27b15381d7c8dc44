"""A snapshot's container holds no ImageBuilder: `setup.sh` loads it over a network of the builds' own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from asu_sample.container import import_image
from asu_sample.distribution import Distribution, snapshot_builder
from asu_sample.server import DownloadServer
from e2e.conftest import Make
from e2e.images import unsquash
from podman_service import APK_VERSION, SAMPLE_REGISTRY
from tools import tool_missing

NETWORK = "asu-e2e"


@pytest.fixture
def gateway(podman_socket: Path, sample_images: str) -> Iterator[str]:
    """The host's address on a bridge that only containers of this Podman reach; it lives with a container."""
    from podman import PodmanClient
    from podman.errors import APIError

    with PodmanClient(base_url=f"unix://{podman_socket}", timeout=120) as client:
        image = f"{SAMPLE_REGISTRY}:pico-nine-v{APK_VERSION}"
        try:
            network = client.networks.create(NETWORK, driver="bridge")
            holder = client.containers.create(image, command=["sleep", "120"], networks={NETWORK: {}})
        except APIError as error:
            tool_missing("podman", f"it cannot make a network here: {error}")
        try:
            holder.start()
            yield str(network.attrs["subnets"][0]["gateway"])
        except APIError as error:
            tool_missing("podman", f"it cannot start a container with a network here: {error}")
        finally:
            holder.kill()
            holder.remove(force=True, v=True)
            network.remove(force=True)


@pytest.mark.long
def test_a_snapshot_is_loaded_verified_and_built_in_a_container(
    make_podman: Make, gateway: str, podman_socket: Path, sample_world: Distribution, tmp_path: Path
) -> None:
    start = snapshot_builder(tmp_path / "start")
    import_image(f"unix://{podman_socket}", f"{SAMPLE_REGISTRY}:pico-nine-master", start)
    with DownloadServer(sample_world.downloads, host=gateway) as server:
        service = make_podman(upstream_url=server.url, build_network=NETWORK).start()
        with service.client() as client:
            body = {"version": "SNAPSHOT", "target": "pico/nine", "profile": "widget5", "packages": ["vim"]}
            build = client.build(body).json
            assert build["status"] == 200, build
            (image,) = [image for image in build["images"] if image["type"] == "sysupgrade"]
            content = client.get(f"/store/{build['bin_dir']}/{image['name']}").body

    assert build["version_number"] == "SNAPSHOT"
    assert unsquash(content, tmp_path / "image").has_package("vim")
    assert "Traceback" not in service.stderr()
