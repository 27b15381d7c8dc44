"""`asu-builder gc`, `backup` and `token`: what an operator does now and then."""

import sys
from pathlib import Path

import click

from asu_builder.bootstrap import make_housekeeping
from asu_builder.cli.opening import installation, now, told
from asu_builder.settings import load_settings
from asu_builder.settings.checks import NAME as TOKEN_NAME


@click.command("gc")
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@click.option(
    "--adopt-store",
    is_flag=True,
    help="Take the store's directory as it is: results that are not in it are gone for good.",
)
def gc_command(dry_run: bool, adopt_store: bool) -> None:
    """Forgets what is past its time, makes room where it is short, and brings files and rows together."""
    if dry_run and adopt_store:
        raise click.UsageError("--adopt-store forgets results; it goes with no --dry-run.")
    with installation() as (settings, world):
        if adopt_store:
            world.store.adopt()
        world.store.require_root()
        housekeeping = make_housekeeping(settings, world, world.runtime, now=now, wake=lambda: None)
        found = housekeeping.collect(dry_run=dry_run)
        orphans = housekeeping.reconcile(dry_run=dry_run)
    # A dry run finds them a second time.
    lost = set(orphans.expired) - {*found.expired, *found.evicted}
    would = "would go" if dry_run else "gone"
    click.echo(f"{len(found.expired)} past their time {would}")
    click.echo(f"{len(found.evicted)} least used {would}, {found.bytes >> 20} MiB")
    click.echo(f"{len(orphans.orphaned)} directories without a job {would}")
    click.echo(f"{len(lost)} results without their files {would}")


@click.command("backup")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Replace a file that is there.")
def backup_command(file: Path, force: bool) -> None:
    """Copies the database into FILE, consistent while the service runs. Images need no backup."""
    from asu_builder.adapters.backup import backup

    with told():
        size = backup(load_settings().database_path, file, force=force)
    click.echo(f"{file}: {size} bytes, checked")


_RIGHTS = {
    "none": "asks for builds without a limit, and no more",
    "read": "sees every job with its request and output, and the settings",
    "operate": "sees all that, and cancels, requeues and purges jobs, pauses and resumes the workers",
}


@click.command("token")
@click.argument("name")
@click.option(
    "--right",
    "rights",
    type=click.Choice(list(_RIGHTS)),
    multiple=True,
    help="What it may do; asked for at a terminal where nothing is said.",
)
@click.option(
    "--priority",
    type=click.Choice(["bulk", "normal", "interactive"]),
    default="normal",
    show_default=True,
    help="The class of the jobs that its holder submits.",
)
def token_command(name: str, rights: tuple[str, ...], priority: str) -> None:
    """Makes a token for NAME: prints the secret, once, and the setting that makes it known."""
    from asu_builder.domain.access import new_token

    if not TOKEN_NAME.fullmatch(name):
        raise click.UsageError(f"NAME: expected letters, digits and . _ - (at most 64), got {name[:80]!r}")
    given = list(dict.fromkeys(rights or _ask_for_rights()))
    given = [right for right in given if right != "none"]
    secret, digest = new_token()
    click.echo(f"Token, shown only now: {secret}\n\nAdd to api_tokens in config.yaml and restart:\n")
    click.echo(f"  - name: {name}\n    digest: {digest}\n    priority: {priority}")
    if given:
        click.echo(f"    rights: [{', '.join(given)}]")
    strongest = max(given, key=list(_RIGHTS).index, default="none")
    click.echo(f"\nRights: {', '.join(given) or 'none'}. Its holder {_RIGHTS[strongest]}.")
    if not given:
        click.echo("For more: --right read, or --right operate.")


def _ask_for_rights() -> tuple[str, ...]:
    """What whoever sits at the terminal chooses; nothing where there is none."""
    if not sys.stdin.isatty():
        return ()
    for right, meaning in _RIGHTS.items():
        click.echo(f"  {right:<8} {meaning}", err=True)
    return (click.prompt("Which right", type=click.Choice(list(_RIGHTS)), default="none", err=True),)
