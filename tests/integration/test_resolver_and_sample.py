"""Our resolver and the sample's, which share nothing, on the sample's own packages; and real runs of make."""

import random
import shutil
from collections import Counter
from pathlib import Path

import pytest

from asu_builder.domain.make import parse_manifest
from asu_builder.domain.package_index import PackageManager
from asu_builder.domain.preflight import ALWAYS_INSTALLED, Feasibility, differing_packages
from asu_builder.resolver.child import make_pool
from asu_builder.upstream.lenient import Notes
from asu_builder.upstream.package_index import read_index
from asu_sample.distribution import Distribution
from asu_sample.miniature import resolve
from podman_service import APK_VERSION, OPKG_VERSION, SAMPLE_TARGET
from sample_make import Run, make

pytest.importorskip("solv", reason="there is no wheel of solv for this platform")

_FLAVOURS = [(PackageManager.APK, APK_VERSION), (PackageManager.OPKG, OPKG_VERSION)]
_PROFILE = "acme_widget-5"
_DEFAULTS = ("base-files", "dnsmasq", "dropbear", "firewall4", "kmod-pico-led", "netifd", "uci")
_INVENTED = ("no-such-package", "luci-app-gone", "kmod-nothing", "libnone")


class Tree:
    """One ImageBuilder of the sample, whose own index has been made by a first run."""

    def __init__(self, world: Distribution, manager: PackageManager, version: str, folder: Path) -> None:
        self.path = folder / "imagebuilder"
        shutil.copytree(world.imagebuilder(version, SAMPLE_TARGET), self.path)
        assert self.make().status == 0
        file = "packages.adb" if manager is PackageManager.APK else "Packages"
        found = sorted(self.path.glob(f"feeds/*/{file}"))
        self.indexes = [path.read_bytes() for path in (self.path / "packages" / file, *found)]
        read = [read_index(manager, data, Notes()) for data in self.indexes]
        assert len(read) == 6 and not any(index.left_out for index in read)
        packages = [package for index in read for package in index.packages]
        self.pool = make_pool(manager, packages, 0)
        self.names = sorted({package.name for package in packages})
        self.provided = sorted({each.name for package in packages for each in package.provides})

    def make(self, *names: str) -> Run:
        """One run of `make manifest`."""
        return make(self.path, "manifest", {"PROFILE": _PROFILE, "PACKAGES": " ".join(names)})

    def request(self, chance: random.Random) -> list[str]:
        """A selection as people send it, in the order in which make passes it."""
        wanted = chance.sample(self.names, chance.randint(1, 12))
        if chance.random() < 0.3:
            wanted.append(chance.choice(self.provided))
        if chance.random() < 0.15:
            wanted.append(chance.choice(_INVENTED))
        return wanted


@pytest.mark.parametrize(
    "count", [150, pytest.param(5000, marks=pytest.mark.long)], ids=["some", "thousands"]
)
@pytest.mark.parametrize(("manager", "version"), _FLAVOURS, ids=["apk", "opkg"])
def test_what_the_sample_installs_is_never_impossible_and_is_told_exactly(
    sample_world: Distribution, tmp_path: Path, manager: PackageManager, version: str, count: int
) -> None:
    tree, chance = Tree(sample_world, manager, version, tmp_path), random.Random(count)
    counted: Counter[tuple[str, Feasibility]] = Counter()
    reasons: Counter[str] = Counter()
    for _ in range(count):
        names = tree.request(chance)
        if chance.random() < 0.5:
            names += sorted((*_DEFAULTS, *ALWAYS_INSTALLED))
        verdict, packages, text = resolve(manager, tree.indexes, names)
        foretold = tree.pool.resolve(names)
        counted[verdict, foretold.verdict] += 1
        if foretold.verdict is Feasibility.UNKNOWN:
            reasons[foretold.reason] += 1
        elif verdict == "fine":
            assert foretold.verdict is Feasibility.FINE, (names, foretold.problem)
            assert dict(foretold.packages) == packages, names
        else:
            assert foretold.verdict is Feasibility.IMPOSSIBLE, (names, text)
    assert counted["fine", Feasibility.FINE] > count // 10
    assert counted["impossible", Feasibility.IMPOSSIBLE] > count // 10
    assert all(reasons) and reasons.total() <= count // 50, reasons


@pytest.mark.parametrize("count", [3, pytest.param(50, marks=pytest.mark.long)], ids=["some", "many"])
@pytest.mark.parametrize(("manager", "version"), _FLAVOURS, ids=["apk", "opkg"])
def test_make_agrees_with_what_is_foretold(
    sample_world: Distribution, tmp_path: Path, manager: PackageManager, version: str, count: int
) -> None:
    tree, chance = Tree(sample_world, manager, version, tmp_path), random.Random(count)
    info = make(tree.path, "info").stdout
    defaults = info.split("Default Packages: ")[1].split("\n")[0].split()
    own = info.split(f"{_PROFILE}:\n")[1].split("Packages: ")[1].split("\n")[0].split()
    endings: Counter[Feasibility] = Counter()
    for _ in range(count):
        # Of files that clash, and of scripts that fail, no index tells.
        wanted = [name for name in tree.request(chance) if "clash" not in name and "postinst" not in name]
        names = list(dict.fromkeys((*wanted, *sorted((*defaults, *own, *ALWAYS_INSTALLED)))))
        foretold, run = tree.pool.resolve(names), tree.make(*wanted)
        endings[foretold.verdict] += 1
        if foretold.verdict is Feasibility.FINE and run.status == 0:
            assert differing_packages(foretold.packages, parse_manifest(run.stdout)) == (), wanted
        elif foretold.verdict is not Feasibility.UNKNOWN:
            explained = (wanted, foretold.problem, run.stderr[-2000:])
            is_clash = "data_file_clashes" in run.stderr or "trying to overwrite" in run.stderr
            assert (foretold.verdict is Feasibility.IMPOSSIBLE) == (run.status != 0) or is_clash, explained
    assert endings[Feasibility.UNKNOWN] <= count // 10
