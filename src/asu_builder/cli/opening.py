"""What every command that works on this installation needs: settings, database, store."""

import getpass
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import click

from asu_builder.bootstrap import make_operator
from asu_builder.bootstrap.world import World, reach
from asu_builder.cli.exit_codes import ExitCode, code_of_error
from asu_builder.domain.errors import AsuError, Unavailable
from asu_builder.services.operator import Operator
from asu_builder.settings import Settings, SettingsProblem, load_settings


def now() -> datetime:
    """The time in UTC."""
    return datetime.now(UTC)


def who() -> str:
    """Who is at the command line, for the record of acts."""
    return f"cli:{getpass.getuser()}"


@contextmanager
def told() -> Iterator[None]:
    """Ends the program with a sentence where something meant goes wrong, and the number for it."""
    try:
        yield
    except SettingsProblem as problem:
        complain(problem)
        sys.exit(ExitCode.USAGE)
    except AsuError as problem:
        complain(problem)
        sys.exit(code_of_error(problem))
    except KeyboardInterrupt:
        sys.exit(ExitCode.CANCELLED)


def complain(problem: Exception | str) -> None:
    """Says what went wrong."""
    click.echo(f"asu-builder: {problem}", err=True)


@contextmanager
def installation() -> Iterator[tuple[Settings, World]]:
    """The installation that the settings name; a service may run beside."""
    with told():
        settings = load_settings()
        if not settings.database_path.exists():
            # A mistyped place, or another directory: an empty installation there would help nobody.
            place = settings.database_path
            raise Unavailable(f"There is no database {place}. Name it by database_path, as for the service.")
        world = reach(settings, now)
        # Nothing is built here, and a service that starts meanwhile is to find its former jobs by it.
        world.name.release()
        try:
            yield settings, world
        finally:
            try:
                world.statistics.flush()
            finally:
                world.close()


@contextmanager
def operator() -> Iterator[Operator]:
    """The operator's hand; workers of a running service see what it does within moments."""
    with installation() as (settings, world):
        yield make_operator(settings, world, now=now, wake=lambda: None)
