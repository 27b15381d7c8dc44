"""Which packages make hands to the package manager."""

from __future__ import annotations

from collections.abc import Iterable

from .configuration import Configuration, Profile


def wanted(configuration: Configuration, profile: Profile, requested: Iterable[str]) -> list[str]:
    """The requested names in their order, then default and profile packages and `kernel`, sorted.

    Every `-x` removes both `x` and `-x`, wherever they stand; so `x -x` cancels out and no word with a
    leading dash is left. What a removed package was needed for brings it back through dependencies, without a
    word.
    """
    requested = list(requested)
    own = _without_removed([*configuration.default_packages, *profile.packages, "kernel"])
    return _without_removed([*requested, *sorted(set(own))])


def _without_removed(names: list[str]) -> list[str]:
    removed = {name[1:] for name in names if name.startswith("-")}
    return [name for name in names if not name.startswith("-") and name not in removed]
