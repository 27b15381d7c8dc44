"""The machine: Python, SQLite, clock."""

import os
import platform
import sqlite3
import sys
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from asu_builder.doctor.asking import Unheard
from asu_builder.doctor.scene import Scene
from asu_builder.domain.diagnosis import Finding, doubtful, well, wrong

_PYTHON = (3, 11)
_SQLITE = (3, 38, 0)
"""The queue's statements use RETURNING (3.35) and json_each, built in since 3.38."""
_YEARS = range(2025, 2100)
_SLIGHTLY_OFF, _FAR_OFF = 60.0, 600.0
_SET_CLOCK = "timedatectl set-ntp true   (in a virtual machine or container: set the clock of its host)"


def check_python(_: Scene) -> Finding:
    """Whether this Python is one that the program is tested with."""
    found = f"Python {platform.python_version()} ({platform.python_implementation()})"
    if sys.version_info < _PYTHON:
        return wrong(f"{found} is too old.", "Install Python 3.11 or newer: apt-get install python3.11")
    if sys.platform != "linux":
        return doubtful(f"{found} on {sys.platform}; builds need Linux.", "Run the service on Linux.")
    return well(f"{found}.")


def check_sqlite(_: Scene) -> Finding:
    """Whether SQLite knows what the queue's statements need, and may be used by threads."""
    found = f"SQLite {sqlite3.sqlite_version}"
    if sqlite3.sqlite_version_info < _SQLITE:
        least = ".".join(map(str, _SQLITE))
        return wrong(
            f"{found} is too old; {least} is needed.",
            "Use a newer release of the operating system, or a Python that carries its own SQLite: "
            "uv python install 3.12",
        )
    if sqlite3.threadsafety == 0:
        return wrong(f"{found} was built without threads.", "apt-get install --reinstall libsqlite3-0")
    return well(f"{found}.")


def check_clock(scene: Scene) -> Finding:
    """Whether the year can be true, and how far the clock is from the download server's."""
    now = datetime.now(UTC)
    if now.year not in _YEARS:
        return wrong(f"The clock says {now:%Y-%m-%d %H:%M} UTC, which cannot be.", _SET_CLOCK)
    try:
        date = scene.versions().one("date")
        # The answer may have been waited for by another check, so the time is taken once more.
        offset = (datetime.now(UTC) - parsedate_to_datetime(date)).total_seconds()
    except (Unheard, ValueError, TypeError):
        return well(f"The clock says {now:%Y-%m-%d %H:%M} UTC; the download server could not be compared.")
    if abs(offset) < _SLIGHTLY_OFF:
        return well("The clock agrees with the download server's.")
    relation = "ahead of" if offset > 0 else "behind"
    sentence = (
        f"The clock says {now:%Y-%m-%d %H:%M} UTC and is {_span(offset)} {relation} the download server's."
    )
    if abs(offset) < _FAR_OFF:
        return doubtful(sentence, _SET_CLOCK)
    return wrong(f"{sentence} Certificates and the lifetimes of results are judged by it.", _SET_CLOCK)


def _span(seconds: float) -> str:
    for unit, name in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if abs(seconds) >= 2 * unit:
            return f"{abs(seconds) / unit:.0f} {name}"
    return f"{abs(seconds):.0f} seconds"


def check_user(scene: Scene) -> Finding:
    """Whether the files of this installation belong to whoever asks."""
    database = scene.settings.database_path
    try:
        owner = database.stat().st_uid
    except OSError:
        return well(f"Asked as user {scene.user}.")
    if owner == os.geteuid():
        return well(f"Asked as user {scene.user}, who owns the database.")
    return doubtful(
        f"Asked as user {scene.user}, but the database {database} belongs to user number {owner}: "
        "rights and sockets may be others for that user.",
        f"Ask as that user: setpriv --reuid {owner} --init-groups asu-builder doctor",
    )
