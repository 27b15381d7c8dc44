"""Package names with at most one star: what they match, where two of them meet, how names follow."""

import re
from dataclasses import dataclass

PACKAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,127}", re.ASCII)
_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,127}\*?[A-Za-z0-9._+-]{0,127}", re.ASCII)


@dataclass(frozen=True, slots=True)
class NamePattern:
    """A package's name, or a prefix and a suffix with anything between them."""

    prefix: str
    suffix: str | None = None
    """What follows the star; None without a star."""

    def __str__(self) -> str:
        return self.prefix if self.suffix is None else f"{self.prefix}*{self.suffix}"

    def matches(self, name: str) -> bool:
        """Whether this means the package of that name; a removal (`-name`) is none."""
        if self.suffix is None:
            return name == self.prefix
        return (
            name.startswith(self.prefix)
            and name.endswith(self.suffix)
            and len(name) >= len(self.prefix) + len(self.suffix)
        )

    def between(self, name: str) -> str:
        """The part of a matching name that the star stands for."""
        return "" if self.suffix is None else name[len(self.prefix) : len(name) - len(self.suffix)]

    def filled(self, between: str) -> str:
        """The name with this in the star's place."""
        return self.prefix if self.suffix is None else f"{self.prefix}{between}{self.suffix}"

    def meets(self, other: "NamePattern") -> bool:
        """Whether some name matches both."""
        if other.suffix is None:
            return self.matches(other.prefix)
        if self.suffix is None:
            return other.matches(self.prefix)
        starts = self.prefix.startswith(other.prefix) or other.prefix.startswith(self.prefix)
        ends = self.suffix.endswith(other.suffix) or other.suffix.endswith(self.suffix)
        return starts and ends


def parse_pattern(text: str) -> NamePattern | None:
    """The pattern a text means; None when it is no package name with at most one star."""
    if not _PATTERN.fullmatch(text):
        return None
    prefix, star, suffix = text.partition("*")
    return NamePattern(prefix, suffix if star else None)
