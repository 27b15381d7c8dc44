"""`asu-builder build`: from a request to verified images, here or on a server."""

import difflib
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import click
import msgspec
from click.shell_completion import CompletionItem
from msgspec import Struct

from asu_builder import __version__
from asu_builder.cli.backend import Backend, open_backend, server_options
from asu_builder.cli.exit_codes import (
    DEFAULT_SECONDS,
    ExitCode,
    code_of_build,
    code_of_error,
    print_error,
)
from asu_builder.cli.views import View, printable, shown
from asu_builder.client.builds import Ended, Event, ServerBuilds
from asu_builder.client.downloads import announced_images, fetch
from asu_builder.client.server import Response, ServerOffers, retry
from asu_builder.domain.errors import AsuError, FailureReason, RequestMalformed, RequestRejected, Unavailable
from asu_builder.domain.request import FILESYSTEMS, REPOSITORIES_MODES
from asu_builder.domain.search import closest
from asu_builder.http.api.body import BuildRequestBody

_FEW = 3
_PACKAGES_SECONDS = 5.0
"""How long indexes may take that are read for the first time."""
_ALIKE = 0.6
"""Three unlikely suggestions do no harm, and none does not help."""


def suggestion(offers: ServerOffers, body: bytes, refusal: AsuError) -> str:
    """A sentence with the nearest ones, or "" when there is none or the refusal is another."""
    is_unknown = isinstance(refusal, RequestRejected) and not isinstance(refusal, RequestMalformed)
    find = _FINDERS.get(getattr(refusal, "field", "")) if is_unknown else None
    if find is None:
        return ""
    try:
        found = find(offers, json.loads(body))
    except AsuError:
        return ""
    return f"Did you mean {' or '.join(found)}?" if found else ""


def package_suggestions(offers: ServerOffers, body: bytes) -> list[str]:
    """A sentence for each name in a request that no index has and that is like another one."""
    try:
        unknown = retry(lambda: offers.unknown_packages(body), seconds=_PACKAGES_SECONDS)
    except AsuError:
        return []
    return [f"{name}: did you mean {' or '.join(meant)}?" for name, meant in unknown.items() if meant]


def _versions(offers: ServerOffers, request: Mapping[str, Any]) -> Sequence[str]:
    asked = str(request["version"])
    known = [version for branch in offers.branches() for version in branch["versions"]]
    # The name of a branch means its newest release.
    below = [version for version in known if version.startswith((f"{asked}.", f"{asked}-"))]
    released = [version for version in below if "-" not in version]
    return (released or below)[:1] or closest(asked, known, alike=_ALIKE)


def _targets(offers: ServerOffers, request: Mapping[str, Any]) -> Sequence[str]:
    known = [
        target
        for branch in offers.branches()
        if request["version"] in branch["versions"]
        for target in branch["targets"]
    ]
    return closest(str(request["target"]), known, alike=_ALIKE)


def _profiles(offers: ServerOffers, request: Mapping[str, Any]) -> Sequence[str]:
    words = str(request["profile"]).replace(",", " ").replace("_", " ")
    found = offers.devices(str(request["version"]), words, 100)["devices"]
    # Those of the same target first: users mostly know it.
    found.sort(key=lambda device: device["target"] != request["target"])
    names = (
        device["profile"] + ("" if device["target"] == request["target"] else f" ({device['target']})")
        for device in found
    )
    return list(dict.fromkeys(names))[:_FEW]


_FINDERS: Mapping[str, Callable[[ServerOffers, Mapping[str, Any]], Sequence[str]]] = {
    "version": _versions,
    "target": _targets,
    "profile": _profiles,
}


_NEEDED = ("version", "target", "profile")
_PLAIN = (
    *_NEEDED,
    *("diff_packages", "rootfs_size_mb", "filesystem", "version_code", "repositories_mode"),
)
"""Options that are fields of a request as they are."""


class BuildOptions(Struct, frozen=True):
    """The options of `build` that say what is wanted; None and empty where nothing was said."""

    request_file: str | None = None
    version: str | None = None
    target: str | None = None
    profile: str | None = None
    packages: Sequence[str] = ()
    diff_packages: bool | None = None
    defaults_file: str | None = None
    rootfs_size_mb: int | None = None
    filesystem: str | None = None
    version_code: str | None = None
    repositories: Sequence[str] = ()
    repositories_mode: str | None = None
    repository_key_files: Sequence[str] = ()


def body_of(options: BuildOptions) -> bytes:
    """The body. What the options say goes above what the file says; packages come in addition.

    Raises `click.UsageError` for what cannot be meant.
    """
    sources = [options.request_file, options.defaults_file, *options.repository_key_files]
    if sources.count("-") > 1:
        raise click.UsageError("standard input can be one file only")
    read = _read_request(options.request_file) if options.request_file else {}
    document = {"client": f"asu-builder/{__version__}", **read}
    document |= {name: value for name in _PLAIN if (value := getattr(options, name)) is not None}
    if options.defaults_file:
        document["defaults"] = _read(options.defaults_file)
    packages = [name for text in options.packages for name in text.replace(",", " ").split()]
    keys = [_read(file) for file in options.repository_key_files]
    for name, more in (("packages", packages), ("repository_keys", keys)):
        if more:
            document[name] = [*(document.get(name) or []), *more]
    if options.repositories:
        pairs = [text.partition("=") for text in options.repositories]
        if not all(name and url for name, _, url in pairs):
            raise click.UsageError("--repository: expected NAME=ADDRESS")
        named = {name: url for name, _, url in pairs}
        document["repositories"] = {**(document.get("repositories") or {}), **named}
    missing = [f"--{name}" for name in _NEEDED if not document.get(name)]
    if missing:
        raise click.UsageError(f"nothing says what to build: give {', '.join(missing)}, or a --request")
    return json.dumps(document).encode()


def _read_request(file: str) -> Mapping[str, Any]:
    import yaml

    try:
        document = yaml.safe_load(_read(file))
    except yaml.YAMLError as error:
        raise click.UsageError(f"{file} is neither JSON nor YAML: {error}") from error
    if not isinstance(document, dict):
        raise click.UsageError(f"{file}: expected an object like {{version: 24.10.4, target: ath79/generic}}")
    known = BuildRequestBody.__struct_fields__
    for name in document:
        # The server ignores unknown fields; the author of a file wants to know.
        if name not in known:
            close = difflib.get_close_matches(str(name), known, n=1)
            raise click.UsageError(
                f"{file}: there is no field {name}" + (f"; did you mean {close[0]}?" if close else "")
            )
    # YAML reads 24.10 as a number.
    return {name: str(value) if name == "version" else value for name, value in document.items()}


def _read(file: str) -> str:
    try:
        return sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise click.UsageError(
            f"{file} cannot be read: {getattr(error, 'strerror', None) or error}"
        ) from error


class Finished(Struct, frozen=True):
    """How it ended: the number to end with, the final document, and the files that are here now."""

    code: ExitCode
    document: dict[str, Any]
    files: tuple[Path, ...] = ()


class BuildRun:
    """One build on one backend; `run` may be interrupted by `KeyboardInterrupt`, then `abandon` ends it."""

    def __init__(
        self, builds: ServerBuilds, view: View, *, patience: float, on_event: Callable[[Event], None]
    ) -> None:
        """`patience` is how many seconds the backend may refuse because it is busy or away."""
        self._builds = builds
        self._view = view
        self._patience = patience
        self._on_event = on_event
        self._request_hash = ""
        self._cancel_token = ""

    def submit(self, body: bytes) -> Response:
        """The first response. Raises the refusal of the backend."""
        response = retry(lambda: self._builds.submit(body), seconds=self._patience, note=self._view.note)
        self._request_hash = str(response.document.get("request_hash", ""))
        self._cancel_token = str(response.document.get("cancel_token", ""))
        return response

    def run(self, body: bytes, folder: Path | None) -> Finished:
        """Builds, and fetches the images into `folder`, if any. Raises `AsuError`."""
        response = self.submit(body)
        self._view.note(f"request hash {self._request_hash}")
        if response.status == 202:
            try:
                self._builds.begin(self._request_hash)
                response = self.follow(self._request_hash)
            except AsuError:
                if self._cancel_token:
                    # Leaves no abandoned job behind, if the backend still answers.
                    with suppress(AsuError):
                        self._builds.cancel(self._request_hash, self._cancel_token)
                raise
        code = code_of_build(response.status, response.document)
        if code is not ExitCode.DONE or folder is None:
            return Finished(code, response.document)
        source = self._builds.source(response.document)
        images = announced_images(response.document)
        files = tuple(fetch(image, folder, source, report=self._view.image) for image in images)
        return Finished(code, response.document, files)

    def follow(self, request_hash: str) -> Response:
        """The last answer about a build that goes on."""
        for event in self._builds.follow(request_hash):
            self._on_event(event)
            self._view.show(event)
            if isinstance(event, Ended):
                return Response(event.status, event.document)
        raise Unavailable("The build was not followed to its end.")

    def abandon(self) -> str:
        """Cancels what was begun here; says what became of it."""
        if not self._request_hash:
            return "Nothing was cancelled: the request had not been answered yet."
        if not self._cancel_token:
            return (
                f"The build {self._request_hash} was begun by somebody else, or has ended; it is left alone."
            )
        try:
            self._builds.cancel(self._request_hash, self._cancel_token)
        except AsuError as error:
            return f"The build {self._request_hash} was not cancelled: {error}"
        return f"The build {self._request_hash} is cancelled."


def leave_when_interrupted() -> None:
    """From now on an interrupt ends the process, whatever it does."""
    signal.signal(signal.SIGINT, _leave)
    signal.signal(signal.SIGTERM, _leave)


def _leave(_: int, __: FrameType | None) -> None:
    os._exit(ExitCode.CANCELLED)


_Command = TypeVar("_Command", bound=Callable[..., Any])
_OUTPUT_LINES = 20
_OPTIONS = (
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


def _build_options(command: _Command) -> _Command:
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


class _Showing(msgspec.Struct, frozen=True):
    """What is written where."""

    as_json: bool
    json_events: bool
    quiet: bool

    def write(self, event: Event) -> None:
        """Prints an event, where events are wanted."""
        if self.json_events:
            click.echo(msgspec.json.encode(event))


@click.command("build")
@_build_options
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
    **options: Any,
) -> None:
    """Builds images and fetches them, verified, into --out.

    Here, with the settings of this installation, beside a running service or without one; or on a
    server. An image that is here already is not fetched again, and one that broke off is resumed.
    Ctrl-C cancels the build, a second one leaves at once.
    """
    body = body_of(BuildOptions(**options))
    showing = _Showing(as_json, json_events, quiet)
    # SIGTERM does what Ctrl-C does.
    signal.signal(signal.SIGTERM, _interrupt)
    with open_backend(server, token, patience=patience) as backend:
        if detach:
            code = _detach(backend.builds, body, showing, patience=patience)
        else:
            code = _build(backend, body, out, showing, patience=patience)
    sys.exit(code)


def _detach(builds: ServerBuilds, body: bytes, showing: _Showing, *, patience: float) -> ExitCode:
    with shown(sys.stderr, quiet=showing.quiet) as view:
        response = BuildRun(builds, view, patience=patience, on_event=lambda _: None).submit(body)
    if showing.as_json or showing.json_events:
        click.echo(json.dumps(response.document))
        return ExitCode.DONE
    click.echo(response.document["request_hash"])
    if secret := response.document.get("cancel_token"):
        click.echo(f"To cancel it: --cancel-token {secret}", err=True)
    return ExitCode.DONE


def _build(backend: Backend, body: bytes, out: Path, showing: _Showing, *, patience: float) -> ExitCode:
    run: BuildRun | None = None
    try:
        with shown(sys.stderr, quiet=showing.quiet) as view:
            run = BuildRun(backend.builds, view, patience=patience, on_event=showing.write)
            finished = run.run(body, out)
    except KeyboardInterrupt:
        leave_when_interrupted()
        click.echo("Cancelling; once more Ctrl-C leaves at once.", err=True)
        click.echo(run.abandon() if run else "", err=True)
        return ExitCode.CANCELLED
    except AsuError as error:
        hint = suggestion(backend.offers, body, error)
        detail = f"{str(error).rstrip('.')}. {hint}" if hint else str(error)
        if showing.as_json or showing.json_events:
            click.echo(json.dumps({"title": type(error).__name__, "detail": detail}))
        print_error(detail)
        return code_of_error(error)
    _report(finished, showing, output=not view.keeps_output)
    if finished.document.get("reason") == FailureReason.IMPOSSIBLE_SELECTION:
        for sentence in package_suggestions(backend.offers, body):
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
        # What the build printed last, unless that can be read above, and then why it failed.
        text = f"{document.get('stdout', '')}\n{document.get('stderr', '')}".strip() if output else ""
        for line in text.splitlines()[-_OUTPUT_LINES:]:
            click.echo(f"  {printable(line)}", err=True)
        click.echo(f"asu-builder: {printable(str(document.get('detail', 'failed')))}", err=True)
        return
    for warning in document.get("warnings", ()):
        click.echo(f"Warning: {printable(str(warning))}", err=True)
    if not showing.quiet:
        click.echo(f"{len(finished.files)} images, each with the SHA-256 that was announced.", err=True)


def _interrupt(_: int, __: FrameType | None) -> None:
    raise KeyboardInterrupt
