import re

import pytest

from asu_builder.domain.nodes import takes_of
from asu_builder.domain.request import EDITION, Erratum, Terms, current_terms

ANY = re.compile(".*")
ERRATA = (Erratum("one", "https://example.org/1", ANY), Erratum("two", "https://example.org/2", ANY))


def test_a_program_takes_what_it_names_itself() -> None:
    terms = current_terms("rules", ERRATA)
    assert terms == Terms(EDITION, "one,two", "rules")
    assert takes_of(["rules"], ERRATA).holds_to(terms)


@pytest.mark.parametrize("known", [0, 1, 2])
def test_it_takes_what_was_named_before_an_erratum_and_nothing_named_after_a_later_one(known: int) -> None:
    takes = takes_of(["rules"], ERRATA[:known])
    taken = [takes.holds_to(current_terms("rules", ERRATA[:count])) for count in range(3)]
    assert taken == [count <= known for count in range(3)]


def test_other_rules_and_editions_are_not_taken_and_unknown_ones_are() -> None:
    takes = takes_of(["now", "before"])
    assert takes.holds_to(current_terms("before"))
    assert not takes.holds_to(current_terms("later"))
    assert not takes.holds_to(Terms(EDITION + 1, "", "now"))
    assert takes.holds_to(Terms())
