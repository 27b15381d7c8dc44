"""The fields of the form: as typed, as a request, in addresses, and taken along to another device."""

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

import msgspec
from msgspec import Struct

from asu_builder.core.search import DescribedDevice
from asu_builder.domain.errors import AsuError, RequestMalformed, RequestRejected
from asu_builder.domain.repositories import split_keys
from asu_builder.domain.request import TODAY, BuildRequest
from asu_builder.http.texts import gettext

_SHOWN_AS = {"packages_versions": "packages"}


class Fields(Struct, frozen=True):
    """The fields of the form, as text as typed; `diff_packages` is a flag."""

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
    on_missing: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """The packages, each once."""
        return tuple(dict.fromkeys(self.packages.replace(",", " ").split()))

    def body(self, client: str) -> bytes:
        """The same request as a program would send it. Raises `RequestMalformed`."""
        repositories = {}
        for line in self.repositories.splitlines():
            words = line.split()
            if len(words) not in (0, 2):
                raise RequestMalformed(
                    "repositories: expected a name and an address on each line", field="repositories"
                )
            if words:
                repositories[words[0]] = words[1]
        return msgspec.json.encode(
            {
                **{name: value for name, value in msgspec.structs.asdict(self).items() if value},
                "diff_packages": self.diff_packages,
                "packages": self.names,
                "rootfs_size_mb": self.rootfs_size_mb.strip(),
                # Forms send CRLF; a shell script needs LF.
                "defaults": self.defaults.replace("\r\n", "\n"),
                "repositories": repositories,
                "repository_keys": split_keys(self.repository_keys),
                "client": client,
            }
        )


def read_fields(sent: Mapping[str, str]) -> Fields:
    """Reads a form or a query string; ignores unknown names."""
    known: dict[str, Any] = {
        name: sent[name] for name in Fields.__struct_fields__ if name in sent and name != "diff_packages"
    }
    for name in ("version", "target", "profile"):
        known[name] = known.get(name, "").strip()
    flag = sent.get("diff_packages", "") not in ("", "0", "false")
    return Fields(**known, diff_packages=flag)


def request_body(request: BuildRequest, client: str) -> bytes:
    """The body of a POST that asks for this again.

    Names that were left out are asked for again, and the packages of another day become today's.
    """
    fields = msgspec.structs.asdict(request)
    if dropped := fields.pop("dropped"):
        fields["on_missing"] = "drop"
        if request.packages_versions:
            fields["packages_versions"] = {**request.packages_versions, **dict.fromkeys(dropped, "")}
        else:
            fields["packages"] = (*request.packages, *dropped)
    if request.as_of:
        fields["as_of"] = TODAY
    return msgspec.json.encode({**fields, "client": client})


def link_to(request: BuildRequest, page: str = "/build", **more: str) -> str:
    """The address of the form, or of another page with its fields, filled with a request.

    Browsers remember addresses, so it holds no script, no repositories and no keys.
    """
    values: dict[str, object] = {
        "version": request.version,
        "target": request.target,
        "profile": request.profile,
        "packages": " ".join((*request.wanted, *request.dropped)),
        "diff_packages": "1" if request.diff_packages else "0",
    }
    if request.rootfs_size_mb is not None:
        values["rootfs_size_mb"] = request.rootfs_size_mb
    if request.filesystem:
        values["filesystem"] = request.filesystem
    if request.dropped:
        values["on_missing"] = "drop"
    return f"{page}?{urlencode({**values, **more})}"


def not_linked(request: BuildRequest) -> Sequence[str]:
    """What `link_to` leaves out of this request, in words."""
    parts = (
        (request.defaults, gettext("the first-boot script")),
        (request.repositories, gettext("the custom repositories")),
        (request.repository_keys, gettext("the repository keys")),
        (any(request.packages_versions.values()), gettext("the package versions")),
    )
    return [words for there, words in parts if there]


def field_of(error: AsuError) -> str:
    """The field of the form that an error is about; "" for none or all."""
    field = error.field if isinstance(error, RequestRejected) else ""
    field = _SHOWN_AS.get(field, field)
    return field if field in Fields.__struct_fields__ else ""


class CarriedOver(Struct, frozen=True):
    """What became of packages that were chosen for another version or device."""

    version: str
    """The version they were chosen for."""
    gone: tuple[str, ...]
    """Default packages there that are none here."""
    unknown: tuple[str, ...]
    """Chosen packages that do not exist here."""


def carry_over(fields: Fields, theirs: Sequence[str], ours: Sequence[str]) -> tuple[list[str], list[str]]:
    """What was chosen beside the default packages `theirs`, put beside `ours`; and those of `theirs` gone.

    Only a list of all packages names default ones.
    """
    if not fields.diff_packages:
        return list(fields.names), []
    left_out = {name for name in theirs if name not in fields.names}
    added = [name for name in fields.names if name not in theirs]
    names = [name for name in ours if name not in left_out]
    gone = [name for name in theirs if name not in ours and name not in left_out]
    return list(dict.fromkeys((*names, *added))), gone


CARRIED = (
    *("packages", "diff_packages", "was"),
    *("rootfs_size_mb", "filesystem", "on_missing", "repositories_mode"),
)
"""What goes along while another device is chosen."""
_OPTIONS = ("rootfs_size_mb", "filesystem", "on_missing")


def carried_with(fields: Fields, begin: Sequence[str]) -> dict[str, str]:
    """What a link to another version or device takes along: nothing private."""
    values = {name: getattr(fields, name) for name in _OPTIONS if getattr(fields, name)}
    if fields.repositories_mode == "replace":
        values["repositories_mode"] = "replace"
    if set(fields.names) != set(begin) or not fields.diff_packages:
        values["packages"] = " ".join(fields.names)
        values["diff_packages"] = "1" if fields.diff_packages else "0"
        values["was"] = f"{fields.version} {fields.target} {fields.profile}"
    return values


def default_packages(device: DescribedDevice) -> list[str]:
    """The default packages of this device's images."""
    named = (*device.default_packages, *device.device_packages)
    removed = {name[1:] for name in named if name.startswith("-")}
    return [name for name in dict.fromkeys(named) if not name.startswith("-") and name not in removed]


def chosen_packages(fields: Fields, device: DescribedDevice) -> tuple[str, ...]:
    """The packages of the form, and the default ones where it does not list all."""
    return fields.names if fields.diff_packages else (*fields.names, *default_packages(device))
