"""Running the examples in a rules file: a rule that no example fires is not known to work."""

import sys
from dataclasses import replace
from pathlib import Path

from package_changes.model import Audience, Example, Rule
from package_changes.rules import Rules, RulesProblem, parse_rules
from package_changes.watch import read_rules_text


def check_examples(rules: Rules) -> list[str]:
    """A sentence for every example that does not come true, and for every rule that no example fires."""
    problems = []
    for rule in rules:
        fired = False
        for example in rule.examples:
            sentence, fires = _run(rule, example, rules)
            fired = fired or fires
            if sentence:
                problems.append(f"line {example.line}: {rule.name}: {sentence}")
        if not fired:
            problems.append(f"line {rule.line}: {rule.name}: no example fires this rule")
    return problems


def test_file(path: str | Path) -> int:
    """Prints whether the rules of a file load and their examples come true; 0 when all do."""
    try:
        rules = parse_rules(read_rules_text(Path(path)), source=str(path))
    except RulesProblem as problem:
        _print(f"FAILED  {problem}")
        return 1
    problems = check_examples(rules)
    for sentence in problems:
        _print(f"FAILED  {rules.source}, {sentence}")
    examples = sum(len(rule.examples) for rule in rules)
    _print(
        f"{rules.count} rules, {examples} examples: "
        + (f"{len(problems)} problems" if problems else "every rule fires, every example comes true")
    )
    return 1 if problems else 0


# A name that test collectors would otherwise take for a test.
test_file.__test__ = False  # type: ignore[attr-defined]


def _run(rule: Rule, example: Example, rules: Rules) -> tuple[str, bool]:
    """What is wrong with an example, "" for nothing, and whether the rule fired in it."""
    if rule.audience is Audience.CLIENTS:
        # What clients do themselves: this change alone.
        rules = rules.only(replace(rule, audience=Audience.BOTH))
    selection = rules.apply(example.context)
    fires = any(applied.rule == rule.name for applied in selection.applied)
    if selection.packages != example.becomes:
        expected, found = (" ".join(names) or "nothing" for names in (example.becomes, selection.packages))
        return f"expected {expected}; the rules give {found}", fires
    if fires != example.fires:
        return "this rule fires, but must not" if fires else "this rule does not fire", fires
    return "", fires


def _print(line: str) -> None:
    sys.stdout.write(f"{line}\n")
