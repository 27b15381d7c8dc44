"""Our texts against recorded output of a full-size ImageBuilder: same shapes, other names."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from sample_make import Run, make

pytestmark = pytest.mark.process

Trees = Callable[..., Path]
_RECORDED = Path(__file__).parents[4] / "shared" / "transcripts"
_FOLDERS = {"24.10.5": _RECORDED / "24.10-x86-64", "25.12.0": _RECORDED / "25.12-ath79-generic"}
BOTH = pytest.mark.parametrize("version", list(_FOLDERS))


@pytest.fixture(autouse=True)
def _needs_recordings() -> None:
    if not all(folder.is_dir() for folder in _FOLDERS.values()):
        pytest.skip(f"no recorded transcripts in {_RECORDED}")


def recorded(version: str, case: str) -> Run:
    folder = _FOLDERS[version]
    texts = {kind: (folder / f"{case}.{kind}").read_text() for kind in ("rc", "stdout", "stderr")}
    return Run(int(texts["rc"]), texts["stdout"], texts["stderr"])


_RULES = (
    (r"fixture", "sample"),
    (r"file:/+\S+/|(?<![\w.])/\S+/", "/…/"),
    (r"openwrt_\w+", "openwrt_NAME"),
    (r"openwrt-\S+-squashfs", "openwrt-IMAGE-squashfs"),
    (r"X1[0-9a-f]{40}", "HASH"),
    (r"Makefile:\d+", "Makefile:N"),
    (r"\] Error \d+", "] Error N"),
    (r"(?<=: )\d+(?= > )|(?<=> )\d+", "N"),
    (r"(?<=more than )\d+|(?<=too big by )\d+|(?<=\[: )\d+", "N"),
    (r"-20\d\d\.\d\d\.\d\d[^\[\s]*", "-VERSION"),
)


def shapes(text: str) -> list[str]:
    """The lines with everything replaced that may differ, repetitions dropped."""
    for pattern, replacement in _RULES:
        text = re.sub(pattern, replacement, text)
    return list(dict.fromkeys(text.splitlines()))


_FAILURES = [
    ("manifest-missing", {"PACKAGES": "vim no-such-package other-missing"}),
    ("manifest-conflict", {"PACKAGES": "sample-conflict-a sample-conflict-b"}),
    ("manifest-clash", {"PACKAGES": "sample-clash-a sample-clash-b"}),
    ("manifest-broken-dep", {"PACKAGES": "sample-broken-dep"}),
    ("manifest-bad-profile", {"PROFILE": "nosuchprofile"}),
]


@BOTH
@pytest.mark.parametrize(("case", "variables"), _FAILURES)
def test_failures_of_manifest_read_as_recorded(
    tree: Trees, version: str, case: str, variables: dict[str, str]
) -> None:
    folder, real = tree(version), recorded(version, case)
    make(folder, "manifest")  # recordings were not made in a fresh directory
    run = make(folder, "manifest", variables)
    assert run.status == real.status == 2
    assert run.stdout == real.stdout
    assert shapes(run.stderr) == shapes(real.stderr)


def test_a_conflict_of_packages_nobody_asked_for_reads_as_recorded(tree: Trees) -> None:
    folder, real = tree("25.12.0"), recorded("25.12.0", "manifest-conflict-nftables")
    make(folder, "manifest")
    run = make(folder, "manifest", {"PACKAGES": "nftables-nojson"})
    assert shapes(run.stderr) == shapes(real.stderr)


@BOTH
def test_the_first_manifest_is_as_noisy_as_recorded(tree: Trees, version: str) -> None:
    run, real = make(tree(version), "manifest"), recorded(version, "manifest-ok-first")
    # The recorded driver had added repositories twice, which opkg mentions at the end.
    noise = real.stderr.split("Collected errors:")[0]
    assert shapes(run.stderr) == shapes(noise)
    line = re.compile(r"[a-z0-9.+-]+ - \S+")
    assert all(line.fullmatch(text) for text in (real.stdout + run.stdout).splitlines())


_POSTINST = {"PACKAGES": "sample-postinst-fail", "PROFILE": ""}


@BOTH
def test_a_failing_postinst_reads_as_recorded(tree: Trees, version: str) -> None:
    folder, real = tree(version), recorded(version, "image-postinst-fail")
    make(folder, "manifest")
    run = make(folder, "image", _POSTINST)
    assert shapes(run.stderr)[-5:] == shapes(real.stderr)[-5:]
    assert (
        run.stdout.splitlines()[-2:] == real.stdout.splitlines()[-2:] == ["", "Finalizing root filesystem..."]
    )


@BOTH
def test_info_follows_the_recorded_grammar(tree: Trees, version: str) -> None:
    head = (
        r'Current Target: "[^"]+"\nCurrent Architecture: "[^"]+"\nCurrent Revision: "r[^"]+"\n'
        r"Default Packages: [^\n]+\nAvailable Profiles:\n\n"
    )
    profile = (
        r"[A-Za-z0-9_.-]+:\n    [^\n]+\n    Packages: [^\n]*\n    hasImageMetadata: [01]\n"
        r"(    SupportedDevices: [^\n]+\n)?"
    )
    grammar = re.compile(f"{head}({profile})+")
    assert grammar.fullmatch(recorded(version, "info").stdout)
    assert grammar.fullmatch(make(tree(version), "info").stdout)


@BOTH
def test_the_steps_of_an_image_build_read_as_recorded(tree: Trees, version: str) -> None:
    run = make(tree(version), "image", {"PACKAGES": "sample-service"})
    assert _steps(run.stdout) == _steps(recorded(version, "image-ok").stdout)


def _steps(stdout: str) -> list[str]:
    rules = (
        (r"^Checking '.*'\.\.\. (ok|updated)\.$", "Checking"),
        (r"^Building images for \w+ - .+$", "Building for"),
        (r'^Packages: [^"]*?(?P<pins>( "\S+=\S+"){3})?$', "Packages"),
        (r"^\( *\d+/\d+\) Installing \S+ \(\S+\)$|^Installing \S+ \(\S+\) to root\.\.\.$", "Installing"),
        (r"^Downloading \S+\.ipk$", "Downloading"),
        (r"^Configuring \S+\.$", "Configuring"),
        (r"^Package \S+ \(\S+\) installed in root is up to date\.$", "Up to date"),
        (r"^OK: \d+(\.\d+)? [KM]iB in \d+ packages$", "OK"),
        (r"^(Enabling|Disabling) \S+$", "Enabling"),
    )
    steps = []
    for line in stdout.splitlines():
        word = next((word for pattern, word in rules if re.match(pattern, line)), line)
        if not re.match(r"Creat(ing|ed) filesystem|    \w|mkfs", word):  # what file system tools say
            steps.append(word)
    return list(dict.fromkeys(steps))


_TOO_BIG = [
    ("image-too-big-checksize", "acme_small"),
    ("image-too-big-safeloader", "acme_safe"),
    ("image-too-big", "acme_combined-v1.5"),
]


@pytest.mark.parametrize(("case", "profile"), _TOO_BIG)
def test_too_big_reads_as_recorded(tree: Trees, tmp_path: Path, case: str, profile: str) -> None:
    real = recorded("25.12.0", case)
    variables = {"PACKAGES": "sample-big", "PROFILE": profile, "BIN_DIR": str(tmp_path / "out")}
    run = make(tree("25.12.0"), "image", variables)
    assert run.status == real.status == 0
    telling = re.compile(r"too big|Failed to open|sha256sum:|^cp:|statx|unary|rootfs offset")
    ours, theirs = (
        [line for line in shapes(text) if telling.search(line)] for text in (run.stderr, real.stderr)
    )
    assert ours == theirs
    skipped = re.compile(r"Skip JSON|could not find any JSON")
    ours, theirs = (
        [line for line in shapes(text) if skipped.search(line)] for text in (run.stdout, real.stdout)
    )
    assert ours == theirs


def test_out_of_space_reads_as_recorded(tree: Trees) -> None:
    folder, real = tree("24.10.5", "x86/64"), recorded("24.10.5", "image-too-big-ext4")
    run = make(folder, "image", {"PACKAGES": "sample-huge"})
    numbers = [re.sub(r"\d+ blocks|/\S+/", "…", line) for line in shapes(run.stderr)[-5:]]
    assert numbers == [re.sub(r"\d+ blocks|/\S+/", "…", line) for line in shapes(real.stderr)[-5:]]
