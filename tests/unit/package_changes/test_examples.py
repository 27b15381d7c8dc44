from pathlib import Path

import pytest

from package_changes.files import built_in_rules, check_examples
from package_changes.files import test_file as run_file
from rules_text import HEAD, HEAD_LINES, a_rule, rules_of

FIRES = "examples: [{version: 24.10.4, packages: [a], becomes: [a, x]}]"
STILL = "examples: [{version: 24.10.4, packages: [a], unchanged: true}]"


def test_every_built_in_rule_is_fired_by_an_example_and_has_a_near_miss() -> None:
    assert check_examples(built_in_rules()) == []
    for rule in built_in_rules():
        assert {example.fires for example in rule.examples} == {True, False}, rule.name


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        ((), "no example fires this rule"),
        (("versions: [23.05]", STILL), "no example fires this rule"),
        (("versions: [23.05]", FIRES), "expected a x; the rules give a"),
        ((STILL,), "expected a; the rules give a x"),
        (("examples: [{version: 24.10.4, packages: [x], becomes: [x]}]",), "this rule does not fire"),
    ],
)
def test_a_rule_must_be_shown_to_work(lines: tuple[str, ...], sentence: str) -> None:
    problems = check_examples(rules_of(a_rule("one", "add: [x]", *lines)))
    assert any(sentence in problem and "one" in problem for problem in problems), problems


def test_an_example_of_a_change_for_clients_is_run_as_they_do_it() -> None:
    example = "examples: [{version: 24.10.4, packages: [a, old], becomes: [a, new]}]"
    rule = a_rule("one", "rename: {old: new}", "from_revision: 24000", example, audience="clients")
    assert check_examples(rules_of(rule)) == []


def test_an_operators_file_is_tested_with_clear_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text(HEAD + a_rule("one", "add: [x]", FIRES))
    assert run_file(path) == 0
    assert capsys.readouterr().out == "1 rules, 1 examples: every rule fires, every example comes true\n"
    path.write_text(HEAD + a_rule("one", "add: [y]", FIRES))
    assert run_file(path) == 1
    printed = capsys.readouterr().out
    assert f"FAILED  {path}, line {HEAD_LINES + 5}: one: expected a x; the rules give a y" in printed
    path.write_text(HEAD + a_rule("one", "ad: [y]"))
    assert run_file(str(path)) == 1
    assert f"FAILED  {path}, line {HEAD_LINES + 4}: unknown key 'ad'" in capsys.readouterr().out
    assert run_file(tmp_path / "absent.yaml") == 1
    assert "cannot be read" in capsys.readouterr().out
