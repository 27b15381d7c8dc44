"""What a check of one part of the service or of an installation found, and what to do about it."""

from collections.abc import Sequence
from typing import Literal

from msgspec import Struct

Status = Literal["ok", "warning", "error"]
"""`error`: builds or the service fail. `warning`: it works, but not well, or could not be checked."""
_WORST_FIRST: Sequence[Status] = ("error", "warning", "ok")


class CheckResult(Struct, frozen=True):
    """One part, one sentence and, where something is to be done, the remedy: a line to type or a setting."""

    status: Status
    sentence: str
    remedy: str = ""
    name: str = ""
    group: str = ""


def ok(sentence: str) -> CheckResult:
    """Nothing is to be done."""
    return CheckResult("ok", sentence)


def warning(sentence: str, remedy: str) -> CheckResult:
    """It works; something is better done."""
    return CheckResult("warning", sentence, remedy)


def error(sentence: str, remedy: str) -> CheckResult:
    """It does not work."""
    return CheckResult("error", sentence, remedy)


def worst(results: Sequence[CheckResult]) -> CheckResult:
    """The worst of several, the first of its kind."""
    return min(results, key=lambda result: _WORST_FIRST.index(result.status))
