"""Where a command works: on the server that `--server` names, or on this installation."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

import click
from msgspec import Struct

from asu_builder.cli.exit_codes import DEFAULT_SECONDS, exit_on_error
from asu_builder.client.builds import ServerBuilds
from asu_builder.client.server import Response, Server, ServerOffers, ServerOperator
from asu_builder.domain.errors import EngineUnavailable, RequestMalformed, RequestRejected, Unavailable
from asu_builder.domain.reading import Reading, read_whole
from asu_builder.settings import Settings, load_settings

if TYPE_CHECKING:
    from asu_builder.app import Application
    from asu_builder.app.adapters import Adapters
    from asu_builder.core.catalog import Catalog

_Command = TypeVar("_Command", bound=Callable[..., Any])


class Backend(Struct, frozen=True):
    """A server, or the private service of this installation."""

    builds: ServerBuilds
    offers: ServerOffers
    admin: ServerOperator


def server_options(command: _Command) -> _Command:
    """Adds `--server` and `--token`."""
    server = click.option(
        "--server",
        metavar="URL",
        default="",
        envvar="ASU_BUILDER_SERVER",
        show_envvar=True,
        help="Use this server; default: this installation.",
    )
    token = click.option(
        "--token",
        metavar="TOKEN",
        default="",
        envvar="ASU_BUILDER_TOKEN",
        show_envvar=True,
        help="Your token, if the server's operator gave you one.",
    )
    return server(token(command))


@contextmanager
def open_backend(
    address: str, token: str, *, patience: float = DEFAULT_SECONDS, existing: bool = False
) -> Iterator[Backend]:
    """The server at this address, or this installation where it is empty. Exits on errors.

    `existing` refuses an installation that has no database yet.
    """
    with exit_on_error():
        if address:
            try:
                server = Server(address, token=token)
            except RequestMalformed as error:
                raise click.UsageError(str(error)) from error
            yield Backend(
                ServerBuilds(server, patience=patience), ServerOffers(server), ServerOperator(server)
            )
            return
        from asu_builder.app import private_service  # which commands for a server do not need

        settings = load_settings()
        if existing:
            require_database(settings)
        # Outside of `build`, which prints them as notes, its warnings are not about what the user does.
        logging.getLogger("asu_builder.core.health").addHandler(logging.NullHandler())
        logging.getLogger("asu_builder.http").setLevel(logging.ERROR)  # it warns operators of slow requests
        with private_service(settings) as (application, socket_path, secret):
            server = Server("http://localhost", token=secret, socket_path=socket_path)
            local_builds = LocalBuilds(server, application, settings, patience=patience)
            yield Backend(local_builds, LocalOffers(server, application.catalog), ServerOperator(server))


@contextmanager
def installation() -> Iterator[tuple[Settings, "Adapters"]]:
    """The settings and adapters of this installation; a service may run beside. Exits on errors."""
    from asu_builder.app.adapters import open_adapters

    with exit_on_error():
        settings = load_settings()
        require_database(settings)
        adapters = open_adapters(settings, lambda: datetime.now(UTC))
        # This process builds nothing; a service that starts now finds its former jobs by the name.
        adapters.name.release()
        try:
            yield settings, adapters
        finally:
            try:
                adapters.statistics.flush()
            finally:
                adapters.close()


def require_database(settings: Settings) -> None:
    """Raises `Unavailable` for a mistyped path or another directory, instead of making an empty database."""
    if not settings.on_server and not settings.database_path.exists():
        raise Unavailable(
            f"There is no database {settings.database_path}. Name it by database_path, as for the service."
        )


class LocalBuilds(ServerBuilds):
    """Builds of the private service; `begin` makes its worker build one job and no other.

    `patience` is how many seconds the container engine may be away while a build is followed.
    """

    def __init__(
        self, server: Server, application: "Application", settings: Settings, *, patience: float
    ) -> None:
        super().__init__(server, patience=patience)
        self._application = application
        self._settings = settings
        self._runnable_at = time.monotonic()

    def submit(self, body: bytes) -> Response:
        """The answer to a request; a refusal names the setting that this user can change."""
        try:
            return super().submit(body)
        except RequestRejected as error:
            if error.field == "defaults" and not self._settings.allow_defaults:
                hint = f"{error}. Set ASU_ALLOW_DEFAULTS=true to allow it here."
                raise RequestRejected(hint, field=error.field) from error
            raise

    def begin(self, request_hash: str) -> None:
        """Builds it in this process. Raises `Unavailable` when nothing can be built here."""
        health, workers = self._application.health, self._application.workers
        for part in ("engine", "workers"):
            health.check(part)
        parts = health.report().parts
        if parts["engine"].status == "error":
            raise EngineUnavailable(parts["engine"].sentence)
        if parts["workers"].status != "ok":
            sentence = parts["workers"].sentence
            raise Unavailable(f"{sentence} `asu-builder jobs resume` lets them go on.")
        self._application.begin()
        workers.build_only(ServerOperator(self.server).show(request_hash)["id"])

    def cancel(self, request_hash: str, cancel_token: str) -> None:
        """Cancels it: with its secret as its caller, without as the operator."""
        without_rights = {"X-Cancel-Token": cancel_token, "Authorization": ""} if cancel_token else {}
        self.server.fetch("DELETE", f"/api/v1/build/{request_hash}", headers=without_rights)

    def on_life(self) -> None:
        """Raises `EngineUnavailable` when nothing could be built here for too long."""
        health = self._application.health
        if health.builds_run():
            self._runnable_at = time.monotonic()
        elif time.monotonic() - self._runnable_at > self._patience:
            parts = health.report().parts
            down = [parts[part].sentence for part in ("engine", "store") if health.is_down(part)]
            raise EngineUnavailable(" ".join(down) or parts["store"].sentence)


class LocalOffers(ServerOffers):
    """Offers of the private service, which also says which branches are complete."""

    def __init__(self, server: Server, catalog: "Catalog") -> None:
        super().__init__(server)
        self._catalog = catalog

    def branches(self) -> list[dict[str, Any]]:
        """Every branch with `name`, `versions` (newest first), `targets`, and whether that is `complete`."""
        return [
            {
                "name": offer.branch.name,
                "versions": list(offer.versions),
                "targets": dict(offer.targets),
                "complete": offer.complete,
            }
            for offer in read_whole(self._catalog.offers, Reading())
        ]
