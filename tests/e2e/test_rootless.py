"""Builds in the Podman of a user without root, on the network that the settings name by default.

The user is real for the kernel and for Podman, and known to this machine only below the engine: its name
and its subordinate ids are in files that are mounted there.
"""

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from asu_sample.distribution import Distribution
from asu_sample.server import DownloadServer
from e2e.conftest import podman_settings
from e2e.service import Service
from podman_service import APK_VERSION, PodmanService, service_folder, start_with_images
from tools import require_tool, tool_missing

NUMBER = 47_110
NAME = "asurootless"
FILES = {
    "passwd": f"root:x:0:0:root:/root:/bin/sh\n{NAME}:x:{NUMBER}:{NUMBER}::{{home}}:/bin/sh\n",
    "group": f"root:x:0:\n{NAME}:x:{NUMBER}:\n",
    "subuid": f"{NAME}:4711000:65536\n",
    "subgid": f"{NAME}:4711000:65536\n",
}
_BELOW = """
for name in passwd group subuid subgid; do mount --bind "$0/$name" "/etc/$name" || exit 1; done
exec setpriv --reuid={number} --regid={number} --clear-groups env HOME="$0" XDG_RUNTIME_DIR="$0/r" \\
  USER={name} LOGNAME={name} "$@"
"""


class RootlessPodman(PodmanService):
    """A `podman system service` that is no more than a user."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        (directory / "r").mkdir(mode=0o700)
        for name, text in FILES.items():
            (directory / name).write_text(text.format(home=directory))
        for path in (directory, directory / "r"):
            os.chown(path, NUMBER, NUMBER)

    def command(self) -> list[str]:
        """As that user, in a mount namespace where it has a name."""
        script = _BELOW.format(number=NUMBER, name=NAME)
        below = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, str(self.directory)]
        return [*below, *super().command()]

    def remove(self) -> None:
        """Ends all that the user runs: Podman leaves a process that holds its namespaces."""
        super().remove()
        for entry in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                owner = entry.stat().st_uid
                if owner == NUMBER or 4_711_000 <= owner < 4_711_000 + 65_536:
                    os.kill(int(entry.name), signal.SIGKILL)
        shutil.rmtree(self.directory, ignore_errors=True)


@pytest.fixture(scope="module")
def rootless(sample_world: Distribution) -> Iterator[RootlessPodman]:
    """A running engine that holds the sample ImageBuilder and has started a container."""
    require_tool("podman-rootless", "podman", "unshare", "setpriv", "newuidmap", "slirp4netns")
    if os.getuid() != 0:
        tool_missing("podman-rootless", "only root may become another user")
    service = RootlessPodman(service_folder())
    try:
        start_with_images(service, sample_world, APK_VERSION)
        yield service
    except RuntimeError as error:
        tool_missing("podman-rootless", str(error))
    finally:
        service.remove()


@pytest.mark.long
def test_a_podman_without_root_builds_on_the_default_network(
    rootless: RootlessPodman, upstream: DownloadServer, tmp_path: Path
) -> None:
    assert rootless.socket.stat().st_uid == NUMBER
    settings = podman_settings(rootless.socket, upstream.url)
    del settings["build_network"]
    service = Service(tmp_path / "service", settings)
    try:
        with service.start().client() as client:
            answer = client.build({"version": APK_VERSION, "target": "pico/nine", "profile": "acme,widget-5"})
            health = client.get("/health?for=build").json
        assert answer.status == 200, (answer.body, service.stderr())
        assert health["parts"]["engine"]["status"] == "ok"
    finally:
        service.end()
    assert rootless.containers("asu.installation") == []
