"""What package changes made of a request, as the builder records and tells it."""

from collections.abc import Mapping, Sequence

from msgspec import Struct, field
from msgspec.structs import replace

_NAMED, _SHOWN = 10, 40
"""Names in a warning, and characters of each."""


class AppliedRule(Struct, frozen=True):
    """What one rule did, and why."""

    rule: str
    why: str
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    renamed: Mapping[str, str] = field(default_factory=dict)


class PackageChangesRecord(Struct, frozen=True):
    """How the package selection came about; part of a build's record and answer.

    `missing_defaults` are defaults of the version asked for that neither the request nor the
    version before has: the asker may not know of them.
    """

    applied: tuple[AppliedRule, ...] = ()
    warnings: tuple[str, ...] = ()
    missing_defaults: tuple[str, ...] = ()


class PackageSelection(Struct, frozen=True):
    """What make is told, and how it came about. `released` names need no version any more."""

    packages: tuple[str, ...]
    record: PackageChangesRecord = field(default_factory=PackageChangesRecord)
    released: frozenset[str] = frozenset()


def warn_of_odd_packages(selection: PackageSelection, odd: Sequence[str]) -> PackageSelection:
    """The same, with a warning that these default packages are not removed."""
    warning = (
        f"Default packages with names that make cannot be told stay in the image: "
        f"{', '.join(ascii(name[:_SHOWN])[1:-1] for name in odd[:_NAMED])}"
    )
    record = replace(selection.record, warnings=(*selection.record.warnings, warning))
    return replace(selection, record=record)


class ClientChange(Struct, frozen=True):
    """What a client does to its package list from a revision on, when it plans an upgrade.

    With a `target` the source is replaced, without one it is removed.
    """

    source: str
    revision: int
    target: str | None = None
    mandatory: bool = False


class Baseline(Struct, frozen=True):
    """What a device had before: the defaults of its version, device packages among them."""

    version: str
    packages: tuple[str, ...]
