"""The values of package changes: patterns of names, what is asked, what a rule is, what comes out."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from package_changes.versions import EVERY_VERSION, Order, VersionRange


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

    def meets(self, other: "NamePattern") -> bool:
        """Whether some name matches both."""
        if other.suffix is None:
            return self.matches(other.prefix)
        if self.suffix is None:
            return other.matches(self.prefix)
        starts = self.prefix.startswith(other.prefix) or other.prefix.startswith(self.prefix)
        ends = self.suffix.endswith(other.suffix) or other.suffix.endswith(self.suffix)
        return starts and ends


@dataclass(frozen=True, slots=True)
class Context:
    """What rules look at. `packages` is the request as it was asked, `-name` for a removal.

    `default_packages` are the default and device packages of the version asked for; they may hold
    `-name`. `from_defaults` are those of `from_version`, the version that runs now; None when
    they are unknown. `from_revision` is the number behind the `r` of the running revision.
    """

    version: str
    target: str
    profile: str
    packages: tuple[str, ...]
    default_packages: tuple[str, ...] = ()
    diff_packages: bool = False
    from_version: str | None = None
    from_defaults: tuple[str, ...] | None = None
    from_revision: int | None = None


@dataclass(frozen=True, slots=True)
class Applied:
    """What one rule did to a request, and why; a rule that changed nothing has none."""

    rule: str
    why: str
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    renamed: Mapping[str, str] = field(default_factory=dict)
    """Old name to new name, of removals (`-name`) too."""


@dataclass(frozen=True, slots=True)
class Selection:
    """What make is told, and how it came about.

    `missing_defaults` are defaults of the version asked for that neither the request nor the
    running version has: the caller cannot have meant to drop them. `released` are requested names
    that the rules renamed or removed, so that no version can be expected of them.
    """

    packages: tuple[str, ...]
    applied: tuple[Applied, ...] = ()
    warnings: tuple[str, ...] = ()
    missing_defaults: tuple[str, ...] = ()
    released: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class ClientChange:
    """A change as clients read it in `overview.json`: without a target, the source is removed."""

    source: str
    revision: int
    target: str | None = None
    mandatory: bool = False


class Audience(StrEnum):
    """Who applies a rule."""

    BUILDER = "builder"
    CLIENTS = "clients"
    BOTH = "both"


@dataclass(frozen=True, slots=True)
class Rename:
    """One package's new name, or that of a family of them."""

    source: NamePattern
    target: NamePattern

    def of(self, name: str) -> str:
        """The new name of a package that `source` matches."""
        if self.source.suffix is None or self.target.suffix is None:
            return self.target.prefix
        starred = name[len(self.source.prefix) : len(name) - len(self.source.suffix)]
        return f"{self.target.prefix}{starred}{self.target.suffix}"


@dataclass(frozen=True, slots=True)
class Example:
    """A request beside what must come out of it; `fires` is false where the rule must stay still."""

    line: int
    context: Context
    becomes: tuple[str, ...]
    fires: bool


@dataclass(frozen=True, slots=True)
class Rule:
    """When which packages are added, removed or renamed. `None` and empty conditions always hold.

    `requested` holds when one of these packages is asked for. `from_revision` is main's revision
    from which the change holds; `ranges` are the versions that follow from it and from `versions`.
    """

    name: str
    why: str
    line: int
    audience: Audience
    versions: tuple[str, ...] = ()
    ranges: tuple[VersionRange, ...] = (EVERY_VERSION,)
    targets: frozenset[str] | None = None
    profiles: frozenset[str] | None = None
    requested: tuple[NamePattern, ...] = ()
    add: tuple[str, ...] = ()
    remove: tuple[NamePattern, ...] = ()
    rename: tuple[Rename, ...] = ()
    from_revision: int | None = None
    mandatory: bool = False
    examples: tuple[Example, ...] = ()

    @property
    def for_builder(self) -> bool:
        """Whether the builder applies it."""
        return self.audience is not Audience.CLIENTS

    @property
    def for_clients(self) -> bool:
        """Whether clients are told."""
        return self.audience is not Audience.BUILDER

    def holds_for(self, order: Order | None) -> bool:
        """Whether the version condition holds; a version of no known form meets no condition."""
        if order is None:
            return self.ranges == (EVERY_VERSION,)
        return any(order in versions for versions in self.ranges)

    def holds_on(self, target: str, profile: str) -> bool:
        """Whether target and profile are ones this rule is about."""
        return (self.targets is None or target in self.targets) and (
            self.profiles is None or profile in self.profiles
        )

    def may_meet(self, other: "Rule") -> bool:
        """Whether some version, target and profile are a matter of both rules."""
        return (
            any(not one.meet(another).empty for one in self.ranges for another in other.ranges)
            and _may_share(self.targets, other.targets)
            and _may_share(self.profiles, other.profiles)
        )


def _may_share(one: frozenset[str] | None, other: frozenset[str] | None) -> bool:
    return one is None or other is None or not one.isdisjoint(other)
