"""Every trap that the facts on clients list has a test with its number in its name."""

import re
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
TRAPS = 36
_NAME = re.compile(r"^ *(?:async )?def test_trap_(\d\d)_\w+", re.MULTILINE)


def test_every_trap_of_the_wire_format_is_named_by_a_test() -> None:
    named = {number for path in TESTS.rglob("test_*.py") for number in _NAME.findall(path.read_text())}
    assert named == {f"{number:02}" for number in range(1, TRAPS + 1)}
