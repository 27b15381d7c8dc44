"""What the user sees: output in order, failures with the trace that nested makes leave."""

from __future__ import annotations

import sys
from collections.abc import Iterable


class GoalFailed(Exception):
    """A goal cannot be reached.

    `trace` holds (recipe line, inner goal, exit status) of the nested makes, inner first.
    """

    def __init__(self, *trace: tuple[int, str, int]) -> None:
        super().__init__("goal failed")
        self.trace = trace


def out(text: str = "") -> None:
    """A line on stdout, visible at once even through a pipe."""
    print(text, flush=True)


def err(text: str = "") -> None:
    """A line on stderr."""
    print(text, file=sys.stderr, flush=True)


def trace(lines: Iterable[tuple[int, str, int]]) -> None:
    """The lines of the nested makes; the outermost `make: ***` line comes from the real make that started
    us."""
    steps = list(lines)
    for depth, (line, goal, status) in enumerate(steps):
        err(f"make[{len(steps) - depth}]: *** [Makefile:{line}: {goal}] Error {status}")
