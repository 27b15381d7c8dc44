"""`asu-builder jobs`: see and move jobs from the command line, beside a running service."""

import click
import msgspec

from asu_builder.cli.opening import operator, who
from asu_builder.domain.errors import BuildNotFound
from asu_builder.domain.job import Job, JobState
from asu_builder.ports import JobFilter

_limit = click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=50,
    show_default=True,
    help="How many at most, newest first.",
)


@click.group("jobs")
def jobs_group() -> None:
    """See every job; cancel, requeue and purge; pause and resume the workers."""


@jobs_group.command("list")
@click.option("--state", type=click.Choice([state.value for state in JobState]), help="Only these.")
@click.option("--version", "release", default="", help="Only of this version.")
@click.option("--target", default="", help="Only of this target, like ath79/generic.")
@click.option("--profile", default="", help="Only of this profile.")
@click.option("--asker", default="", help="Only of this token or address.")
@_limit
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def list_command(
    state: str | None, release: str, target: str, profile: str, asker: str, limit: int, as_json: bool
) -> None:
    """Lists jobs, newest first."""
    wanted = JobFilter(
        state=JobState(state) if state else None,
        version=release,
        target=target,
        profile=profile,
        asker=asker,
        limit=limit,
    )
    with operator() as hand:
        for job in hand.jobs(wanted):
            click.echo(_as_json(job) if as_json else _as_line(job))


@jobs_group.command("show")
@click.argument("request_hash")
def show_command(request_hash: str) -> None:
    """Shows the newest job of a request hash, as JSON."""
    with operator() as hand:
        job = hand.find(request_hash)
        if job is None:
            raise BuildNotFound("There is no job under this hash.")
        click.echo(msgspec.json.format(_as_json(job), indent=2))


@jobs_group.command("cancel")
@click.argument("request_hash")
def cancel_command(request_hash: str) -> None:
    """Cancels a job that waits or runs."""
    with operator() as hand:
        hand.cancel(request_hash, who=who())
    click.echo("cancelled")


@jobs_group.command("requeue")
@click.argument("request_hash")
def requeue_command(request_hash: str) -> None:
    """Builds once more what has ended, or gives a running build back to the queue."""
    with operator() as hand:
        hand.requeue(request_hash, who=who())
    click.echo("requeued")


@jobs_group.command("purge")
@click.argument("request_hash")
def purge_command(request_hash: str) -> None:
    """Forgets a result or a failure now, with its images."""
    with operator() as hand:
        hand.purge(request_hash, who=who())
    click.echo("purged")


@jobs_group.command("pause")
def pause_command() -> None:
    """Lets no worker claim a job; what is being built goes on."""
    with operator() as hand:
        hand.pause(who=who())
    click.echo("paused")


@jobs_group.command("resume")
def resume_command() -> None:
    """Lets workers claim jobs again."""
    with operator() as hand:
        hand.resume(who=who())
    click.echo("resumed")


@jobs_group.command("acts")
@_limit
def acts_command(limit: int) -> None:
    """Shows what operators did, newest first."""
    with operator() as hand:
        for act in hand.acts(limit):
            click.echo(f"{act.at:%Y-%m-%dT%H:%M:%SZ}  {act.who}  {act.act}  {act.subject}".rstrip())


def _as_line(job: Job) -> str:
    request = job.request
    how = job.reason or job.stage or ""
    return (
        f"{job.id:>7}  {job.enqueued_at:%Y-%m-%dT%H:%M:%SZ}  {job.state:<9}  {how:<18}  "
        f"{request.version}  {request.target}  {request.profile}  {job.asker or '-'}  {job.request_hash}"
    )


def _as_json(job: Job) -> bytes:
    return msgspec.json.encode(job)
