"""Where builds run: the runtime that the settings name, and the proxies that builds are told of."""

import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

from msgspec import Struct

from asu_builder.domain.addresses import read_proxies
from asu_builder.domain.errors import EngineUnavailable
from asu_builder.loading import Late
from asu_builder.ports import ArchiveSource, Runtime
from asu_builder.settings import Settings, SettingsProblem

if TYPE_CHECKING:
    from asu_builder.proxy.channels import BuildProxy


def builds_locally(settings: Settings, *, environment: Mapping[str, str] | None = None) -> bool:
    """Whether builds run without a container engine.

    Chosen by what is configured and which paths exist, never by whether an engine answers: one
    that does not is down, and its sandbox is not dropped for it.
    """
    if settings.container_runtime != "auto" or not settings.imagebuilder_path:
        return settings.container_runtime == "local"
    from asu_builder.engines.podman.service import find_socket

    return find_socket(settings.container_socket_path, environment=environment) is None


class ChosenRuntime(Struct, frozen=True):
    """Where builds run, by the settings."""

    make: Callable[[], Runtime]
    """Makes it, which loads libraries."""
    proxy: "Late[BuildProxy] | None" = None
    """The way out of builds, where they have no network."""
    warnings: tuple[str, ...] = ()
    """What the operator should be warned of."""


def choose_runtime(settings: Settings, *, installation: str) -> ChosenRuntime:
    """The runtime that the settings name. Raises `SettingsProblem`."""
    proxy = Late(partial(_make_proxy, settings)) if settings.build_network == "proxy" else None
    if not builds_locally(settings):
        proxies = _proxies(shares_network=False)
        archives = open_archives(settings)

        def make() -> Runtime:
            from asu_builder.engines.podman.runtime import PodmanRuntime  # a start needs none of it
            from asu_builder.engines.podman.service import PodmanOptions

            return PodmanRuntime(
                PodmanOptions(
                    settings,
                    installation=installation,
                    archives=archives,
                    proxies=proxies,
                    proxy=proxy() if proxy else None,
                )
            )

        return ChosenRuntime(make, proxy)
    from asu_builder.engines.local.runtime import LocalRuntime
    from asu_builder.engines.local.sandbox import try_sandbox

    if not settings.imagebuilder_path:
        raise SettingsProblem(
            "imagebuilder_path: the local runtime needs the path of an unpacked ImageBuilder"
        )
    fault = try_sandbox(network=settings.build_network not in ("none", "proxy")).fault
    warnings: tuple[str, ...] = ()
    if fault:
        if not settings.allow_unsandboxed:
            raise SettingsProblem(
                f"allow_unsandboxed: {fault}, so builds would run without a sandbox. "
                "Install bubblewrap or use Podman; set allow_unsandboxed to true only on a machine that "
                "no one else can reach"
            )
        warnings = (
            "Builds run WITHOUT A SANDBOX: anyone who may submit a request may run code on this machine.",
        )
    if settings.prepull or settings.warm_containers:
        warnings += (
            "prepull and warm_containers do nothing without Podman: a directory is copied for each build.",
        )
    scratch = settings.database_path.parent / "builds"
    proxies = _proxies(shares_network=True)

    def make_local() -> Runtime:
        way_out = proxy() if proxy else None
        return LocalRuntime(settings, scratch, sandboxed=not fault, proxies=proxies, proxy=way_out)

    return ChosenRuntime(make_local, proxy, warnings)


def _make_proxy(settings: Settings) -> "BuildProxy":
    from asu_builder.proxy.channels import BuildProxy  # a start needs none of it

    return BuildProxy(settings)


def _proxies(*, shares_network: bool) -> Mapping[str, str]:
    """The variables of proxies for builds. Raises `SettingsProblem`."""
    proxies = read_proxies(os.environ)
    if wrong := proxies.unreadable():
        # Without the value, which may hold a password.
        raise SettingsProblem(
            f"{', '.join(wrong)} (environment): expected an address like http://proxy.example.org:3128, "
            "or nothing"
        )
    return proxies.environment(shares_network=shares_network)


def open_archives(settings: Settings) -> ArchiveSource | None:
    """What stands in for container images that are missing. Raises `SettingsProblem` for what is no key."""
    if not settings.imagebuilder_keys:
        return None
    from asu_builder.signing.usign import BadKey, TrustedKeys
    from asu_builder.upstream.archives import ImageBuilderArchives

    try:
        return ImageBuilderArchives(settings, TrustedKeys(settings.imagebuilder_keys))
    except BadKey as bad:
        raise SettingsProblem(f"imagebuilder_keys.{bad}") from None


def _no_runtime() -> Runtime:
    raise EngineUnavailable("This process has no workers and no container engine.")


NO_RUNTIME = ChosenRuntime(_no_runtime)
"""Of a process that only answers."""
