"""All checks at once, each with a deadline, so that what hangs keeps nobody waiting."""

import logging
import threading
from collections.abc import Iterable, Iterator, Sequence
from time import monotonic

from msgspec.structs import replace

from asu_builder.doctor.checks import CHECKS, Check
from asu_builder.doctor.scene import Scene
from asu_builder.domain.diagnosis import Finding, wrong

_log = logging.getLogger(__name__)


def examine(scene: Scene, checks: Sequence[Check] = CHECKS) -> Iterator[Finding]:
    """What each check finds, in their order, as soon as it and those before it have ended."""
    began = monotonic()
    runs = [_Run(check, scene) for check in checks]
    for run in runs:
        yield run.finding(began + run.check.seconds)


def is_healthy(findings: Iterable[Finding]) -> bool:
    """Whether nothing is wrong; what is merely doubtful may be."""
    return all(finding.grade != "wrong" for finding in findings)


class _Run:
    """One check in a thread that nobody waits for at the end of the program."""

    def __init__(self, check: Check, scene: Scene) -> None:
        self.check = check
        self._scene = scene
        self._found: Finding | None = None
        self._thread = threading.Thread(target=self._run, name=f"doctor-{check.name}", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._found = self.check.run(self._scene)
        except Exception as error:  # noqa: BLE001 - a check that breaks must not hide the others
            _log.debug("the check %s broke", self.check.name, exc_info=True)
            self._found = wrong(
                f"The check itself failed: {type(error).__name__}: {error}.",
                "Please report this with the output of asu-builder doctor --json.",
            )

    def finding(self, until: float) -> Finding:
        """Waits no longer than `until`, in seconds of the monotonic clock."""
        self._thread.join(max(0.0, until - monotonic()))
        found = self._found
        if found is None:
            found = wrong(f"No answer within {self.check.seconds:.0f} seconds.", self.check.remedy)
        return replace(found, name=self.check.name, group=self.check.group)
