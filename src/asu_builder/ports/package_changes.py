"""The rules that adapt a package selection to a version, target and profile."""

from collections.abc import Sequence
from typing import Protocol

from asu_builder.domain.changes import Baseline, ClientChange, PackageSelection
from asu_builder.domain.request import BuildRequest
from asu_builder.ports.health import Verdict


class PackageChanges(Protocol):
    """Rules that are always there: the last good ones where new ones cannot be had."""

    def apply(
        self, request: BuildRequest, *, default_packages: Sequence[str], baseline: Baseline | None
    ) -> PackageSelection:
        """What make is told instead of the request's packages.

        `default_packages` are the default and device packages of the version asked for; without a
        `baseline` nothing is guessed about what the device had.
        """
        ...

    def digest(self, request: BuildRequest) -> str:
        """Names what the rules may do to this request; "" when none of them is about it."""
        ...

    def client_changes(self) -> Sequence[ClientChange]:
        """Every change that clients are told."""
        ...

    def check(self) -> Verdict:
        """Whether the rules are those that the operator wants."""
        ...
