"""All checks in the order in which a person reads them, run at once, and the banner of a start."""

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from time import monotonic

from msgspec import Struct
from msgspec.structs import replace

from asu_builder import __version__
from asu_builder.doctor import engine, files, machine, network, service
from asu_builder.doctor.machine import check_settings
from asu_builder.doctor.scene import Scene
from asu_builder.domain.check_result import CheckResult, error
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
    Check("python", MACHINE, machine.check_python),
    Check("sqlite", MACHINE, machine.check_sqlite),
    Check("clock", MACHINE, machine.check_clock, 12.0, quick=True),
    Check("user", MACHINE, machine.check_user, remedy=_DISK_HANGS),
    Check("settings", INSTALLATION, check_settings),
    Check("database_directory", INSTALLATION, files.check_database_directory, remedy=_DISK_HANGS, quick=True),
    Check("store", INSTALLATION, files.check_store, remedy=_DISK_HANGS, quick=True),
    Check("disk", INSTALLATION, files.check_disk, remedy=_DISK_HANGS, quick=True),
    Check("database", INSTALLATION, files.check_database, remedy=_DISK_HANGS),
    Check("engine", ENGINE, engine.check_engine, 16.0, quick=True),
    Check("subordinate_ids", ENGINE, machine.check_subordinate_ids, 16.0, quick=True),
    Check("lingering", ENGINE, machine.check_lingering, 16.0, quick=True),
    Check("control_groups", ENGINE, machine.check_control_groups, 16.0, quick=True),
    Check("registry", ENGINE, network.check_registry, 16.0, _NETWORK_HANGS),
    Check("image", ENGINE, network.check_image, 16.0, _NETWORK_HANGS),
    Check("build_network", ENGINE, network.check_network, 16.0, quick=True),
    Check("upstream", OUTSIDE, network.check_upstream, 12.0, _NETWORK_HANGS, quick=True),
    Check("release", OUTSIDE, network.check_release, 14.0, _NETWORK_HANGS),
    Check("rules", OUTSIDE, network.check_rules, remedy=_NETWORK_HANGS, quick=True),
    Check("port", SERVICE, service.check_port),
    Check("cors", SERVICE, service.check_cors, 14.0, _NETWORK_HANGS),
    Check("proxy", SERVICE, service.check_proxy, 14.0, _NETWORK_HANGS),
)
SAMPLE_BUILD = "sample_build"
NAMES = (*(check.name for check in CHECKS), SAMPLE_BUILD)


def examine(scene: Scene, checks: Sequence[Check] = CHECKS) -> Iterator[CheckResult]:
    """What each check finds, in their order, as soon as it and those before it have ended."""
    began = monotonic()
    runs = [_Run(check, scene) for check in checks]
    for run in runs:
        yield run.result(began + run.check.seconds)


def is_healthy(results: Iterable[CheckResult]) -> bool:
    """Whether nothing is wrong; what is merely doubtful may be."""
    return all(result.status != "error" for result in results)


class _Run:
    """One check in a thread that nobody waits for at the end of the program."""

    def __init__(self, check: Check, scene: Scene) -> None:
        self.check = check
        self._scene = scene
        self._found: CheckResult | None = None
        self._thread = threading.Thread(target=self._run, name=f"doctor-{check.name}", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._found = self.check.run(self._scene)
        except Exception as failure:  # noqa: BLE001 - a check that breaks must not hide the others
            _log.debug("the check %s broke", self.check.name, exc_info=True)
            self._found = error(
                f"The check itself failed: {type(failure).__name__}: {failure}.",
                "Please report this with the output of asu-builder doctor --json.",
            )

    def result(self, until: float) -> CheckResult:
        """Waits no longer than `until`, in seconds of the monotonic clock."""
        self._thread.join(max(0.0, until - monotonic()))
        found = self._found
        if found is None:
            found = error(f"No answer within {self.check.seconds:.0f} seconds.", self.check.remedy)
        return replace(found, name=self.check.name, group=self.check.group)


_service_log = logging.getLogger("asu_builder")
_QUICK = tuple(check for check in CHECKS if check.quick)


def log_banner(loaded: LoadedSettings, *, listens_at: object) -> None:
    """Does the quick checks and logs what they find; takes seconds where something hangs.

    `listens_at` is the socket's own name: what was passed by systemd is not in the settings.
    """
    settings = loaded.settings
    scene = Scene(Survey(settings, loaded.origins, (), (), ()))
    results = list(examine(scene, _QUICK))
    problems = [result for result in results if result.status != "ok"]
    for problem in problems:
        _service_log.warning("%s: %s Remedy: %s", problem.name, problem.sentence, problem.remedy)
    _service_log.info(
        "asu-builder %s at %s, %s; store %s; upstream %s; %s",
        __version__,
        in_words(listens_at),
        _engine(scene, results),
        scene.store.absolute(),
        settings.upstream_url,
        f"{len(problems)} problems, see above" if problems else "all is well",
    )


def in_words(listens_at: object) -> str:
    """Where a socket listens: `http://127.0.0.1:8080`, `http://[::1]:8080`, or the path of a Unix socket."""
    if not isinstance(listens_at, tuple):
        return str(listens_at)
    host, port = listens_at[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def _engine(scene: Scene, results: list[CheckResult]) -> str:
    if scene.is_local:
        return "local runtime"
    engine = scene.engine
    return f"Podman {engine.version} ({engine.path})" if engine else "no container engine"
