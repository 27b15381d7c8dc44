from collections.abc import Mapping, Sequence

import pytest

from asu_builder.core.catalog import Catalog
from asu_builder.domain.errors import Unavailable
from asu_builder.domain.health import CheckResult
from asu_builder.domain.packages import Baseline
from asu_builder.domain.release import Branches, Release, TargetProfiles, VersionList
from asu_builder.domain.search import Device
from asu_builder.package_rules import LocalPackageChanges
from factories import a_request

DESCRIBED = TargetProfiles(
    "r1-a", "pico_9kc", {"acme_widget-5": ()}, ("base-files",), {"acme_widget-5": ("kmod-usb", "-ppp")}
)


class Releases:
    """A download server that describes every release it lists."""

    def __init__(self, *listed: str, reachable: bool = True) -> None:
        self._listed = listed
        self._reachable = reachable
        self.asked: list[str] = []

    def check(self) -> CheckResult:
        return CheckResult("ok", "It answers.")

    def versions(self) -> VersionList:
        return VersionList(self._listed, ())

    def targets(self, release: Release, *, wait: bool = True) -> Mapping[str, str] | None:
        return {"pico/nine": "pico_9kc"}

    def devices(self, release: Release) -> Sequence[Device] | None:
        return None

    def target_profiles(self, release: Release, target: str) -> TargetProfiles | None:
        self.asked.append(release.version)
        if not self._reachable:
            raise Unavailable("gone")
        return DESCRIBED

    def described_profile(self, release: Release, target: str, profile: str) -> bytes | None:
        return None

    def architecture_packages(self, release: Release, architecture: str) -> Mapping[str, str] | None:
        return None

    def target_packages(self, release: Release, target: str) -> Mapping[str, str] | None:
        return None


def baseline(upstream: Releases, version: str, profile: str = "acme_widget-5") -> Baseline | None:
    catalog = Catalog(upstream, Branches(), LocalPackageChanges())
    return catalog.baseline(a_request(version=version, profile=profile))


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("25.12.0", "24.10.10"),
        ("25.12.0-rc1", "24.10.10"),
        ("SNAPSHOT", "25.12.0"),
        ("24.10.5", "23.05.6"),
    ],
)
def test_it_is_the_last_release_of_the_branch_before(version: str, expected: str) -> None:
    upstream = Releases("23.05.6", "24.10.9", "24.10.10", "25.12.0", "25.12.1-rc1")
    assert baseline(upstream, version) == Baseline(expected, ("base-files", "kmod-usb", "-ppp"))


def test_a_branch_without_a_release_is_passed_over() -> None:
    found = baseline(Releases("23.05.6", "25.12.0"), "25.12.0")
    assert found is not None
    assert found.version == "23.05.6"


def test_where_nobody_knows_nothing_is_guessed() -> None:
    assert baseline(Releases("25.12.0"), "25.12.0") is None
    assert baseline(Releases("24.10.5", reachable=False), "25.12.0") is None
    assert baseline(Releases("24.10.5"), "25.12.0", profile="acme_new") is None
