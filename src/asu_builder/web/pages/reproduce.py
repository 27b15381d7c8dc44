"""The command that repeats a build on one's own computer, with Podman and upstream's ImageBuilder."""

import shlex
from collections.abc import Sequence

from msgspec import Struct

from asu_builder.domain.release import Release
from asu_builder.domain.request import BuildRequest

_OUT = "/builder/images"
_CONTAINER = "asu-again"
_OF_THE_SERVER = ("BIN_DIR=", "FILES=")
"""Paths that mean something where it was built only."""


class Reproduction(Struct, frozen=True):
    """A command for a POSIX shell, and in sentences what it leaves out."""

    command: str
    left_out: tuple[str, ...]


def image_reference(template: str, release: Release, target: str) -> str:
    """The container image of the ImageBuilder; `template` is the setting, its registry filled in."""
    system, _, subtarget = target.partition("/")
    return template.format(target=system, subtarget=subtarget, tag=release.tag, version=release.version)


def reproduce(
    request: BuildRequest, build_cmd: Sequence[str], *, release: Release, template: str, upstream_url: str
) -> Reproduction:
    """`build_cmd` is the one that ran in the container."""
    make = [argument for argument in build_cmd if not argument.startswith(_OF_THE_SERVER)]
    reference = image_reference(template, release, request.target)
    podman = [["podman", "run", "--name", _CONTAINER]]
    if release.moving:
        # The images of snapshots load their ImageBuilder when they start.
        podman += [
            ["--env", f"UPSTREAM_URL={upstream_url}"],
            ["--env", f"TARGET={request.target}", "--env", f"VERSION_PATH={release.path}"],
            ["--env", "DOWNLOAD_FILE=imagebuilder-.*x86_64.tar."],
            [reference, "sh", "-c", '{ [ -e Makefile ] || sh setup.sh; } && exec "$@"', "sh"],
        ]
    else:
        podman += [[reference]]
    lines = [shlex.join(line) for line in (*podman, [*make, f"BIN_DIR={_OUT}"])]
    run = " \\\n  ".join(lines)
    # Without a shared folder, whose owner would have to be the container's user.
    command = f"{run} &&\n  podman cp {_CONTAINER}:{_OUT} .\npodman rm {_CONTAINER}"
    return Reproduction(command, tuple(_left_out(request, release)))


def _left_out(request: BuildRequest, release: Release) -> list[str]:
    sentences = []
    if request.defaults:
        sentences.append(
            "The script for the first boot: put it into `files/etc/uci-defaults/99-asu-defaults`, and add "
            "`--volume ./files:/builder/files:ro,Z` before the image's name and `FILES=/builder/files` after "
            "`make image`."
        )
    if request.repositories:
        sentences.append(
            "The repositories of your own: write them into `repositories.conf` (with apk `repositories`) of "
            "the ImageBuilder, as the request's mode says."
        )
    if request.repository_keys:
        sentences.append("Their keys: put them into `keys/` of the ImageBuilder.")
    if release.moving:
        sentences.append("The day: a snapshot moves, so tomorrow the same command builds other sources.")
    return sentences
