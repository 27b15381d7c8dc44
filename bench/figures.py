"""Figures with their spread, beside yardsticks of the same run and the budgets of the design."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Yardstick:
    """What something known costs in the same rounds and the same unit: a value per round."""

    name: str
    values: Sequence[float]


@dataclass(frozen=True)
class Figure:
    """One measured thing: a value per round, and how large the median may be.

    With a yardstick the ratios of the rounds are compared with the budget and printed first, because machines
    differ by a factor of two; the values themselves stand behind them.
    """

    name: str
    unit: str
    values: Sequence[float]
    budget: float | None = None
    yardstick: Yardstick | None = None

    @property
    def compared(self) -> Sequence[float]:
        """The ratios of the rounds; without a yardstick the values."""
        if self.yardstick is None:
            return self.values
        return [ours / known for ours, known in zip(self.values, self.yardstick.values, strict=True)]

    @property
    def median(self) -> float:
        """The middle of the rounds, of what is compared."""
        return statistics.median(self.compared)

    @property
    def missed(self) -> bool:
        """Whether the median is over the budget."""
        return self.budget is not None and self.median > self.budget


def alternate(rounds: int, measures: Mapping[str, Callable[[], float]]) -> dict[str, list[float]]:
    """A value of each measure per round; each round takes all of them, so that a busy moment affects all."""
    values: dict[str, list[float]] = {name: [] for name in measures}
    for _ in range(rounds):
        for name, measure in measures.items():
            values[name].append(measure())
    return values


def render_line(figure: Figure) -> str:
    """The figure in one line of a table."""
    numbers = "".join(
        f"{_short(value):>9}" for value in (min(figure.compared), figure.median, max(figure.compared))
    )
    unit = figure.unit if figure.yardstick is None else "×"
    budget = "" if figure.budget is None else f"≤ {figure.budget:g}"
    verdict = "" if figure.budget is None else "MISSED" if figure.missed else "kept"
    behind = ""
    if figure.yardstick is not None:
        ours, known = statistics.median(figure.values), statistics.median(figure.yardstick.values)
        behind = f"{_short(ours)} {figure.unit}, {figure.yardstick.name} {_short(known)}"
    return f"{figure.name:<58}{numbers} {unit:<6}{budget:>9}  {verdict:<8}{behind}".rstrip()


def render_head() -> str:
    """The table's first line."""
    return f"{'':<58}{'min':>9}{'median':>9}{'max':>9} {'unit':<6}{'budget':>9}"


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 100 or value == int(value) else f"{value:.2f}"
