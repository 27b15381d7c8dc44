"""Figures with their spread, beside the budgets of the design."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """One measured thing: a value per round, and how large its median may be."""

    name: str
    unit: str
    values: Sequence[float]
    budget: float | None = None

    @property
    def median(self) -> float:
        """The middle of the rounds."""
        return statistics.median(self.values)

    @property
    def missed(self) -> bool:
        """Whether the median is over the budget."""
        return self.budget is not None and self.median > self.budget


def render_line(figure: Figure) -> str:
    """The figure in one line of a table."""
    low, high = min(figure.values), max(figure.values)
    budget = "" if figure.budget is None else f"≤ {figure.budget:g}"
    verdict = "" if figure.budget is None else "MISSED" if figure.missed else "kept"
    numbers = "".join(f"{_short(value):>9}" for value in (low, figure.median, high))
    return f"{figure.name:<58}{numbers} {figure.unit:<6}{budget:>9}  {verdict}".rstrip()


def render_head() -> str:
    """The table's first line."""
    return f"{'':<58}{'min':>9}{'median':>9}{'max':>9} {'unit':<6}{'budget':>9}"


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 100 or value == int(value) else f"{value:.2f}"
