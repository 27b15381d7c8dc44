"""Builds with what real ImageBuilders and mirrors hold that no made-up one did."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from asu_sample.distribution import Distribution
from integration.test_pipeline import FLAVOURS
from pipeline_rig import Bench

FIRMWARE = "~trusted-firmware-a-acme"


def changed_imagebuilder(root: Path, world: Distribution, version: str, **changes: Any) -> str:
    """A copy of the sample's ImageBuilder whose first profile has more packages; returns its template."""
    copy = root / "imagebuilders" / version / "pico/nine"
    shutil.copytree(world.imagebuilder(version, "pico/nine"), copy, symlinks=True)
    path = copy / "sample.json"
    described = json.loads(path.read_text())
    for profile in described["profiles"]:
        if profile["id"] == "acme_widget-5":
            profile["packages"] += changes.get("packages", [])
    described["default_packages"] += changes.get("default_packages", [])
    path.write_text(json.dumps(described))
    (copy / ".config").touch()
    return f"{root}/imagebuilders/{{version}}/{{target}}/{{subtarget}}"


@pytest.mark.parametrize("version", FLAVOURS)
def test_a_device_package_with_a_tilde_is_no_500(
    tmp_path: Path, sample_world: Distribution, version: str
) -> None:
    """Case 08: "builds; with `diff_packages` the removal is passed on or left out with a warning"."""
    bench = Bench(tmp_path, changed_imagebuilder(tmp_path, sample_world, version, packages=[FIRMWARE]))
    result = bench.build(version, packages=("base-files", "luci"), diff_packages=True)
    assert f"-{FIRMWARE}" in result.packages
    assert "luci" in result.manifest


def test_a_default_package_that_make_must_not_be_told_stays_with_a_warning(
    tmp_path: Path, sample_world: Distribution
) -> None:
    # A removal, because the made-up apk has no package of such a name.
    template = changed_imagebuilder(tmp_path, sample_world, "25.12.0", packages=["-odd:name"])
    result = Bench(tmp_path, template).build(packages=("base-files", "luci"), diff_packages=True)
    assert any("-odd:name" in warning for warning in result.package_changes.warnings)
    assert not any("odd" in name for name in result.packages)
