"""How a command ends: its exit code and its error message."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import IntEnum
from typing import Any

import click

from asu_builder.domain.errors import (
    AsuError,
    BuildFailed,
    BuildNotFound,
    Conflict,
    Fault,
    NotAllowed,
    NotAuthenticated,
    QueueFull,
    RequestRejected,
    StillRead,
    TooManyRequests,
    Unavailable,
)
from asu_builder.settings import SettingsProblem

DEFAULT_SECONDS = 60.0


class ExitCode(IntEnum):
    """What each number says."""

    DONE = 0
    BUILD_FAILED = 1
    USAGE = 2
    REFUSED = 3
    UNAVAILABLE = 4
    MISTAKE = 5
    CANCELLED = 130


MEANINGS: Mapping[ExitCode, str] = {
    ExitCode.DONE: "success; for `build`, the images are downloaded and verified",
    ExitCode.BUILD_FAILED: "the build failed because of the request: change it",
    ExitCode.USAGE: "the command or a setting is invalid",
    ExitCode.REFUSED: "not available here: unknown, not allowed, or no longer there",
    ExitCode.UNAVAILABLE: "a component does not answer or is full: try again later",
    ExitCode.MISTAKE: "a bug of the service, or an image that differs from its announced digest",
    ExitCode.CANCELLED: "cancelled, with Ctrl-C or by another person",
}

_BY_CLASS: Mapping[type[Exception], ExitCode] = {
    SettingsProblem: ExitCode.USAGE,
    BuildFailed: ExitCode.BUILD_FAILED,
    **dict.fromkeys((QueueFull, TooManyRequests, Unavailable), ExitCode.UNAVAILABLE),
    **dict.fromkeys(
        (RequestRejected, NotAuthenticated, NotAllowed, BuildNotFound, Conflict, StillRead), ExitCode.REFUSED
    ),
}
_BY_FAULT = {
    Fault.USER: ExitCode.BUILD_FAILED,
    Fault.WORLD: ExitCode.UNAVAILABLE,
    Fault.OURS: ExitCode.MISTAKE,
}


def code_of_error(error: AsuError | SettingsProblem) -> ExitCode:
    """The number for what was raised; a class is found by its nearest base."""
    return next((_BY_CLASS[base] for base in type(error).__mro__ if base in _BY_CLASS), ExitCode.MISTAKE)


def code_of_build(status: int, document: Mapping[str, Any]) -> ExitCode:
    """The number for how a build ended, from the document that a poll answers."""
    if status == 200:
        return ExitCode.DONE
    if document.get("reason") == "cancelled":
        return ExitCode.CANCELLED
    # An old server does not say whose side it is on; most failures are the request's.
    return _BY_FAULT.get(document.get("fault", Fault.USER), ExitCode.MISTAKE)


def print_error(problem: Exception | str) -> None:
    """Prints what went wrong."""
    click.echo(f"asu-builder: {problem}", err=True)


@contextmanager
def exit_on_error() -> Iterator[None]:
    """Prints the errors of this program and of its settings, and exits with their code."""
    try:
        yield
    except (SettingsProblem, AsuError) as problem:
        print_error(problem)
        sys.exit(code_of_error(problem))
    except KeyboardInterrupt:
        sys.exit(ExitCode.CANCELLED)
