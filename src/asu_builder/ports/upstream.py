"""What the download server says."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from asu_builder.domain.release import Release


@dataclass(frozen=True, slots=True)
class TargetProfiles:
    """What upstream says about one target of one version (`profiles.json`)."""

    revision: str
    architecture: str
    profiles: Mapping[str, Sequence[str]]
    """Profile → the device names it supports, as upstream writes them."""
    default_packages: Sequence[str] = ()


class Upstream(Protocol):
    """The download server's metadata: cached, revalidated, stale rather than none.

    Raises `Unavailable` only when nothing usable was ever seen.
    """

    def versions(self) -> Sequence[str]:
        """Every released version that upstream lists."""
        ...

    def targets(self, release: Release) -> Mapping[str, str] | None:
        """Target → package architecture; None when upstream has no such version."""
        ...

    def target_profiles(self, release: Release, target: str) -> TargetProfiles | None:
        """The profiles of one target; None when upstream does not have it."""
        ...
