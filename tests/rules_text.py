"""Small rules files for tests."""

from package_changes.model import Context
from package_changes.rules import Rules, parse_rules

HEAD = """\
format: 1
branches:
  23.05: 23069
  24.10: 27990
  25.12: 32295
targets: [ath79, x86]
rules:
"""
HEAD_LINES = HEAD.count("\n")


def a_rule(name: str = "one", *lines: str, audience: str = "builder") -> str:
    """A rule whose first line is followed by `for`, `why` and the given lines."""
    rest = "".join(f"    {line}\n" for line in lines)
    return f"  - name: {name}\n    for: {audience}\n    why: https://example.org/{name}\n{rest}"


def rules_of(*rules: str) -> Rules:
    """The rules of a file that consists of these."""
    return parse_rules(HEAD + "".join(rules), source="test.yaml")


def a_context(*packages: str, version: str = "24.10.4", profile: str = "generic") -> Context:
    """A request for a plain device."""
    return Context(version, "x86/64", profile, packages)
