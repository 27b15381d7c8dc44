"""All checks in the order in which a person reads them, run at once, and the banner of a start."""

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from time import monotonic

from msgspec import Struct
from msgspec.structs import replace

from asu_builder import __version__
from asu_builder.doctor import engine, installation, network
from asu_builder.doctor.scene import Scene, in_words
from asu_builder.domain.health import CheckResult, error
from asu_builder.settings import LoadedSettings
from asu_builder.settings.reading import Survey

_log = logging.getLogger(__name__)


class Check(Struct, frozen=True):
    """One check. `remedy` is what to do where it does not end within its `seconds`."""

    name: str
    group: str
    run: Callable[[Scene], CheckResult]
    seconds: float = 10.0
    remedy: str = "Ask again when the machine is less busy; see dmesg for what hangs."
    quick: bool = False
    """Whether a running service does it after its start: nothing that asks itself, or asks much."""


MACHINE, INSTALLATION, ENGINE = "This machine", "This installation", "Containers"
OUTSIDE, SERVICE, BUILD = "Download server and rules", "Service", "Sample build"

_DISK_HANGS = "A disk or network mount does not answer: see dmesg | tail and mount."
_NETWORK_HANGS = "See whether names are resolved and answers come: getent hosts HOST; curl -I URL"

CHECKS = (
    Check("python", MACHINE, installation.check_python),
    Check("sqlite", MACHINE, installation.check_sqlite),
    Check("clock", MACHINE, installation.check_clock, 12.0, quick=True),
    Check("user", MACHINE, installation.check_user, remedy=_DISK_HANGS),
    Check("settings", INSTALLATION, installation.check_settings),
    Check(
        "database_directory",
        INSTALLATION,
        installation.check_database_directory,
        remedy=_DISK_HANGS,
        quick=True,
    ),
    Check("store", INSTALLATION, installation.check_store, remedy=_DISK_HANGS, quick=True),
    Check("bucket", INSTALLATION, network.check_bucket, 15.0, remedy=_NETWORK_HANGS),
    Check("disk", INSTALLATION, installation.check_disk, remedy=_DISK_HANGS, quick=True),
    Check("signing", INSTALLATION, installation.check_signing, remedy=_DISK_HANGS, quick=True),
    Check("secrets", INSTALLATION, installation.check_secrets, remedy=_DISK_HANGS, quick=True),
    Check("provenance", INSTALLATION, installation.check_provenance, remedy=_DISK_HANGS, quick=True),
    Check("database", INSTALLATION, installation.check_database, remedy=_DISK_HANGS),
    Check("engine", ENGINE, engine.check_engine, 16.0, quick=True),
    Check("subordinate_ids", ENGINE, engine.check_subordinate_ids, 16.0, quick=True),
    Check("lingering", ENGINE, engine.check_lingering, 16.0, quick=True),
    Check("control_groups", ENGINE, engine.check_control_groups, 16.0, quick=True),
    Check("registry", ENGINE, engine.check_registry, 16.0, _NETWORK_HANGS),
    Check("image", ENGINE, engine.check_image, 16.0, _NETWORK_HANGS),
    Check("archives", ENGINE, engine.check_archives, 18.0, _NETWORK_HANGS),
    Check("build_network", ENGINE, engine.check_network, 19.0),
    Check("upstream", OUTSIDE, network.check_upstream, 12.0, _NETWORK_HANGS, quick=True),
    Check("release", OUTSIDE, network.check_release, 14.0, _NETWORK_HANGS),
    Check("rules", OUTSIDE, network.check_rules, remedy=_NETWORK_HANGS, quick=True),
    Check("port", SERVICE, network.check_port),
    Check("cors", SERVICE, network.check_cors, 14.0, _NETWORK_HANGS),
    Check("proxy", SERVICE, network.check_proxy, 14.0, _NETWORK_HANGS),
)
SAMPLE_BUILD = "sample_build"
NAMES = (*(check.name for check in CHECKS), SAMPLE_BUILD)


def examine(scene: Scene, checks: Sequence[Check] = CHECKS) -> Iterator[CheckResult]:
    """The result of each check, in their order, as soon as it and those before it have ended."""
    began = monotonic()
    futures: list[Future[CheckResult]] = [Future() for _ in checks]

    def run(check: Check, future: Future[CheckResult]) -> None:
        try:
            result = check.run(scene)
        except Exception as failure:  # noqa: BLE001 - a check that breaks must not hide the others
            _log.debug("the check %s broke", check.name, exc_info=True)
            result = error(
                f"The check itself failed: {type(failure).__name__}: {failure}.",
                "Please report this with the output of asu-builder doctor --json.",
            )
        future.set_result(result)

    for check, future in zip(checks, futures, strict=True):
        # The end of the program does not wait for these threads.
        threading.Thread(target=run, args=(check, future), name=f"doctor-{check.name}", daemon=True).start()
    for check, future in zip(checks, futures, strict=True):
        try:
            result = future.result(max(0.0, began + check.seconds - monotonic()))
        except TimeoutError:
            result = error(f"No answer within {check.seconds:.0f} seconds.", check.remedy)
        yield replace(result, name=check.name, group=check.group)


def is_healthy(results: Iterable[CheckResult]) -> bool:
    """Whether there is no error; warnings may be."""
    return all(result.status != "error" for result in results)


_service_log = logging.getLogger("asu_builder")
_QUICK = tuple(check for check in CHECKS if check.quick)


def log_banner(loaded: LoadedSettings, *, listens_at: object, builds: bool = True) -> None:
    """Does the quick checks and logs what they find; takes seconds where something hangs.

    `listens_at` is the socket's own name: what was passed by systemd is not in the settings. A process that
    does not build needs no engine.
    """
    settings = loaded.settings
    scene = Scene(Survey(settings, loaded.origins, (), (), ()))
    results = list(examine(scene, [check for check in _QUICK if builds or check.group != ENGINE]))
    if not builds:
        where = "no workers"
    elif scene.is_local:
        where = "local runtime"
    else:
        podman = scene.engine
        where = f"Podman {podman.detail} ({podman.path})" if podman else "no container engine"
    problems = [result for result in results if result.status != "ok"]
    for problem in problems:
        _service_log.warning("%s: %s Remedy: %s", problem.name, problem.sentence, problem.remedy)
    _service_log.info(
        "asu-builder %s at %s, %s; store %s; upstream %s; %s",
        __version__,
        in_words(listens_at),
        where,
        scene.store.absolute(),
        settings.upstream_url,
        f"{len(problems)} problems, see above" if problems else "all is well",
    )
