from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import pytest

from asu_builder.core.imagebuilder import ImageBuilder, StepMarks
from asu_builder.domain.errors import BuildFailed, FailureReason, Side
from asu_builder.domain.job import Image, Traffic
from asu_builder.domain.make import STDERR, STDOUT, CommandResult, Origin, OutputCallback, Step
from asu_builder.domain.packages import PackageSelection
from asu_builder.domain.release import parse_release
from factories import a_request

_INFO = """\
Current Target: "pico/nine"
Current Revision: "{revision}"
Default Packages: base-files dnsmasq
Available Profiles:

acme_small:
    Acme Small
    Packages: kmod-led
    SupportedDevices: acme,small
"""


class Told:
    """A container that prints what `make info` would, and counts how often it was asked."""

    workdir = "/builder"
    origin = Origin("none")
    warnings: Sequence[str] = ()

    def __init__(self, identity: str) -> None:
        self.identity = identity
        self.asked = 0

    def run(
        self,
        arguments: Sequence[str],
        *,
        output: Path,
        environment: Mapping[str, str] | None = None,
        on_output: OutputCallback | None = None,
    ) -> CommandResult:
        self.asked += 1
        stdout, stderr = output / "stdout", output / "stderr"
        stdout.write_text(_INFO.format(revision=self.identity))
        stderr.touch()
        return CommandResult(0, stdout, stderr)

    is_proxied = False
    traffic: Traffic | None = None

    def allow(self, urls: Sequence[str]) -> None:
        pass

    def exists(self, path: str) -> bool:
        return True

    def read_bytes(self, path: str) -> bytes:
        return b""

    def write_files(self, files: Mapping[str, str]) -> None:
        pass

    def collect(self, directory: str, into: Path) -> Sequence[str]:
        return ()


def asked_for_info(tmp_path: Path, identity: str, known: dict[str, bytes]) -> int:
    """How often the commands of an ImageBuilder ran until it had said what it can build."""
    container = Told(identity)
    output = tmp_path / f"{identity}-{len(list(tmp_path.iterdir()))}"
    output.mkdir()
    request = a_request(profile="acme_small")
    info = ImageBuilder(container, request, output, known_info=known).inspect()
    assert (info.revision, info.default_packages) == (identity, ("base-files", "dnsmasq"))
    assert info.profiles["acme_small"].packages == ("kmod-led",)
    return container.asked


def test_what_an_imagebuilder_can_build_is_asked_once(tmp_path: Path) -> None:
    known: dict[str, bytes] = {}
    assert [asked_for_info(tmp_path, "r1", known) for _ in range(2)] == [1, 0]


def test_of_many_imagebuilders_not_all_are_remembered_for_ever(tmp_path: Path) -> None:
    known: dict[str, bytes] = {}
    for number in range(300):
        asked_for_info(tmp_path, f"r{number}", known)
    assert len(known) <= 256
    assert sum(map(len, known.values())) < 100_000
    assert [asked_for_info(tmp_path, name, known) for name in ("r299", "r0")] == [0, 1]


class Scripted(Told):
    """A container whose commands print and end as the test says."""

    def __init__(
        self, *, stderr: str = "", stdout: str = "", exit_code: int = 0, files: Collection[str] = ()
    ) -> None:
        super().__init__("r1")
        self.printed = (stdout, stderr)
        self.exit_code = exit_code
        self.files = files
        self.written: dict[str, str] = {}

    def run(
        self,
        arguments: Sequence[str],
        *,
        output: Path,
        environment: Mapping[str, str] | None = None,
        on_output: OutputCallback | None = None,
    ) -> CommandResult:
        stdout, stderr = output / "stdout", output / "stderr"
        stdout.write_text(self.printed[0])
        stderr.write_text(self.printed[1])
        return CommandResult(self.exit_code, stdout, stderr)

    def exists(self, path: str) -> bool:
        return path in self.files

    def write_files(self, files: Mapping[str, str]) -> None:
        self.written.update(files)


def resolved(tmp_path: Path, container: Scripted, *packages: str, **changes: object) -> ImageBuilder:
    """An ImageBuilder that has resolved a request."""
    request = a_request(packages=packages, **changes)
    imagebuilder = ImageBuilder(container, request, tmp_path, known_info={})
    with imagebuilder.blamed():
        imagebuilder.resolve(PackageSelection(packages))
    return imagebuilder


URL = "https://feed.example.org/x/packages.adb"


def test_a_repository_that_was_left_out_in_silence_fails_a_successful_make(tmp_path: Path) -> None:
    """Facts §9: exit 0 does not mean that everything asked for was used."""
    container = Scripted(
        stderr=f"WARNING: updating and opening {URL}: UNTRUSTED signature\n", stdout="vim - 1\n"
    )
    with pytest.raises(BuildFailed, match="repository mine at") as caught:
        resolved(tmp_path, container, "vim", repositories={"mine": URL}, repositories_mode="append")
    assert (caught.value.reason, caught.value.side) == (FailureReason.BAD_REPOSITORY, Side.USER)


def test_a_feed_that_a_successful_make_went_without_fails_it(tmp_path: Path) -> None:
    container = Scripted(stderr=f"WARNING: opening {URL}: temporary error\n", stdout="vim - 1\n")
    with pytest.raises(BuildFailed, match=URL) as caught:
        resolved(tmp_path, container, "vim")
    assert (caught.value.reason, caught.value.side) == (
        FailureReason.UPSTREAM_UNREACHABLE,
        Side.INFRASTRUCTURE,
    )
    assert URL in caught.value.stderr


def test_a_removed_package_that_came_back_is_a_warning(tmp_path: Path) -> None:
    """Facts §9: packages that a removal asked away and a dependency brought back come without a word."""
    container = Scripted(stdout="libubox - 1\nbusybox - 2\n")
    folders = [tmp_path / name for name in ("one", "another")]
    for folder in folders:
        folder.mkdir()
    (warning,) = resolved(folders[0], container, "-libubox", "-busybox", "-ppp").warnings
    assert "libubox, busybox" in warning and "ppp" not in warning
    assert resolved(folders[1], container, "-ppp").warnings == []


def test_a_manifest_that_fails_without_a_word_is_retried(tmp_path: Path) -> None:
    """Facts §9: a manifest can fail without any sentence; a bare `package_index] Error 1` is a broken
    ImageBuilder, never the request."""
    stderr = (
        "make[2]: *** [Makefile:203: package_index] Error 1\nmake: *** [Makefile:340: manifest] Error 2\n"
    )
    with pytest.raises(BuildFailed) as caught:
        resolved(tmp_path, Scripted(stderr=stderr, exit_code=2), "vim")
    assert (caught.value.reason, caught.value.side) == (FailureReason.SETUP_FAILED, Side.INFRASTRUCTURE)


def test_a_standalone_apk_imagebuilder_is_no_opkg(tmp_path: Path) -> None:
    """Facts §9: it has neither `repositories` nor `repositories.conf`; it is apk."""
    container = Scripted(files={"Makefile", "staging_dir/host/bin/apk"})
    request = a_request(repositories={"mine": URL})
    imagebuilder = ImageBuilder(container, request, tmp_path, known_info={})
    imagebuilder.set_up(parse_release("24.10.5"), upstream_url="https://x")
    assert container.written == {"repositories": f"{URL}\n"}


def test_the_file_system_is_looked_at_after_the_build(tmp_path: Path) -> None:
    """Facts §9: `ROOTFS_FILESYSTEM` is ignored by 25.12 and older; look at the images after success too."""
    images = [
        Image(f"{name}.img", "combined", "a", "b", 1, name or None) for name in ("squashfs", "ext4", "")
    ]
    imagebuilder = ImageBuilder(Scripted(), a_request(filesystem="ext4"), tmp_path, known_info={})
    imagebuilder.require_filesystem(images[1:])
    assert imagebuilder.warnings == []
    imagebuilder.require_filesystem(images)
    assert "squashfs" in imagebuilder.warnings[0]
    imagebuilder = ImageBuilder(Scripted(), a_request(filesystem="ubifs"), tmp_path, known_info={})
    with pytest.raises(BuildFailed, match=r"ubifs.*ext4, squashfs") as caught:
        imagebuilder.require_filesystem(images)
    assert caught.value.side is Side.USER
    imagebuilder = ImageBuilder(Scripted(), a_request(), tmp_path, known_info={})
    imagebuilder.require_filesystem(images)
    assert imagebuilder.warnings == []


OPKG = """\
Checking 'true'... ok.
Building images for pico - Acme Widget 5 v1
Packages: dropbear

Installing packages...
Installing dropbear (2024.86-1) to root...
Downloading http://127.0.0.1/dropbear.ipk
Configuring dropbear.

Finalizing root filesystem...
Enabling dropbear

Building images...
Calculating checksums...
"""
APK = """\
Installing packages...
(  1/26) Installing libc (1.2.5-r5)
(26/26) Installing vim
Building images...
"""


@pytest.mark.parametrize("size", [1, 7, 4096])
@pytest.mark.parametrize(
    ("text", "steps"),
    [
        (OPKG, ["download", "install", "download", "install", "install", "image"]),
        (APK, ["download", "install", "install", "image"]),
        ("  Installing x\nnot Installing y\n(1/2)Installing z\nInstalling packages", []),
    ],
)
def test_what_make_prints_tells_its_steps(text: str, steps: list[str], size: int) -> None:
    entered: list[Step] = []
    heard = bytearray()
    marks = StepMarks(entered.append, lambda stream, chunk: heard.extend(chunk))
    printed = text.encode()
    for start in range(0, len(printed), size):
        marks.read(STDOUT, printed[start : start + size])
        marks.read(STDERR, b"Installing")  # another stream; it never ends its line
    if size == 1:
        assert entered == steps
    elif size == 4096:
        assert entered == steps[-1:], "of what comes at once the last counts"
    assert len(heard) > len(printed)


def test_a_line_without_an_end_is_not_kept() -> None:
    entered: list[Step] = []
    marks = StepMarks(entered.append, None)
    for _ in range(1000):
        marks.read(STDOUT, b"Installing x" * 1000)
    marks.read(STDOUT, b"\nBuilding images...\n")
    assert entered == [Step.IMAGE]
