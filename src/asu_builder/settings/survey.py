"""Every wrong setting at once, for whoever looks for what is wrong; a start ends with the first."""

import os
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, get_type_hints

from msgspec import Struct

from asu_builder.settings import CONFIG_FILES, PREFIX, Settings, SettingsProblem, convert, read_file

_PARTNERS: Mapping[str, Mapping[str, Any]] = {
    "idle_sinks_after": {"idle_expires_after": timedelta.max},
    "idle_expires_after": {"idle_sinks_after": timedelta.resolution},
}
"""What a setting that is measured by another is put beside when it is looked at alone."""
_APART = ("idle_sinks_after", "idle_expires_after", "package_changes_path", "package_changes_url")


class Survey(Struct, frozen=True):
    """What was found. `settings` has the default of whatever is wrong."""

    settings: Settings
    origins: Mapping[str, str]
    """For each setting that was chosen well: a file's path or `variable NAME`."""
    problems: tuple[str, ...]
    """One for each wrong setting, or unreadable file, in the words that would stop a start."""
    read: tuple[Path, ...]
    absent: tuple[Path, ...]


def survey_settings(
    environment: Mapping[str, str] | None = None, files: tuple[Path, ...] | None = None
) -> Survey:
    """Reads what a start would read, and goes on after each problem."""
    paths = [path.expanduser() for path in (CONFIG_FILES if files is None else files)]
    problems: list[str] = []
    chosen = _chosen(paths, os.environ if environment is None else environment, problems)
    hints = get_type_hints(Settings)
    good: dict[str, Any] = {}
    for name, (value, origin) in chosen.items():
        try:
            converted = convert(name, value, hints, origin=origin)
            Settings(**{**_PARTNERS.get(name, {}), name: converted})
        except SettingsProblem as problem:
            text = str(problem)
            problems.append(text if origin in text else f"{text} ({origin})")
        else:
            good[name] = converted
    return Survey(
        _together(good, problems),
        {name: chosen[name][1] for name in good},
        tuple(problems),
        tuple(path for path in paths if path.exists()),
        tuple(path for path in paths if not path.exists()),
    )


def _chosen(
    paths: list[Path], environment: Mapping[str, str], problems: list[str]
) -> dict[str, tuple[Any, str]]:
    chosen: dict[str, tuple[Any, str]] = {}
    for path in paths:
        try:
            chosen |= {name: (value, str(path)) for name, value in read_file(path).items()}
        except SettingsProblem as problem:
            problems.append(str(problem))
    for variable, text in environment.items():
        if variable.startswith(PREFIX):
            chosen[variable.removeprefix(PREFIX).lower()] = (text, f"variable {variable}")
    return chosen


def _together(good: Mapping[str, Any], problems: list[str]) -> Settings:
    """Settings that are well alone may not go together: the pair in question keeps its defaults."""
    try:
        return Settings(**good)
    except SettingsProblem as problem:
        problems.append(str(problem))
        return Settings(**{name: value for name, value in good.items() if name not in _APART})
