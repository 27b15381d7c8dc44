"""Variables are text: none is ever evaluated, dangerous ones are recorded."""

from collections.abc import Callable
from pathlib import Path

import pytest

from sample_make import make

pytestmark = pytest.mark.process

Trees = Callable[..., Path]
BOTH = pytest.mark.parametrize("version", ["24.10.5", "25.12.0"])


def test_a_profile_pattern_builds_nothing(tree: Trees) -> None:
    folder = tree("25.12.0")
    assert make(folder, "image", {"PROFILE": "%"}).status == 2
    assert (folder / "dangerous-arguments.log").read_text() == "'PROFILE=%'\n"


_ATTACKS = (
    "$(shell touch {marker})",
    "$$(touch {marker})",
    "`touch {marker}`",
    '"; touch {marker}; echo "',
    "'; touch {marker}; echo '",
    "; touch {marker}",
    "| touch {marker}",
    "> {marker}",
    "x\ntouch {marker}",
    "${{shell touch {marker}}}",
)
_VARIABLES = (
    "PROFILE PACKAGES FILES BIN_DIR EXTRA_IMAGE_NAME DISABLED_SERVICES ADD_LOCAL_KEY ROOTFS_PARTSIZE "
    "ROOTFS_FILESYSTEM STRIP_ABI PACKAGE FOO SHELL VPATH GIVEN ~ MINIATURE_PROFILE MINIATURE_ARGUMENTS"
)


@pytest.mark.parametrize("attack", _ATTACKS)
def test_no_variable_is_ever_evaluated_and_dangerous_ones_are_recorded(
    tree: Trees, tmp_path: Path, attack: str
) -> None:
    folder, marker = tree("SNAPSHOT"), tmp_path / "marker"
    value = attack.format(marker=marker)
    everything = dict.fromkeys(_VARIABLES.split(), value)
    make(folder, "info", everything)
    later = ("FILES", "DISABLED_SERVICES", "EXTRA_IMAGE_NAME", "ROOTFS_PARTSIZE", "ADD_LOCAL_KEY")
    make(folder, "image", {"PROFILE": "acme_small", **dict.fromkeys(later, value)})
    assert not marker.exists()
    recorded = (folder / "dangerous-arguments.log").read_text()
    assert repr(f"FOO={value}") in recorded or "\n" in value


@BOTH
def test_harmless_arguments_leave_no_record(tree: Trees, tmp_path: Path, version: str) -> None:
    folder = tree(version)
    variables = {
        "PROFILE": "acme_combined-v1.5",
        "PACKAGES": "vim -ppp luci-app-firewall libstdc++",
        "BIN_DIR": str(tmp_path / "out"),
        "EXTRA_IMAGE_NAME": "0123456789ab",
        "ROOTFS_PARTSIZE": "104",
        "STRIP_ABI": "1",
    }
    make(folder, "manifest", variables)
    make(folder, "image", variables)
    assert not (folder / "dangerous-arguments.log").exists()
