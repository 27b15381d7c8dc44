"""Settings from YAML files and `ASU_*` variables: read once, checked, frozen."""

import os
import re
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict, get_type_hints

import msgspec
from msgspec import Struct, field
from msgspec.structs import fields

from asu_builder.settings.units import Size as Size
from asu_builder.settings.units import parse_duration as parse_duration
from asu_builder.settings.units import parse_size as parse_size

CONFIG_FILES = (Path("/etc/asu/config.yaml"), Path("~/.asu/config.yaml"), Path("config.yaml"))
"""Later files win, setting by setting; variables win over all files."""
PREFIX = "ASU_"
_FOR_CLIENTS = ("ASU_BUILDER_SERVER", "ASU_BUILDER_TOKEN")
"""Variables of the commands that ask another server; they may be set where a service starts too."""

_RATE = re.compile(r"0*[1-9][0-9]{0,5}\s*/\s*(second|minute|hour|day)")

_ABOVE_ZERO = (
    *("job_timeout", "worker_poll", "idle_sinks_after"),
    # An end that is over at once would be seen by nobody.
    *("build_ttl", "build_ttl_unversioned", "build_defaults_ttl", "failure_ttl"),
)

UNLIMITED = Size(0)
_DEFAULT_FLOOR = Size(512 << 20)


class SettingsProblem(Exception):
    """A setting that stops the start; the text names it and says what was expected."""


class BranchSetting(TypedDict, total=False):
    """What an operator says about a branch; the rest stays as built in."""

    path: str
    enabled: bool
    snapshot: bool
    branch_off_rev: int


class TokenSetting(TypedDict):
    """A token whose holder is known. `asu-builder token NAME` makes one and prints this."""

    name: str
    digest: str
    rights: NotRequired[list[Literal["read", "operate"]]]
    priority: NotRequired[Literal["bulk", "normal", "interactive"]]


class Settings(Struct, frozen=True, kw_only=True):
    """Everything an operator can choose. `docs/settings.md` explains each."""

    server_host: str = "127.0.0.1"
    server_port: int = 8080
    database_path: Path = Path("data/asu-builder.db")
    public_path: Path = Path("public")
    upstream_url: str = "https://downloads.openwrt.org"
    public_upstream_url: str = ""
    branches: Mapping[str, BranchSetting] = field(default_factory=dict)
    contact: str = ""
    cors: bool = True
    container_runtime: Literal["auto", "podman", "local"] = "auto"
    container_socket_path: str = ""
    imagebuilder_registry: str = "ghcr.io/openwrt/imagebuilder"
    imagebuilder_image: str = "{registry}:{target}-{subtarget}-{tag}"
    build_network: str = "asu-build"
    allow_unsandboxed: bool = False
    imagebuilder_path: str = ""
    max_pending_jobs: int = 200
    new_builds_limit: str = "20/minute; 100/hour"
    idle_sinks_after: timedelta = timedelta(minutes=5)
    idle_expires_after: timedelta = timedelta(hours=1)
    job_timeout: timedelta = timedelta(minutes=10)
    shutdown_grace: timedelta = timedelta(seconds=30)
    build_ttl: timedelta = timedelta(days=7)
    build_ttl_unversioned: timedelta = timedelta(hours=24)
    build_defaults_ttl: timedelta = timedelta(minutes=30)
    failure_ttl: timedelta = timedelta(hours=1)
    statistics_ttl: timedelta = timedelta(days=400)
    store_max_size: Size = UNLIMITED
    disk_floor: Size = _DEFAULT_FLOOR
    package_changes_path: str = ""
    package_changes_url: str = ""
    allow_defaults: bool = False
    max_defaults_length: int = 20480
    max_custom_rootfs_size_mb: int = 1024
    repository_allow_list: tuple[str, ...] = ()
    api_tokens: tuple[TokenSetting, ...] = ()
    trusted_proxies: tuple[str, ...] = ()
    worker_id: str = field(default_factory=lambda: os.uname().nodename)
    worker_concurrent: int = 4
    worker_poll: timedelta = timedelta(seconds=5)
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["console", "json"] = "console"

    def __post_init__(self) -> None:
        _require("server_port", 0 <= self.server_port <= 65535, "a port from 0 to 65535")
        _require("worker_concurrent", 0 <= self.worker_concurrent <= 256, "a number from 0 to 256")
        _require("max_pending_jobs", self.max_pending_jobs >= 1, "a number of at least 1")
        _require("max_defaults_length", self.max_defaults_length >= 0, "a number of at least 0")
        _require("max_custom_rootfs_size_mb", self.max_custom_rootfs_size_mb >= 1, "a number of at least 1")
        _require("upstream_url", re.fullmatch(r"https?://\S+", self.upstream_url), "an http(s) address")
        _require(
            "worker_id", re.fullmatch(r"[A-Za-z0-9._-]{1,64}", self.worker_id), "letters, digits and . _ -"
        )
        _require(
            "build_network",
            re.fullmatch(r"[A-Za-z0-9._-]{1,64}", self.build_network),
            "a network's name or none",
        )
        if self.package_changes_url:
            holds = re.fullmatch(r"https?://\S+", self.package_changes_url)
            _require("package_changes_url", holds, "an http(s) address")
        _require(
            "package_changes_path",
            not (self.package_changes_path and self.package_changes_url),
            "nothing beside package_changes_url: rules come from one place",
        )
        _require_limit("new_builds_limit", self.new_builds_limit)
        _require_tokens(self.api_tokens)
        _require_networks("trusted_proxies", self.trusted_proxies)
        _require(
            "idle_expires_after",
            self.idle_expires_after > self.idle_sinks_after,
            "a duration longer than idle_sinks_after",
        )
        for name in _ABOVE_ZERO:
            _require(name, getattr(self, name) > timedelta(0), "a duration above zero, like 10m")
        for entry in self.repository_allow_list:
            _require(
                "repository_allow_list", re.fullmatch(r"https?://\S+", entry), "a list of http(s) addresses"
            )
        _require_template("imagebuilder_image", self.imagebuilder_image)
        _require_template("imagebuilder_path", self.imagebuilder_path)
        if self.public_upstream_url:
            _require(
                "public_upstream_url",
                re.fullmatch(r"https?://\S+", self.public_upstream_url),
                "an http(s) address",
            )
        for name, branch in self.branches.items():
            _require("branches", re.fullmatch(r"SNAPSHOT|\d+\.\d+", name), "names like 24.10 or SNAPSHOT")
            path = branch.get("path", "x")
            _require(
                "branches", re.fullmatch(r"[A-Za-z0-9._/{}-]+", path) and ".." not in path, "a relative path"
            )


TEMPLATE_FIELDS = {
    "imagebuilder_image": {"registry", "target", "subtarget", "tag", "version"},
    "imagebuilder_path": {"version", "target", "subtarget"},
}


def _require(name: str, holds: object, expected: str) -> None:
    if not holds:
        raise SettingsProblem(f"{name}: expected {expected}")


def _require_limit(name: str, text: str) -> None:
    parts = [part.strip() for part in text.split(";")] if text.strip() else []
    holds = all(_RATE.fullmatch(part) for part in parts)
    _require(name, holds, "rates like `20/minute; 100/hour`, or nothing")


def _require_tokens(tokens: tuple[TokenSetting, ...]) -> None:
    expected = "a name of letters, digits and . _ - for each, none of them twice"
    names = [token["name"] for token in tokens]
    _require("api_tokens", all(re.fullmatch(r"[A-Za-z0-9._-]{1,64}", name) for name in names), expected)
    _require("api_tokens", len(set(names)) == len(names), expected)
    digests = {token["digest"] for token in tokens}
    _require("api_tokens", len(digests) == len(tokens), "a token of its own for each name")
    _require(
        "api_tokens",
        all(re.fullmatch(r"[0-9a-f]{64}", token["digest"]) for token in tokens),
        "the SHA-256 of each token as 64 hexadecimal digits; `asu-builder token NAME` prints it",
    )


def _require_networks(name: str, networks: tuple[str, ...]) -> None:
    import ipaddress  # only for whoever has a proxy

    for network in networks:
        try:
            ipaddress.ip_network(network)
        except ValueError:
            raise SettingsProblem(
                f"{name}: expected addresses or networks like 10.0.0.0/8, got {network!r}"
            ) from None


def _require_template(name: str, template: str) -> None:
    allowed = TEMPLATE_FIELDS[name]
    try:
        template.format(**dict.fromkeys(allowed, "x"))
    except (KeyError, IndexError, ValueError):
        names = ", ".join(f"{{{field_name}}}" for field_name in sorted(allowed))
        raise SettingsProblem(f"{name}: expected a template with none but {names}") from None


class LoadedSettings(Struct, frozen=True):
    """The settings, and for each that was chosen where: a file's path or `variable NAME`."""

    settings: Settings
    origins: Mapping[str, str]


def load_settings(
    environment: Mapping[str, str] | None = None, files: tuple[Path, ...] | None = None
) -> Settings:
    """The settings of this process; `SettingsProblem` for anything unknown or wrong."""
    return load_with_origins(environment, files).settings


def load_with_origins(
    environment: Mapping[str, str] | None = None, files: tuple[Path, ...] | None = None
) -> LoadedSettings:
    """The same with where each was chosen."""
    environment = os.environ if environment is None else environment
    chosen: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for path in files if files is not None else CONFIG_FILES:
        found = read_file(path.expanduser())
        chosen |= found
        origins |= dict.fromkeys(found, str(path))
    for variable, text in environment.items():
        if variable.startswith(PREFIX) and variable not in _FOR_CLIENTS:
            name = variable.removeprefix(PREFIX).lower()
            chosen[name] = text
            origins[name] = f"variable {variable}"
    hints = get_type_hints(Settings)
    values = {name: convert(name, value, hints, origin=origins[name]) for name, value in chosen.items()}
    return LoadedSettings(Settings(**values), origins)


def read_file(path: Path) -> dict[str, Any]:
    """What a file chooses, not yet converted; nothing where there is none. Raises `SettingsProblem`."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsProblem(f"{path} cannot be read: {error}") from error
    import yaml  # costs 9 ms of the start, which whoever has no file need not pay

    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise SettingsProblem(f"{path} is not valid YAML: {error}") from error
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise SettingsProblem(f"{path}: expected one `name: value` a line")
    return {str(name): value for name, value in found.items()}


def convert(name: str, value: Any, hints: Mapping[str, Any], *, origin: str) -> Any:
    """The value of a setting as its type wants it. Raises `SettingsProblem`."""
    if name not in hints:
        import difflib  # only for whoever mistyped

        close = difflib.get_close_matches(name, hints, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise SettingsProblem(f"{name} ({origin}): there is no such setting{hint}")
    kind = hints[name]
    try:
        if kind is timedelta:
            return parse_duration(str(value))
        if kind is Size:
            return parse_size(str(value))
        if kind is Path:
            return Path(str(value)).expanduser()
        if kind == tuple[str, ...] and isinstance(value, str):
            return tuple(value.replace(",", " ").split())
        if kind in (hints["branches"], hints["api_tokens"]) and isinstance(value, str):
            value = msgspec.json.decode(value)
        return msgspec.convert(value, kind, strict=False)
    except (msgspec.MsgspecError, ValueError) as error:
        got = "" if name == "api_tokens" else f", got {value!r}"  # may hold a secret by mistake
        raise SettingsProblem(f"{name} ({origin}): {error}{got}") from None


SETTING_NAMES = tuple(entry.name for entry in fields(Settings))
