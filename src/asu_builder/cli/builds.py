"""Builds by their hash, and what operators do: `status`, `log`, `sbom`, `cancel`, `jobs`, `preflight`.

Beside a running service, on this installation, or on a server.
"""

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import click

from asu_builder.cli.backend import open_backend, server_options
from asu_builder.cli.exit_codes import ExitCode, code_of_build, print_error
from asu_builder.cli.views import describe, print_json, print_table, printable
from asu_builder.client.builds import Ended, LogLines, ServerBuilds, progress_of
from asu_builder.client.server import ServerOperator
from asu_builder.domain.errors import Conflict, NotAllowed, NotAuthenticated
from asu_builder.domain.job import JobFilter, JobState

_hash_argument = click.argument("request_hash", metavar="HASH")
"""All of its digits, or as many as tell it from others."""


@click.command("status")
@_hash_argument
@click.option("--json", "as_json", is_flag=True, help="Print the whole response as JSON.")
@server_options
def status_command(request_hash: str, as_json: bool, server: str, token: str) -> None:
    """Says how far a build is. Ends with 0 for every build that is known, whatever its state."""
    with open_backend(server, token) as backend:
        response = backend.builds.look(backend.builds.whole_hash(request_hash))
    document = response.document
    if as_json:
        print_json(document)
        return
    request = document.get("request") or {}
    rows = [
        ("state", document.get("state") or document.get("detail")),
        ("request", " ".join(str(request.get(name, "")) for name in ("version", "target", "profile"))),
    ]
    if response.status == 202:
        rows.append(("progress", describe(progress_of(document))))
    elif response.status != 200:
        rows.append(("why", document.get("detail")))
    rows += [("image", f"{image['name']} {image['sha256']}") for image in document.get("images", ())]
    print_table([{"what": what, "value": str(value)} for what, value in rows], ("what", "value"))


@click.command("log")
@_hash_argument
@click.option(
    "-f",
    "--follow",
    is_flag=True,
    help="Continue until the build ends, and exit with the exit code of `build`.",
)
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
                print_error(printable(str(event.document.get("detail"))))
            return code_of_build(event.status, event.document)
    return ExitCode.UNAVAILABLE


def _output(document: Mapping[str, Any]) -> list[str]:
    return [line for stream in ("stdout", "stderr") for line in str(document.get(stream) or "").splitlines()]


@click.command("sbom")
@_hash_argument
@click.option(
    "--format",
    "format_",
    type=click.Choice(["cyclonedx", "spdx"]),
    default="cyclonedx",
    show_default=True,
    help="CycloneDX 1.6 or SPDX 2.3, both JSON.",
)
@server_options
def sbom_command(request_hash: str, format_: str, server: str, token: str) -> None:
    """Prints the software bill of materials of a finished build: the packages in its images."""
    with open_backend(server, token) as backend:
        response = backend.builds.look(backend.builds.whole_hash(request_hash))
        if response.status != 200:
            raise Conflict("Only a build that is done has images, and so something in them.")
        for line in backend.builds.sbom(response.document, format_):
            click.echo(printable(line))


@click.command("cancel")
@_hash_argument
@click.option("--cancel-token", default="", metavar="SECRET", help="The cancel token that `build` printed.")
@server_options
def cancel_command(request_hash: str, cancel_token: str, server: str, token: str) -> None:
    """Ends a build before its time: here as its operator, on a server with a secret or a token."""
    with open_backend(server, token) as backend:
        backend.builds.cancel(backend.builds.whole_hash(request_hash), cancel_token)
    click.echo("cancelled")


@contextmanager
def _admin(server: str, token: str) -> Iterator[ServerOperator]:
    """What the operator may do, where the command says, else where the group of commands said."""
    of_group = click.get_current_context().find_object(tuple) or ("", "")
    server, token = server or of_group[0], token or of_group[1]
    with open_backend(server, token, existing=True) as backend:
        try:
            yield backend.admin
        except (NotAuthenticated, NotAllowed) as error:
            raise type(error)(f"{error} Name a token with --token or ASU_BUILDER_TOKEN.") from error


_limit = click.option(
    "--limit",
    type=click.IntRange(min=1, max=1000),
    default=50,
    show_default=True,
    help="At most so many, newest first.",
)


@click.group("jobs")
@server_options
@click.pass_context
def jobs_group(context: click.Context, server: str, token: str) -> None:
    """See every job; cancel, requeue and purge; pause and resume the workers."""
    context.obj = (server, token)


@jobs_group.command("list")
@click.option(
    "--state", type=click.Choice([state.value for state in JobState]), help="Only jobs in this state."
)
@click.option("--version", "release", default="", help="Only of this version.")
@click.option("--target", default="", help="Only of this target, like ath79/generic.")
@click.option("--profile", default="", help="Only of this profile.")
@click.option("--caller", default="", help="Only of this token or address.")
@_limit
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")
@server_options
def list_command(
    state: str | None, release: str, *, as_json: bool, server: str, token: str, **wanted: Any
) -> None:
    """Lists jobs, newest first."""
    asked = JobFilter(state=JobState(state) if state else None, version=release, **wanted)
    with _admin(server, token) as admin:
        for job in admin.jobs(asked):
            if as_json:
                click.echo(json.dumps(job))
                continue
            how = job["reason"] or job["stage"] or ""
            line = (
                f"{job['id']:>7}  {_to_the_second(job['enqueued_at'])}  {job['state']:<9}  {how:<18}  "
                f"{job['version']}  {job['target']}  {job['profile']}  {job['caller'] or '-'}  "
                f"{job['request_hash']}"
            )
            click.echo(printable(line))


@jobs_group.command("show")
@_hash_argument
@server_options
def show_command(request_hash: str, server: str, token: str) -> None:
    """Shows the newest job of a request hash, as JSON."""
    with _admin(server, token) as admin:
        print_json(admin.show(admin.whole_hash(request_hash)))


@jobs_group.command("cancel")
@_hash_argument
@server_options
def cancel_job_command(request_hash: str, server: str, token: str) -> None:
    """Cancels a job that waits or runs."""
    with _admin(server, token) as admin:
        admin.cancel(admin.whole_hash(request_hash))
    click.echo("cancelled")


@jobs_group.command("requeue")
@_hash_argument
@server_options
def requeue_command(request_hash: str, server: str, token: str) -> None:
    """Builds once more what has ended, or gives a running build back to the queue."""
    with _admin(server, token) as admin:
        admin.requeue(admin.whole_hash(request_hash))
    click.echo("requeued")


@jobs_group.command("purge")
@_hash_argument
@server_options
def purge_command(request_hash: str, server: str, token: str) -> None:
    """Forgets a result or a failure now, with its images."""
    with _admin(server, token) as admin:
        admin.purge(admin.whole_hash(request_hash))
    click.echo("purged")


@jobs_group.command("pause")
@server_options
def pause_command(server: str, token: str) -> None:
    """Lets no worker claim a job; what is being built goes on."""
    with _admin(server, token) as admin:
        admin.pause()
    click.echo("paused")


@jobs_group.command("resume")
@server_options
def resume_command(server: str, token: str) -> None:
    """Lets workers claim jobs again."""
    with _admin(server, token) as admin:
        admin.resume()
    click.echo("resumed")


@jobs_group.command("acts")
@_limit
@server_options
def acts_command(limit: int, server: str, token: str) -> None:
    """Shows what operators did, newest first."""
    with _admin(server, token) as admin:
        for act in admin.acts(limit):
            line = f"{_to_the_second(act['at'])}  {act['operator']}  {act['act']}  {act['subject']}"
            click.echo(printable(line.rstrip()))


@click.group("preflight", invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")
@server_options
@click.pass_context
def preflight_group(context: click.Context, as_json: bool, server: str, token: str) -> None:
    """Shows where builds were compared with an impossible verdict; `enforce` lets it refuse again."""
    context.obj = (server, token)
    if context.invoked_subcommand is not None:
        return
    with _admin(server, token) as admin:
        for found in admin.preflight():
            if as_json:
                click.echo(json.dumps(found))
                continue
            line = (
                f"{found['mode']:<7}  {_to_the_second(found['since'])}  {found['version']}  "
                f"{found['target']}  {found['disagreements']} of {found['sampled']} wrong  "
                f"{found['last_disagreement']}"
            )
            click.echo(printable(line.rstrip()))


@preflight_group.command("enforce")
@click.argument("version")
@click.argument("target")
@server_options
def enforce_command(version: str, target: str, server: str, token: str) -> None:
    """Refuses impossible selections of VERSION and TARGET again, after a look at what went wrong."""
    with _admin(server, token) as admin:
        admin.enforce(version, target)
    click.echo("enforced")


def _to_the_second(moment: str) -> str:
    """A moment of the interface, such as 2026-11-23T12:44:54.231091Z, without its fraction."""
    return f"{moment[:19]}Z"
