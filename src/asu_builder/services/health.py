"""How the parts of this service are, from a background check; the gate before the workers."""

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from asu_builder.ports import Verdict

_log = logging.getLogger(__name__)

_STARTING = Verdict("degraded", "Not checked yet; the service has just started.")


@dataclass(frozen=True, slots=True)
class HealthReport:
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

    def __init__(self, checks: Mapping[str, Callable[[], Verdict]]) -> None:
        self._checks = checks
        self._changed = threading.Condition()
        self._verdicts = dict.fromkeys(checks, _STARTING)

    def look(self) -> None:
        """Asks every part once; each answers within seconds."""
        for part, check in self._checks.items():
            self._note(part, check())

    def engine_failed(self, sentence: str) -> None:
        """A worker found the engine down; no further build starts until a check finds it up."""
        self._note("engine", Verdict("down", sentence))

    def wait_for_engine(self, timeout: float) -> bool:
        """Whether builds can run, waiting up to `timeout` seconds for it."""
        with self._changed:
            return self._changed.wait_for(self._can_build, timeout)

    def report(self) -> HealthReport:
        """The state as last seen."""
        verdicts = {"process": Verdict("ok", "The process answers."), **self._verdicts}
        words = {verdict.status for verdict in verdicts.values()}
        database_down = self._verdicts["database"].status == "down"
        status = "ok" if words == {"ok"} else "down" if database_down else "degraded"
        return HealthReport(status, verdicts, not database_down, self._can_build() and not database_down)

    def _can_build(self) -> bool:
        return all(self._verdicts[part].status != "down" for part in ("engine", "store"))

    def _note(self, part: str, verdict: Verdict) -> None:
        with self._changed:
            former, self._verdicts[part] = self._verdicts[part], verdict
            if verdict.status != former.status and (former is not _STARTING or verdict.status != "ok"):
                _log.warning("%s is %s: %s", part, verdict.status, verdict.sentence)
            self._changed.notify_all()
