"""`asu-builder build`: from a request to verified images, here or on a server."""

import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import click
import msgspec
from click.shell_completion import CompletionItem

from asu_builder.cli.asking import Wishes, body_of
from asu_builder.cli.building import BuildRun, Finished, leave_when_interrupted
from asu_builder.cli.exit_codes import ExitCode, code_of_error
from asu_builder.cli.opening import complain
from asu_builder.cli.patience import DEFAULT_SECONDS
from asu_builder.cli.places import BuildsPlace, Place, place_of, server_options
from asu_builder.cli.suggesting import package_suggestions, suggestion
from asu_builder.cli.views import printable, shown
from asu_builder.client.events import Event
from asu_builder.domain.errors import AsuError, FailureReason
from asu_builder.domain.request import FILESYSTEMS, REPOSITORIES_MODES

_Command = TypeVar("_Command", bound=Callable[..., Any])
_OUTPUT_LINES = 20
_WISHES = (
    click.option(
        "--request", "request_file", metavar="FILE", help="A request as JSON or YAML; - is standard input."
    ),
    click.option("--version", metavar="VERSION", help="A release like 24.10.4, or a snapshot."),
    click.option("--target", metavar="TARGET", help="Target and subtarget, like ath79/generic."),
    click.option("--profile", metavar="PROFILE", help="The device's profile, or a name it reports."),
    click.option(
        "-p",
        "--package",
        "packages",
        metavar="PKG",
        multiple=True,
        help="Install this; -PKG removes it. Repeatable.",
    ),
    click.option(
        "--diff-packages/--no-diff-packages", default=None, help="The packages are all that is wanted."
    ),
    click.option(
        "--defaults",
        "defaults_file",
        metavar="FILE",
        help="A script for the first boot; - is standard input.",
    ),
    click.option(
        "--rootfs-size-mb", type=click.IntRange(min=1), metavar="MIB", help="Size of the root partition."
    ),
    click.option(
        "--filesystem",
        metavar="NAME",
        help=f"Build only this root file system, like {', '.join(FILESYSTEMS)}.",
        shell_complete=lambda _context, _option, begun: [
            CompletionItem(name) for name in FILESYSTEMS if name.startswith(begun)
        ],
    ),
    click.option("--version-code", metavar="REVISION", help="Build only from this revision."),
    click.option(
        "--repository",
        "repositories",
        metavar="NAME=URL",
        multiple=True,
        help="A package repository. Repeatable.",
    ),
    click.option(
        "--repositories-mode",
        type=click.Choice(REPOSITORIES_MODES),
        help="Beside or in place of the usual ones.",
    ),
    click.option(
        "--repository-key",
        "repository_key_files",
        metavar="FILE",
        multiple=True,
        help="A repository's public key. Repeatable.",
    ),
)


def _wishes(command: _Command) -> _Command:
    for option in reversed(_WISHES):
        command = option(command)
    return command


class _Showing(msgspec.Struct, frozen=True):
    """What is written where."""

    as_json: bool
    json_events: bool
    quiet: bool


@click.command("build")
@_wishes
@click.option(
    "-o",
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(),
    show_default="here",
    help="Where the images go.",
)
@click.option("--detach", is_flag=True, help="Only ask for the build; print its hash and do not wait.")
@click.option(
    "--patience",
    type=click.FloatRange(min=0),
    default=DEFAULT_SECONDS,
    show_default=True,
    metavar="SECONDS",
    help="How long to come back while the place has no room or does not answer.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the final document.")
@click.option("--json-events", is_flag=True, help="Print what happens as it happens, one JSON object a line.")
@click.option("-q", "--quiet", is_flag=True, help="Show no progress.")
@server_options
def build_command(
    out: Path,
    detach: bool,
    patience: float,
    as_json: bool,
    json_events: bool,
    quiet: bool,
    server: str,
    token: str,
    **wishes: Any,
) -> None:
    """Builds images and fetches them, verified, into --out.

    Here, with the settings of this installation, beside a running service or without one; or on a
    server. An image that is here already is not fetched again, and one that broke off is resumed.
    Ctrl-C cancels the build, a second one leaves at once.
    """
    body = body_of(Wishes(**wishes))
    showing = _Showing(as_json, json_events, quiet)
    # Whoever ends us by SIGTERM wants what Ctrl-C does.
    signal.signal(signal.SIGTERM, _interrupt)
    with place_of(server, token, patience=patience) as place:
        if detach:
            code = _detach(place.builds, body, showing, patience=patience)
        else:
            code = _build(place, body, out, showing, patience=patience)
    sys.exit(code)


def _detach(builds: BuildsPlace, body: bytes, showing: _Showing, *, patience: float) -> ExitCode:
    with shown(sys.stderr, quiet=showing.quiet) as view:
        reply = BuildRun(builds, view, patience=patience, on_event=lambda _: None).submit(body)
    if showing.as_json or showing.json_events:
        click.echo(json.dumps(reply.document))
        return ExitCode.DONE
    click.echo(reply.document["request_hash"])
    if secret := reply.document.get("cancel_token"):
        click.echo(f"To cancel it: --cancel-token {secret}", err=True)
    return ExitCode.DONE


def _build(place: Place, body: bytes, out: Path, showing: _Showing, *, patience: float) -> ExitCode:
    run: BuildRun | None = None
    try:
        with shown(sys.stderr, quiet=showing.quiet) as view:
            run = BuildRun(place.builds, view, patience=patience, on_event=_writer(showing))
            finished = run.run(body, out)
    except KeyboardInterrupt:
        leave_when_interrupted()
        click.echo("Cancelling; once more Ctrl-C leaves at once.", err=True)
        click.echo(run.abandon() if run else "", err=True)
        return ExitCode.CANCELLED
    except AsuError as error:
        hint = suggestion(place.offers, body, error)
        detail = f"{str(error).rstrip('.')}. {hint}" if hint else str(error)
        if showing.as_json or showing.json_events:
            click.echo(json.dumps({"title": type(error).__name__, "detail": detail}))
        complain(detail)
        return code_of_error(error)
    _report(finished, showing, output=not view.keeps_output)
    if finished.document.get("reason") == FailureReason.IMPOSSIBLE_SELECTION:
        for sentence in package_suggestions(place.offers, body):
            click.echo(printable(sentence), err=True)
    return finished.code


def _report(finished: Finished, showing: _Showing, *, output: bool) -> None:
    document = {**finished.document, "files": [str(path) for path in finished.files]}
    if showing.as_json:
        click.echo(json.dumps(document, indent=2))
    elif not showing.json_events:
        for path in finished.files:
            click.echo(path)
    if finished.code is not ExitCode.DONE:
        _explain(finished.document, output=output)
        return
    for warning in document.get("warnings", ()):
        click.echo(f"Warning: {printable(str(warning))}", err=True)
    if not showing.quiet:
        click.echo(f"{len(finished.files)} images, each with the SHA-256 that was announced.", err=True)


def _explain(document: dict[str, Any], *, output: bool) -> None:
    """What the build printed last, unless that can be read above, and then why it failed."""
    text = f"{document.get('stdout', '')}\n{document.get('stderr', '')}".strip() if output else ""
    for line in text.splitlines()[-_OUTPUT_LINES:]:
        click.echo(f"  {printable(line)}", err=True)
    click.echo(f"asu-builder: {printable(str(document.get('detail', 'failed')))}", err=True)


def _writer(showing: _Showing) -> Callable[[Event], None]:
    def write(event: Event) -> None:
        if showing.json_events:
            click.echo(msgspec.json.encode(event))

    return write


def _interrupt(_: int, __: FrameType | None) -> None:
    raise KeyboardInterrupt
