"""Small invented package indexes with everything that indexes may have, and requests for them."""

import random
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from asu_builder.domain.package_index import PackageManager
from asu_sample.miniature.adb import write_index
from asu_sample.miniature.packages import Package, render_paragraphs
from asu_sample.miniature.usign import SigningKey

APK, OPKG = PackageManager.APK, PackageManager.OPKG
_KEY = SigningKey(seed=bytes(32), key_id=b"12345678")
_VERSIONS = ("1-r1", "1-r2", "1.1-r1", "1.10-r1", "2_rc1-r1", "2-r1")
_VIRTUALS = tuple("uvwx")


class Invented(NamedTuple):
    """An invented world: its feeds, as written and as read by either resolver."""

    manager: PackageManager
    feeds: tuple[tuple[Package, ...], ...]

    @property
    def indexes(self) -> list[bytes]:
        """The index files of the feeds."""
        if self.manager is APK:
            return [write_index(feed, _KEY) for feed in self.feeds]
        return [render_paragraphs(feed).encode() for feed in self.feeds]

    def names(self) -> list[str]:
        """Every name that something is called or provides."""
        return sorted({name for feed in self.feeds for package in feed for name in package.names()})


def invent(manager: PackageManager, chance: random.Random, *, most: int = 9) -> Invented:
    """A world with everything that indexes may have: versions, slots, virtual names, conflicts, cycles."""
    names = [f"p{number}" for number in range(chance.randint(2, most))]
    packages = [_invent_package(manager, name, names, chance) for name in names]
    # The same name once more, in another version.
    for package in chance.sample(packages, chance.randint(0, len(packages) // 3)):
        packages.append(_invent_package(manager, package.name, names, chance))
    chance.shuffle(packages)
    unique = list({(package.name, package.version): package for package in packages}.values())
    cut = chance.randint(0, len(unique))
    feeds = (tuple(unique[:cut]), tuple(unique[cut:]))
    if chance.random() < 0.1:
        # A package that two feeds have alike.
        feeds = (feeds[0], (*feeds[1], *feeds[0][:1]))
    return Invented(manager, tuple(feed for feed in feeds if feed))


def _invent_package(
    manager: PackageManager, name: str, names: Sequence[str], chance: random.Random
) -> Package:
    def need() -> str:
        other = chance.choice((*names, *_VIRTUALS, "gone") if chance.random() < 0.3 else names)
        text = other
        if chance.random() < 0.2:
            text += chance.choice(("=", ">=", "<=", "<", ">")) + chance.choice(_VERSIONS)
        if manager is APK and chance.random() < 0.15:
            return f"!{text}"
        if manager is OPKG and chance.random() < 0.15:
            text += "|" + chance.choice(names)
        return text

    def provision() -> str:
        virtual = chance.choice(_VIRTUALS if chance.random() < 0.9 else names)
        is_versioned = manager is APK and chance.random() < 0.4
        return f"{virtual}={chance.choice(_VERSIONS)}" if is_versioned else virtual

    provided = [provision() for _ in range(chance.choice((0, 0, 1, 2)))]
    provides = {text.partition("=")[0]: text for text in provided}
    depends = dict.fromkeys(need() for _ in range(chance.choice((0, 0, 1, 1, 2, 3))))
    conflicts = dict.fromkeys(chance.choice(names) for _ in range(chance.choice((0, 0, 0, 1))))
    return Package(
        name,
        chance.choice(_VERSIONS),
        "all",
        depends=tuple(depends),
        provides=tuple(provides.values()),
        conflicts=tuple(conflicts) if manager is OPKG else (),
        provider_priority=chance.choice((0, 0, 10, 20)) if manager is APK and provides else 0,
        sha256="00" * 32,
    )


def requests(world: Invented, chance: random.Random, count: int) -> Iterator[list[str]]:
    """Some requests of names of a world, of unknown names and, of apk, of excluded ones."""
    names = world.names()
    for _ in range(count):
        request = chance.sample(names, chance.randint(1, min(4, len(names))))
        if world.manager is APK and chance.random() < 0.15:
            request.append("!" + chance.choice(names))
        if chance.random() < 0.05:
            request.append("gone")
        yield list({name.lstrip("!"): name for name in request}.values())
