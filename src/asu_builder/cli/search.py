"""`asu-builder versions`, `devices` and `packages`: what can be built, here or on a server."""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import click

from asu_builder.cli.backend import open_backend, server_options
from asu_builder.cli.exit_codes import DEFAULT_SECONDS, ExitCode
from asu_builder.cli.views import print_json, print_table
from asu_builder.client.server import ServerOffers, retry
from asu_builder.domain.errors import RequestRejected
from asu_builder.domain.release import MAIN

_SECONDS_FOR_TARGETS = 10.0
_NOT_YET = f"The download server has not told all targets yet. Trying for {DEFAULT_SECONDS:.0f} s."
_Found = TypeVar("_Found")
_json_option = click.option("--json", "as_json", is_flag=True, help="Print the whole response as JSON.")
_limit_option = click.option(
    "--limit", type=click.IntRange(1, 100), default=20, show_default=True, help="At most so many."
)
_version_option = click.option(
    "--version", "version", metavar="VERSION", help="In this version; default: the latest release."
)


@click.command("versions")
@_json_option
@server_options
def versions_command(as_json: bool, server: str, token: str) -> None:
    """Lists the versions that can be built, newest first."""
    with open_backend(server, token) as backend:
        branches = _branches(backend.offers)
        latest = _ask(backend.offers.latest)
    if as_json:
        print_json({"latest": latest, "branches": branches})
        return
    rows = [
        {
            "version": version,
            "branch": branch["name"],
            "note": "latest" if version in latest else "",
            "targets": len(branch["targets"]),
        }
        for branch in branches
        for version in branch["versions"]
        # The main branch is there on a mirror without snapshots too.
        if branch["targets"] or not version.endswith(MAIN)
    ]
    print_table(rows, ("version", "branch", "targets", "note"))


@click.command("devices")
@click.argument("words", nargs=-1)
@_version_option
@_limit_option
@_json_option
@server_options
def devices_command(
    words: Sequence[str], version: str | None, limit: int, as_json: bool, server: str, token: str
) -> None:
    """Finds devices by words of their names: what --target and --profile of `build` want to hear."""
    with open_backend(server, token) as backend:
        release = version or _newest(backend.offers)
        found = _ask(lambda: backend.offers.devices(release, " ".join(words), limit))
    _print_found(found, "devices", ("target", "profile", "title"), as_json=as_json)


@click.command("packages")
@click.argument("words", nargs=-1)
@_version_option
@click.option("--target", required=True, metavar="TARGET", help="For this target, like ath79/generic.")
@_limit_option
@_json_option
@server_options
def packages_command(
    words: Sequence[str],
    version: str | None,
    target: str,
    limit: int,
    as_json: bool,
    server: str,
    token: str,
) -> None:
    """Finds packages by words of their names."""
    with open_backend(server, token) as backend:
        release = version or _newest(backend.offers)
        found = _ask(lambda: backend.offers.packages(release, target, " ".join(words), limit))
    _print_found(found, "packages", ("name", "version"), as_json=as_json)


def _ask(question: Callable[[], _Found]) -> _Found:
    return retry(question, seconds=DEFAULT_SECONDS, note=partial(click.echo, err=True))


def _branches(offers: ServerOffers) -> list[dict[str, Any]]:
    """Every branch, with its targets as soon as they are known; without those that stay unknown.

    A first look may come before upstream has answered.
    """
    until = None
    while True:
        branches = _ask(offers.branches)
        # As it says; of a server's, a release has targets, and snapshots need not be there.
        missing = [
            branch["name"]
            for branch in branches
            if not branch.get(
                "complete", branch["targets"] or all(name.endswith(MAIN) for name in branch["versions"])
            )
        ]
        if not missing:
            return branches
        if until is None:
            until = time.monotonic() + _SECONDS_FOR_TARGETS
            click.echo(_NOT_YET, err=True)
        if time.monotonic() >= until:
            click.echo(f"The download server does not tell the targets of {', '.join(missing)}.", err=True)
            return branches
        time.sleep(1)


def _newest(offers: ServerOffers) -> str:
    latest = _ask(offers.latest)
    # The upcoming release comes first, and is not the default.
    released = [version for version in latest if "-rc" not in version] or latest
    if not released:
        raise RequestRejected("No release is offered; name a --version.")
    return released[0]


def _print_found(found: Mapping[str, Any], what: str, columns: Sequence[str], *, as_json: bool) -> None:
    rows = found[what]
    if as_json:
        print_json(found)
    elif rows:
        if found.get("guessed"):
            click.echo("Nothing is called so; these are the most alike:", err=True)
        print_table(rows, columns)
        if found["more"]:
            click.echo("There are more; say more words, or --limit.", err=True)
    if not rows:
        click.echo(f"Nothing is called so among the {what} of {found['version']}.", err=True)
        sys.exit(ExitCode.REFUSED)
