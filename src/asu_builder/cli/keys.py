"""`asu-builder keys`: the keys that sign, and the one that encrypts what is secret in requests."""

import getpass
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import click

from asu_builder.app.adapters import open_database
from asu_builder.app.keys import open_secrets
from asu_builder.cli.backend import installation, require_database
from asu_builder.cli.exit_codes import exit_on_error
from asu_builder.database import rotation, secrets
from asu_builder.database.dialect import SqlDatabase
from asu_builder.domain.errors import SigningUnavailable
from asu_builder.ports import KeyHolder
from asu_builder.settings import Settings, SettingsProblem, load_settings
from asu_builder.signing import pem, ucert, usign
from asu_builder.signing.attestation import SHORT
from asu_builder.signing.child import protect_memory
from asu_builder.signing.holders import PROVENANCE, FileKey, open_provenance_key, open_signing_key
from asu_builder.signing.signer import REVOKED
from asu_builder.signing.usign import BadKey, PublicKey, Signature

_FILE = click.Path(path_type=Path)
_DAYS = click.IntRange(1, 36500)
_OLDEST_CLOCK = datetime(2026, 1, 1, tzinfo=UTC)


@click.group("keys")
def keys_group() -> None:
    """The keys that sign images and where they came from, and the one that encrypts secrets."""


@keys_group.command("new")
@click.argument("file", type=_FILE)
@click.option("--comment", default="", metavar="TEXT", help="The first line of its files, for people.")
@click.option("--provenance", is_flag=True, help="A key that signs where images came from (PEM).")
def new_command(file: Path, comment: str, provenance: bool) -> None:
    """Makes a key: the secret half in FILE, for this user alone, and the public half in FILE.pub."""
    with exit_on_error():
        if "\n" in comment or "\r" in comment:
            raise SettingsProblem("--comment: expected one line")
        if comment and provenance:
            raise SettingsProblem("--comment: a key in PEM has no comment")
        protect_memory()
        public = file.with_name(f"{file.name}.pub")
        if public.exists():
            raise SettingsProblem(f"{public} is there already; nothing was made")
        if provenance:
            made = pem.make_key()
            key_id, secret_text, public_text = made.public.key_id, made.text(), made.public.text()
        else:
            key = usign.make_key()
            key_id, secret_text, public_text = (
                key.public.key_id,
                key.text(comment),
                key.public.text(comment),
            )
        _write(file, secret_text.encode(), mode=0o600, replace=False)
        _write(public, public_text.encode(), replace=False)
    click.echo(f"Key {key_id}\nsecret half: {file}\npublic half: {public}\n")
    what, setting = ("images", "signing_key")
    if provenance:
        what, setting = ("where images came from", "provenance_key")
    click.echo(f"To sign {what} with it, add to config.yaml and restart:\n")
    click.echo(f"  {setting}: file:{file.absolute()}")
    if provenance:
        click.echo("  provenance_builder: https://…  # the address by which everybody knows this server")


@keys_group.command("show")
@click.argument("file", type=_FILE, required=False)
@click.option("--provenance", is_flag=True, help="A key of where images came from; default: provenance_key.")
def show_command(file: Path | None, provenance: bool) -> None:
    """Shows the public half of the key in FILE, or of signing_key with its certificate."""
    with exit_on_error():
        if provenance:
            shown = _provenance_key(file)
            click.echo(f"Key {shown.key_id}\n\n{shown.text()}")
            click.echo(f"On the server: /keys/{shown.key_id[:SHORT]}.pem")
            return
        if file:
            key, settings = _public_key(file), None
        else:
            settings = load_settings()
            key = _public_of(_examined(_holder(settings)))
        click.echo(f"Key {key.key_id}\n\n{key.text()}")
        click.echo(f"On a device: /etc/opkg/keys/{key.key_id}")
        if settings is None:
            return
        if (settings.public_path / "keys" / f"{key.key_id}{REVOKED}").exists():
            click.echo("It is REVOKED.")
        if not settings.signing_certificate:
            click.echo("It has no certificate; its signatures do not expire.")
            return
        path = Path(settings.signing_certificate).expanduser()
        chain = _read(path)
        try:
            found = ucert.require_chain(ucert.parse_container(chain), key, now=time.time())
        except BadKey as bad:
            raise SettingsProblem(f"signing_certificate: {path} cannot be used: {bad}") from None
        click.echo(
            f"Certified by {found.signature.key_id} from {_day(found.valid_from)} until "
            f"{_day(found.expires_at)}; "
            f"{len(chain) + ucert.MESSAGE_BYTES} of {ucert.MOST_IN_IMAGE} bytes in an image."
        )


@keys_group.command("certify")
@click.argument("certificate", type=_FILE)
@click.option("--key", "file", type=_FILE, help="Certify the key in this file; default: signing_key.")
@click.option("--by", type=_FILE, help="The secret key that certifies it; default: the key itself.")
@click.option("--days", type=_DAYS, default=365, show_default=True, help="How long it is valid from now on.")
def certify_command(certificate: Path, file: Path | None, by: Path | None, days: int) -> None:
    """Writes a CERTIFICATE of the key for devices that trust the key of --by."""
    with exit_on_error():
        _certify(certificate, file, by, days, replace=False)
    click.echo(
        f"To put it into images, set it and restart:\n\n  signing_certificate: {certificate.absolute()}"
    )


@keys_group.command("renew")
@click.option("--by", type=_FILE, help="The secret key that certifies it; default: the key itself.")
@click.option("--days", type=_DAYS, default=365, show_default=True, help="How long it is valid from now on.")
def renew_command(by: Path | None, days: int) -> None:
    """Replaces signing_certificate by one that is valid from now on; a running service takes it at once."""
    with exit_on_error():
        settings = load_settings()
        if not settings.signing_certificate:
            raise SettingsProblem(
                "signing_certificate: there is none to renew; see `asu-builder keys certify`"
            )
        path = Path(settings.signing_certificate).expanduser()
        former = _signer_of(path)
        key = _public_of(_holder(settings))
        signer = _public_of(FileKey(by)) if by else key
        if former not in ("", signer.key_id):
            raise SettingsProblem(
                f"--by: the certificate was signed by {former}, and {signer.key_id} is another key"
            )
        _certify(path, None, by, days, replace=True)


@keys_group.command("revoke")
@click.argument("key_id", required=False, default="")
@click.option("--by", type=_FILE, help="The secret key that revokes it; default: signing_key.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def revoke_command(key_id: str, by: Path | None, yes: bool) -> None:
    """Revokes KEY_ID (default: signing_key): offers the revoker, and ends the results that it signed."""
    with installation() as (settings, adapters):
        holder = FileKey(by) if by else _holder(settings)
        signer = _public_of(holder)
        key_id = key_id or _public_of(_holder(settings)).key_id
        if not usign.is_key_id(key_id):
            raise SettingsProblem("KEY_ID: expected 16 hexadecimal digits in lower case")
        _require_clock()
        if not yes:
            click.confirm(f"Revoke {key_id}? Devices that take the revoker trust it no more.", abort=True)
        with _signing(holder, signer) as sign:
            revoker = ucert.revoke(key_id, sign, at=int(time.time()))
        path = settings.public_path / "keys" / f"{key_id}{REVOKED}"
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(path, revoker)
        signed = adapters.retention.signed_by(key_id)
        for request_hash in signed:
            adapters.operations.purge(request_hash)
        adapters.operations.record(f"cli:{getpass.getuser()}", "revoke", key_id)
    click.echo(f"{key_id} is revoked; {len(signed)} results that it signed are not answered any more.")
    click.echo(f"The service offers the revoker as /keys/{path.name}.")


@keys_group.command("new-secrets")
@click.argument("file", type=_FILE)
def new_secrets_command(file: Path) -> None:
    """Makes the FILE of secrets_key, for this user alone."""
    with exit_on_error():
        key = secrets.make_key()
        try:
            secrets.write_keys(file, [key], new=True)
        except FileExistsError:
            raise SettingsProblem(f"{file} is there already; nothing was made") from None
        except OSError as problem:
            raise SettingsProblem(f"{file} cannot be written: {problem.strerror}") from None
    click.echo(
        f"Secrets key {key.name}. Keep a copy of its file apart from the database and its backups.\n\n"
        f"To encrypt with it, add to config.yaml and restart:\n\n  secrets_key: {file.absolute()}\n\n"
        "Then `asu-builder keys rotate-secrets --step rewrap` encrypts what is stored already."
    )


@keys_group.command("rotate-secrets")
@click.option(
    "--step",
    type=click.Choice(["prepare", "rewrap", "finish"]),
    help="One step alone, on several hosts: after each the file of secrets_key is copied to all of them.",
)
@click.option("--discard", is_flag=True, help="Give up the scripts and keys that no key in the file opens.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def rotate_secrets_command(step: str | None, discard: bool, yes: bool) -> None:
    """Encrypts under a new secrets key; the service goes on meanwhile. Run it again if it was cut off."""
    with exit_on_error():
        settings = load_settings()
        if not settings.secrets_key:
            raise SettingsProblem("secrets_key: no key is set; `asu-builder keys new-secrets FILE` makes one")
        keys = open_secrets(settings)
        path = Path(settings.secrets_key).expanduser()
        require_database(settings)
        database = open_database(settings, lambda: datetime.now(UTC))
        with closing(database), rotation.rotating(path):
            if step in (None, "prepare"):
                key = rotation.prepare(path)
                click.echo(f"The key {key.name} is in {path}.")
            if step in (None, "rewrap"):
                _rewrap(path, database, keys, discard=discard, yes=yes, settings=settings)
            if step in (None, "finish"):
                for former in rotation.finish(path, database):
                    click.echo(f"The key {former.name} is no longer needed, and was removed from {path}.")


def _rewrap(
    path: Path, database: SqlDatabase, keys: secrets.Secrets, *, discard: bool, yes: bool, settings: Settings
) -> None:
    done = rotation.rewrap(path, database, keys)
    click.echo(f"{done.rewrapped} data keys were wrapped again; {done.sealed} requests were encrypted.")
    if done.unreadable and not discard:
        click.echo(
            f"The scripts and keys of {len(done.unreadable)} requests cannot be decrypted; see --discard."
        )
    elif done.unreadable:
        if not yes:
            click.confirm(f"Give up the scripts and keys of {len(done.unreadable)} requests?", abort=True)
        rotation.discard(database, done.unreadable, failure_ttl=settings.failure_ttl)
        click.echo(f"{len(done.unreadable)} requests were given up; they have to be sent again.")


def _certify(certificate: Path, file: Path | None, by: Path | None, days: int, *, replace: bool) -> None:
    _require_clock()
    holder = FileKey(by) if by else FileKey(file) if file else _holder(load_settings())
    signer = _public_of(holder)
    key = signer if not by else _public_key(file) if file else _public_of(_holder(load_settings()))
    now = int(time.time())
    expires_at = now + days * 86400
    with _signing(holder, signer) as sign:
        chain = ucert.certify(key, sign, valid_from=now, expires_at=expires_at)
    _write(certificate, chain, replace=replace)
    click.echo(f"{certificate}: {signer.key_id} certifies {key.key_id} until {_day(expires_at)}")


@contextmanager
def _signing(holder: KeyHolder, signer: PublicKey) -> Iterator[ucert.Sign]:
    """What signs bytes with a key, by way of a file. Raises `SettingsProblem` where it did not."""
    with tempfile.TemporaryDirectory() as folder:

        def sign(message: bytes) -> Signature:
            path = Path(folder, "message")
            path.write_bytes(message)
            signature = Signature(signer.key_id, holder.sign(path))
            if not usign.is_signed(message, signature, signer):
                raise SettingsProblem(f"what signs made a signature that key {signer.key_id} does not have")
            return signature

        yield sign


def _holder(settings: Settings) -> KeyHolder:
    holder = open_signing_key(settings)
    if holder is None:
        raise SettingsProblem("signing_key: no key is set; `asu-builder keys new FILE` makes one")
    return holder


def _examined(holder: KeyHolder) -> KeyHolder:
    """Raises `SettingsProblem` where either half cannot be used."""
    try:
        holder.examine()
    except SigningUnavailable as problem:
        raise SettingsProblem(str(problem)) from None
    return holder


def _public_of(holder: KeyHolder) -> PublicKey:
    return usign.parse_public_key(holder.public_key().encode())


def _public_key(path: Path) -> PublicKey:
    """Of a file with either half. Raises `SettingsProblem`."""
    protect_memory()
    text = _read(path)
    try:
        return usign.parse_public_key(text)
    except BadKey as bad:
        if "secret" not in str(bad):
            raise SettingsProblem(f"{path}: {bad}") from None
    return _public_of(_examined(FileKey(path)))


def _provenance_key(file: Path | None) -> pem.PublicKey:
    """Of a file with either half, or of `provenance_key`."""
    if not file:
        holder = open_provenance_key(load_settings())
        if holder is None:
            raise SettingsProblem(
                "provenance_key: no key is set; `asu-builder keys new --provenance FILE` makes one"
            )
    else:
        protect_memory()
        text = _read(file)
        try:
            return pem.parse_public_key(text)
        except BadKey as bad:
            if "secret" not in str(bad):
                raise SettingsProblem(f"{file}: {bad}") from None
        holder = FileKey(file, PROVENANCE)
    return pem.parse_public_key(_examined(holder).public_key().encode())


def _signer_of(certificate: Path) -> str:
    """The name of the key that signed it; "" where that cannot be read."""
    try:
        elements = ucert.parse_container(usign.read_small_file(certificate))
    except BadKey:
        return ""
    return elements[0].signature.key_id if elements else ""


def _read(path: Path) -> bytes:
    try:
        return usign.read_small_file(path)
    except BadKey as bad:
        raise SettingsProblem(f"{path}: {bad}") from None


def _require_clock() -> None:
    if datetime.now(UTC) < _OLDEST_CLOCK:
        raise SettingsProblem(f"The clock of this machine is wrong: it says {datetime.now(UTC):%Y-%m-%d}.")


def _day(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d}"


def _write(path: Path, content: bytes, *, mode: int = 0o644, replace: bool = True) -> None:
    """In one step and whole, or not at all. Raises `SettingsProblem`."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
        try:
            with open(descriptor, "wb") as file:  # noqa: PTH123
                os.fchmod(descriptor, mode)
                file.write(content)
                file.flush()
                os.fsync(descriptor)
            if replace:
                temporary.replace(path)
            else:
                os.link(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except FileExistsError:
        raise SettingsProblem(f"{path} is there already; nothing was made") from None
    except OSError as error:
        raise SettingsProblem(f"{path} cannot be written: {error.strerror}") from None
