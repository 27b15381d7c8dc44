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
from typing import Any

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
from asu_builder.domain.request import FILESYSTEMS, ON_MISSING, REPOSITORIES_MODES
from asu_builder.domain.search import closest
from asu_builder.http.api.body import BuildRequestBody

_FEW = 3
_PACKAGES_SECONDS = 5.0
"""How long indexes may take that are read for the first time."""
_ALIKE = 0.6
"""Three unlikely suggestions do no harm, and none does not help."""


def suggestion(offers: ServerOffers, body: bytes, refusal: AsuError) -> str:
    """A sentence with the nearest ones, or "" when there is none or the refusal is another."""
    if not isinstance(refusal, RequestRejected) or isinstance(refusal, RequestMalformed):
        return ""
    try:
        found = _nearest(offers, json.loads(body), refusal.field)
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


def _nearest(offers: ServerOffers, request: Mapping[str, Any], field: str) -> Sequence[str]:
    """What is offered and most like the value of this field, the likeliest first."""
    version, target = str(request["version"]), str(request["target"])
    match field:
        case "version":
            known = [name for branch in offers.branches() for name in branch["versions"]]
            # The name of a branch means its newest release.
            below = [name for name in known if name.startswith((f"{version}.", f"{version}-"))]
            released = [name for name in below if "-" not in name]
            return (released or below)[:1] or closest(version, known, alike=_ALIKE)
        case "target":
            branches = [branch for branch in offers.branches() if version in branch["versions"]]
            known = [name for branch in branches for name in branch["targets"]]
            return closest(target, known, alike=_ALIKE)
        case "profile":
            words = str(request["profile"]).replace(",", " ").replace("_", " ")
            devices = offers.devices(version, words, 100)["devices"]
            # Those of the same target first: users mostly know it.
            devices.sort(key=lambda device: device["target"] != target)
            names = (
                device["profile"] + ("" if device["target"] == target else f" ({device['target']})")
                for device in devices
            )
            return list(dict.fromkeys(names))[:_FEW]
    return ()


_NEEDED = ("version", "target", "profile")
_PLAIN = (
    *_NEEDED,
    *("diff_packages", "rootfs_size_mb", "filesystem", "version_code", "repositories_mode"),
    *("on_missing", "as_of"),
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
    on_missing: str | None = None
    as_of: str | None = None


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


class BuildRun:
    """One build on one backend; `run` may be interrupted by `KeyboardInterrupt`, then `abandon` ends it."""

    def __init__(
        self,
        builds: ServerBuilds,
        view: View,
        *,
        patience: float,
        on_event: Callable[[Event], None] = lambda _: None,
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

    def run(self, body: bytes, folder: Path) -> tuple[Response, Sequence[Path]]:
        """The last response, and the images, fetched into `folder`. Raises `AsuError`."""
        response = self.submit(body)
        self._view.note(f"request hash {self._request_hash}")
        if response.status == 202:
            try:
                self._builds.begin(self._request_hash)
                for event in self._builds.follow(self._request_hash):
                    self._on_event(event)
                    self._view.show(event)
                    if isinstance(event, Ended):
                        response = Response(event.status, event.document)
                        break
                else:
                    raise Unavailable("The build was not followed to its end.")
            except AsuError:
                if self._cancel_token:
                    # Leaves no abandoned job behind, if the backend still answers.
                    with suppress(AsuError):
                        self._builds.cancel(self._request_hash, self._cancel_token)
                raise
        if response.status != 200:
            return response, ()
        source = self._builds.source(response.document)
        images = announced_images(response.document)
        return response, [fetch(image, folder, source, report=self._view.image) for image in images]

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


def _leave(_: int, __: FrameType | None) -> None:
    os._exit(ExitCode.CANCELLED)


_OUTPUT_LINES = 20


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
@click.option(
    "--request", "request_file", metavar="FILE", help="A request as JSON or YAML; - is standard input."
)
@click.option("--version", metavar="VERSION", help="A release like 24.10.4, or a snapshot.")
@click.option("--target", metavar="TARGET", help="Target and subtarget, like ath79/generic.")
@click.option("--profile", metavar="PROFILE", help="The profile of the device, or a name that it reports.")
@click.option(
    "-p",
    "--package",
    "packages",
    metavar="PKG",
    multiple=True,
    help="Install this package; -PKG removes it. Repeatable.",
)
@click.option("--diff-packages/--no-diff-packages", default=None, help="Install only these packages.")
@click.option("--defaults", "defaults_file", metavar="FILE", help="A first-boot script; - is standard input.")
@click.option(
    "--rootfs-size-mb", type=click.IntRange(min=1), metavar="MIB", help="Size of the root partition."
)
@click.option(
    "--filesystem",
    metavar="NAME",
    help=f"Build only this root file system, like {', '.join(FILESYSTEMS)}.",
    shell_complete=lambda _context, _option, begun: [
        CompletionItem(name) for name in FILESYSTEMS if name.startswith(begun)
    ],
)
@click.option("--version-code", metavar="REVISION", help="Build only from this revision.")
@click.option(
    "--repository",
    "repositories",
    metavar="NAME=URL",
    multiple=True,
    help="A package repository. Repeatable.",
)
@click.option(
    "--repositories-mode",
    type=click.Choice(REPOSITORIES_MODES),
    help="Add to the default repositories or replace them.",
)
@click.option(
    "--repository-key",
    "repository_key_files",
    metavar="FILE",
    multiple=True,
    help="The public key of a repository. Repeatable.",
)
@click.option(
    "--on-missing",
    type=click.Choice(ON_MISSING),
    help="Fail where a package does not exist, or drop it from the request.",
)
@click.option(
    "--as-of",
    metavar="DIGEST",
    help="Build with the packages of today, or of this digest, unless nothing has changed.",
)
@click.option(
    "-o",
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(),
    show_default="here",
    help="The directory for the images.",
)
@click.option("--detach", is_flag=True, help="Only submit the request: print its hash and do not wait.")
@click.option(
    "--patience",
    type=click.FloatRange(min=0),
    default=DEFAULT_SECONDS,
    show_default=True,
    metavar="SECONDS",
    help="How long to retry while the server is overloaded or does not answer.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the final document.")
@click.option("--json-events", is_flag=True, help="Print each event as one JSON object per line.")
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
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with open_backend(server, token, patience=patience) as backend:
        if not detach:
            sys.exit(_build(backend, body, out, showing, patience=patience))
        with shown(sys.stderr, quiet=quiet) as view:
            document = BuildRun(backend.builds, view, patience=patience).submit(body).document
        if as_json or json_events:
            click.echo(json.dumps(document))
            return
        click.echo(document["request_hash"])
        _say_what_differs(document)
        if secret := document.get("cancel_token"):
            click.echo(f"To cancel it: --cancel-token {secret}", err=True)


def _say_what_differs(document: Mapping[str, Any]) -> None:
    """Says what was left out of the request, and whether an older image has answered it."""
    for name, meant in sorted((document.get("dropped") or {}).items()):
        hint = f" Did you mean {meant}?" if meant else ""
        click.echo(printable(f"Left out: {name} does not exist.{hint}"), err=True)
    if document.get("unchanged"):
        click.echo("Nothing has changed: these images hold the packages of today.", err=True)


def _build(backend: Backend, body: bytes, out: Path, showing: _Showing, *, patience: float) -> ExitCode:
    run: BuildRun | None = None
    try:
        with shown(sys.stderr, quiet=showing.quiet) as view:
            run = BuildRun(backend.builds, view, patience=patience, on_event=showing.write)
            response, files = run.run(body, out)
    except KeyboardInterrupt:
        # From now on an interrupt ends the process, whatever it does.
        signal.signal(signal.SIGINT, _leave)
        signal.signal(signal.SIGTERM, _leave)
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
    document = {**response.document, "files": [str(path) for path in files]}
    if showing.as_json:
        click.echo(json.dumps(document, indent=2))
    elif not showing.json_events:
        for path in files:
            click.echo(path)
    _say_what_differs(document)
    code = code_of_build(response.status, document)
    if code is ExitCode.DONE:
        for warning in document.get("warnings", ()):
            click.echo(f"Warning: {printable(str(warning))}", err=True)
        if not showing.quiet:
            click.echo(f"{len(files)} images, each with the SHA-256 that was announced.", err=True)
        return code
    # What the build printed last, unless that can be read above, and then why it failed.
    text = f"{document.get('stdout', '')}\n{document.get('stderr', '')}".strip()
    for line in text.splitlines()[-_OUTPUT_LINES:] if not view.keeps_output else ():
        click.echo(f"  {printable(line)}", err=True)
    print_error(printable(str(document.get("detail", "failed"))))
    if document.get("reason") == FailureReason.IMPOSSIBLE_SELECTION:
        for sentence in package_suggestions(backend.offers, body):
            click.echo(printable(sentence), err=True)
    return code
