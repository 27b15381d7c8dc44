"""The command line: `asu-builder` serves; `asu-builder demo` shows a whole build."""

import gc
import logging
import signal
import sys

import click

from asu_builder import __version__
from asu_builder.domain.errors import Unavailable
from asu_builder.settings import Settings, SettingsProblem, load_settings

_WRONG_SETTING = 2


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="asu-builder")
@click.pass_context
def main(context: click.Context) -> None:
    """Builds OpenWrt images with exactly the packages a router needs. Without a command: serve."""
    if context.invoked_subcommand is None:
        serve()


@main.command("serve")
def serve_command() -> None:
    """Serves the HTTP API and builds, until it is told to stop (SIGTERM or Ctrl-C)."""
    serve()


def serve() -> None:
    """Runs the service by the settings of files and `ASU_*` variables."""
    # What is loaded at the start stays: to look for garbage in it costs a twentieth of the start.
    gc.disable()
    import uvicorn

    from asu_builder.bootstrap import assemble
    from asu_builder.web.server import server_config

    try:
        settings = load_settings()
        _configure_logging(settings)
        application = assemble(settings)
        gc.freeze()
        gc.enable()
    except SettingsProblem as problem:
        click.echo(f"asu-builder: {problem}", err=True)
        sys.exit(_WRONG_SETTING)
    except Unavailable as problem:
        click.echo(f"asu-builder: {problem}", err=True)
        sys.exit(1)
    for warning in application.warnings:
        logging.getLogger("asu_builder").warning(warning)
    config = server_config(application.app, settings.server_host, settings.server_port)
    # uvicorn hands the signal that ended it on to whoever had it before: then a wished end is no crash.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    uvicorn.Server(config).run()


def _configure_logging(settings: Settings) -> None:
    from asu_builder.web.fast_path import REQUEST_ID

    class RequestIdFilter(logging.Filter):
        """Puts the id of the request being answered on every line."""

        def filter(self, record: logging.LogRecord) -> bool:
            record.request_id = REQUEST_ID.get() or "-"
            return True

    handler = logging.StreamHandler()
    handler.addFilter(RequestIdFilter())
    handler.setFormatter(
        logging.Formatter(
            "%(asctime)s %(levelname)-7s %(request_id)s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S%z"
        )
    )
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler])
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    logging.getLogger("uvicorn.error").setLevel(max(logging.INFO, logging.getLogger().level))


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
@click.option("--keep", is_flag=True, help="Leave the service running until Ctrl-C.")
def demo_command(keep: bool) -> None:
    """Builds one image of the made-up sample distribution, from request to verified download."""
    from asu_builder.demo import run_demo

    sys.exit(run_demo(keep=keep))
