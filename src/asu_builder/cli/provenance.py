"""`asu-builder verify-provenance`: are files what a server states, and where did they come from?"""

import hashlib
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

import click

from asu_builder.cli.backend import Backend, open_backend, server_options
from asu_builder.cli.exit_codes import ExitCode, exit_on_error, print_error
from asu_builder.cli.views import printable
from asu_builder.client.downloads import is_file_name
from asu_builder.domain.errors import BuildNotFound, Conflict, ServerMistake
from asu_builder.domain.provenance import BadStatement, parse_statement
from asu_builder.domain.request import HASH_PREFIX
from asu_builder.settings import SettingsProblem
from asu_builder.signing import pem
from asu_builder.signing.attestation import BadEnvelope, parse_envelope
from asu_builder.signing.usign import BadKey, read_small_file

_MOST_BYTES = 64 << 20
"""Of a statement; one with twenty thousand packages has some six."""
_OFFERED = re.compile(r"[0-9a-f]{16}\.pem")

Digest = Callable[[str], str]
"""SHA-256 of a file of this name; "" where there is none."""


@click.command("verify-provenance")
@click.argument("subject", metavar="FILE|HASH")
@click.option(
    "--key",
    "key_file",
    type=click.Path(path_type=Path),
    help="The public key (PEM) that must have signed it; default: that of the server.",
)
@server_options
def verify_provenance_command(subject: str, key_file: Path | None, server: str, token: str) -> None:
    """Checks the statement in FILE and the images beside it, or all files of the build HASH on a server."""
    path = Path(subject)
    with exit_on_error():
        key = _key_in(key_file) if key_file else None
        if path.is_file() or not HASH_PREFIX.fullmatch(subject):
            text = _read(path)
            if key is None:
                with open_backend(server, token) as backend:
                    key = _key_of(backend)
            stated, wrong = _verify(text, key, lambda name: _digest_beside(path, name), all_there=False)
        else:
            with open_backend(server, token) as backend:
                document = backend.builds.look(backend.builds.whole_hash(subject)).document
                name = document.get("provenance")
                if not document.get("images"):
                    raise Conflict("Only a build that is done has files to check.")
                if not (isinstance(name, str) and is_file_name(name)):
                    raise BuildNotFound("It is not stated where the files of this build came from.")
                source = backend.builds.source(document)

                def of_server(file: str) -> str:
                    digest = hashlib.sha256()
                    try:
                        with source(file, 0) as stretch:
                            for chunk in stretch.chunks:
                                digest.update(chunk)
                    except BuildNotFound:
                        return ""
                    return digest.hexdigest()

                with source(name, 0) as stretch:
                    text = _bounded(stretch.chunks, name)
                stated, wrong = _verify(text, key or _key_of(backend), of_server, all_there=True)
    for sentence in wrong:
        print_error(printable(sentence))
    if wrong:
        sys.exit(ExitCode.MISTAKE)
    for line in stated:
        click.echo(printable(line))


def _verify(
    text: bytes, key: pem.PublicKey, digest_of: Digest, *, all_there: bool
) -> tuple[list[str], list[str]]:
    """What a statement says, and sentences on what does not hold of it."""
    try:
        envelope = parse_envelope(text)
        is_signed = envelope.is_signed_by(key)
        statement = parse_statement(envelope.statement)
    except (BadEnvelope, BadStatement) as bad:
        return [], [f"This is no statement of where files came from: {bad}."]
    if not is_signed:
        # The digests of an unsigned statement prove nothing, so no file is read.
        return [], [f"The statement is not signed by key {key.key_id}."]
    wrong, there = [], 0
    for name, digest in statement.digests.items():
        found = digest_of(name) if is_file_name(name) else ""
        there += bool(found)
        if found and found != digest:
            wrong.append(f"{name} is another file than the one that was built.")
        elif not found and all_there:
            wrong.append(f"{name} is named in the statement, and is not there.")
    if not there and not wrong:
        wrong.append("None of the files that the statement names is beside it.")
    request: Mapping[str, object] = statement.request
    what = " ".join(str(request[name]) for name in ("version", "target", "profile") if name in request)
    stated = [
        f"{there} of {len(statement.digests)} files are what was built; signed by key {key.key_id}",
        f"built by {statement.builder} {f'({statement.program})' if statement.program else ''}".rstrip(),
        *([f"for {what}"] if what else []),
        *([f"finished {statement.finished_at}"] if statement.finished_at else []),
    ]
    return stated, wrong


@contextmanager
def _opened(path: Path) -> Iterator[BufferedReader]:
    try:
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise SettingsProblem(f"{path} cannot be read: {error.strerror}") from None


def _read(path: Path) -> bytes:
    if path.exists() and not path.is_file():
        raise SettingsProblem(f"{path} is no plain file")
    with _opened(path) as file:
        text = file.read(_MOST_BYTES + 1)
    if len(text) > _MOST_BYTES:
        raise SettingsProblem(f"{path} has more than {_MOST_BYTES >> 20} MiB")
    return text


def _digest_beside(path: Path, name: str) -> str:
    file = path.parent / name
    if not file.is_file():
        return ""
    with _opened(file) as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _bounded(chunks: Iterator[bytes], name: str) -> bytes:
    text = bytearray()
    for chunk in chunks:
        text += chunk
        if len(text) > _MOST_BYTES:
            raise ServerMistake(f"{name} has more than {_MOST_BYTES >> 20} MiB.")
    return bytes(text)


def _key_in(path: Path) -> pem.PublicKey:
    try:
        return pem.parse_public_key(read_small_file(path))
    except BadKey as bad:
        raise SettingsProblem(f"--key: {path}: {bad}") from None


def _key_of(backend: Backend) -> pem.PublicKey:
    """The public key that a server offers now. Raises `BuildNotFound` or `ServerMistake`."""
    server = backend.builds.server
    names = server.fetch("GET", "/keys").document.get("files")
    offered = [name for name in (names if isinstance(names, list) else []) if _OFFERED.fullmatch(str(name))]
    if not offered:
        raise BuildNotFound("The server offers no key for statements of where images came from.")
    with server.stream(f"/keys/{offered[0]}") as response:
        text = response.read(4096, decode_content=True)
    try:
        return pem.parse_public_key(text)
    except BadKey as bad:
        raise ServerMistake(f"The server offers a key that cannot be used: {bad}.") from None
