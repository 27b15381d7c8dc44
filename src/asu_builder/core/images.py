"""What a build left, on its way from the container to the store: read, compared with what is said of it."""

import hashlib
from collections.abc import Callable
from pathlib import Path

from asu_builder.domain.errors import BuildFailed, BuildProblem, FailureReason, Side
from asu_builder.domain.job import Image
from asu_builder.domain.profiles_json import MAX_BYTES, TRAILER_BYTES, parse_built, signature_length
from asu_builder.domain.request import BuildRequest

_CHUNK_BYTES = 1 << 20


def describe_images(
    directory: Path,
    request: BuildRequest,
    *,
    require_time: Callable[[], None] = lambda: None,
    own_numbering: bool = False,
) -> tuple[dict[str, object], tuple[Image, ...]]:
    """The lifted `profiles.json` and the verified images of a build in `directory`.

    Raises `BuildFailed` when anything is missing or is not what it is said to be. `require_time` is
    called between pieces of files, and raises when the build may not go on. With `own_numbering` the
    version that the ImageBuilder tells may be any.
    """
    try:
        with (directory / "profiles.json").open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise _incomplete("No JSON file found") from None
    if len(content) > MAX_BYTES:
        raise _incomplete("JSON file too big")
    built = parse_built(content, request.profile)
    if built.version and built.version != request.version and not own_numbering:
        raise BuildFailed(
            FailureReason.REVISION_MISMATCH,
            f"Error: Received incorrect version {built.version} (requested {request.version}). "
            "The ImageBuilder is another version's; try again later.",
            side=Side.INFRASTRUCTURE,
            field="version",
            problem=BuildProblem(revisions=(request.version, built.version)),
        )
    images: dict[str, Image] = {}
    for entry in built.images:
        path, stated = directory / entry.name, entry.sha256
        if not path.is_file():
            # Some targets compress after describing: name, digest and size are the intermediate's.
            path, stated = directory / f"{entry.name}.gz", None
            if not path.is_file():
                raise _incomplete(f"Image {entry.name} is listed but missing")
        if path.name in images:
            continue
        size, digest, digests = path.stat().st_size, hashlib.sha256(), []
        with path.open("rb") as file:
            file.seek(max(0, size - TRAILER_BYTES))
            signature = signature_length(file.read(TRAILER_BYTES), size)
            file.seek(0)
            # First what a signature at its end covers, then the whole file.
            for left in (size - signature, signature):
                while left and (chunk := file.read(min(left, _CHUNK_BYTES))):
                    require_time()
                    digest.update(chunk)
                    left -= len(chunk)
                digests.append(digest.hexdigest())
        sha256_unsigned, sha256 = digests
        if stated is not None and stated != sha256:
            raise _incomplete(f"Image {path.name} is not what profiles.json says")
        images[path.name] = Image(
            name=path.name,
            type=entry.type,
            sha256=sha256,
            sha256_unsigned=sha256_unsigned,
            size=size,
            filesystem=entry.filesystem,
        )
    if not images:
        raise BuildFailed(
            FailureReason.NO_IMAGES,
            f"Error: No image was built for {request.profile}. The request itself may be fine; try again "
            "later.",
        )
    return built.description, tuple(images[name] for name in sorted(images))


def _incomplete(what: str) -> BuildFailed:
    return BuildFailed(FailureReason.INCOMPLETE_OUTPUT, f"Error: {what}")
