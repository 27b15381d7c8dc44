"""What a look at one part of an installation has found, and what to do about it."""

from enum import StrEnum

from msgspec import Struct


class Grade(StrEnum):
    """How a part was found."""

    OK = "ok"
    WARNING = "warning"
    """It works, but not as well as it should, or could not be looked at."""
    WRONG = "wrong"
    """Builds, or the service, will fail by it."""


class Finding(Struct, frozen=True):
    """One part, one sentence, and where it is not well, the remedy: a line to type or a setting."""

    grade: Grade
    sentence: str
    remedy: str = ""
    name: str = ""
    group: str = ""


def well(sentence: str) -> Finding:
    """Nothing is to be done."""
    return Finding(Grade.OK, sentence)


def doubtful(sentence: str, remedy: str) -> Finding:
    """It works; something is better done."""
    return Finding(Grade.WARNING, sentence, remedy)


def wrong(sentence: str, remedy: str) -> Finding:
    """It does not work."""
    return Finding(Grade.WRONG, sentence, remedy)


def worst(findings: list[Finding]) -> Finding:
    """The worst of several, the first of its kind."""
    order = [Grade.WRONG, Grade.WARNING, Grade.OK]
    return min(findings, key=lambda finding: order.index(finding.grade))
