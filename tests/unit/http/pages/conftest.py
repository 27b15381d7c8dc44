"""An upstream with a device to choose, behind the pages."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from asgi_client import Answer, AsgiClient
from asu_builder.domain.access import Right, Token, digest_of
from asu_builder.domain.release import Release, TargetProfiles, VersionList
from asu_builder.domain.search import Device, Title
from fake_builds import FakeBuilds
from web_scene import EmptyUpstream, Scene

OPERATOR, READER = "secret of the operator", "secret of a reader"
FORM = {"content-type": "application/x-www-form-urlencoded", "sec-fetch-site": "same-origin"}
_TITLE = Title(vendor="Acme", model="Widget 5")


class SmallUpstream(EmptyUpstream):
    """One target of two releases, with two devices."""

    profile = b"{}"

    def described_profile(self, release: Release, target: str, profile: str) -> bytes | None:
        return self.profile

    def versions(self) -> VersionList:
        return VersionList(("24.10.5", "24.10.4"), ("24.10.5",))

    def targets(self, release: Release, *, wait: bool = True) -> Mapping[str, str] | None:
        return {"pico/nine": "pico_24kc"} if release.version in ("24.10.5", "24.10.4") else {}

    def devices(self, release: Release) -> Sequence[Device] | None:
        return (
            Device(_TITLE, "pico/nine", "acme_widget-5"),
            Device(Title("<Widget> 10"), "pico/nine", "acme_widget-10"),
        )

    def target_profiles(self, release: Release, target: str) -> TargetProfiles | None:
        return TargetProfiles(
            "r29087-d9c5716d1d",
            "pico_24kc",
            {"acme_widget-5": ("acme,widget-5",), "acme_widget-10": ()},
            ("base-files", "dnsmasq", "swconfig"),
            {"acme_widget-5": ("kmod-usb2", "-swconfig")},
            titles={"acme_widget-5": (_TITLE,)},
        )

    def architecture_packages(self, release: Release, architecture: str) -> Mapping[str, str] | None:
        return dict.fromkeys(("luci", "tmux", "vim", "dnsmasq", "dnsmasq-full", "base-files"), "1.0")

    def target_packages(self, release: Release, target: str) -> Mapping[str, str] | None:
        return {"kmod-usb2": "6.6"}


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    """The parts, before any application."""
    scene = Scene(tmp_path / "store", upstream=SmallUpstream())
    scene.tokens = (
        Token("ann", digest_of(OPERATOR), frozenset({Right.OPERATE})),
        Token("bob", digest_of(READER), frozenset({Right.READ})),
    )
    return scene


@pytest.fixture
def builds(scene: Scene) -> FakeBuilds:
    """The queue behind the pages."""
    return scene.builds


@pytest.fixture
def client(scene: Scene) -> Iterator[AsgiClient]:
    """A browser without script."""
    with AsgiClient(scene.app()) as running:
        yield running


def text_of(answer: Answer) -> str:
    """The page as it was sent."""
    return answer.body.decode()
