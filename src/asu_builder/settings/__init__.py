"""Settings from YAML files and `ASU_*` variables: read once, checked, frozen."""

import os
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NotRequired, TypedDict

from msgspec import Struct, field
from msgspec.structs import fields, force_setattr

from asu_builder.domain.access import Right, Token
from asu_builder.domain.job import Priority
from asu_builder.settings.checks import SERVER_URLS, SQLITE_URL, problem_of, wrong_values
from asu_builder.settings.checks import SettingsProblem as SettingsProblem
from asu_builder.settings.checks import Size as Size
from asu_builder.settings.checks import parse_duration as parse_duration
from asu_builder.settings.checks import parse_size as parse_size

CONFIG_FILES = (Path("/etc/asu/config.yaml"), Path("~/.asu/config.yaml"), Path("config.yaml"))
"""Later files win, setting by setting; variables win over all files."""
PREFIX = "ASU_"
UNLIMITED = Size(0)
_DEFAULT_FLOOR = Size(512 << 20)


class BranchSetting(TypedDict, total=False):
    """What an operator says about a branch; the rest stays as built in."""

    path: str
    enabled: bool
    snapshot: bool
    branch_off_rev: int
    own_numbering: bool


class TokenSetting(TypedDict):
    """A token whose holder is known. `asu-builder token NAME` makes one and prints this."""

    name: str
    digest: str
    rights: NotRequired[list[Literal["read", "operate"]]]
    priority: NotRequired[Literal["bulk", "normal", "interactive"]]


class FormSetting(TypedDict, total=False):
    """What the form of some devices offers beside what that of every device does."""

    packages: tuple[str, ...]
    suggestions: Mapping[str, tuple[str, ...]]
    repositories: Mapping[str, str]
    defaults: str
    links: Mapping[str, str]


_SUGGESTIONS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "WireGuard VPN": ("wireguard-tools", "luci-proto-wireguard"),
        "Ad blocking": ("adblock", "luci-app-adblock"),
        "USB storage": ("block-mount", "kmod-usb-storage", "kmod-fs-ext4", "kmod-fs-vfat", "kmod-fs-exfat"),
        "Less lag (SQM)": ("sqm-scripts", "luci-app-sqm"),
        "Dynamic DNS": ("luci-app-ddns",),
        "Statistics": ("luci-app-statistics",),
    }
)
_LINKS: Mapping[str, str] = MappingProxyType(
    {
        "OpenWrt's page of this device": "https://openwrt.org/start?do=search&id=toh&q={title}%20%40toh",
        "Release notes": "https://openwrt.org/releases/{branch}/notes-{version}",
    }
)


class Settings(Struct, frozen=True, kw_only=True):
    """Everything an operator can choose. `docs/settings.md` explains each."""

    server_host: str = "127.0.0.1"
    server_port: int = 8080
    database_path: Path = Path("data/asu-builder.db")
    database_url: str = ""
    public_path: Path = Path("public")
    upstream_url: str = "https://downloads.openwrt.org"
    public_upstream_url: str = ""
    upstream_redirect_hosts: tuple[str, ...] = ()
    branches: Mapping[str, BranchSetting] = field(default_factory=dict)
    contact: str = ""
    cors: bool = True
    container_runtime: Literal["auto", "podman", "local"] = "auto"
    container_socket_path: str = ""
    imagebuilder_registry: str = "ghcr.io/openwrt/imagebuilder"
    imagebuilder_image: str = "{registry}:{target}-{subtarget}-{tag}"
    imagebuilder_keys: Mapping[str, str] = field(default_factory=dict)
    imagebuilder_base: str = ""
    prepull: int = 0
    warm_containers: int = 0
    build_network: str = "proxy"
    proxy_directory: str = ""
    package_cache_size: Size = Size(2 << 30)
    allow_unsandboxed: bool = False
    imagebuilder_path: str = ""
    max_pending_jobs: int = 200
    new_builds_limit: str = "20/minute; 100/hour"
    look_ups_limit: str = "120/minute"
    idle_deprioritized_after: timedelta = timedelta(minutes=5)
    idle_expires_after: timedelta = timedelta(hours=1)
    job_timeout: timedelta = timedelta(minutes=10)
    shutdown_grace: timedelta = timedelta(seconds=30)
    build_ttl: timedelta = timedelta(days=7)
    build_ttl_unversioned: timedelta = timedelta(hours=24)
    build_defaults_ttl: timedelta = timedelta(minutes=30)
    failure_ttl: timedelta = timedelta(hours=1)
    statistics_ttl: timedelta = timedelta(days=400)
    audit_ttl: timedelta = timedelta(days=90)
    audit_max_size: Size = Size(64 << 20)
    store_max_size: Size = UNLIMITED
    disk_floor: Size = _DEFAULT_FLOOR
    store_accel_redirect: str = ""
    store_url: str = ""
    store_options: Mapping[str, str] = field(default_factory=dict)
    store_redirect: bool = False
    signing_key: str = ""
    signing_public_key: str = ""
    signing_certificate: str = ""
    signing_required: bool = False
    install_signing_key: bool = False
    secrets_key: str = ""
    redis_url: str = ""
    provenance_key: str = ""
    provenance_public_key: str = ""
    provenance_builder: str = ""
    preflight: Literal["enforce", "advise", "off"] = "enforce"
    eager_manifest: bool = False
    package_changes_path: str = ""
    package_changes_url: str = ""
    allow_defaults: bool = False
    max_defaults_length: int = 20480
    max_custom_rootfs_size_mb: int = 1024
    repository_allow_list: tuple[str, ...] = ()
    form_packages: tuple[str, ...] = ("luci", "luci-app-attendedsysupgrade")
    form_suggestions: Mapping[str, tuple[str, ...]] = _SUGGESTIONS
    form_repositories: Mapping[str, str] = field(default_factory=dict)
    form_repository_keys: str = ""
    form_defaults: str = ""
    form_links: Mapping[str, str] = _LINKS
    form_for: Mapping[str, FormSetting] = field(default_factory=dict)
    api_tokens: tuple[TokenSetting, ...] = ()
    trusted_proxies: tuple[str, ...] = ()
    max_head_size: Size = Size(64 << 10)
    max_request_line: Size = Size(16 << 10)
    max_body_size: Size = Size(1 << 20)
    max_fields: int = 1000
    head_timeout: timedelta = timedelta(seconds=10)
    body_timeout: timedelta = timedelta(seconds=30)
    reader_timeout: timedelta = timedelta(seconds=60)
    max_connections_per_address: int = 256
    worker_id: str = field(default_factory=lambda: os.uname().nodename)
    worker_concurrent: int = 4
    worker_poll: timedelta = timedelta(seconds=5)
    monitoring_host: str = "127.0.0.1"
    monitoring_port: int = 8081
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["console", "json"] = "console"

    def __post_init__(self) -> None:
        """Raises `SettingsProblem` that names every wrong value."""
        if wrong := tuple(wrong_values(self)):
            raise problem_of(map(str, wrong), wrong)
        if self.database_url.startswith(SQLITE_URL):
            force_setattr(self, "database_path", Path(self.database_url.removeprefix(SQLITE_URL)))

    @property
    def on_server(self) -> bool:
        """Whether a PostgreSQL server keeps what is kept; else a SQLite file does, at `database_path`."""
        return self.database_url.startswith(SERVER_URLS)

    @property
    def sockets_directory(self) -> Path:
        """Where the proxy of builds has its sockets: the engine must find them under the same path."""
        chosen = Path(self.proxy_directory).expanduser() if self.proxy_directory else None
        return (chosen or self.database_path.parent / "proxy").absolute()

    @property
    def packages_directory(self) -> Path:
        """Where the proxy of builds keeps packages for the next ones."""
        return (self.database_path.parent / "packages").absolute()

    @property
    def announced_upstream_url(self) -> str:
        """The download server as clients are told; routers must reach it."""
        return self.public_upstream_url or self.upstream_url

    @property
    def tokens(self) -> tuple[Token, ...]:
        """The tokens of `api_tokens`."""
        return tuple(
            Token(
                name=token["name"],
                digest=token["digest"],
                rights=frozenset(Right(right) for right in token.get("rights", ())),
                priority=Priority[token.get("priority", "normal").upper()],
            )
            for token in self.api_tokens
        )


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
    environment: Mapping[str, str] | None = None,
    files: tuple[Path, ...] | None = None,
    *,
    options: Mapping[str, Any] | None = None,
) -> LoadedSettings:
    """The same with where each was chosen; `options` of the command line win over all."""
    from asu_builder.settings.reading import survey_settings  # reads into the class above

    survey = survey_settings(environment, files, options=options)
    if survey.problems:
        raise problem_of(survey.problems)
    return LoadedSettings(survey.settings, survey.origins)


SETTING_NAMES = tuple(entry.name for entry in fields(Settings))
