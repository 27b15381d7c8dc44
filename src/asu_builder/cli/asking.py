"""What is asked for, from options and a file: the body of a build request."""

import difflib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from msgspec import Struct

from asu_builder import __version__
from asu_builder.web.incoming import BuildRequestBody

_NEEDED = ("version", "target", "profile")
_PLAIN = (
    *_NEEDED,
    *("diff_packages", "rootfs_size_mb", "filesystem", "version_code", "repositories_mode"),
)
"""Options that are fields of a request as they are."""


class Wishes(Struct, frozen=True):
    """The options of `build` that say what is wanted; None and empty where nothing was said."""

    request_file: str | None = None
    version: str | None = None
    target: str | None = None
    profile: str | None = None
    packages: Sequence[str] = ()
    diff_packages: bool | None = None
    defaults_file: str | None = None
    rootfs_size_mb: int | None = None
    filesystem: str | None = None
    version_code: str | None = None
    repositories: Sequence[str] = ()
    repositories_mode: str | None = None
    repository_key_files: Sequence[str] = ()


def body_of(wishes: Wishes) -> bytes:
    """The body. What the options say goes above what the file says; packages come in addition.

    Raises `click.UsageError` for what cannot be meant.
    """
    sources = [wishes.request_file, wishes.defaults_file, *wishes.repository_key_files]
    if sources.count("-") > 1:
        raise click.UsageError("standard input can be one file only")
    read = _read_request(wishes.request_file) if wishes.request_file else {}
    document = {"client": f"asu-builder/{__version__}", **read}
    document |= {name: value for name in _PLAIN if (value := getattr(wishes, name)) is not None}
    if wishes.defaults_file:
        document["defaults"] = _read(wishes.defaults_file)
    packages = [name for text in wishes.packages for name in text.replace(",", " ").split()]
    keys = [_read(file) for file in wishes.repository_key_files]
    for name, more in (("packages", packages), ("repository_keys", keys)):
        if more:
            document[name] = [*(document.get(name) or []), *more]
    if wishes.repositories:
        document["repositories"] = {**(document.get("repositories") or {}), **_named(wishes.repositories)}
    missing = [f"--{name}" for name in _NEEDED if not document.get(name)]
    if missing:
        raise click.UsageError(f"nothing says what to build: give {', '.join(missing)}, or a --request")
    return json.dumps(document).encode()


def _read_request(file: str) -> Mapping[str, Any]:
    import yaml

    try:
        document = yaml.safe_load(_read(file))
    except yaml.YAMLError as error:
        raise click.UsageError(f"{file} is neither JSON nor YAML: {error}") from error
    if not isinstance(document, dict):
        raise click.UsageError(f"{file}: expected an object like {{version: 24.10.4, target: ath79/generic}}")
    known = BuildRequestBody.__struct_fields__
    for name in document:
        # The server passes over what it does not know; whoever wrote a file wants to hear of it.
        if name not in known:
            close = difflib.get_close_matches(str(name), known, n=1)
            raise click.UsageError(
                f"{file}: there is no field {name}" + (f"; did you mean {close[0]}?" if close else "")
            )
    # YAML reads 24.10 as a number.
    return {name: str(value) if name == "version" else value for name, value in document.items()}


def _named(texts: Sequence[str]) -> dict[str, str]:
    pairs = [text.partition("=") for text in texts]
    if not all(name and url for name, _, url in pairs):
        raise click.UsageError("--repository: expected NAME=ADDRESS")
    return {name: url for name, _, url in pairs}


def _read(file: str) -> str:
    try:
        return sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise click.UsageError(
            f"{file} cannot be read: {getattr(error, 'strerror', None) or error}"
        ) from error
