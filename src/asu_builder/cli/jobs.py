"""`asu-builder jobs`: see and move jobs, beside a running service or on a server."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from asu_builder.cli.backend import open_backend, server_options
from asu_builder.cli.views import print_json, printable
from asu_builder.client.server import ServerOperator
from asu_builder.domain.errors import NotAllowed, NotAuthenticated
from asu_builder.domain.job import JobFilter, JobState


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
    help="How many at most, newest first.",
)
_hash_argument = click.argument("request_hash", metavar="HASH")


@click.group("jobs")
@server_options
@click.pass_context
def jobs_group(context: click.Context, server: str, token: str) -> None:
    """See every job; cancel, requeue and purge; pause and resume the workers."""
    context.obj = (server, token)


@jobs_group.command("list")
@click.option("--state", type=click.Choice([state.value for state in JobState]), help="Only these.")
@click.option("--version", "release", default="", help="Only of this version.")
@click.option("--target", default="", help="Only of this target, like ath79/generic.")
@click.option("--profile", default="", help="Only of this profile.")
@click.option("--caller", default="", help="Only of this token or address.")
@_limit
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
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
def cancel_command(request_hash: str, server: str, token: str) -> None:
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


def _to_the_second(moment: str) -> str:
    """A moment of the interface, such as 2026-11-23T12:44:54.231091Z, without its fraction."""
    return f"{moment[:19]}Z"
