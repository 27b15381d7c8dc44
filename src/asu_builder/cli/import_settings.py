"""`asu-builder import-settings`: the predecessor's `asu.toml` as a settings file of ours."""

import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from asu_builder.cli.opening import told
from asu_builder.domain.branches import BUILT_IN
from asu_builder.settings import SETTING_NAMES, BranchSetting, SettingsProblem
from asu_builder.settings.predecessor import LOG_LEVELS, RENAMED, SAME_VALUES, said_of, said_of_branch
from asu_builder.settings.survey import require_settings

_UNKNOWN = "not known here, and left out"


@click.command("import-settings")
@click.argument("file", type=click.Path(path_type=Path))
def import_settings_command(file: Path) -> None:
    """Prints what the predecessor's FILE (asu.toml) says as YAML of this service; changes nothing."""
    with told():
        lines = list(translate(_read(file), str(file)))
    click.echo(f"# From {file.name}. Save it as /etc/asu/config.yaml or config.yaml.")
    click.echo("\n".join(lines))


def _read(file: Path) -> Mapping[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsProblem(f"{file} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsProblem(f"{file} is not valid TOML: {error}") from error


def translate(theirs: Mapping[str, Any], origin: str) -> Iterator[str]:
    """The lines of a settings file; what has no setting here is a comment.

    Raises `SettingsProblem` for values that no setting here may have, all of them at once.
    """
    ours: dict[str, Any] = {}
    comments: list[str] = []
    for key, value in theirs.items():
        name = key.lower()
        if name == "branches":
            ours[name], said = _branches(value)
            comments += said
        elif name == "log_level":
            level = str(value).strip().lower()
            ours[name] = LOG_LEVELS.get(level, level)
        elif name in SETTING_NAMES:
            ours[name] = value
        elif name in SAME_VALUES:
            ours[RENAMED[name]] = value
        else:
            comments.append(f"{key}: {said_of(name) or _UNKNOWN}")
    require_settings(ours, origin)
    import yaml

    yield from (f"# {comment}" for comment in comments)
    if ours:
        yield yaml.safe_dump(ours, sort_keys=False, allow_unicode=True, width=10_000).rstrip()


def _branches(theirs: Any) -> tuple[Any, list[str]]:
    """Where they differ from the built-in ones; what the predecessor did not list, it did not offer."""
    if not isinstance(theirs, Mapping):
        return theirs, []
    ours: dict[str, Any] = {}
    comments: list[str] = []
    for name, branch in theirs.items():
        if not isinstance(branch, Mapping):
            ours[name] = branch
            continue
        kept = {key: value for key, value in branch.items() if key in BranchSetting.__annotations__}
        comments += [
            f"branches.{name}.{key}: {said_of_branch(key) or _UNKNOWN}" for key in branch if key not in kept
        ]
        standing = BUILT_IN.get(name)
        differing = {
            key: value for key, value in kept.items() if standing is None or getattr(standing, key) != value
        }
        if differing or standing is None:
            ours[name] = differing
    return ours | {name: {"enabled": False} for name in BUILT_IN if name not in theirs}, comments
