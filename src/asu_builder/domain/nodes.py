"""The processes that share the work: what each of them can build."""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta

from msgspec import Struct

from asu_builder.domain.request import EDITION, ERRATA, Erratum, Terms


class Takes(Struct, frozen=True):
    """Which jobs a worker takes: those whose terms are its own, or that it has held to before."""

    edition: int
    errata: tuple[str, ...]
    """Its own and those of programs before the latest: what is fixed spoils nothing under an older hash."""
    rules: tuple[str, ...]
    """Digests of the package rules that it can apply."""

    def holds_to(self, terms: Terms) -> bool:
        """Whether a job of these terms may be built here."""
        return not terms.edition or (
            terms.edition == self.edition and terms.errata in self.errata and terms.rules in self.rules
        )


def takes_of(rules: Iterable[str], errata: Iterable[Erratum] = ERRATA) -> Takes:
    """What this program takes with these package rules."""
    marks = [erratum.mark for erratum in errata]
    known = tuple(",".join(marks[:number]) for number in range(len(marks) + 1))
    return Takes(EDITION, known, tuple(rules))


LOST = timedelta(seconds=30)
"""A node that has not been seen for so long has ended without saying so, or cannot reach the database."""


class NodeFacts(Struct, frozen=True):
    """What a process says of itself with each sign of life."""

    version: str
    """Of the program."""
    answers: bool
    builds: bool
    concurrent: int
    """How many builds it runs at once."""
    running: int
    rules: str = ""
    """The digest of its package rules; "" before they were read."""
    room: int | None = None
    """Free bytes of its store above `disk_floor`; None where that is not known."""
    hindrance: str = ""
    """Why it can start no build, as in an answer's `waiting_for`; "" where it could."""


class Node(Struct, frozen=True):
    """One process, as it was seen last."""

    name: str
    facts: NodeFacts
    drained: bool
    """Whether an operator lets it take no more jobs."""
    seen_at: datetime
    lost: bool


_ALIKE: Sequence[tuple[str, Callable[[NodeFacts], str]]] = (
    ("version of the program", lambda facts: facts.version),
    ("package rules", lambda facts: facts.rules[:12]),
)
"""What a hash depends on, and how a process says it; "" where it does not know yet."""


def disagreements(nodes: Iterable[Node]) -> str:
    """In what living processes differ and should not, in sentences; "" where they agree."""
    living = [node for node in nodes if not node.lost]
    said = []
    for what, of in _ALIKE:
        having: dict[str, list[str]] = {}
        for node in living:
            if value := of(node.facts):
                having.setdefault(value, []).append(node.name)
        if len(having) > 1:
            each = "; ".join(f"{value} ({', '.join(names)})" for value, names in sorted(having.items()))
            said.append(f"The processes on it do not have the same {what}: {each}.")
    return " ".join(said)
