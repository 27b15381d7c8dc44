"""`asu-builder jobs`: see and move jobs, beside a running service or on a server."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import click
import msgspec

from asu_builder.cli.local import operator, told, who
from asu_builder.cli.places import server_of, server_options
from asu_builder.cli.views import print_json, printable
from asu_builder.core.operator import Operator
from asu_builder.domain.errors import BuildNotFound, NotAllowed, NotAuthenticated
from asu_builder.domain.job import JobState
from asu_builder.domain.request import FOUND_AT_MOST, whole_hash
from asu_builder.http.api.operator import ActDocument, describe_job
from asu_builder.ports import JobFilter


class Hand(Protocol):
    """What an operator sees and does, wherever: `LocalHand` or `client.operator.ServerOperator`."""

    def jobs(self, wanted: JobFilter) -> Sequence[dict[str, Any]]:
        """Jobs, newest first, as the HTTP interface tells them."""

    def show(self, request_hash: str) -> Any:
        """The newest job of a hash. Raises `BuildNotFound`."""

    def cancel(self, request_hash: str) -> None:
        """Ends the live job of this hash. Raises `BuildNotFound` or `Conflict`."""

    def requeue(self, request_hash: str) -> None:
        """Builds once more what has ended, or gives a running build back to the queue."""

    def purge(self, request_hash: str) -> None:
        """Forgets a result or a failure now, with its images."""

    def pause(self) -> None:
        """Lets no worker claim a job."""

    def resume(self) -> None:
        """Lets workers claim jobs again."""

    def acts(self, limit: int) -> Sequence[dict[str, Any]]:
        """What operators did, newest first."""


class LocalHand:
    """Speaks as `client.operator.ServerOperator` does; whoever is at the terminal may do everything."""

    def __init__(self, operator: Operator) -> None:
        self._operator = operator

    def jobs(self, wanted: JobFilter) -> Sequence[dict[str, Any]]:
        """See `Hand.jobs`."""
        return [_document(describe_job(job)) for job in self._operator.jobs(wanted)]

    def show(self, request_hash: str) -> Any:
        """See `Hand.show`."""
        job = self._operator.find(request_hash)
        if job is None:
            raise BuildNotFound("There is no job under this hash.")
        return _document(job)

    def cancel(self, request_hash: str) -> None:
        """See `Hand.cancel`."""
        self._operator.cancel(request_hash, who=who())

    def requeue(self, request_hash: str) -> None:
        """See `Hand.requeue`."""
        self._operator.requeue(request_hash, who=who())

    def purge(self, request_hash: str) -> None:
        """See `Hand.purge`."""
        self._operator.purge(request_hash, who=who())

    def pause(self) -> None:
        """See `Hand.pause`."""
        self._operator.pause(who=who())

    def resume(self) -> None:
        """See `Hand.resume`."""
        self._operator.resume(who=who())

    def acts(self, limit: int) -> Sequence[dict[str, Any]]:
        """See `Hand.acts`."""
        found = self._operator.acts(limit)
        return [_document(ActDocument(act.at, act.who, act.act, act.subject)) for act in found]


@contextmanager
def hand_of(server: str, token: str) -> Iterator[Hand]:
    """The hand on the server that is named, or on this installation. Errors end the command."""
    if not server:
        with operator() as hand:
            yield LocalHand(hand)
        return
    from asu_builder.client.server import ServerOperator

    with told():
        try:
            yield ServerOperator(server_of(server, token))
        except (NotAuthenticated, NotAllowed) as error:
            raise type(error)(f"{error} Name a token with --token or ASU_BUILDER_TOKEN.") from error


def hashes_of(hand: Hand) -> Callable[[str], Sequence[str]]:
    """The hashes of jobs by how they begin."""

    def begin_so(prefix: str) -> Sequence[str]:
        found = hand.jobs(JobFilter(request_hash=prefix, limit=FOUND_AT_MOST))
        return [str(job["request_hash"]) for job in found]

    return begin_so


def whole(hand: Hand, given: str) -> str:
    """The hash that begins as given. Raises as `whole_hash` does."""
    return whole_hash(given, hashes_of(hand))


def _document(value: object) -> Any:
    return msgspec.to_builtins(value)


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


@contextmanager
def _hand(server: str, token: str) -> Iterator[Hand]:
    """Where the command says, else where the group of commands said."""
    of_group = click.get_current_context().find_object(tuple) or ("", "")
    with hand_of(server or of_group[0], token or of_group[1]) as hand:
        yield hand


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
    with _hand(server, token) as hand:
        for job in hand.jobs(asked):
            click.echo(json.dumps(job) if as_json else _as_line(job))


@jobs_group.command("show")
@_hash_argument
@server_options
def show_command(request_hash: str, server: str, token: str) -> None:
    """Shows the newest job of a request hash, as JSON."""
    with _hand(server, token) as hand:
        print_json(hand.show(whole(hand, request_hash)))


@jobs_group.command("cancel")
@_hash_argument
@server_options
def cancel_command(request_hash: str, server: str, token: str) -> None:
    """Cancels a job that waits or runs."""
    with _hand(server, token) as hand:
        hand.cancel(whole(hand, request_hash))
    click.echo("cancelled")


@jobs_group.command("requeue")
@_hash_argument
@server_options
def requeue_command(request_hash: str, server: str, token: str) -> None:
    """Builds once more what has ended, or gives a running build back to the queue."""
    with _hand(server, token) as hand:
        hand.requeue(whole(hand, request_hash))
    click.echo("requeued")


@jobs_group.command("purge")
@_hash_argument
@server_options
def purge_command(request_hash: str, server: str, token: str) -> None:
    """Forgets a result or a failure now, with its images."""
    with _hand(server, token) as hand:
        hand.purge(whole(hand, request_hash))
    click.echo("purged")


@jobs_group.command("pause")
@server_options
def pause_command(server: str, token: str) -> None:
    """Lets no worker claim a job; what is being built goes on."""
    with _hand(server, token) as hand:
        hand.pause()
    click.echo("paused")


@jobs_group.command("resume")
@server_options
def resume_command(server: str, token: str) -> None:
    """Lets workers claim jobs again."""
    with _hand(server, token) as hand:
        hand.resume()
    click.echo("resumed")


@jobs_group.command("acts")
@_limit
@server_options
def acts_command(limit: int, server: str, token: str) -> None:
    """Shows what operators did, newest first."""
    with _hand(server, token) as hand:
        for act in hand.acts(limit):
            line = f"{_to_the_second(act['at'])}  {act['who']}  {act['act']}  {act['subject']}"
            click.echo(printable(line.rstrip()))


def _as_line(job: Mapping[str, Any]) -> str:
    how = job["reason"] or job["stage"] or ""
    return printable(
        f"{job['id']:>7}  {_to_the_second(job['enqueued_at'])}  {job['state']:<9}  {how:<18}  "
        f"{job['version']}  {job['target']}  {job['profile']}  {job['caller'] or '-'}  {job['request_hash']}"
    )


def _to_the_second(moment: str) -> str:
    """A moment of the interface, such as 2026-11-23T12:44:54.231091Z, without its fraction."""
    return f"{moment[:19]}Z"
