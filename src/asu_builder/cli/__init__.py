"""The command line: `asu-builder` serves; `asu-builder demo` shows a whole build."""

import gc
import importlib
import os
import sys
from pathlib import Path

import click

from asu_builder import __version__

_ELSEWHERE = {
    "backup": ("asu_builder.cli.admin", "backup_command"),
    "build": ("asu_builder.cli.build", "build_command"),
    "cancel": ("asu_builder.cli.builds", "cancel_command"),
    "completion": ("asu_builder.cli.manual", "completion_command"),
    "devices": ("asu_builder.cli.search", "devices_command"),
    "doctor": ("asu_builder.cli.admin", "doctor_command"),
    "gc": ("asu_builder.cli.admin", "gc_command"),
    "import-settings": ("asu_builder.cli.admin", "import_settings_command"),
    "install-service": ("asu_builder.cli.install_service", "install_service_command"),
    "jobs": ("asu_builder.cli.builds", "jobs_group"),
    "keys": ("asu_builder.cli.keys", "keys_group"),
    "log": ("asu_builder.cli.builds", "log_command"),
    "man": ("asu_builder.cli.manual", "man_command"),
    "migrate": ("asu_builder.cli.admin", "migrate_command"),
    "packages": ("asu_builder.cli.search", "packages_group"),
    "preflight": ("asu_builder.cli.builds", "preflight_group"),
    "move": ("asu_builder.cli.admin", "move_command"),
    "sbom": ("asu_builder.cli.builds", "sbom_command"),
    "status": ("asu_builder.cli.builds", "status_command"),
    "token": ("asu_builder.cli.admin", "token_command"),
    "verify-provenance": ("asu_builder.cli.provenance", "verify_provenance_command"),
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
    gc.enable()
    if context.invoked_subcommand is None:
        from asu_builder.cli.serving import serve

        serve()


@main.command("serve")
@click.option("--port", type=click.IntRange(0, 65535), help="Listen on this port instead of server_port.")
@click.option(
    "--config",
    "file",
    type=click.Path(exists=True, dir_okay=False, readable=True, path_type=Path),
    help="Read this settings file instead of the default ones.",
)
@click.option("--no-workers", is_flag=True, help="Build nothing: other processes do, with `worker`.")
def serve_command(port: int | None, file: Path | None, no_workers: bool) -> None:
    """Serves the HTTP API and builds, until it is told to stop (SIGTERM or Ctrl-C)."""
    from asu_builder.cli.serving import serve

    serve(command="serve --no-workers" if no_workers else "serve", port=port, file=file)


@main.command("worker")
@click.option(
    "--port", type=click.IntRange(0, 65535), help="Answer monitors on this port instead of monitoring_port."
)
@click.option(
    "--config",
    "file",
    type=click.Path(exists=True, dir_okay=False, readable=True, path_type=Path),
    help="Read this settings file instead of the default ones.",
)
@click.option("--drain", is_flag=True, help="Let --name take no more jobs, and wait for its builds.")
@click.option("--undrain", is_flag=True, help="Let --name take jobs again.")
@click.option("--name", help="The process that is meant; default: worker_id.")
def worker_command(port: int | None, file: Path | None, drain: bool, undrain: bool, name: str | None) -> None:
    """Builds what other processes have accepted, and answers only /health and /metrics."""
    if drain or undrain:
        if port is not None or file is not None or drain == undrain:
            raise click.UsageError("--drain or --undrain goes with --name alone.")
        from asu_builder.cli.admin import drain_node

        drain_node(name, drained=drain)
        return
    if name:
        raise click.UsageError("--name goes with --drain or --undrain; a worker's own name is worker_id.")
    from asu_builder.cli.serving import serve

    serve(command="worker", port=port, file=file)


@main.group("rules")
def rules_group() -> None:
    """Package rules: what they are is in docs/package-changes.md."""


@rules_group.command("test")
@click.argument("file")
def rules_test_command(file: str) -> None:
    """Checks a rules file and runs every example in it."""
    from package_changes.files import test_file

    sys.exit(test_file(file))


@main.command("demo")
@click.option("--keep", is_flag=True, help="Leave the service running until Ctrl-C; keep `ASU_*` variables.")
@click.option(
    "--port", type=click.IntRange(0, 65535), help="Listen on this port; default: 8080 if it is free."
)
def demo_command(keep: bool, port: int | None) -> None:
    """Builds one image of the made-up sample distribution, from request to verified download."""
    from asu_builder.cli.exit_codes import exit_on_error
    from asu_builder.cli.serving import listen_at
    from asu_builder.demo import run_demo

    chosen = os.environ.get("ASU_SERVER_PORT", "") if keep else ""
    if port is None and chosen.isdecimal():
        port = int(chosen)
    with exit_on_error():
        if port is not None:
            for opened in listen_at("127.0.0.1", port):
                opened.close()
        sys.exit(run_demo(keep=keep, port=port))
