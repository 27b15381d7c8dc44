"""Which runtime the settings mean."""

import os
from collections.abc import Mapping

from asu_builder.domain.proxies import read_proxies
from asu_builder.ports import Runtime
from asu_builder.settings import Settings, SettingsProblem


def choose_runtime(settings: Settings, *, installation: str) -> tuple[Runtime, tuple[str, ...]]:
    """The runtime that the settings name, and what the operator should be warned of.

    Chosen by what is configured and which paths exist, never by whether an engine answers: one
    that does not is down, and its sandbox is not dropped for it.
    """
    from asu_builder.adapters.podman_engine import find_socket

    socket = find_socket(settings.container_socket_path)
    local = settings.container_runtime == "local" or (
        settings.container_runtime == "auto" and settings.imagebuilder_path and socket is None
    )
    return _local_runtime(settings) if local else (_podman_runtime(settings, installation), ())


def _podman_runtime(settings: Settings, installation: str) -> Runtime:
    from asu_builder.adapters.podman_engine import PodmanOptions
    from asu_builder.adapters.podman_runtime import PodmanRuntime

    return PodmanRuntime(
        PodmanOptions(
            socket=settings.container_socket_path,
            image_template=settings.imagebuilder_image,
            registry=settings.imagebuilder_registry,
            network=settings.build_network,
            installation=installation,
            proxies=_proxies(shares_network=False),
        )
    )


def _local_runtime(settings: Settings) -> tuple[Runtime, tuple[str, ...]]:
    from asu_builder.adapters.local_runtime import LocalOptions, LocalRuntime
    from asu_builder.adapters.sandbox_trial import try_sandbox

    if not settings.imagebuilder_path:
        raise SettingsProblem(
            "imagebuilder_path: the local runtime needs the path of an unpacked ImageBuilder"
        )
    network = settings.build_network != "none"
    fault = try_sandbox(network=network).fault
    warnings: tuple[str, ...] = ()
    if fault:
        if not settings.allow_unsandboxed:
            raise SettingsProblem(
                f"allow_unsandboxed: {fault}, so builds would run without a sandbox. "
                "Install bubblewrap or use Podman; set allow_unsandboxed to true only on a machine that "
                "nobody else can reach"
            )
        warnings = (
            "Builds run WITHOUT A SANDBOX: whoever may submit a request may run code on this machine.",
        )
    options = LocalOptions(
        imagebuilder_path=settings.imagebuilder_path,
        scratch=settings.database_path.parent / "builds",
        sandboxed=not fault,
        network=network,
        proxies=_proxies(shares_network=True),
    )
    return LocalRuntime(options), warnings


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
