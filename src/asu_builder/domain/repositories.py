"""Repositories of the caller's own: the allow list, the ImageBuilder's repositories file, its keys."""

import base64
import binascii
import re
from collections.abc import Iterable, Mapping
from itertools import chain, count

from msgspec import Struct
from msgspec.structs import replace

from asu_builder.domain.addresses import is_below, is_comparable, parse_address, plain_address
from asu_builder.domain.errors import RequestRejected
from asu_builder.domain.request import quoted

_OPKG_SOURCE = r"(?m)^[ \t]*+src(?:/gz)?[ \t]++(\S{1,256}+)"
"""A line that names a repository, up to its name."""
_LARGEST = 256 << 10
"""Characters of a repositories file that are looked through for names; a real one has some thousand."""
_OPKG_REQUIRED = ("src imagebuilder file:packages", "option check_signature")


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
    allowed = [parse_address(fill_places(entry, places or {})) for entry in allow_list]
    for url in repositories.values():
        address = parse_address(url)
        if address is None or not any(
            entry and address.scheme == entry.scheme and is_below(address, entry) for entry in allowed
        ):
            raise RequestRejected(f"Repository not allowed: {url}", field="repositories")


def is_offered(url: str, allow_list: Iterable[str]) -> bool:
    """Whether an address with `PLACEHOLDERS` in it is allowed, whatever stands in their places."""
    places = dict.fromkeys(PLACEHOLDERS, "x")
    try:
        require_allowed({"": fill_places(url, places)}, allow_list, places=places)
    except RequestRejected:
        return False
    return True


def split_keys(text: str) -> list[str]:
    """The keys of a text that has an empty line between two."""
    keys = re.split(r"\n[ \t\r]*\n", text.replace("\r\n", "\n").strip())
    return [key.strip() for key in keys if key.strip()]


def fill_places(entry: str, places: Mapping[str, str]) -> str:
    """The entry with values in place of `PLACEHOLDERS`; others stay."""
    for name, value in places.items():
        entry = entry.replace(f"{{{name}}}", value)
    return entry


def is_allow_list_entry(entry: str) -> bool:
    """Whether an entry of the allow list can ever allow anything."""
    address = parse_address(fill_places(entry, dict.fromkeys(PLACEHOLDERS, "x")))
    return address is not None and is_comparable(replace(address, user=""))


def render_repositories(
    present: str, repositories: Mapping[str, str], *, mode: str, file: RepositoryFile
) -> str:
    """The new text of the repositories file; `present` is what the ImageBuilder came with.

    With opkg the local index and the signature check stay in either mode: without them `libc` is
    missing, or anything is trusted. Of several repositories of one name opkg takes the first and leaves
    out the others in silence, so a name that is taken gets a number; nothing but opkg ever reads it.
    """
    if not repositories:
        return present
    lines = present.rstrip("\n").split("\n") if mode == "append" and present.strip() else []
    if file.opkg:
        taken = set(re.findall(_OPKG_SOURCE, present[:_LARGEST])) if lines else set()
        for name, url in sorted(repositories.items()):
            names = chain([name], (f"{name}_{number}" for number in count(2)))
            free = next(free for free in names if free not in taken)
            taken.add(free)
            lines.append(f"src/gz {free} {url}")
        lines += [line for line in _OPKG_REQUIRED if line not in lines]
    else:
        lines += [url for _, url in sorted(repositories.items())]
    return "\n".join(lines) + "\n"


def listed_repositories(text: str, file: RepositoryFile) -> tuple[str, ...]:
    """Addresses of the repositories that a repositories file of at most 256 KiB names, in its order.

    A folder of the ImageBuilder itself is among them as it is written. Raises `ValueError` for a longer one.
    """
    if len(text) > _LARGEST:
        raise ValueError("The repositories file is too long.")
    lines = [line.split() for line in text.split("\n")]
    if file.opkg:
        return tuple(words[2] for words in lines if len(words) == 3 and words[0] in ("src", "src/gz"))
    # `@tag url` and `v3 url component` name one, too; `set key=value` does not.
    named = [words[1:] if words and (words[0] == "v3" or words[0][0] == "@") else words for words in lines]
    return tuple(words[0] for words in named if words and words[0] != "set" and words[0][0] != "#")


def proxied_repositories(text: str, file: RepositoryFile) -> tuple[str, tuple[str, ...]]:
    """The text for a build behind its proxy, and the folders of the servers that it names.

    Raises `ValueError` for a text of more than 256 KiB.
    """
    remote = [url for url in listed_repositories(text, file) if url.startswith(("http://", "https://"))]
    # apk is told the address of an index, and finds packages beside it.
    folders = [url.rpartition("/")[0] if url.endswith(".adb") else url for url in remote]
    lines = [line if line.lstrip().startswith("#") else plain_address(line) for line in text.split("\n")]
    return "\n".join(lines), tuple(dict.fromkeys(folders))


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
            fingerprint, encoded = _parse_usign(key, number)
            files[fingerprint] = f"untrusted comment: {fingerprint}\n{encoded}\n"
    return files


def _parse_usign(key: str, number: int) -> tuple[str, str]:
    lines = key.strip().splitlines()
    encoded = lines[-1].strip() if lines else ""
    try:
        raw = base64.b64decode(encoded, validate=True)
    except binascii.Error:
        raw = b""
    if len(raw) != 42 or raw[:2] != b"Ed":
        raise RequestRejected(
            f"repository_keys[{number}]: {quoted(key, 40)} is neither a PEM public key nor a usign "
            "public key",
            field="repository_keys",
        )
    return raw[2:10].hex(), encoded
