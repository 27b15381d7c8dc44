"""The machine and the settings: Python, SQLite, clock, what a Podman without root needs, settings files."""

import os
import platform
import shutil
import sqlite3
import sys
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path

from asu_builder.doctor.asking import Unheard
from asu_builder.doctor.scene import Scene
from asu_builder.domain.check_result import CheckResult, error, ok, warning
from asu_builder.engines.podman.service import systemctl_option
from asu_builder.settings import CONFIG_FILES


def check_settings(scene: Scene) -> CheckResult:
    """Whether each setting is one, and has a value that it may have."""
    survey = scene.survey
    files = ", ".join(map(str, survey.read)) or "no file"
    variables = sum(origin.startswith("variable ") for origin in survey.origins.values())
    read = f"Read: {files}, and {variables} variable{'' if variables == 1 else 's'}"
    if survey.problems:
        return error(
            f"{len(survey.problems)} wrong: {'; '.join(survey.problems)}. {read}.",
            "Correct or remove each; docs/settings.md says what each may be. The checks below go by the "
            "default of each that is wrong.",
        )
    if exposed := _exposed(scene, survey.read):
        return warning(f"{exposed} holds tokens and may be read by everybody.", f"chmod o-rwx {exposed}")
    absent = ", ".join(map(str, survey.absent))
    looked = f" (also looked for: {absent})" if absent and len(survey.read) < len(CONFIG_FILES) else ""
    return ok(f"{read}{looked}.")


def _exposed(scene: Scene, files: tuple[Path, ...]) -> Path | None:
    origin = scene.survey.origins.get("api_tokens", "")
    holding = [path for path in files if str(path) == origin]
    return next((path for path in holding if path.stat().st_mode & 0o004), None)


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


def _no_matter(scene: Scene) -> CheckResult | None:
    """Rootless set-up is the matter of a user whose own Podman builds."""
    if scene.is_local:
        return ok("Builds run without a container engine.")
    if os.geteuid() == 0:
        return ok("The engine runs as root and needs none.")
    engine = scene.engine
    if engine is not None and engine.path.exists() and engine.path.stat().st_uid != os.geteuid():
        return ok("The engine is another user's and needs none of ours.")
    if engine is None and not systemctl_option(scene.sockets()[0].path):
        return ok("The engine is to be the system's and needs none of ours.")
    return None


def check_subordinate_ids(scene: Scene) -> CheckResult:
    """Whether /etc/subuid and /etc/subgid give this user enough ids for a container's users."""
    if no_matter := _no_matter(scene):
        return no_matter
    if _CONTAINER.exists() and shutil.which("podman") is None:
        return ok("Podman runs outside this container, with ids of its own.")
    lacking = [
        str(path)
        for path in (Path("/etc/subuid"), Path("/etc/subgid"))
        if _granted(path, scene.user) < _ENOUGH
    ]
    if not lacking:
        return ok(f"User {scene.user} has subordinate ids.")
    return error(
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


def check_lingering(scene: Scene) -> CheckResult:
    """Whether this user's services live on when nobody is logged in."""
    if no_matter := _no_matter(scene):
        return no_matter
    if not Path("/run/systemd/system").is_dir():
        return ok("There is no systemd that would end services at a logout.")
    if Path("/var/lib/systemd/linger", scene.user).exists():
        return ok(f"Services of {scene.user} live on after a logout.")
    return warning(
        f"Podman of {scene.user} ends when that user logs out.",
        f"loginctl enable-linger {scene.user}",
    )


def check_control_groups(scene: Scene) -> CheckResult:
    """Whether limits of memory, processor and processes hold for this user's containers."""
    if no_matter := _no_matter(scene):
        return no_matter
    if not (_CGROUPS / "cgroup.controllers").exists():
        return warning(
            "This machine has control groups of the first version, where Podman leaves out the limits of "
            "rootless containers: a build may take all of the memory and the processor.",
            "Boot with systemd.unified_cgroup_hierarchy=1   (or use the system's Podman)",
        )
    user = os.geteuid()
    delegated = _CGROUPS / f"user.slice/user-{user}.slice/user@{user}.service/cgroup.controllers"
    try:
        there = delegated.read_text().split()
    except OSError:
        return ok("No session of systemd delegates control groups here.")
    lacking = [name for name in _WANTED if name not in there]
    if lacking:
        return warning(f"systemd delegates no {', '.join(lacking)} to {scene.user}'s containers.", _DELEGATE)
    return ok("Limits of containers hold.")


_PYTHON = (3, 11)
_SQLITE = (3, 38, 0)
"""The queue's statements use RETURNING (3.35) and json_each, built in since 3.38."""
_YEARS = range(2025, 2100)
_SLIGHTLY_OFF, _FAR_OFF = 60.0, 600.0
_SET_CLOCK = "timedatectl set-ntp true   (in a virtual machine or container: set the clock of its host)"


def check_python(_: Scene) -> CheckResult:
    """Whether this Python is one that the program is tested with."""
    found = f"Python {platform.python_version()} ({platform.python_implementation()})"
    if sys.version_info < _PYTHON:
        return error(f"{found} is too old.", "Install Python 3.11 or newer: apt-get install python3.11")
    if sys.platform != "linux":
        return warning(f"{found} on {sys.platform}; builds need Linux.", "Run the service on Linux.")
    return ok(f"{found}.")


def check_sqlite(_: Scene) -> CheckResult:
    """Whether SQLite knows what the queue's statements need, and may be used by threads."""
    found = f"SQLite {sqlite3.sqlite_version}"
    if sqlite3.sqlite_version_info < _SQLITE:
        least = ".".join(map(str, _SQLITE))
        return error(
            f"{found} is too old; {least} is needed.",
            "Use a newer release of the operating system, or a Python that carries its own SQLite: "
            "uv python install 3.12",
        )
    if sqlite3.threadsafety == 0:
        return error(f"{found} was built without threads.", "apt-get install --reinstall libsqlite3-0")
    return ok(f"{found}.")


def check_clock(scene: Scene) -> CheckResult:
    """Whether the year can be true, and how far the clock is from the download server's."""
    now = datetime.now(UTC)
    if now.year not in _YEARS:
        return error(f"The clock says {now:%Y-%m-%d %H:%M} UTC, which cannot be.", _SET_CLOCK)
    try:
        date = scene.versions().one("date")
        # The answer may have been waited for by another check, so the time is taken once more.
        offset = (datetime.now(UTC) - parsedate_to_datetime(date)).total_seconds()
    except (Unheard, ValueError, TypeError):
        return ok(f"The clock says {now:%Y-%m-%d %H:%M} UTC; the download server could not be compared.")
    if abs(offset) < _SLIGHTLY_OFF:
        return ok("The clock agrees with the download server's.")
    relation = "ahead of" if offset > 0 else "behind"
    sentence = (
        f"The clock says {now:%Y-%m-%d %H:%M} UTC and is {_span(offset)} {relation} the download server's."
    )
    if abs(offset) < _FAR_OFF:
        return warning(sentence, _SET_CLOCK)
    return error(f"{sentence} Certificates and the lifetimes of results are judged by it.", _SET_CLOCK)


def _span(seconds: float) -> str:
    for unit, name in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if abs(seconds) >= 2 * unit:
            return f"{abs(seconds) / unit:.0f} {name}"
    return f"{abs(seconds):.0f} seconds"


def check_user(scene: Scene) -> CheckResult:
    """Whether the files of this installation belong to whoever asks."""
    database = scene.settings.database_path
    try:
        owner = database.stat().st_uid
    except OSError:
        return ok(f"Asked as user {scene.user}.")
    if owner == os.geteuid():
        return ok(f"Asked as user {scene.user}, who owns the database.")
    return warning(
        f"Asked as user {scene.user}, but the database {database} belongs to user number {owner}: "
        "rights and sockets may be others for that user.",
        f"Ask as that user: setpriv --reuid {owner} --init-groups asu-builder doctor",
    )
