"""Programs that some tests need: missing ones skip with a reason, unless they are promised."""

import os
import shutil
from typing import NoReturn

import pytest

VARIABLE = "REQUIRE_TOOLS"
"""Comma-separated tools that must be there, as in CI: their absence is then a failure."""


def require_tool(name: str, *programs: str) -> None:
    """Skips or fails the test when one of the programs (or `name` itself) is not installed."""
    missing = [program for program in programs or (name,) if shutil.which(program) is None]
    if missing:
        tool_missing(name, f"{', '.join(missing)} is not installed")


def tool_missing(name: str, reason: str) -> NoReturn:
    """The tool cannot be used, for a reason that only trying has shown."""
    if name in os.environ.get(VARIABLE, "").split(","):
        pytest.fail(f"{VARIABLE} promises {name}, but {reason}", pytrace=False)
    pytest.skip(f"needs {name}: {reason}")
