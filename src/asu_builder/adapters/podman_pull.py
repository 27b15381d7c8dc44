"""What Podman reports of a pull, and what a failed one means for the build."""

import json
import logging
import re
from collections.abc import Mapping

from asu_builder.adapters.podman_engine import one_line
from asu_builder.adapters.podman_streams import Stream
from asu_builder.domain.errors import (
    AsuError,
    BuildFailed,
    EngineUnavailable,
    FailureReason,
    RegistryUnavailable,
)

_log = logging.getLogger(__name__)

# Registries answer a tag that does not exist, or a repository that they will not show, in these ways.
_NO_SUCH_IMAGE = re.compile(
    r"manifest unknown|name unknown|name invalid|tag .* not found|not found: manifest"
    r"|repository .* not found|does not exist|access to the resource is denied|unauthorized",
    re.IGNORECASE,
)
_DISK_FULL = re.compile("no space left on device|disk quota exceeded", re.IGNORECASE)


def pull_error(stream: Stream) -> str | None:
    """Reads the progress to its end: one JSON object per line, a failure among them, or an id.

    An answer without an id is a failure too, though podman-py makes an empty image of it.
    """
    if stream.begin() >= 400:
        return stream.refusal()
    error, pulled = "", False
    while line := stream.read_line():
        report = _report(line)
        error = report.get("error") or error
        pulled = pulled or bool(report.get("id"))
    if error or not pulled:
        return error or "Podman reported no image"
    return None


def _report(line: bytes) -> Mapping[str, str]:
    try:
        report = json.loads(line)
    except ValueError:
        return {}
    return report if isinstance(report, dict) else {}


def pull_failed(reference: str, error: str) -> AsuError:
    """What the registry or the engine meant by its refusal."""
    if _NO_SUCH_IMAGE.search(error):
        return missing(reference)
    if _DISK_FULL.search(error):
        return EngineUnavailable("The container engine's disk is full; the operator has to make room.")
    return RegistryUnavailable(f"The container image {reference} could not be pulled: {one_line(error)}.")


def missing(reference: str) -> BuildFailed:
    """There is no such image, neither here nor in the registry, whose address is the operator's alone."""
    _log.warning("There is no container image %s", reference)
    name = reference.rpartition("/")[2]
    return BuildFailed(
        FailureReason.IMAGEBUILDER_MISSING,
        f"Error: Image not found: {name}. Its container image is not published (yet): "
        "choose another version, or try again in some hours.",
    )


def too_slow(reference: str) -> RegistryUnavailable:
    """The pull did not end before the build's deadline."""
    return RegistryUnavailable(f"The registry did not deliver {reference} in time; trying again.")
