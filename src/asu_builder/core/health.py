"""The health of each part, by checks at a steady pace; the gate before the workers."""

import logging
import threading
from collections.abc import Callable, Mapping

from msgspec import Struct
from msgspec.structs import replace

from asu_builder.domain.errors import AsuError
from asu_builder.domain.health import CheckResult, Status

_log = logging.getLogger(__name__)


STOP_SECONDS = 2.0
"""How long a stop waits for the current call."""


class Periodic:
    """Calls `work` every `seconds`, first after `delay`; a failure is logged and does not end it."""

    def __init__(self, name: str, work: Callable[[], object], *, seconds: float, delay: float = 0.0) -> None:
        self._name = name
        self._delay = delay
        self._work = work
        self._seconds = seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Starts the thread; call once."""
        self._thread.start()

    def stop(self) -> None:
        """Ends it after the current call; one that hangs is left behind, and ends with the process."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(STOP_SECONDS)

    def _run(self) -> None:
        self._stop.wait(self._delay)
        while not self._stop.is_set():
            try:
                self._work()
            except AsuError as error:
                _log.warning("%s: %s", self._name, error)
            except Exception:  # noqa: BLE001 - a bug in one round must not end the rounds
                if self._stop.is_set():
                    return  # left behind by `stop`: what it works with may be closed by now
                _log.exception("%s failed", self._name)
            self._stop.wait(self._seconds)


_STARTING = CheckResult("warning", "Not checked yet; the service has just started.")

STATES: Mapping[Status, str] = {"ok": "ok", "warning": "degraded", "error": "down"}
"""What `/health`, the metrics and the log call the status of a part."""

_NAMES = {
    "process": "The process",
    "database": "The database",
    "engine": "The container engine",
    "registry": "The registry of ImageBuilders",
    "store": "The store",
    "upstream": "The download server of OpenWrt",
    "rules": "The service of package rules",
    "workers": "The queue",
    "preflight": "The look at package selections before a build",
    "signing": "The signing of images",
    "redis": "The memory that nodes share",
    "secrets": "The encryption of what is secret in requests",
    "provenance": "The signing of where images came from",
}
_ENDINGS: Mapping[Status, str] = {
    "ok": "works.",
    "warning": "works with restrictions.",
    "error": "does not work now.",
}
_PUBLIC: Mapping[tuple[str, Status], str] = {
    ("process", "ok"): "The process answers.",
    ("engine", "error"): "The container engine does not work now; builds wait until it does.",
    ("store", "error"): "The store takes no images now; builds wait until it does.",
    ("store", "warning"): "The store has little room left.",
    ("database", "error"): "The database does not answer.",
    ("upstream", "warning"): "The download server of OpenWrt does not answer now; what is known is told.",
    ("registry", "warning"): "The registry of ImageBuilders does not answer now; what is here can be built.",
    ("workers", "ok"): "Workers take jobs.",
    ("preflight", "warning"): "Some impossible package selections are built, and not refused before.",
    ("signing", "error"): "Images cannot be signed now.",
    ("provenance", "error"): "It cannot be stated now where images came from.",
    ("workers", "warning"): "The workers are paused by the operator; jobs wait.",
}


def public_sentence(part: str, status: Status) -> str:
    """What everybody may read about a part: no host, no path, no remedy."""
    named = _NAMES.get(part, "A part of the service")
    return _PUBLIC.get((part, status)) or f"{named} {_ENDINGS[status]}"


class HealthReport(Struct, frozen=True):
    """The results of all checks, their summary, and what still works."""

    state: str
    """`down` without a database, `degraded` where any part is not ok, else `ok`."""
    parts: Mapping[str, CheckResult]
    polls_answered: bool
    can_build: bool

    def for_everybody(self) -> "HealthReport":
        """The same without what is the operator's alone."""
        parts = {
            part: CheckResult(result.status, public_sentence(part, result.status))
            for part, result in self.parts.items()
        }
        return replace(self, parts=parts)


class Health:
    """Keeps the last result of each part. `checks` maps a part's name to its check.

    Parts `engine` and `store` decide whether builds can run, `database` whether polls can be
    answered. Until the first check everything counts as working, so that start-up needs no engine.
    """

    def __init__(
        self, checks: Mapping[str, Callable[[], CheckResult]], *, has_room: Callable[[], bool] = lambda: True
    ) -> None:
        """`has_room` tells whether the store may grow; builds wait while it may not."""
        self._checks = checks
        self._has_room = has_room
        self._changed = threading.Condition()
        self._room = True
        """As last checked: a report waits for no disk."""
        self._results = dict.fromkeys(checks, _STARTING)

    def check_all(self) -> None:
        """Asks every part once; each answers within seconds."""
        self.check_room()
        for part in self._checks:
            self.check(part)

    def check(self, part: str) -> None:
        """Asks one part; a check that fails itself says nothing about the others."""
        try:
            result = self._checks[part]()
        except AsuError as error:
            result = CheckResult("error", str(error))
        except Exception:  # noqa: BLE001 - a bug in one check must not end the round for the others
            _log.exception("checking %s failed: a bug", part)
            result = CheckResult("warning", "It could not be checked; the log of the server says why.")
        self._note(part, result)

    def check_room(self) -> None:
        """Whether the store may grow. A store that cannot be asked is not full: its own check tells."""
        try:
            room = self._has_room()
        except AsuError:
            room = True
        with self._changed:
            self._room = room
            self._changed.notify_all()

    def is_down(self, part: str) -> bool:
        """Whether its last check found an error; a part that this process does without is never down."""
        return part in self._results and self._results[part].status == "error"

    def part_failed(self, part: str, sentence: str) -> None:
        """A worker found a part down; it counts so until a check, or another build, finds it up."""
        if part in self._results:
            self._note(part, CheckResult("error", sentence))

    def part_works(self, part: str) -> None:
        """A build got what it needed of a part, whatever its last check said."""
        if self._results[part].status != "ok":
            self.check(part)

    def wait_until_builds_run(self, timeout: float) -> bool:
        """Whether builds can run, waiting up to `timeout` seconds for it."""
        if not self._room:
            self.check_room()
        with self._changed:
            return self._changed.wait_for(self.builds_run, timeout)

    def builds_run(self) -> bool:
        """Whether a build could run now, by the last checks."""
        return not self.hindrance()

    def hindrance(self) -> str:
        """Why no build can run, by the last checks: `engine`, `store` or `disk_full`; "" where one could."""
        if self.is_down("engine"):
            return "engine"
        if not self._room:
            return "disk_full"  # that the store is down, too, comes of it
        return "store" if self.is_down("store") else ""

    def report(self) -> HealthReport:
        """The state by the last checks."""
        parts = {"process": CheckResult("ok", "The process answers."), **self._results}
        if database_down := self.is_down("database"):
            state = "down"
        else:
            state = "ok" if all(result.status == "ok" for result in parts.values()) else "degraded"
        return HealthReport(state, parts, not database_down, self.builds_run() and not database_down)

    def _note(self, part: str, result: CheckResult) -> None:
        with self._changed:
            former, self._results[part] = self._results[part], result
            if result.status != former.status and (former is not _STARTING or result.status != "ok"):
                _log.warning("%s is %s: %s", part, STATES[result.status], result.sentence)
            self._changed.notify_all()
