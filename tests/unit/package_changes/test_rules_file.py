import pytest
from hypothesis import given
from hypothesis import strategies as st

from package_changes.files import built_in_rules
from package_changes.rules import parse_rules
from package_changes.schema import RulesProblem
from rules_text import HEAD, HEAD_LINES, a_rule, rules_of

FIRST = HEAD_LINES + 1
"""The line on which the first rule begins; `for` and `why` follow, then its other lines."""


def problem_of(*rules: str) -> RulesProblem:
    """What is wrong with a file of these rules."""
    with pytest.raises(RulesProblem) as caught:
        rules_of(*rules)
    return caught.value


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("adds: [x]", "unknown key 'adds'"),
        ("add: x", "expected a list"),
        ("add: []", "can never match"),
        ("add: [x*]", "no package name"),
        ("add: [-x]", "no package name"),
        ("add: [x, x]", "is there twice"),
        ("remove: [a*b*c]", "no package name, with one * at most"),
        ("remove: ['*']", "no package name"),
        ("rename: [a, b]", "expected keys with values"),
        ("rename: {a-*: b}", "both sides"),
        ("rename: {a: }", "expected a text"),
        ("mandatory: yes", "expected true or false"),
        ("from_revision: r123", "expected a whole number"),
        ("from_revision: 1e3", "expected a whole number"),
        ("versions: 24.10", "expected a list"),
        ("versions: []", "can never match"),
        ("versions: [24.10.x]", "no branch like 24.10"),
        ("versions: [24.1]", "can never match: it is not among the branches"),
        ("versions: ['>=25.12 <24.10']", "can never match"),
        ("targets: [ath79]", "can never match: expected a target"),
        ("targets: [mvebu/cortexa9]", "not among the targets of this file"),
        ("profiles: ['linksys,wrt']", "can never match: expected a profile"),
        ("requested: {auc: 1}", "expected a list"),
        ("why: again", "'why' is there twice"),
        ("examples: [{version: 24.10.4, packages: [a]}]", "either 'becomes'"),
        ("examples: [{version: 24.10.4, packages: [a], becomes: [a], unchanged: true}]", "either 'becomes'"),
        ("examples: [{packages: [a], unchanged: true}]", "'version' is missing"),
        ("examples: [{version: 1, packages: [a], unchanged: true, why: x}]", "unknown key 'why'"),
    ],
)
def test_a_mistake_is_named_with_its_line(line: str, sentence: str) -> None:
    problem = problem_of(a_rule("one", line))
    assert sentence in problem.sentence
    assert problem.line == FIRST + 3
    assert str(problem) == f"test.yaml, line {FIRST + 3}: {problem.sentence}"


@pytest.mark.parametrize(
    ("rule", "line", "sentence"),
    [
        ("  - name: one\n    for: builder\n", FIRST, "'why' is missing"),
        ("  - name: One\n    for: builder\n    why: x\n    add: [x]\n", FIRST, "small letters"),
        (
            a_rule("one", "add: [x]", audience="everybody"),
            FIRST + 1,
            "expected one of builder, clients, both",
        ),
        (a_rule("one"), FIRST, "does nothing"),
        ("  - add\n", FIRST, "expected keys with values"),
        (
            a_rule("one", "add: [x]", "versions: [24.10]", "from_revision: 28000"),
            FIRST + 4,
            "28000 is not in",
        ),
        (a_rule("one", "rename: {a: b}", audience="both"), FIRST, "needs 'from_revision'"),
        (a_rule("one", "add: [a]", "from_revision: 5", audience="both"), FIRST, "cannot be told 'add'"),
        (a_rule("one", "remove: [a-*]", "from_revision: 5", audience="clients"), FIRST, "no * in names"),
        (
            a_rule("one", "rename: {a: b}", "from_revision: 5", "profiles: [x]", audience="clients"),
            FIRST,
            "cannot be told 'profiles'",
        ),
        (a_rule("one", "rename: {a-*: b-*, a-x: c}"), FIRST, "overlapping renames of a-* and a-x"),
        (a_rule("one", "rename: {a: b, b: c}"), FIRST, "renamed by itself"),
        (a_rule("one", "rename: {a-*: a-a-*}"), FIRST, "renamed by itself"),
        (a_rule("one", "rename: {a: b}", "requested: [a]"), FIRST, "needs no 'requested'"),
        (a_rule("one", "add: [a]", "remove: [a]"), FIRST, "adds a, which is removed by itself"),
    ],
)
def test_a_rule_that_cannot_be_meant_is_refused_with_its_line(rule: str, line: int, sentence: str) -> None:
    problem = problem_of(rule)
    assert sentence in problem.sentence
    assert problem.line == line


@pytest.mark.parametrize(
    ("one", "two", "sentence"),
    [
        ("rename: {a: b}", "rename: {a: c}", "overlapping renames of a, as in one"),
        ("rename: {a-*: b-*}", "rename: {a-x-*: c-*}", "overlapping renames"),
        ("rename: {a-*-x: b-*}", "rename: {a-y-*: c-*}", "overlapping renames"),
        ("rename: {a: b}", "rename: {b: c}", "brings in b, which is renamed by two"),
        ("rename: {b: c}", "rename: {a: b}", "brings in b, which is renamed by one"),
        ("add: [a]", "rename: {a: b}", "brings in a, which is renamed by two"),
        ("add: [a-b]", "remove: [a-*]", "adds a-b, which is removed by two"),
        ("remove: [a]", "rename: {a: b}", "can never rename a: a is removed by one"),
        ("add: [a]", "requested: [a]\n    add: [b]", "brings in a, which is asked for by two"),
    ],
)
def test_rules_that_contradict_each_other_are_refused(one: str, two: str, sentence: str) -> None:
    problem = problem_of(a_rule("one", one), a_rule("two", two))
    assert sentence in problem.sentence
    assert problem.line == FIRST + 4
    assert f"(line {FIRST})" in problem.sentence


def test_rules_that_never_meet_may_differ() -> None:
    rules_of(
        a_rule("a", "versions: [23.05]", "rename: {a: b}"),
        a_rule("b", "versions: ['>=24.10']", "rename: {a: c}"),
        a_rule("c", "profiles: [x]", "rename: {d: e}"),
        a_rule("d", "profiles: [y]", "rename: {d: f}"),
        a_rule("e", "rename: {d: f}", "from_revision: 5", audience="clients"),
    )


def test_two_rules_need_two_names() -> None:
    problem = problem_of(a_rule("one", "add: [x]"), a_rule("one", "add: [y]"))
    assert problem.line == FIRST + 4
    assert f"line {FIRST}" in problem.sentence


@pytest.mark.parametrize(
    ("text", "line", "sentence"),
    [
        ("", 0, "empty"),
        ("# only a remark\n", 0, "empty"),
        ("\0\1\2", 0, "no YAML"),
        ("rules: [\n", 2, "no YAML"),
        ("a: b: c\n", 1, "no YAML"),
        ("- a\n", 1, "expected keys"),
        ("format: 2\nbranches: {}\nrules: []\n", 1, "format 2 is not known"),
        ("format: 1\nbranches: {}\n", 1, "'rules' is missing"),
        ("format: 1\nbranches: {}\nrules: []\n", 3, "at least one"),
        ("format: 1\nbranches: {main: 5}\nrules: []\n", 2, "no branch"),
        ("format: 1\nbranches:\n  24.10: 7\n  23.05: 9\nrules: []\n", 4, "from old to new"),
        ("format: 1\nbranches:\n  23.05: 7\n  24.10: 5\nrules: []\n", 4, "higher revision"),
        ("format: 1\nversion: 3\n", 2, "unknown key 'version'"),
        ("a: &x 1\nb: *x\n", 2, "aliases"),
        ("\n" + "[" * 40 + "]" * 40, 2, "nested too deeply"),
        ("[" * 100_000, 1, "nested too deeply"),
        ("#" * (1 << 20) + "\n", 0, "longer than"),
        ("{1: 2, [a]: b}", 1, "unknown key"),
        ("[a]: b", 1, "expected a text"),
        ("a: 1\n---\nb: 2\n", 2, "no YAML"),
    ],
)
def test_a_file_that_is_none_is_refused(text: str, line: int, sentence: str) -> None:
    with pytest.raises(RulesProblem) as caught:
        parse_rules(text, source="x.yaml")
    assert sentence in str(caught.value)
    assert caught.value.line == line


@given(st.text() | st.text("[]{}:-*&!%@`,'\"#|> \nab", max_size=60))
def test_no_text_is_answered_with_another_error(text: str) -> None:
    with pytest.raises(RulesProblem):
        parse_rules(text, source="x")
    with pytest.raises(RulesProblem):
        parse_rules(HEAD + text.replace("\n", "\n  "), source="x")


def test_a_branch_is_no_number() -> None:
    rules = rules_of(a_rule("one", "versions: [24.10]", "add: [x]"))
    assert [rule.versions for rule in rules] == [("24.10",)]


def test_the_built_in_rules_have_links() -> None:
    assert [rule.name for rule in built_in_rules() if "https://" not in rule.why] == []
