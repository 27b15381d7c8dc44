"""First-boot scripts and repository keys, encrypted under a data key of each request.

The data key is stored wrapped by the secrets key, which is a file outside of the database and its backups.
Deleting the row with the data key forgets what it encrypts.
Why: docs/decisions/a-data-key-for-each-request.md.
"""

import base64
import binascii
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from asu_builder.domain.access import digest_of
from asu_builder.domain.errors import SecretsUnavailable, some
from asu_builder.domain.health import CheckResult, ok, warning
from asu_builder.domain.request import BuildRequest
from asu_builder.files import BadFile, read_private_file, sync

if TYPE_CHECKING:
    from asu_builder.database.dialect import SqlDatabase

_HEAD = "# Secrets key of asu-builder. Keep it apart from the database and its backups."
_KEY_BYTES = 32
_NONCE_BYTES = 12
_MOST_BYTES = 4096
_MOST_KEYS = 16
_DIGEST = "sha256:"
STORE_SECRET = """
    INSERT INTO build_secrets (request_hash, secrets_key, wrapped, sealed) VALUES (?, ?, ?, ?)
        ON CONFLICT (request_hash) DO UPDATE SET secrets_key = excluded.secrets_key,
           wrapped = excluded.wrapped, sealed = excluded.sealed
"""
_KEYS_IN_USE = "SELECT secrets_key, count(*) FROM build_secrets GROUP BY secrets_key ORDER BY secrets_key"


class Hidden(Struct, frozen=True):
    """What is secret in a request."""

    defaults: str
    repository_keys: tuple[str, ...]


_HIDDEN = msgspec.json.Decoder(Hidden)


class Sealed(Struct, frozen=True):
    """What is stored of a request's secrets: a nonce in front of what AES-256-GCM has made, twice."""

    secrets_key: str
    """The name of the key that wraps the data key."""
    wrapped: bytes
    """The data key."""
    sealed: bytes
    """`Hidden` as JSON, under the data key."""


class SecretsKey:
    """One line of the file: 32 random bytes. It is shown by its name only, wherever it may be written."""

    def __init__(self, number: int, raw: bytes) -> None:
        self.number = number
        """1 for the first, one more for each that a rotation has made."""
        self.raw = raw
        self._name = ""

    @property
    def name(self) -> str:
        """16 hexadecimal digits, which follow from the key."""
        if not self._name:
            import hashlib  # with OpenSSL, which a start without secrets does without

            self._name = hashlib.sha256(b"asu-builder secrets key\0" + self.raw).hexdigest()[:16]
        return self._name

    def __repr__(self) -> str:
        return f"<secrets key {self.name}>"

    def __reduce__(self) -> str:
        raise TypeError("a secrets key is not copied")


def make_key(number: int = 1) -> SecretsKey:
    """A new key."""
    return SecretsKey(number, os.urandom(_KEY_BYTES))


def read_keys(path: Path) -> Sequence[SecretsKey]:
    """The keys in a file that only its owner may read; the first one encrypts. Raises `BadFile`."""
    keys = []
    for line in read_private_file(path, _MOST_BYTES).decode("ascii", "replace").splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        number, _, text = line.strip().partition(" ")
        try:
            raw = base64.b64decode(text.encode(), validate=True)
        except binascii.Error:
            raw = b""
        if not (number.isdecimal() and len(number) < 10 and len(raw) == _KEY_BYTES):
            raise BadFile("it is no file of secrets keys")
        keys.append(SecretsKey(int(number), raw))
    numbers = {key.number for key in keys}
    if not 0 < len(keys) == len(numbers) <= _MOST_KEYS:
        raise BadFile("there is no key in it" if not keys else "it is no file of secrets keys")
    return keys


def write_keys(path: Path, keys: Sequence[SecretsKey], *, new: bool = False) -> None:
    """Writes the file in one step, for its owner alone; `new` refuses one that is there. Raises `OSError`."""
    path = path.resolve()
    lines = [_HEAD, *(f"{key.number} {base64.b64encode(key.raw).decode()}" for key in keys), ""]
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with open(descriptor, "wb") as file:  # noqa: PTH123
            os.fchmod(descriptor, 0o600)
            if not new:
                former = path.stat()
                if (former.st_uid, former.st_gid) != (os.geteuid(), os.getegid()):
                    os.fchown(descriptor, former.st_uid, former.st_gid)
            file.write("\n".join(lines).encode())
            file.flush()
            os.fsync(descriptor)
        if new:
            os.link(temporary, path)
        else:
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync(path.parent)


def has_secrets(request: BuildRequest) -> bool:
    """Whether there is anything in it to encrypt."""
    return bool(request.defaults or request.repository_keys)


def without_secrets(request: BuildRequest) -> BuildRequest:
    """The request with digests in place of its script and keys."""
    return replace(
        request,
        defaults=_DIGEST + digest_of(request.defaults) if request.defaults else "",
        repository_keys=tuple(_DIGEST + digest_of(key) for key in request.repository_keys),
    )


class Secrets:
    """Encrypts and decrypts what is secret in requests; safe to use from any thread.

    The file is read again when it is another one, so a rotation needs no restart. While it cannot be read,
    the keys that were read before go on.
    """

    def __init__(self, path: Path | None = None) -> None:
        """Without a path nothing is encrypted. Raises `BadFile`."""
        self._path = path
        self._lock = threading.Lock()
        self._keys: Sequence[SecretsKey] = ()
        self._identity: tuple[int, ...] = ()
        self._wrong = ""
        """Why the file cannot be read now."""
        if path is not None:
            self._keys = read_keys(path)
            self._identity = _identity(path)

    @property
    def encrypts(self) -> bool:
        """Whether there is a key."""
        return self._path is not None

    def encrypted(self, request: BuildRequest) -> bool:
        """Whether this request's secrets are stored encrypted.

        Loads the library if so: call it before a transaction that will seal them.
        """
        if not (self._path is not None and has_secrets(request)):
            return False
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: F401

        return True

    def seal(self, request: BuildRequest, request_hash: str) -> Sealed:
        """Encrypts the script and the keys under a new data key."""
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        hidden = msgspec.json.encode(Hidden(request.defaults, request.repository_keys))
        data_key, nonce = os.urandom(_KEY_BYTES), os.urandom(_NONCE_BYTES)
        sealed = nonce + AESGCM(data_key).encrypt(nonce, hidden, request_hash.encode())
        key = self.keys()[0]
        return Sealed(key.name, _wrap(key, data_key, request_hash), sealed)

    def unseal(self, request: BuildRequest, request_hash: str, stored: Sealed | None) -> BuildRequest:
        """The whole request. Raises `SecretsUnavailable` where its secrets cannot be read."""
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        if stored is None:
            raise SecretsUnavailable("The data key of this request is no longer there.")
        data_key = self._unwrap(stored, request_hash)
        nonce, text = stored.sealed[:_NONCE_BYTES], stored.sealed[_NONCE_BYTES:]
        try:
            hidden = _HIDDEN.decode(AESGCM(data_key).decrypt(nonce, text, request_hash.encode()))
        except (InvalidTag, ValueError):
            raise SecretsUnavailable("The secrets of this request are damaged in the database.") from None
        return replace(request, defaults=hidden.defaults, repository_keys=hidden.repository_keys)

    def rewrap(self, stored: Sealed, request_hash: str) -> Sealed:
        """The same under the first key of the file. Raises `SecretsUnavailable`."""
        key = self.keys()[0]
        data_key = self._unwrap(stored, request_hash)
        return Sealed(key.name, _wrap(key, data_key, request_hash), stored.sealed)

    def keys(self) -> Sequence[SecretsKey]:
        """Those of the file as it is now; the first encrypts. None without a file."""
        if self._path is None:
            return ()
        with self._lock:
            identity = _identity(self._path)
            if identity != self._identity or self._wrong:
                try:
                    self._keys = read_keys(self._path)
                    self._identity, self._wrong = identity, ""
                except BadFile as bad:
                    self._wrong = str(bad)
            return self._keys

    def check(self, database: "SqlDatabase") -> CheckResult:
        """Whether the key's file can be read, and has each key that is needed."""
        keys = self.keys()
        if self._wrong:
            return warning(
                f"The secrets key {self._path} cannot be used now: {self._wrong}. The service goes on with "
                "what it has read before, and would not start again.",
                "Put the file of secrets_key back, readable for the user of the service alone.",
            )
        if missing := self.missing(database):
            return warning(f"{missing}.", "See backup.md, the secrets key.")
        return ok(f"Scripts and keys of requests are stored encrypted under the secrets key {keys[0].name}.")

    def missing(self, database: "SqlDatabase") -> str:
        """Which keys lack for how many requests, as a sentence without its full stop; "" where none does."""
        with database.reading() as connection:
            used = connection.execute(_KEYS_IN_USE).fetchall()
        if not used:
            return ""
        known = {key.name for key in self.keys()}
        lacking = [(name, count) for name, count in used if name not in known]
        if not lacking:
            return ""
        count = sum(count for _, count in lacking)
        named = f"{'key' if len(lacking) == 1 else 'keys'} {some([name for name, _ in lacking])}"
        place = "no secrets_key is set" if self._path is None else f"{self._path} does not have it"
        return f"{count} requests are encrypted under the secrets {named}, and {place}"

    def _unwrap(self, stored: Sealed, request_hash: str) -> bytes:
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        key = next((key for key in self.keys() if key.name == stored.secrets_key), None)
        if key is None:
            raise SecretsUnavailable(
                f"The secrets key {stored.secrets_key} is not in the file of secrets_key."
            )
        nonce, text = stored.wrapped[:_NONCE_BYTES], stored.wrapped[_NONCE_BYTES:]
        try:
            return AESGCM(key.raw).decrypt(nonce, text, request_hash.encode())
        except (InvalidTag, ValueError):
            raise SecretsUnavailable("The data key of this request is damaged in the database.") from None


def _wrap(key: SecretsKey, data_key: bytes, request_hash: str) -> bytes:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    nonce = os.urandom(_NONCE_BYTES)
    # Bound to its request: a row of another one that is put in its place is of no use.
    return nonce + AESGCM(key.raw).encrypt(nonce, data_key, request_hash.encode())


def _identity(path: Path) -> tuple[int, ...]:
    try:
        facts = path.stat()
    except OSError:
        return ()
    return facts.st_dev, facts.st_ino, facts.st_mtime_ns, facts.st_size, facts.st_mode
