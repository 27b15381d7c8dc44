"""The fields of the form in which people ask for a build, as text, and the request that they mean."""

import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

import msgspec
from msgspec import Struct

from asu_builder.domain.errors import AsuError, RequestMalformed, RequestRejected
from asu_builder.domain.request import BuildRequest

_BLANK_LINES = re.compile(r"\n\s*\n")
_SHOWN_AS = {"packages_versions": "packages"}


class Fields(Struct, frozen=True):
    """What stands in the form. Every field is text as it was typed, but the flag."""

    version: str = ""
    target: str = ""
    profile: str = ""
    packages: str = ""
    diff_packages: bool = False
    rootfs_size_mb: str = ""
    filesystem: str = ""
    defaults: str = ""
    repositories: str = ""
    repositories_mode: str = "append"
    repository_keys: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """The packages, each once."""
        return tuple(dict.fromkeys(self.packages.replace(",", " ").split()))

    def body(self, client: str) -> bytes:
        """The body that a program would send for the same. Raises `RequestMalformed`."""
        return msgspec.json.encode(
            {
                **{name: value for name, value in msgspec.structs.asdict(self).items() if value},
                "diff_packages": self.diff_packages,
                "packages": self.names,
                "rootfs_size_mb": self.rootfs_size_mb.strip(),
                # A form sends line breaks as the network writes them; a shell script has its own.
                "defaults": _lines(self.defaults),
                "repositories": _repositories(self.repositories),
                "repository_keys": [
                    key.strip() for key in _BLANK_LINES.split(_lines(self.repository_keys)) if key.strip()
                ],
                "client": client,
            }
        )


def read_fields(sent: Mapping[str, str]) -> Fields:
    """From a form or the query of an address; what is not known is not looked at."""
    known: dict[str, Any] = {
        name: sent[name] for name in Fields.__struct_fields__ if name in sent and name != "diff_packages"
    }
    for name in ("version", "target", "profile"):
        known[name] = known.get(name, "").strip()
    flag = sent.get("diff_packages", "") not in ("", "0", "false")
    return Fields(**known, diff_packages=flag)


def request_body(request: BuildRequest, client: str) -> bytes:
    """The body that asks for exactly this."""
    return msgspec.json.encode({**msgspec.structs.asdict(request), "client": client})


def link_to(request: BuildRequest) -> str:
    """The address of the form filled with a request, without what is private or long.

    An address is remembered by browsers, so it holds no script, no repositories and no keys.
    """
    values: dict[str, object] = {
        "version": request.version,
        "target": request.target,
        "profile": request.profile,
        "packages": " ".join(request.wanted),
        "diff_packages": "1" if request.diff_packages else "0",
    }
    if request.rootfs_size_mb is not None:
        values["rootfs_size_mb"] = request.rootfs_size_mb
    if request.filesystem:
        values["filesystem"] = request.filesystem
    return f"/build?{urlencode(values)}"


def not_linked(request: BuildRequest) -> Sequence[str]:
    """What `link_to` leaves out of this request, in words."""
    parts = (
        (request.defaults, "the script for the first boot"),
        (request.repositories, "its repositories"),
        (request.repository_keys, "their keys"),
        (any(request.packages_versions.values()), "the versions of packages"),
    )
    return [words for there, words in parts if there]


def field_of(error: AsuError) -> str:
    """The field of the form that a refusal is about; "" when it is about none or all."""
    field = error.field if isinstance(error, RequestRejected) else ""
    field = _SHOWN_AS.get(field, field)
    return field if field in Fields.__struct_fields__ else ""


def _lines(text: str) -> str:
    return text.replace("\r\n", "\n")


def _repositories(text: str) -> dict[str, str]:
    found = {}
    for line in _lines(text).splitlines():
        words = line.split()
        if len(words) not in (0, 2):
            raise RequestMalformed(
                "repositories: expected a name and an address on each line", field="repositories"
            )
        if words:
            found[words[0]] = words[1]
    return found
