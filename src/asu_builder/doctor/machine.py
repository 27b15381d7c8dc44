"""The machine and the settings: Python, SQLite, clock, user, settings files."""

import os
import platform
import sqlite3
import sys
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from asu_builder.doctor.scene import Scene, Unanswered
from asu_builder.domain.health import CheckResult, error, ok, warning
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
    for path in survey.read:
        if str(path) == survey.origins.get("api_tokens") and path.stat().st_mode & 0o004:
            return warning(f"{path} holds tokens and may be read by everybody.", f"chmod o-rwx {path}")
    absent = ", ".join(map(str, survey.absent))
    looked = f" (also looked for: {absent})" if absent and len(survey.read) < len(CONFIG_FILES) else ""
    return ok(f"{read}{looked}.")


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
    except (Unanswered, ValueError, TypeError):
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
    """Whether the files of this installation belong to the current user."""
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
