"""`asu-builder versions`, `devices` and `packages`: what can be built or installed, here or on a server."""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import click
import msgspec

from asu_builder.cli.backend import open_backend, server_options
from asu_builder.cli.exit_codes import DEFAULT_SECONDS, ExitCode
from asu_builder.cli.views import print_json, print_table, printable
from asu_builder.client.server import ServerOffers, retry
from asu_builder.domain.errors import RequestRejected
from asu_builder.domain.release import MAIN

_SECONDS_FOR_TARGETS = 10.0
_MOST_DEVICES = 100
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


class _SearchUnlessNamed(click.Group):
    """A group whose `search` need not be named."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, *self.get_help_option_names(ctx)):
            args = ["search", *args]
        return super().parse_args(ctx, args)


@click.group("packages", cls=_SearchUnlessNamed)
def packages_group() -> None:
    """Finds packages, and checks whether a selection can be installed.

    `packages WORDS` is short for `packages search WORDS`.
    """


@packages_group.command("search")
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


@packages_group.command("check")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@_version_option
@click.option("--target", required=True, metavar="TARGET", help="For this target, like ath79/generic.")
@click.option("--profile", metavar="PROFILE", help="For this device; default: the target's first one.")
@_json_option
@server_options
def check_command(
    names: Sequence[str],
    version: str | None,
    target: str,
    profile: str | None,
    as_json: bool,
    server: str,
    token: str,
) -> None:
    """Tells whether packages can be installed beside a device's default ones, without building anything.

    `-NAME` (after `--`) leaves out a default package. Exits with 1 where they cannot be installed, with 4
    where it cannot be told.
    """
    with open_backend(server, token) as backend:
        offers = backend.offers
        release = version or _newest(offers)
        if not profile:
            profile = _first_profile(offers, release, target)
            click.echo(f"Checked with the default packages of {profile}; --profile names another.", err=True)
        body = {"version": release, "target": target, "profile": profile, "packages": names}
        found = _ask(lambda: offers.preview(msgspec.json.encode(body)))
    if as_json:
        print_json(found)
    elif found["verdict"] == "fine":
        print_table(
            [{"name": name, "version": held} for name, held in sorted(found["packages"].items())],
            ("name", "version"),
        )
    if found["verdict"] == "fine":
        for name in found.get("kept", ()):
            # A device's own default packages are taken away for other reasons.
            if f"-{name}" in names:
                click.echo(f"{printable(name)} stays: other packages need it.", err=True)
        counts = (found["download_size"], found["installed_size"])
        sizes = [f"{n / 1e6:.1f} MB" if n >= 1e5 else f"{n / 1e3:.0f} kB" for n in counts]
        click.echo(
            f"These can be installed: {len(found['packages'])} packages, {sizes[0]}, unpacked {sizes[1]}.",
            err=True,
        )
        return
    for entry in found["unknown"]:
        meant = f" Did you mean {' or '.join(entry['suggestions'])}?" if entry["suggestions"] else ""
        click.echo(printable(f"{entry['name']} does not exist.{meant}"), err=True)
    if found["verdict"] == "unknown":
        exist = "" if found["unknown"] or not found["indexes_known"] else "All of these exist. "
        sentence = "Whether they can be installed together cannot be told yet: a build finds out."
        click.echo(printable(f"{exist}{sentence} {found.get('reason', '')}"), err=True)
    else:
        click.echo(printable(found["detail"]), err=True)
    sys.exit(ExitCode.BUILD_FAILED if found["verdict"] == "impossible" else ExitCode.UNAVAILABLE)


def _first_profile(offers: ServerOffers, version: str, target: str) -> str:
    devices = _ask(lambda: offers.devices(version, target, _MOST_DEVICES))["devices"]
    profiles = sorted(device["profile"] for device in devices if device["target"] == target)
    if not profiles:
        raise RequestRejected(f"{version} has no devices of {target}.", field="target")
    return str(profiles[0])


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
