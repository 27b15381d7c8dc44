"""What a build failed at, as programs read it: the fields of `domain/problem.py`, each described."""

from collections.abc import Mapping
from typing import Annotated

import msgspec

from asu_builder.domain.problem import BuildProblem
from asu_builder.web.fields import says


class BuildProblemDocument(msgspec.Struct, omit_defaults=True):
    """Names and numbers; what does not apply is left out."""

    missing: Annotated[
        tuple[str, ...], says("Packages that do not exist, or not for this device", ["nosuch"])
    ] = ()
    conflicts: Annotated[
        tuple[str, ...], says("Packages that exclude each other", ["nftables-json", "nftables-nojson"])
    ] = ()
    needed_by: Annotated[
        Mapping[str, tuple[str, ...]],
        says("For a missing package, those that need it", {"libudev": ["usbutils"]}),
    ] = {}
    providers: Annotated[
        Mapping[str, tuple[str, ...]],
        says("For a name that several packages provide, those packages", {"libudev": ["libudev-zero"]}),
    ] = {}
    refused: Annotated[tuple[str, ...], says("Asked for and not installed", ["luci-app-x"])] = ()
    undelivered: Annotated[
        Mapping[str, str],
        says("Packages that the index lists and that could not be had, and why", {"tmux": "HTTP 404"}),
    ] = {}
    repositories: Annotated[
        Mapping[str, str],
        says("Repositories that could not be used, and why", {"https://feed.example.org/x": "no answer"}),
    ] = {}
    versions: Annotated[
        Mapping[str, tuple[str, str]],
        says("Packages with the version asked for and the one there is", {"vim": ["9.0-r1", "9.1-r1"]}),
    ] = {}
    revisions: Annotated[
        tuple[str, str] | None,
        says("The revision or version asked for, and the one found", ["r28959-29397011cc", "r28960-0123abc"]),
    ] = None
    script: Annotated[str, says("The package whose install script failed", "sample-script")] = ""
    size: Annotated[int | None, says("Bytes of an image that did not fit", 8257536)] = None
    limit: Annotated[int | None, says("Bytes there were room for", 8126464)] = None
    full: Annotated[bool, says("Whether the root file system had no room", True)] = False
    filesystems: Annotated[
        tuple[str, ...], says("What was built where another file system was asked for", ["ext4"])
    ] = ()


def render_build_problem(problem: BuildProblem) -> BuildProblemDocument | msgspec.UnsetType:
    """The document; UNSET where nothing is known."""
    return BuildProblemDocument(**msgspec.structs.asdict(problem)) if problem else msgspec.UNSET
