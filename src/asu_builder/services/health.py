"""How the parts of this service are, from a background check; the gate before the workers."""

import logging
import threading
from collections.abc import Callable, Mapping

from msgspec import Struct

from asu_builder.ports import Verdict

_log = logging.getLogger(__name__)

_STARTING = Verdict("degraded", "Not checked yet; the service has just started.")


class HealthReport(Struct, frozen=True):
    """One look at everything: the worst word, each part's verdict, and what still works."""

    status: str
    verdicts: Mapping[str, Verdict]
    polls_answered: bool
    can_build: bool


class Health:
    """Keeps the last verdict of each part. `checks` maps a part's name to its check.

    Parts `engine` and `store` decide whether builds can run, `database` whether polls can be
    answered. Until the first look everything counts as working, so that start-up needs no engine.
    """

    def __init__(
        self, checks: Mapping[str, Callable[[], Verdict]], *, has_room: Callable[[], bool] = lambda: True
    ) -> None:
        """`has_room` tells whether the store may grow; builds wait while it may not."""
        self._checks = checks
        self._has_room = has_room
        self._changed = threading.Condition()
        self._verdicts = dict.fromkeys(checks, _STARTING)

    def look(self) -> None:
        """Asks every part once; each answers within seconds."""
        for part, check in self._checks.items():
            self._note(part, check())

    def part_failed(self, part: str, sentence: str) -> None:
        """A worker found a part down; it counts so until a check, or another build, finds it up."""
        if part in self._verdicts:
            self._note(part, Verdict("down", sentence))

    def part_works(self, part: str) -> None:
        """A build got what it needed of a part, whatever was thought of it."""
        if self._verdicts[part].status != "ok":
            self._note(part, self._checks[part]())

    def wait_until_builds_run(self, timeout: float) -> bool:
        """Whether builds can run, waiting up to `timeout` seconds for it."""
        with self._changed:
            return self._changed.wait_for(self._can_build, timeout)

    def builds_run(self) -> bool:
        """Whether a build could run now, as far as is known."""
        return self._can_build()

    def report(self) -> HealthReport:
        """The state as last seen."""
        verdicts = {"process": Verdict("ok", "The process answers."), **self._verdicts}
        words = {verdict.status for verdict in verdicts.values()}
        database_down = self._verdicts["database"].status == "down"
        status = "ok" if words == {"ok"} else "down" if database_down else "degraded"
        return HealthReport(status, verdicts, not database_down, self._can_build() and not database_down)

    def _can_build(self) -> bool:
        parts_work = all(self._verdicts[part].status != "down" for part in ("engine", "store"))
        return parts_work and self._has_room()

    def _note(self, part: str, verdict: Verdict) -> None:
        with self._changed:
            former, self._verdicts[part] = self._verdicts[part], verdict
            if verdict.status != former.status and (former is not _STARTING or verdict.status != "ok"):
                _log.warning("%s is %s: %s", part, verdict.status, verdict.sentence)
            self._changed.notify_all()
