"""Where a command works: on a server that is named, or on this installation."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

import click

from asu_builder.cli.opening import now, told
from asu_builder.client.downloads import Source
from asu_builder.client.events import Event
from asu_builder.client.server import Reply
from asu_builder.domain.errors import AsuError

_Command = TypeVar("_Command", bound=Callable[..., Any])


class BuildsPlace(Protocol):
    """Builds, wherever they are: `client.builds.ServerBuilds` or `cli.here.LocalBuilds`."""

    def submit(self, body: bytes) -> Reply:
        """The answer to a request."""

    def comes_back_after(self, error: AsuError) -> float:
        """How many seconds later the same request may be answered."""

    def look(self, request_hash: str) -> Reply:
        """The answer to a poll."""

    def cancel(self, request_hash: str, cancel_token: str) -> None:
        """Ends a build before its time."""

    def follow(self, request_hash: str) -> Iterator[Event]:
        """What happens to a build, until its end."""

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


@contextmanager
def builds_at(server: str, token: str, *, patience: float = 60.0) -> Iterator[BuildsPlace]:
    """The builds of a server, or of this installation when none is named. Errors end the command."""
    with told():
        if server:
            from asu_builder.client.builds import ServerBuilds
            from asu_builder.client.server import Server

            yield ServerBuilds(Server(server, token=token), patience=patience)
            return
        from asu_builder.bootstrap.terminal import assemble_terminal
        from asu_builder.cli.here import LocalBuilds
        from asu_builder.settings import load_settings

        builds = LocalBuilds(assemble_terminal(load_settings(), now), patience=patience)
        try:
            yield builds
        finally:
            builds.close()
