import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asu_builder.domain import make
from asu_builder.domain.errors import BuildFailed, FailureReason
from factories import TRANSCRIPTS

INFO = """Current Target: "pico/nine"
Current Revision: "r32999-0123456789"
Default Packages: base-files dropbear kmod-pico-led
Available Profiles:

acme_widget-5:
    Acme Widget 5 v1
    Packages: kmod-acme-usb -ppp
    hasImageMetadata: 1
    SupportedDevices: acme,widget-5 widget5
acme_tiny:
    Packages: O'Tiny (v2)
    Packages: 
    hasImageMetadata: 1
"""  # noqa: W291 - an empty list really ends in a blank


def test_info_is_read_with_titles_that_look_like_fields_and_lists_that_are_empty() -> None:
    info = make.parse_info(INFO)
    assert (info.target, info.revision) == ("pico/nine", "r32999-0123456789")
    assert info.default_packages == ("base-files", "dropbear", "kmod-pico-led")
    assert info.profiles["acme_widget-5"].packages == ("kmod-acme-usb", "-ppp")
    assert info.profiles["acme_widget-5"].supported_devices == ("acme,widget-5", "widget5")
    assert info.profiles["acme_tiny"].packages == ()


@pytest.mark.parametrize(
    "text", ["", INFO.split("acme_widget")[0], "make: *** No rule to make target 'info'."]
)
def test_an_imagebuilder_that_lists_no_profile_is_broken_not_empty(text: str) -> None:
    with pytest.raises(BuildFailed) as caught:
        make.parse_info(text)
    assert caught.value.reason is FailureReason.SETUP_FAILED


@pytest.mark.parametrize(("folder", "profiles"), [("24.10-x86-64", 1), ("25.12-ath79-generic", 378)])
def test_recorded_info_is_understood(folder: str, profiles: int) -> None:
    path = TRANSCRIPTS / folder / "info.stdout"
    if not path.exists():
        pytest.skip("no recorded transcripts here")
    info = make.parse_info(path.read_text())
    assert len(info.profiles) == profiles
    assert "base-files" in info.default_packages


@pytest.mark.parametrize("folder", ["24.10-x86-64", "25.12-ath79-generic"])
def test_every_line_of_a_recorded_manifest_is_a_package(folder: str) -> None:
    path = TRANSCRIPTS / folder / "manifest-ok.stdout"
    if not path.exists():
        pytest.skip("no recorded transcripts here")
    text = path.read_text()
    assert len(make.parse_manifest(text)) == len(text.splitlines()) > 100


def test_both_forms_of_manifest_lines_are_read_and_noise_is_not() -> None:
    text = "kernel - 6.12.62~abc-r1\nvim 9.1-r0\nOK: 12 MiB in 3 packages\n\nlibpython3.3-0 - 3.3\n"
    assert make.parse_manifest(text) == {"kernel": "6.12.62~abc-r1", "vim": "9.1-r0", "libpython3.3-0": "3.3"}


def test_the_image_command_is_the_documented_one() -> None:
    command = make.make_arguments(
        "image",
        "acme_widget-5",
        ("vim", "-ppp"),
        bin_dir="/builder/asu-images",
        extra_name="0123456789ab",
        files="/builder/asu-files",
        rootfs_size_mb=256,
        filesystem="ext4",
    )
    assert command == (
        "make", "image", "PROFILE=acme_widget-5", "PACKAGES=vim -ppp", "EXTRA_IMAGE_NAME=0123456789ab",
        "BIN_DIR=/builder/asu-images", "FILES=/builder/asu-files", "ROOTFS_PARTSIZE=256",
        "ROOTFS_FILESYSTEM=ext4",
    )  # fmt: skip


@given(st.text(max_size=12))
def test_the_last_gate_lets_only_plain_names_through(text: str) -> None:
    plain = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._+-")
    for profile, package in (("generic", text), (text, "vim")):
        try:
            command = make.make_arguments("manifest", profile, [package])
        except BuildFailed as failure:
            assert failure.reason is FailureReason.INTERNAL
        else:
            assert text
            assert set(text) <= plain
            assert any(text in word for word in command)


@pytest.mark.parametrize(
    "changes",
    [
        {"bin_dir": "relative"},
        {"bin_dir": "/a/../b"},
        {"bin_dir": "/a b"},
        {"extra_name": "A"},
        {"extra_name": "a/b"},
        {"files": "$(id)"},
        {"filesystem": "zfs;id"},
    ],
)
def test_paths_and_options_of_our_own_are_checked_too(changes: dict[str, str]) -> None:
    arguments = {"bin_dir": "/builder/out", "extra_name": "abc"} | changes
    with pytest.raises(BuildFailed):
        make.make_arguments("image", "generic", (), **arguments)  # type: ignore[arg-type]


def expanded(text: str) -> list[str]:
    """The words that a shell makes of unquoted text, in a directory with one file."""
    command = f"for word in {text}; do printf '%s\\n' \"$word\"; done"
    ran = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True, timeout=30)
    return ran.stdout.splitlines()


UPSTREAMS = ["base-files", "~trusted-firmware-a-acme", "~root", "-ppp", "-~rcw", "kmod-ppfe"]
HOSTILE = [
    "~",
    "~~root",
    "--root",
    "~/x",
    "~+",
    "$(touch_x)",
    "`x`",
    "a*b",
    "x;y",
    "!vim",
    "a@b",
    "~-1",
    "ä",
    "a\x00",
]


def test_names_of_upstream_pass_with_one_tilde_and_nothing_else() -> None:
    info = make.parse_info(INFO.replace("base-files dropbear", " ".join([*UPSTREAMS, *HOSTILE])))
    assert info.default_packages == (*UPSTREAMS, "kmod-pico-led")
    assert info.odd_packages == tuple(HOSTILE)


@pytest.mark.process
def test_what_is_removed_of_upstreams_names_reaches_make_and_no_shell_changes_it() -> None:
    """Case 08: "the removal is passed on or left out with a warning, never a 500"."""
    removals = [f"-{name}" for name in UPSTREAMS if not name.startswith("-")]
    for arguments in (
        make.make_arguments("manifest", "acme_widget-5", removals),
        make.make_arguments("image", "acme_widget-5", removals, bin_dir="/b", extra_name="x"),
    ):
        (packages,) = (argument for argument in arguments if argument.startswith("PACKAGES="))
        listed = packages.removeprefix("PACKAGES=")
        assert expanded(listed) == removals


@pytest.mark.parametrize(
    "name", [*HOSTILE, "~root", "~trusted-firmware-a-acme", "-~", "-~~x", "-~/x", "-~-x"]
)
@pytest.mark.process
def test_no_other_name_with_a_tilde_reaches_make(name: str) -> None:
    """By itself `~root` is a directory for a shell."""
    assert expanded("~root") != ["~root"]
    with pytest.raises(BuildFailed):
        make.make_arguments("manifest", "acme_widget-5", [name])
