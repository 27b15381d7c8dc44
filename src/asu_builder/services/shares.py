"""How many of all, as the statistics tell it."""

from msgspec import Struct


class Share(Struct, frozen=True):
    """How many of all new builds asked for `diff_packages`; `share` is from 0 to 1."""

    total: int
    with_diff_packages: int

    @property
    def share(self) -> float:
        """0 where nothing was built."""
        return round(self.with_diff_packages / self.total, 4) if self.total else 0.0
