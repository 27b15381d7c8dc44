"""The command line: `asu-builder` serves; `asu-builder demo` shows a whole build."""

import contextlib
import gc
import importlib
import logging
import os
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from asu_builder import __version__
from asu_builder.settings import LoadedSettings, load_with_origins

if TYPE_CHECKING:
    from asu_builder.app.background import Rounds
    from asu_builder.http.server import DrainingServer

_BANNER_LOOKS_SECONDS = 0.1
_BANNER_AFTER_SECONDS = 1.0
_ELSEWHERE = {
    "backup": ("asu_builder.cli.admin", "backup_command"),
    "build": ("asu_builder.cli.build", "build_command"),
    "cancel": ("asu_builder.cli.builds", "cancel_command"),
    "completion": ("asu_builder.cli.manual", "completion_command"),
    "devices": ("asu_builder.cli.search", "devices_command"),
    "doctor": ("asu_builder.cli.doctor", "doctor_command"),
    "gc": ("asu_builder.cli.admin", "gc_command"),
    "import-settings": ("asu_builder.cli.admin", "import_settings_command"),
    "install-service": ("asu_builder.cli.install_service", "install_service_command"),
    "jobs": ("asu_builder.cli.jobs", "jobs_group"),
    "log": ("asu_builder.cli.builds", "log_command"),
    "man": ("asu_builder.cli.manual", "man_command"),
    "packages": ("asu_builder.cli.search", "packages_command"),
    "status": ("asu_builder.cli.builds", "status_command"),
    "token": ("asu_builder.cli.admin", "token_command"),
    "versions": ("asu_builder.cli.search", "versions_command"),
}
"""Commands that are imported when they are asked for, so that serving does not pay for them."""


class _LateGroup(click.Group):
    """Finds the commands of `_ELSEWHERE` beside its own."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *_ELSEWHERE})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _ELSEWHERE:
            return super().get_command(ctx, cmd_name)
        module, name = _ELSEWHERE[cmd_name]
        command: click.Command = getattr(importlib.import_module(module), name)
        return command


@click.group(
    cls=_LateGroup, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(__version__, prog_name="asu-builder")
@click.pass_context
def main(context: click.Context) -> None:
    """Builds OpenWrt images with exactly the packages a router needs. Without a command: serve."""
    if context.invoked_subcommand is None:
        serve()


@main.command("serve")
@click.option("--port", type=click.IntRange(0, 65535), help="Listen here, whatever server_port says.")
@click.option(
    "--config",
    "file",
    type=click.Path(exists=True, dir_okay=False, readable=True, path_type=Path),
    help="Read this settings file, and none of the usual ones.",
)
def serve_command(port: int | None, file: Path | None) -> None:
    """Serves the HTTP API and builds, until it is told to stop (SIGTERM or Ctrl-C)."""
    serve(port=port, file=file)


def serve(*, port: int | None = None, file: Path | None = None, rounds: "Rounds | None" = None) -> None:
    """Runs the service by the settings of files and `ASU_*` variables; tests choose other `rounds`."""
    # What is loaded at the start stays: to look for garbage in it costs a twentieth of the start.
    gc.disable()
    from asu_builder.app import assemble
    from asu_builder.app.background import use_one_heap
    from asu_builder.cli.exit_codes import exit_on_error
    from asu_builder.cli.listening import listen_at
    from asu_builder.cli.log_lines import configure_logging
    from asu_builder.http.server import DrainingServer, Supervisor, inherited_sockets, server_config

    use_one_heap()
    with exit_on_error():
        loaded = load_with_origins(
            files=None if file is None else (file,),
            options={} if port is None else {"server_port": port},
        )
        settings = loaded.settings
        configure_logging(settings)
        # Bound before the database is touched, and not listening before the application has started.
        sockets = inherited_sockets() or listen_at(settings.server_host, settings.server_port)
        application = assemble(settings, origins=loaded.origins, rounds=rounds)
        gc.freeze()
        gc.enable()
    for warning in application.warnings:
        logging.getLogger("asu_builder").warning(warning)
    supervisor = Supervisor()
    config = server_config(
        application.app,
        settings.server_host,
        settings.server_port,
        door=application.door,
        supervisor=supervisor,
    )
    server = DrainingServer(
        config, drain=application.drain, end_streams=application.end_streams, supervisor=supervisor
    )
    threading.Thread(target=_say_how_it_is, args=(server, loaded), name="banner", daemon=True).start()
    server.run(sockets=sockets)


def _say_how_it_is(server: "DrainingServer", loaded: LoadedSettings) -> None:
    """Logs the banner, once the port answers and has answered the first ones: it loads a good deal."""
    pause = threading.Event()  # time.sleep fails where the clock is moved under it
    while not server.started:
        if server.should_exit:
            return
        pause.wait(_BANNER_LOOKS_SECONDS)
    pause.wait(_BANNER_AFTER_SECONDS)
    address = _address_of(server)
    if server.should_exit or address is None:
        return
    from asu_builder.loading import LOADING

    with LOADING:
        from asu_builder.doctor.report import log_banner

    log_banner(loaded, listens_at=address)


def _address_of(server: "DrainingServer") -> Any:
    """Where the server listens; None once it has ended, which may be at any moment."""
    with contextlib.suppress(IndexError, AttributeError, OSError):
        return server.servers[0].sockets[0].getsockname()
    return None


@main.group("rules")
def rules_group() -> None:
    """Package rules: what they are is in docs/package-changes.md."""


@rules_group.command("test")
@click.argument("file")
def rules_test_command(file: str) -> None:
    """Checks a rules file and runs every example in it."""
    from package_changes.examples import test_file

    sys.exit(test_file(file))


@main.command("demo")
@click.option("--keep", is_flag=True, help="Leave the service running until Ctrl-C; keep `ASU_*` variables.")
@click.option("--port", type=click.IntRange(0, 65535), help="Serve here; else at 8080 where that is free.")
def demo_command(keep: bool, port: int | None) -> None:
    """Builds one image of the made-up sample distribution, from request to verified download."""
    from asu_builder.cli.exit_codes import exit_on_error
    from asu_builder.cli.listening import listen_at
    from asu_builder.demo import run_demo

    chosen = os.environ.get("ASU_SERVER_PORT", "") if keep else ""
    if port is None and chosen.isdecimal():
        port = int(chosen)
    with exit_on_error():
        if port is not None:
            for opened in listen_at("127.0.0.1", port):
                opened.close()
        sys.exit(run_demo(keep=keep, port=port))
