"""Which runtime the settings mean."""

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
        )
    )


def _local_runtime(settings: Settings) -> tuple[Runtime, tuple[str, ...]]:
    from asu_builder.adapters.local_runtime import LocalOptions, LocalRuntime
    from asu_builder.adapters.local_sandbox import bubblewrap_works

    if not settings.imagebuilder_path:
        raise SettingsProblem(
            "imagebuilder_path: the local runtime needs the path of an unpacked ImageBuilder"
        )
    sandboxed = bubblewrap_works()
    warnings: tuple[str, ...] = ()
    if not sandboxed:
        if not settings.allow_unsandboxed:
            raise SettingsProblem(
                "allow_unsandboxed: bubblewrap does not work here, so builds would run without a sandbox. "
                "Install bubblewrap or use Podman; set allow_unsandboxed to true only on a machine that "
                "nobody else can reach"
            )
        warnings = (
            "Builds run WITHOUT A SANDBOX: whoever may submit a request may run code on this machine.",
        )
    options = LocalOptions(
        imagebuilder_path=settings.imagebuilder_path,
        scratch=settings.database_path.parent / "builds",
        sandboxed=sandboxed,
        network=settings.build_network != "none",
    )
    return LocalRuntime(options), warnings
