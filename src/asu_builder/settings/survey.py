"""Everything that files and variables choose, and every wrong setting at once."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_type_hints

from msgspec import Struct, field
from msgspec.structs import replace

from asu_builder.settings import CONFIG_FILES, PREFIX, Settings, SettingsProblem
from asu_builder.settings.checks import PARTNERS
from asu_builder.settings.files import read_file
from asu_builder.settings.predecessor import said_of, said_of_branch
from asu_builder.settings.values import convert, read_text
from asu_builder.settings.wrong import Wrong, problem_of

_FOR_CLIENTS = ("ASU_BUILDER_SERVER", "ASU_BUILDER_TOKEN")
"""Variables of the commands that ask another server; they may be set where a service starts too."""


class Survey(Struct, frozen=True):
    """What was found. `settings` has the default of whatever is wrong."""

    settings: Settings
    origins: Mapping[str, str]
    """For each setting that was chosen well: a file's path or `variable NAME`."""
    problems: tuple[str, ...]
    """One for each wrong entry, or unreadable file, in the words that would stop a start."""
    read: tuple[Path, ...]
    absent: tuple[Path, ...]


class _Choice(Struct, frozen=True):
    """What one file or variable says of a setting."""

    value: Any
    origin: str
    lines: Mapping[str, int] = field(default_factory=dict)

    def placed(self, wrong: Wrong, name: str = "") -> Wrong:
        """With its place: the line of the entry itself (or of `name`), else of what holds it."""
        name = name or wrong.name
        while name and name not in self.lines:
            name = name[: max(name.rfind("."), name.rfind("["), 0)]
        return replace(wrong, place=f"{self.origin}, line {self.lines[name]}" if name else self.origin)


def survey_settings(
    environment: Mapping[str, str] | None = None,
    files: tuple[Path, ...] | None = None,
    *,
    options: Mapping[str, Any] | None = None,
) -> Survey:
    """Reads what a start would read, and goes on after each problem.

    `options` are settings of the command line, by name; they win over all.
    """
    paths = [path.expanduser() for path in (CONFIG_FILES if files is None else files)]
    problems: list[str] = []
    hints = get_type_hints(Settings)
    chosen = _of_files(paths, problems)
    chosen |= _of_variables(os.environ if environment is None else environment, hints, problems)
    for name, value in (options or {}).items():
        chosen[name] = _Choice(value, "command line")
    good = _fitting(chosen, hints, problems)
    settings = _together(good, chosen, problems)
    return Survey(
        settings,
        {name: chosen[name].origin for name in good},
        tuple(problems),
        tuple(path for path in paths if path.exists()),
        tuple(path for path in paths if not path.exists()),
    )


def require_settings(values: Mapping[str, Any], origin: str) -> None:
    """Raises `SettingsProblem` that names every value no start would take."""
    problems: list[str] = []
    chosen = {name: _Choice(value, origin) for name, value in values.items()}
    _together(_fitting(chosen, get_type_hints(Settings), problems), chosen, problems)
    if problems:
        raise problem_of(problems)


def _fitting(chosen: Mapping[str, _Choice], hints: Mapping[str, Any], problems: list[str]) -> dict[str, Any]:
    """What is of its setting's type."""
    good: dict[str, Any] = {}
    for name, choice in chosen.items():
        wrong = _unknown(name, hints)
        value = None if wrong else convert(name, hints[name], choice.value, wrong)
        problems += [str(choice.placed(_hinted(one))) for one in wrong]
        if not wrong:
            good[name] = value
    return good


def _of_files(paths: list[Path], problems: list[str]) -> dict[str, _Choice]:
    chosen: dict[str, _Choice] = {}
    for path in paths:
        try:
            file = read_file(path)
        except SettingsProblem as problem:
            problems.append(str(problem))
            continue
        problems += map(str, file.twice)
        chosen |= {name: _Choice(value, str(path), file.lines) for name, value in file.values.items()}
    return chosen


def _of_variables(
    environment: Mapping[str, str], hints: Mapping[str, Any], problems: list[str]
) -> dict[str, _Choice]:
    chosen: dict[str, _Choice] = {}
    for variable, text in environment.items():
        if not variable.startswith(PREFIX) or variable in _FOR_CLIENTS:
            continue
        name = variable.removeprefix(PREFIX).lower()
        origin = f"variable {variable}"
        if name in chosen:
            problems.append(
                str(Wrong(name, f"expected it once, but {chosen[name].origin} says it too", origin))
            )
        try:
            value = read_text(name, hints.get(name), text)
        except ValueError as error:
            problems.append(str(Wrong(name, str(error), origin)))
        else:
            chosen[name] = _Choice(value, origin)
    return chosen


def _unknown(name: str, hints: Mapping[str, Any]) -> list[Wrong]:
    if name in hints:
        return []
    if said := said_of(name):
        return [Wrong(name, said)]
    import difflib  # only for whoever mistyped

    plain = name.lower().removeprefix(PREFIX.lower())
    close = difflib.get_close_matches(plain, hints, n=1)
    return [Wrong(name, "there is no such setting" + (f"; did you mean {close[0]}?" if close else ""))]


def _hinted(wrong: Wrong) -> Wrong:
    """An entry of a branch that the predecessor had is explained."""
    said = said_of_branch(wrong.name.rpartition(".")[2]) if wrong.setting == "branches" else ""
    return replace(wrong, sentence=said) if said else wrong


def _together(good: dict[str, Any], chosen: Mapping[str, _Choice], problems: list[str]) -> Settings:
    """The settings. What may not be, alone or with another, is told and taken out of `good`."""
    try:
        return Settings(**good)
    except SettingsProblem as problem:
        for wrong in problem.wrong:
            partner = PARTNERS.get(wrong.setting, "")
            blamed = wrong.setting if wrong.setting in chosen else partner
            choice = chosen.get(blamed)
            entry = wrong.name if blamed == wrong.setting else blamed
            problems.append(str(choice.placed(wrong, entry) if choice else wrong))
            for name in (wrong.setting, partner):
                good.pop(name, None)
        return Settings(**good)
