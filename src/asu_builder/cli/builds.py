"""`asu-builder status`, `log` and `cancel`: builds by their request hash, here or on a server."""

import sys
from collections.abc import Iterator, Mapping
from typing import Any

import click

from asu_builder.cli.backend import open_backend, server_options
from asu_builder.cli.exit_codes import ExitCode, code_of_build
from asu_builder.cli.views import describe, print_json, print_table, printable
from asu_builder.client.builds import Ended, LogLines, ServerBuilds, progress_of

_hash_argument = click.argument("request_hash", metavar="HASH")
"""All of its digits, or as many as tell it from others."""


@click.command("status")
@_hash_argument
@click.option("--json", "as_json", is_flag=True, help="Print the whole answer as JSON.")
@server_options
def status_command(request_hash: str, as_json: bool, server: str, token: str) -> None:
    """Says how far a build is. Ends with 0 for every build that is known, whatever its state."""
    with open_backend(server, token) as backend:
        response = backend.builds.look(backend.builds.whole_hash(request_hash))
    if as_json:
        print_json(response.document)
    else:
        print_table(list(_rows(response.status, response.document)), ("what", "value"))


def _rows(status: int, document: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    request = document.get("request") or {}
    wanted = " ".join(str(request.get(name, "")) for name in ("version", "target", "profile"))
    state = document.get("state") or document.get("detail")
    yield {"what": "state", "value": str(state)}
    yield {"what": "request", "value": wanted}
    if status == 202:
        yield {"what": "progress", "value": describe(progress_of(dict(document)))}
    elif status != 200:
        yield {"what": "why", "value": str(document.get("detail"))}
    for image in document.get("images", ()):
        yield {"what": "image", "value": f"{image['name']} {image['sha256']}"}


@click.command("log")
@_hash_argument
@click.option("-f", "--follow", is_flag=True, help="Go on until the build ends, and end as `build` would.")
@server_options
def log_command(request_hash: str, follow: bool, server: str, token: str) -> None:
    """Prints what a build has printed."""
    code = ExitCode.DONE
    with open_backend(server, token) as backend:
        request_hash = backend.builds.whole_hash(request_hash)
        response = backend.builds.look(request_hash)
        if follow and response.status == 202:
            code = _follow(backend.builds, request_hash)
        else:
            lines = backend.builds.printed(request_hash)
            for line in _output(response.document) if lines is None else lines:
                click.echo(printable(line))
            code = code_of_build(response.status, response.document) if follow else code
    sys.exit(code)


def _follow(builds: ServerBuilds, request_hash: str) -> ExitCode:
    has_lines = False
    for event in builds.follow(request_hash):
        if isinstance(event, LogLines):
            has_lines = True
            for line in event.lines:
                click.echo(f"{line.at[11:19]} {line.stage:<17}  {printable(line.text)}")
        elif isinstance(event, Ended):
            # A server that tells no lines while it builds has them all in the end.
            for text in () if has_lines else _output(event.document):
                click.echo(printable(text))
            if event.status != 200:
                click.echo(f"asu-builder: {printable(str(event.document.get('detail')))}", err=True)
            return code_of_build(event.status, event.document)
    return ExitCode.UNAVAILABLE


def _output(document: Mapping[str, Any]) -> list[str]:
    return [line for stream in ("stdout", "stderr") for line in str(document.get(stream) or "").splitlines()]


@click.command("cancel")
@_hash_argument
@click.option("--cancel-token", default="", metavar="SECRET", help="The secret that `build` has told.")
@server_options
def cancel_command(request_hash: str, cancel_token: str, server: str, token: str) -> None:
    """Ends a build before its time: here as its operator, on a server with a secret or a token."""
    with open_backend(server, token) as backend:
        backend.builds.cancel(backend.builds.whole_hash(request_hash), cancel_token)
    click.echo("cancelled")
