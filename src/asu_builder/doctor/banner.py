"""A few lines in the log after a start: how the service is, or one line for each problem."""

import logging

from asu_builder import __version__
from asu_builder.doctor.checks import CHECKS
from asu_builder.doctor.examination import examine
from asu_builder.doctor.scene import Scene
from asu_builder.domain.diagnosis import Finding, Grade
from asu_builder.settings import LoadedSettings
from asu_builder.settings.survey import Survey

_log = logging.getLogger("asu_builder")
_QUICK = tuple(check for check in CHECKS if check.quick)


def log_banner(loaded: LoadedSettings, *, listens_at: object) -> None:
    """Does the quick checks and logs what they find; takes seconds where something hangs.

    `listens_at` is the socket's own name: what was passed by systemd is not in the settings.
    """
    settings = loaded.settings
    scene = Scene(Survey(settings, loaded.origins, (), (), ()))
    findings = list(examine(scene, _QUICK))
    problems = [finding for finding in findings if finding.grade != Grade.OK]
    for problem in problems:
        _log.warning("%s: %s Remedy: %s", problem.name, problem.sentence, problem.remedy)
    _log.info(
        "asu-builder %s at %s, %s; store %s; upstream %s; %s",
        __version__,
        in_words(listens_at),
        _engine(scene, findings),
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


def _engine(scene: Scene, findings: list[Finding]) -> str:
    if scene.is_local:
        return "local runtime"
    engine = scene.engine
    return f"Podman {engine.version} ({engine.path})" if engine else "no container engine"
