from collections.abc import Mapping, Sequence
from pathlib import Path

from asu_builder.ports import CommandResult, Heard
from asu_builder.services.imagebuilder import ImageBuilder

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
        heard: Heard | None = None,
    ) -> CommandResult:
        self.asked += 1
        stdout, stderr = output / "stdout", output / "stderr"
        stdout.write_text(_INFO.format(revision=self.identity))
        stderr.touch()
        return CommandResult(0, stdout, stderr)

    def exists(self, path: str) -> bool:
        return True

    def read_text(self, path: str) -> str:
        return ""

    def write_files(self, files: Mapping[str, str]) -> None:
        pass

    def collect(self, directory: str, into: Path) -> Sequence[str]:
        return ()


def asked_for_info(tmp_path: Path, identity: str, known: dict[str, bytes]) -> int:
    """How often the commands of an ImageBuilder ran until it had said what it can build."""
    container = Told(identity)
    output = tmp_path / f"{identity}-{len(list(tmp_path.iterdir()))}"
    output.mkdir()
    info = ImageBuilder(container, output, known_info=known).info()
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
