"""What was asked, what was answered, and what must never have been answered."""

import threading
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from time import monotonic
from typing import Any

from e2e.service import Answer

EXPECTED = frozenset(("world_unavailable", "upstream_unreachable", "setup_failed", "imagebuilder_missing"))
"""Final failures of the world: allowed while the world is broken, and counted."""
GAVE_UP = "gave_up"
IMPOSSIBLE = "impossible_selection"


@dataclass(slots=True)
class Asked:
    """One request that the server has accepted, and its story so far."""

    request_hash: str
    body: dict[str, object]
    is_good: bool
    posted_at: float = field(default_factory=monotonic)
    status: int = 202
    outcome: str = ""
    """`done` or a failure's reason, once it is final."""
    publication: object = None
    """What tells its published files from others, as it was when they were first seen."""
    document: dict[str, Any] = field(default_factory=dict)
    is_refusal: bool = False
    """Refused before a build: the process that did it knows of it, no other, and no later life of it."""

    @property
    def is_final(self) -> bool:
        """Whether nothing may change any more."""
        return bool(self.outcome)


class Ledger:
    """Every thread writes here; `violations` must stay empty."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asked: dict[str, Asked] = {}
        self.violations: list[str] = []
        self.answers: Counter[str] = Counter()
        self.progress = threading.Condition()
        self.finals = 0
        """How many requests have had their final answer."""
        self.downloads = 0
        self.orders_compared = 0

    def violation(self, sentence: str) -> None:
        """Something that must not happen; the time is as in the server's log."""
        with self._lock:
            self.violations.append(f"{datetime.now(UTC):%H:%M:%S} {sentence}")

    def count(self, what: str) -> None:
        """One more of something."""
        with self._lock:
            self.answers[what] += 1

    def note(self, target: str, answer: Answer) -> None:
        """Any answer at all: 5xx only where it is meant, and in the form that is promised."""
        self.count(f"{target.split('/')[1]} {answer.status}")
        if answer.status < 500:
            return
        is_json = answer.headers.get("content-type") == "application/json"
        if answer.status == 503:
            if not (is_json and int(answer.headers.get("retry-after", 0)) > 0):
                self.violation(f"{target}: a 503 without Retry-After or JSON: {answer.body[:200]!r}")
        elif answer.status != 500 or not (is_json and "reason" in answer.json):
            self.violation(f"{target}: {answer.status}: {answer.body[:300]!r}")

    def accepted(self, body: dict[str, object], answer: Answer, *, is_good: bool) -> Asked | None:
        """The entry for an accepted POST; None when it was refused."""
        if answer.status not in (200, 202, 500):
            return None
        request_hash = str(answer.json["request_hash"])
        with self._lock:
            is_new = request_hash not in self._asked
            asked = self._asked.setdefault(request_hash, Asked(request_hash, body, is_good))
            if is_new and answer.status == 500:
                asked.is_refusal = answer.json.get("reason") == IMPOSSIBLE
        self.seen(asked, answer)
        return asked

    def seen(self, asked: Asked, answer: Answer) -> bool:
        """The next answer about a request; whether it is the first final one."""
        first = False
        with self._lock:
            was = asked.outcome
            if answer.status in (200, 500):
                asked.status, first = answer.status, not was
                asked.outcome = "done" if answer.status == 200 else str(answer.json.get("reason", "?"))
                asked.document = answer.json
            problem = _contradiction(asked, answer, was) or (_wrong(asked, answer) if first else "")
        if problem:
            self.violation(f"{asked.request_hash[:12]} {asked.body.get('packages')}: {problem}")
        if first:
            with self.progress:
                self.finals += 1
                self.progress.notify_all()
        return first

    def all(self) -> list[Asked]:
        """Every accepted request, oldest first."""
        with self._lock:
            return list(self._asked.values())

    def live(self) -> list[Asked]:
        """Those without a final answer."""
        return [asked for asked in self.all() if not asked.is_final]

    def wait_for_progress(self, *, seconds: float) -> None:
        """Returns when one more request has its final answer, or when the time is over."""
        with self.progress:
            before = self.finals
            self.progress.wait_for(lambda: self.finals > before, seconds)


def _wrong(asked: Asked, answer: Answer) -> str:
    if asked.outcome in EXPECTED or asked.outcome == GAVE_UP:
        return ""
    if asked.outcome == "done":
        if not asked.is_good:
            return "a request that cannot be built is done"
        return (
            ""
            if answer.json.get("images") and answer.json.get("manifest")
            else "done without images or manifest"
        )
    if asked.outcome == IMPOSSIBLE and not asked.is_good:
        return ""
    return (
        f"failed as {asked.outcome} (fault {answer.json.get('fault')}), though the request is "
        f"{'good' if asked.is_good else 'bad in another way'}: {str(answer.json.get('detail'))[:300]}"
    )


def _contradiction(asked: Asked, answer: Answer, was: str) -> str:
    """What an answer says that does not fit what was said before."""
    if was and asked.outcome != was:
        return f"it was final as {was} and is now {asked.outcome}"
    if asked.is_refusal and answer.status == 404:
        return ""
    if was and answer.status in (202, 404):
        return f"it was final as {was} and is now answered with {answer.status}"
    return "it was accepted and is not known any more: lost" if answer.status == 404 else ""
