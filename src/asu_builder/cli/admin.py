"""What an operator does at times: `asu-builder doctor`, `gc`, `backup`, `move`, `token` and others."""

import contextlib
import logging
import os
import sys
import textwrap
import time
import tomllib
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click
import msgspec
from msgspec.structs import replace

from asu_builder import __version__
from asu_builder.cli.backend import installation
from asu_builder.cli.exit_codes import exit_on_error
from asu_builder.domain.errors import BuildNotFound, Unavailable
from asu_builder.domain.health import CheckResult, Status
from asu_builder.domain.release import BUILT_IN
from asu_builder.settings import SETTING_NAMES, BranchSetting, SettingsProblem, load_settings
from asu_builder.settings.checks import NAME as TOKEN_NAME
from asu_builder.settings.checks import SERVER_URLS, SQLITE_URL
from asu_builder.settings.predecessor import (
    LOG_LEVELS,
    NOT_NEEDED,
    RENAMED,
    SAME_VALUES,
    said_of,
    said_of_branch,
)
from asu_builder.settings.reading import require_settings, survey_settings

if TYPE_CHECKING:
    from asu_builder.database.dialect import SqlDatabase

_SIGNS: Mapping[Status, str] = {"ok": "✓", "warning": "!", "error": "✗"}
_PLAIN_SIGNS: Mapping[Status, str] = {"ok": "ok", "warning": "!", "error": "NO"}
_COLOURS: Mapping[Status, str] = {"ok": "green", "warning": "yellow", "error": "red"}
_NAME_WIDTH, _MARGIN, _WIDTH = 20, 24, 110
_FILE_URL = "file://"
_UNKNOWN = "not known here, and left out"


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object when all checks have ended.")
@click.option("--no-build", is_flag=True, help="Skip the sample build, which takes some seconds.")
@click.option(
    "--url", default="", metavar="URL", help="Check this public address as browsers and clients use it."
)
def doctor_command(as_json: bool, no_build: bool, url: str) -> None:
    """Checks this installation and says how to fix it; changes nothing. Exit code 1: there is an error."""
    # What no other command needs.
    from asu_builder.doctor.report import CHECKS, examine, is_healthy
    from asu_builder.doctor.sample_build import try_building
    from asu_builder.doctor.scene import Scene

    logging.disable(logging.CRITICAL)  # the results say why something fails
    scene = Scene(survey_settings(), url=url)
    results: list[CheckResult] = []
    for result in examine(scene, CHECKS):
        _add(results, result, shown=not as_json)
    if not no_build:
        _add(results, try_building(scene, results), shown=not as_json)
    errors, warnings = (sum(result.status == status for result in results) for status in ("error", "warning"))
    healthy = is_healthy(results)
    if as_json:
        document = {"version": __version__, "healthy": healthy, "checks": results}
        click.echo(msgspec.json.format(msgspec.json.encode(document), indent=2))
    elif errors or warnings:
        click.echo(f"\n{len(results)} checked: {errors} with an error, {warnings} with a warning.")
    else:
        click.echo(f"\n{len(results)} checked, and all is well.")
    sys.stdout.flush()
    # A check that hangs in the kernel, on a dead network mount, must not keep the end waiting.
    os._exit(0 if healthy else 1)


def _add(results: list[CheckResult], result: CheckResult, *, shown: bool) -> None:
    if shown:
        if not results or results[-1].group != result.group:
            click.echo(("\n" if results else "") + click.style(result.group, bold=True))
        # Signs that this terminal can write.
        signs = _SIGNS if "✓✗".encode(sys.stdout.encoding or "ascii", "ignore") else _PLAIN_SIGNS
        sign = click.style(signs[result.status], fg=_COLOURS[result.status])
        lines = textwrap.wrap(
            result.sentence, _WIDTH - _MARGIN, break_long_words=False, break_on_hyphens=False
        )
        click.echo(f"  {sign} {result.name.ljust(_NAME_WIDTH)}{lines[0]}")
        # A remedy is never wrapped: it is there to be copied.
        for line in (*lines[1:], *([f"-> {result.remedy}"] if result.remedy else [])):
            click.echo(" " * _MARGIN + line)
    results.append(result)


@click.command("import-settings")
@click.argument("file", type=click.Path(path_type=Path))
def import_settings_command(file: Path) -> None:
    """Prints what the predecessor's FILE (asu.toml) says as YAML of this service; changes nothing."""
    with exit_on_error():
        try:
            theirs = tomllib.loads(file.read_text(encoding="utf-8"))
        except OSError as error:
            raise SettingsProblem(f"{file} cannot be read: {error.strerror}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise SettingsProblem(f"{file} is not valid TOML: {error}") from error
        lines = list(translate(theirs, str(file)))
    click.echo(f"# From {file.name}. Save it as /etc/asu/config.yaml or config.yaml.")
    click.echo("\n".join(lines))


def translate(theirs: Mapping[str, Any], origin: str) -> Iterator[str]:
    """The lines of a settings file; what has no setting here is a comment.

    Raises `SettingsProblem` for values that no setting here may have, all of them at once.
    """
    ours: dict[str, Any] = {}
    comments: list[str] = []
    for key, value in theirs.items():
        name = key.lower()
        if name == "branches":
            ours[name], said = _branches(value)
            comments += said
        elif name == "log_level":
            level = str(value).strip().lower()
            ours[name] = LOG_LEVELS.get(level, level)
        elif name in SETTING_NAMES and name not in NOT_NEEDED:
            ours[name] = value
        elif name in SAME_VALUES:
            ours[RENAMED[name]] = value
        else:
            comments.append(f"{key}: {said_of(name) or _UNKNOWN}")
    require_settings(ours, origin)
    import yaml

    yield from (f"# {comment}" for comment in comments)
    if ours:
        yield yaml.safe_dump(ours, sort_keys=False, allow_unicode=True, width=10_000).rstrip()


def _branches(theirs: Any) -> tuple[Any, list[str]]:
    """Where they differ from the built-in ones; what the predecessor did not list, it did not offer."""
    if not isinstance(theirs, Mapping):
        return theirs, []
    ours: dict[str, Any] = {}
    comments: list[str] = []
    for name, branch in theirs.items():
        if not isinstance(branch, Mapping):
            ours[name] = branch
            continue
        kept = {key: value for key, value in branch.items() if key in BranchSetting.__annotations__}
        comments += [
            f"branches.{name}.{key}: {said_of_branch(key) or _UNKNOWN}" for key in branch if key not in kept
        ]
        standing = BUILT_IN.get(name)
        differing = {
            key: value for key, value in kept.items() if standing is None or getattr(standing, key) != value
        }
        if differing or standing is None:
            ours[name] = differing
    return ours | {name: {"enabled": False} for name in BUILT_IN if name not in theirs}, comments


@click.command("gc")
@click.option("--dry-run", is_flag=True, help="Only list what would be deleted.")
@click.option(
    "--adopt-store",
    is_flag=True,
    help="Accept the store's directory as it is: results that are not in it are deleted.",
)
def gc_command(dry_run: bool, adopt_store: bool) -> None:
    """Forgets what is past its time, makes room where it is short, and brings files and rows together."""
    from asu_builder.app.background import make_housekeeping

    if dry_run and adopt_store:
        raise click.UsageError("--adopt-store forgets results; it goes with no --dry-run.")
    with installation() as (settings, adapters):
        if adopt_store:
            adapters.store.adopt()
        adapters.store.require_root()
        housekeeping = make_housekeeping(settings, adapters)
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
@click.option("--force", is_flag=True, help="Replace an existing file.")
def backup_command(file: Path, force: bool) -> None:
    """Copies the database into FILE, consistent while the service runs. Images need no backup.

    Of a PostgreSQL database it says how pg_dump makes FILE, and checks the one that is there.
    """
    from asu_builder.database.backup import backup

    with exit_on_error():
        settings = load_settings()
        if settings.on_server:
            from asu_builder.database.postgresql_schema import require_restorable

            require_restorable(file)
            size = file.stat().st_size
        else:
            size = backup(settings.database_path, file, force=force)
    click.echo(f"{file}: {size} bytes, checked")


@click.command("migrate")
def migrate_command() -> None:
    """Brings the database to the schema of this version, as the first start of it would. Done once."""
    from asu_builder.app.adapters import open_database

    with exit_on_error():
        database = open_database(load_settings(), lambda: datetime.now(UTC))
        database.close()
    click.echo("The database has the schema of this version.")


@click.command("move")
@click.option("--from", "origin", required=True, metavar="URL", help="The database that is used now.")
@click.option("--to", "goal", required=True, metavar="URL", help="An empty one, or where it was before.")
@click.option("--cancel", is_flag=True, help="Use --from again, where the move did not come to its end.")
@click.option("--store", "is_store", is_flag=True, help="Move the images, of the database in the settings.")
def move_command(origin: str, goal: str, cancel: bool, is_store: bool) -> None:
    """Moves the whole state from SQLite to PostgreSQL, or back, while no process of the service runs.

    A URL is sqlite:///PATH or postgresql://…, as database_url. Every row is compared. After a power cut, or
    whatever ended it, run it again. With --store, images are moved from file:///PUBLIC_PATH to a bucket, as
    in store_url, or back.
    """
    from asu_builder.database import moving

    if is_store:
        if cancel:
            raise click.UsageError("--cancel goes with a move of the database alone.")
        _move_store(origin, goal)
        return
    with exit_on_error(), contextlib.ExitStack() as life:
        source = life.enter_context(contextlib.closing(_open_url("--from", origin, is_there=True)))
        target = life.enter_context(contextlib.closing(_open_url("--to", goal, is_there=False)))
        if cancel:
            moving.cancel(source, target)
            click.echo(f"{_in_words(origin)} can be used again.", err=True)
            return
        is_new = moving.move(
            source,
            target,
            to=_in_words(goal),
            on_table=lambda moved: click.echo(f"{moved.table}: {moved.rows} rows, compared", err=True),
        )
    click.echo(f"The state {'is' if is_new else 'was already'} in {_in_words(goal)}. Set database_url to it.")


def _move_store(origin: str, goal: str) -> None:
    from asu_builder.app.adapters import open_bucket, open_database
    from asu_builder.database.moving import require_idle
    from asu_builder.database.retention import SqlRetention
    from asu_builder.store import moving
    from asu_builder.store.local import LocalStore
    from asu_builder.store.objects import ObjectStore
    from asu_builder.store.scratch import ScratchSpace

    files = [url for url in (origin, goal) if url.startswith(_FILE_URL)]
    buckets = [url for url in (origin, goal) if not url.startswith(_FILE_URL)]
    if len(files) != 1:
        raise click.UsageError("--store: expected one file:///PUBLIC_PATH and one bucket, as in store_url")
    with exit_on_error(), contextlib.ExitStack() as life:
        settings = replace(load_settings(), store_url=buckets[0])
        database = life.enter_context(contextlib.closing(open_database(settings, lambda: datetime.now(UTC))))
        require_idle(database)
        rows, installation = SqlRetention(database), database.installation()
        root = Path(files[0].removeprefix(_FILE_URL)) / "store"
        local, bucket = LocalStore(root, installation=installation, floor=0), open_bucket(settings)
        if goal == files[0]:
            tally = moving.to_directory(bucket, local, rows)
        else:
            objects = ObjectStore(
                bucket,
                ScratchSpace(root, floor=0),
                installation=installation,
                named=rows.stored_files,
                expects_results=lambda: False,
                longest_build=settings.job_timeout,
            )
            tally = moving.to_bucket(root, local, objects, bucket, rows)
    click.echo(
        f"{tally.moved} results moved and compared, {tally.bytes} bytes; {tally.there} were there already, "
        f"{tally.lacking} are not whole in {origin} and will be built again."
    )


def _open_url(option: str, url: str, *, is_there: bool) -> "SqlDatabase":
    """The database of a URL, whether or not it was moved. Raises `Unavailable`."""
    from asu_builder.database.connection import Database

    if url.startswith(SQLITE_URL):
        path = Path(url.removeprefix(SQLITE_URL))
        if is_there and not path.exists():
            raise Unavailable(f"There is no database {path}.")
        return Database(path)
    if not url.startswith(SERVER_URLS):
        raise click.UsageError(f"{option}: expected sqlite:///PATH or postgresql://…")
    try:
        from asu_builder.database.postgresql import ServerDatabase
    except ImportError as error:
        raise SettingsProblem(f"PostgreSQL needs asu-builder[cluster] ({error})") from error
    return ServerDatabase(url)


def _in_words(url: str) -> str:
    """Without the password, and what else only a connection needs."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname or ''}{parts.path}"


_LOOK_SECONDS = 0.5


def drain_node(name: str | None, *, drained: bool) -> None:
    """Drains a process, by default that of these settings, and waits for its builds; or undoes it."""
    import getpass

    with installation() as (settings, adapters):
        name = name or settings.worker_id
        if not adapters.nodes.drain(name, drained):
            names = ", ".join(node.name for node in adapters.nodes.all()) or "none"
            raise BuildNotFound(f"No process on this database has the name {name}. There are: {names}.")
        act = "drain" if drained else "undrain"
        adapters.operations.record(f"cli:{getpass.getuser()}", act, name)
        if not drained:
            click.echo(f"{name} takes jobs again", err=True)
            return
        left = -1
        while (running := adapters.nodes.running(name)) != 0:
            if running != left:
                click.echo(f"{name} takes no more jobs; {running} builds run", err=True)
            left = running
            time.sleep(_LOOK_SECONDS)
        click.echo(f"{name} builds nothing", err=True)


_RIGHTS = {
    "none": "requests builds without a limit, nothing else",
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
    help="The rights of the token; at a terminal the default is to ask.",
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
    if not rights and sys.stdin.isatty():
        for right, meaning in _RIGHTS.items():
            click.echo(f"  {right:<8} {meaning}", err=True)
        rights = (click.prompt("Which right", type=click.Choice(list(_RIGHTS)), default="none", err=True),)
    given = [right for right in dict.fromkeys(rights) if right != "none"]
    secret, digest = new_token()
    click.echo(f"Token, shown only now: {secret}\n\nAdd to api_tokens in config.yaml and restart:\n")
    click.echo(f"  - name: {name}\n    digest: {digest}\n    priority: {priority}")
    if given:
        click.echo(f"    rights: [{', '.join(given)}]")
    strongest = max(given, key=list(_RIGHTS).index, default="none")
    click.echo(f"\nRights: {', '.join(given) or 'none'}. Its holder {_RIGHTS[strongest]}.")
    if not given:
        click.echo("For more: --right read, or --right operate.")
