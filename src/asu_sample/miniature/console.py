"""What the user sees: output in order, failures with the trace that nested makes leave."""

from __future__ import annotations

import sys
from dataclasses import dataclass


@dataclass(frozen=True)
class RecipeLines:
    """Where the nested makes of a flavour stop: recipe lines, copied from recorded output."""

    package_install: int
    manifest: int
    image: int
    check_profile: int
    prepare_rootfs: int
    build_image: int


RECIPE_LINES = {
    "opkg": RecipeLines(227, 166, 156, 294, 238, 259),
    "apk": RecipeLines(254, 193, 183, 323, 267, 282),
}


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
