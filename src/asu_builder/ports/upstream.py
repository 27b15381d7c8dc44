"""What the download server says."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from msgspec import Struct, field

from asu_builder.domain.device_search import Device, Title
from asu_builder.domain.release import Release
from asu_builder.ports.health import Verdict


class VersionList(Struct, frozen=True):
    """What upstream says about its releases (`.versions.json`)."""

    listed: Sequence[str]
    latest: Sequence[str]
    """The upcoming one if there is any, the stable and the old stable one."""


class TargetProfiles(Struct, frozen=True):
    """What upstream says about one target of one version (`profiles.json`)."""

    revision: str
    architecture: str
    profiles: Mapping[str, Sequence[str]]
    """Profile → the device names it supports, as upstream writes them."""
    default_packages: Sequence[str] = ()
    device_packages: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Profile → its packages beside the default ones; may hold `-name`."""
    kernel_modules: str = ""
    """The directory below `kmods/` that holds them; "" where they lie among the other packages."""
    titles: Mapping[str, Sequence[Title]] = field(default_factory=dict)
    """Profile → what its devices are called."""

    def packages_of(self, profile: str) -> tuple[str, ...]:
        """The default packages and those of one profile."""
        return (*self.default_packages, *self.device_packages.get(profile, ()))


class Upstream(Protocol):
    """The download server's metadata: cached, revalidated, stale rather than none.

    `Unavailable` means that a document is not here. Within a `Reading` everything answers at once,
    and what is lacking is noted there; whoever has none waits for it, up to ten seconds.
    """

    def check(self) -> Verdict:
        """Degraded when the download server does not answer."""
        ...

    def versions(self) -> VersionList:
        """Every released version that upstream lists, and which are the latest."""
        ...

    def targets(self, release: Release, *, wait: bool = True) -> Mapping[str, str] | None:
        """Target → package architecture; None when upstream has no such version.

        Without `wait` the answer can be made without it: five seconds at most, and none after a failure.
        """
        ...

    def devices(self, release: Release) -> Sequence[Device] | None:
        """Every device of a version, the very same value until upstream's list changes; None when
        upstream has no such version.

        Where upstream lists no devices, those of the targets that were asked for before.
        """
        ...

    def target_profiles(self, release: Release, target: str) -> TargetProfiles | None:
        """The profiles of one target; None when upstream does not have it."""
        ...

    def described_profile(self, release: Release, target: str, profile: str) -> bytes | None:
        """`profiles.json` as JSON with one profile's keys lifted to the top; None when unknown."""
        ...

    def architecture_packages(self, release: Release, architecture: str) -> Mapping[str, str] | None:
        """Names without ABI suffix and versions, merged over the feeds of an architecture."""
        ...

    def target_packages(self, release: Release, target: str) -> Mapping[str, str] | None:
        """Names and versions of a target's own packages, its kernel modules among them."""
        ...
