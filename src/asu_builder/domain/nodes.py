"""The processes that share the work: what each of them can build."""

from collections.abc import Iterable

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
