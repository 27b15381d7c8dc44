"""Where builds run: the container engine and its sockets, or the local runtime."""

import os
import shutil
from pathlib import Path

from asu_builder.doctor.asking import SocketAnswer
from asu_builder.doctor.scene import Scene
from asu_builder.domain.check_result import CheckResult, error, ok, warning
from asu_builder.engines.local.sandbox import bubblewrap_works
from asu_builder.engines.podman.service import socket_candidates, systemctl_option, what_helps

_OLDEST = 4
"""libpod's API as this program speaks it came with Podman 4."""


def check_engine(scene: Scene) -> CheckResult:
    """Which sockets were tried, what each answered, and what follows."""
    if scene.is_local:
        return _check_local(scene)
    tried = "; ".join(answer.sentence for answer in scene.sockets())
    chosen = scene.socket
    if chosen is None:
        return error(f"Podman's socket was not found: {tried}.", _how_to_find(scene))
    if chosen.version:
        if int(chosen.version.partition(".")[0] or 0) < _OLDEST:
            return error(f"{chosen.sentence}, which is too old.", "Use Podman 4 or newer.")
        return ok(f"{chosen.sentence}.")
    return error(f"The socket that would be used does not work: {tried}.", _remedy(scene, chosen))


def _remedy(scene: Scene, chosen: SocketAnswer) -> str:
    if chosen.problem == "closed":
        return _ways_in(scene, chosen)
    if chosen.problem == "silent":
        user = systemctl_option(chosen.path)
        return (
            f"Restart it: systemctl{user} restart podman.service   (then see what it says: "
            f"journalctl{user} -u podman.service -n 50)"
        )
    if chosen.problem == "strange":
        return "Set container_socket_path to Podman's socket; Docker's API lacks what builds need."
    return _how_to_start(scene)


def _ways_in(scene: Scene, chosen: SocketAnswer) -> str:
    """Its own Podman, or a door in somebody else's: the socket, and the directory above it."""
    group = f"$(id -g {scene.user})"
    door = f"chgrp {group} {chosen.path} && chmod 660 {chosen.path}"
    if chosen.hidden:
        door = f"chgrp {group} {chosen.path.parent} && chmod 710 {chosen.path.parent} && {door}"
    if chosen.path == scene.sockets()[0].path and not systemctl_option(chosen.path):
        return f"Let {scene.user} in, as root: {door}   (asu-builder install-service makes that last)"
    return f"Use {scene.user}'s own Podman: {_how_to_start(scene)}   (or let this user in: {door})"


def _how_to_find(scene: Scene) -> str:
    chosen = scene.settings.container_socket_path
    if not chosen or shutil.which("podman") is None:
        return _how_to_start(scene)
    return what_helps(scene.sockets()[0].path, environment=scene.environment)


def _how_to_start(scene: Scene) -> str:
    if shutil.which("podman") is None:
        return f"apt-get install podman && {_start_line(scene)}"
    return _start_line(scene)


def _start_line(scene: Scene) -> str:
    usual = scene.sockets()[0].path in socket_candidates(environment=scene.environment)
    if usual and Path("/run/systemd/system").is_dir():
        return f"systemctl{systemctl_option(scene.sockets()[0].path)} enable --now podman.socket"
    path = scene.settings.container_socket_path.removeprefix("unix://") or str(scene.sockets()[-1].path)
    if os.geteuid() != 0 and not scene.settings.container_socket_path:
        path = str(scene.sockets()[0].path)
    return f"mkdir -p {Path(path).parent} && podman system service --time=0 unix://{path} &"


def _check_local(scene: Scene) -> CheckResult:
    template = scene.settings.imagebuilder_path
    if not template:
        return error(
            "The local runtime has no ImageBuilder.",
            "Set imagebuilder_path to where one is unpacked, like /srv/imagebuilders/{version}/{target}/"
            "{subtarget}, or container_runtime to podman.",
        )
    found = imagebuilders(template)
    if not found:
        return error(
            f"There is no ImageBuilder at {template}.",
            "Unpack one there: tar --zstd -xf FILE.tar.zst --strip-components=1 -C DIRECTORY",
        )
    sandbox = "in a sandbox"
    if not bubblewrap_works():
        if not scene.settings.allow_unsandboxed:
            return error(
                "bubblewrap is missing or may not create its sandbox here, so nothing is built.",
                "apt-get install bubblewrap   (in a container: use Podman; allow_unsandboxed: true only on a "
                "machine that nobody else can reach)",
            )
        sandbox = "WITHOUT A SANDBOX, as allow_unsandboxed says"
        if shutil.which("bwrap") is None:
            return warning(f"{len(found)} ImageBuilders; builds run {sandbox}.", "apt-get install bubblewrap")
    return ok(f"Local runtime: {len(found)} ImageBuilders; builds run {sandbox}.")


def imagebuilders(template: str) -> list[Path]:
    """The directories with a Makefile that the template may mean."""
    pattern = template
    for name in ("version", "target", "subtarget"):
        pattern = pattern.replace(f"{{{name}}}", "*")
    absolute = Path(pattern).absolute()
    return sorted(path.parent for path in Path("/").glob(f"{str(absolute).lstrip('/')}/Makefile"))
