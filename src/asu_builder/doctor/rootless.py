"""What a Podman without root needs of the machine: ids, lingering, control groups."""

import os
import shutil
from pathlib import Path

from asu_builder.adapters.podman_engine import systemctl_option
from asu_builder.doctor.scene import Scene
from asu_builder.domain.diagnosis import Finding, doubtful, well, wrong

_ENOUGH = 65536
_CGROUPS = Path("/sys/fs/cgroup")
_CONTAINER = Path("/run/.containerenv")
"""Podman puts it into each container."""
_WANTED = ("cpu", "memory", "pids")
_DELEGATE = (
    "mkdir -p /etc/systemd/system/user@.service.d && "
    "printf '[Service]\\nDelegate=cpu cpuset io memory pids\\n' "
    "> /etc/systemd/system/user@.service.d/delegate.conf && systemctl daemon-reload   (as root)"
)


def _no_matter(scene: Scene) -> Finding | None:
    """Rootless set-up is the matter of a user whose own Podman builds."""
    if scene.is_local:
        return well("Builds run without a container engine.")
    if os.geteuid() == 0:
        return well("The engine runs as root and needs none.")
    engine = scene.engine
    if engine is not None and engine.path.exists() and engine.path.stat().st_uid != os.geteuid():
        return well("The engine is another user's and needs none of ours.")
    if engine is None and not systemctl_option(scene.sockets()[0].path):
        return well("The engine is to be the system's and needs none of ours.")
    return None


def check_subordinate_ids(scene: Scene) -> Finding:
    """Whether /etc/subuid and /etc/subgid give this user enough ids for a container's users."""
    if no_matter := _no_matter(scene):
        return no_matter
    if _CONTAINER.exists() and shutil.which("podman") is None:
        return well("Podman runs outside this container, with ids of its own.")
    lacking = [
        str(path)
        for path in (Path("/etc/subuid"), Path("/etc/subgid"))
        if _granted(path, scene.user) < _ENOUGH
    ]
    if not lacking:
        return well(f"User {scene.user} has subordinate ids.")
    return wrong(
        f"User {scene.user} has no range of {_ENOUGH} ids in {' and '.join(lacking)}; rootless containers "
        "cannot be unpacked.",
        f"usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {scene.user}   (as root; then as "
        f"{scene.user}: podman system migrate)",
    )


def _granted(path: Path, user: str) -> int:
    total = 0
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return 0
    for line in lines:
        name, _, numbers = line.strip().partition(":")
        count = numbers.rpartition(":")[2]
        if name in (user, str(os.geteuid())) and count.isdigit():
            total += int(count)
    return total


def check_lingering(scene: Scene) -> Finding:
    """Whether this user's services live on when nobody is logged in."""
    if no_matter := _no_matter(scene):
        return no_matter
    if not Path("/run/systemd/system").is_dir():
        return well("There is no systemd that would end services at a logout.")
    if Path("/var/lib/systemd/linger", scene.user).exists():
        return well(f"Services of {scene.user} live on after a logout.")
    return doubtful(
        f"Podman of {scene.user} ends when that user logs out.", f"loginctl enable-linger {scene.user}"
    )


def check_control_groups(scene: Scene) -> Finding:
    """Whether limits of memory, processor and processes hold for this user's containers."""
    if no_matter := _no_matter(scene):
        return no_matter
    if not (_CGROUPS / "cgroup.controllers").exists():
        return doubtful(
            "This machine has control groups of the first version, where Podman leaves out the limits of "
            "rootless containers: a build may take all of the memory and the processor.",
            "Boot with systemd.unified_cgroup_hierarchy=1   (or use the system's Podman)",
        )
    user = os.geteuid()
    delegated = _CGROUPS / f"user.slice/user-{user}.slice/user@{user}.service/cgroup.controllers"
    try:
        there = delegated.read_text().split()
    except OSError:
        return well("No session of systemd delegates control groups here.")
    lacking = [name for name in _WANTED if name not in there]
    if lacking:
        return doubtful(f"systemd delegates no {', '.join(lacking)} to {scene.user}'s containers.", _DELEGATE)
    return well("Limits of containers hold.")
