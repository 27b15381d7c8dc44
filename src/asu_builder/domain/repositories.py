"""Repositories of the asker's own: the allow list, the ImageBuilder's repositories file, its keys.

Allowing a foreign repository means allowing its code in the build container: post-install scripts
run there. So addresses are compared as parsed parts, never as text.
"""

import base64
import binascii
from collections.abc import Iterable, Mapping
from urllib.parse import SplitResult, urlsplit

from msgspec import Struct

from asu_builder.domain.errors import RequestRejected

_OPKG_REQUIRED = ("src imagebuilder file:packages", "option check_signature")
_PORTS = {"http": 80, "https": 443}


class RepositoryFile(Struct, frozen=True):
    """Where and how an ImageBuilder lists its repositories."""

    name: str
    opkg: bool


APK = RepositoryFile("repositories", opkg=False)
OPKG = RepositoryFile("repositories.conf", opkg=True)


PLACEHOLDERS = ("version", "branch", "target", "subtarget", "arch")
"""What an entry of the allow list may hold in braces, filled in from the request."""


def require_allowed(
    repositories: Mapping[str, str], allow_list: Iterable[str], *, places: Mapping[str, str] | None = None
) -> None:
    """Refuses any address that is not at or below an allowed one.

    `places` has a value for each of `PLACEHOLDERS`.
    """
    allowed = [urlsplit(_fill(entry, places or {})) for entry in allow_list]
    for url in repositories.values():
        if not any(_is_below(url, entry) for entry in allowed):
            raise RequestRejected(f"Repository not allowed: {url}")


def _fill(entry: str, places: Mapping[str, str]) -> str:
    for name, value in places.items():
        entry = entry.replace(f"{{{name}}}", value)
    return entry


def _is_below(url: str, allowed: SplitResult) -> bool:
    # What needs decoding or normalising before it can be compared is refused, not interpreted.
    if any(mark in url for mark in "%\\@?#") or "//" in url.partition("://")[2]:
        return False
    parts = urlsplit(url)
    try:
        same_place = (parts.scheme, parts.hostname, _port(parts)) == (
            allowed.scheme,
            allowed.hostname,
            _port(allowed),
        )
    except ValueError:
        return False
    if not same_place:
        return False
    have, need = _segments(parts.path), _segments(allowed.path)
    return not {".", ".."} & set(have) and have[: len(need)] == need


def _port(parts: SplitResult) -> int | None:
    return parts.port or _PORTS.get(parts.scheme)


def _segments(path: str) -> list[str]:
    return [segment for segment in path.split("/") if segment]


def render_repositories(
    present: str, repositories: Mapping[str, str], *, mode: str, file: RepositoryFile
) -> str:
    """The new text of the repositories file; `present` is what the ImageBuilder came with.

    With opkg the local index and the signature check stay in either mode: without them `libc` is
    missing, or anything is trusted.
    """
    if not repositories:
        return present
    lines = present.rstrip("\n").split("\n") if mode == "append" and present.strip() else []
    if file.opkg:
        lines += [f"src/gz {name} {url}" for name, url in sorted(repositories.items())]
        lines += [line for line in _OPKG_REQUIRED if line not in lines]
    else:
        lines += [url for _, url in sorted(repositories.items())]
    return "\n".join(lines) + "\n"


def key_files(keys: Iterable[str]) -> dict[str, str]:
    """File names below `keys/` and their text, decided by each key's content.

    PEM keys may have any name; a usign key's name is its 16-digit id, which opkg looks up.
    Raises `RequestRejected` for a text that is no public key.
    """
    files = {}
    for number, key in enumerate(keys):
        if key.lstrip().startswith("-----BEGIN PUBLIC KEY-----"):
            files[f"custom-{number}.pem"] = key.strip() + "\n"
        else:
            fingerprint, encoded = _parse_usign(key)
            files[fingerprint] = f"untrusted comment: {fingerprint}\n{encoded}\n"
    return files


def _parse_usign(key: str) -> tuple[str, str]:
    lines = key.strip().splitlines()
    encoded = lines[-1].strip() if lines else ""
    try:
        raw = base64.b64decode(encoded, validate=True)
    except binascii.Error:
        raw = b""
    if len(raw) != 42 or raw[:2] != b"Ed":
        raise RequestRejected("repository_keys: a key is neither a PEM public key nor a usign public key")
    return raw[2:10].hex(), encoded
