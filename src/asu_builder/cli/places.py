"""Where a command works: on a server that is named, or on this installation."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

import click
from msgspec import Struct

from asu_builder.cli.exit_codes import DEFAULT_SECONDS
from asu_builder.cli.local import now, told
from asu_builder.client.downloads import Source
from asu_builder.client.events import Event
from asu_builder.client.server import Reply, Server
from asu_builder.domain.errors import AsuError, RequestMalformed

_Command = TypeVar("_Command", bound=Callable[..., Any])


class BuildsPlace(Protocol):
    """Builds, wherever they are: `client.builds.ServerBuilds` or `cli.here.LocalBuilds`."""

    def submit(self, body: bytes) -> Reply:
        """The answer to a request."""

    def pause_after(self, error: AsuError) -> float:
        """How many seconds later the same request may be answered."""

    def whole_hash(self, given: str) -> str:
        """The one hash that begins as given. Raises `RequestRejected` or `BuildNotFound`."""

    def look(self, request_hash: str) -> Reply:
        """The answer to a poll."""

    def begin(self, request_hash: str) -> None:
        """Sees to it that somebody builds what waits."""

    def cancel(self, request_hash: str, cancel_token: str) -> None:
        """Ends a build before its time."""

    def follow(self, request_hash: str) -> Iterator[Event]:
        """What happens to a build, until its end."""

    def printed(self, request_hash: str) -> list[str] | None:
        """What it has printed so far, line by line; None where only the end tells."""

    def source(self, document: Mapping[str, Any]) -> Source:
        """Where the images of a finished build are read from."""


def server_options(command: _Command) -> _Command:
    """Adds `--server` and `--token`."""
    server = click.option(
        "--server",
        metavar="URL",
        default="",
        envvar="ASU_BUILDER_SERVER",
        show_envvar=True,
        help="Ask this server; without it, this installation is used.",
    )
    token = click.option(
        "--token",
        metavar="TOKEN",
        default="",
        envvar="ASU_BUILDER_TOKEN",
        show_envvar=True,
        help="Who asks, where the server's operator has given you a token.",
    )
    return server(token(command))


class OffersPlace(Protocol):
    """What can be built: `client.offers.ServerOffers` or `cli.offers_here.LocalOffers`."""

    def pause_after(self, error: AsuError) -> float:
        """How many seconds later the same question may be answered."""

    def branches(self) -> list[dict[str, Any]]:
        """Every branch with its `name`, `versions` (newest first) and `targets`.

        `complete` is false as long as more is on its way; a server does not tell.
        """

    def latest(self) -> list[str]:
        """The latest releases."""

    def devices(self, version: str, text: str, limit: int) -> dict[str, Any]:
        """Devices by words of their names."""

    def device(self, version: str, target: str, profile: str) -> dict[str, Any]:
        """One device by its profile or a name that it reports."""

    def packages(self, version: str, target: str, text: str, limit: int) -> dict[str, Any]:
        """Packages by words of their names."""

    def unknown_packages(self, body: bytes) -> dict[str, list[str]]:
        """Names in a request that no index has, each with those it may mean.

        Raises `Unavailable` as long as the indexes are not known.
        """


class Place(Struct, frozen=True):
    """A server or this installation."""

    builds: BuildsPlace
    offers: OffersPlace


@contextmanager
def place_of(server: str, token: str, *, patience: float = DEFAULT_SECONDS) -> Iterator[Place]:
    """The server that is named, or this installation. Errors end the command with a sentence."""
    with told():
        if server:
            yield _server(server, token, patience)
            return
        from asu_builder.app.terminal import assemble_terminal
        from asu_builder.cli.local import LocalBuilds, LocalOffers
        from asu_builder.settings import load_settings

        terminal = assemble_terminal(load_settings(), now)
        builds = LocalBuilds(terminal, patience=patience)
        try:
            world = terminal.adapters
            names = world.upstream.other_names
            yield Place(builds, LocalOffers(terminal.catalog, world.package_changes, names))
        finally:
            builds.close()


def server_of(address: str, token: str) -> Server:
    """The server at an address. Raises `click.UsageError` for what is none."""
    try:
        return Server(address, token=token)
    except RequestMalformed as error:
        raise click.UsageError(str(error)) from error


def _server(address: str, token: str, patience: float) -> Place:
    from asu_builder.client.builds import ServerBuilds
    from asu_builder.client.server import ServerOffers

    server = server_of(address, token)
    return Place(ServerBuilds(server, patience=patience), ServerOffers(server))
